"""Every event there can be: a hypothesis strategy for each model of the catalog."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from esper.topics.models import (
    AdaptationDecision,
    Blueprint,
    Candidate,
    Cause,
    Characterisation,
    CompileStatus,
    Cull,
    DecisionOutcome,
    Event,
    Fossilize,
    Incident,
    IncidentKind,
    KernelCompiled,
    KernelCost,
    KernelReady,
    KernelRefusal,
    KernelRequested,
    LoadableKernel,
    Node,
    OutcomeStatus,
    Parameter,
    Plant,
    PolicySpec,
    PolicyStamp,
    RandomStamp,
    RequestKind,
    RolledBackSeed,
    RunConfig,
    RunRequest,
    RunStatus,
    SeedReport,
    SeedState,
    SeedStatus,
    SiteKind,
    SiteSignature,
    Strategy,
    TrainingRun,
)

INT64 = 1 << 63

identifiers = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True)
node_names = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True)
site_names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,8}", fullmatch=True)
sha256s = st.binary(min_size=32, max_size=32).map(bytes.hex)
counts = st.integers(0, INT64 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(0, allow_nan=False, allow_infinity=False)
words = st.text(max_size=40)


def maybe(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """A value, or None."""
    return st.none() | strategy


def several(strategy: SearchStrategy[Any], least: int = 0) -> SearchStrategy[tuple[Any, ...]]:
    """A few values, as a tuple."""
    return st.lists(strategy, min_size=least, max_size=3).map(tuple)


def named(names: SearchStrategy[str], values: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """A small mapping."""
    return st.dictionaries(names, values, max_size=3)


integers = st.integers(-INT64, INT64 - 1)
nodes = st.builds(
    Node,
    id=node_names,
    op=words.map(lambda text: text[:32]),
    inputs=several(node_names, least=1),
    args=named(
        node_names,
        integers | finite | st.booleans() | words | several(integers | words),
    ),
)
blueprints = st.builds(
    Blueprint,
    blueprint_id=identifiers,
    kind=st.sampled_from(SiteKind)
    | st.lists(st.sampled_from(SiteKind), min_size=1, unique=True).map(tuple),
    summary=words,
    category=identifiers,
    parameters=named(
        node_names,
        st.builds(Parameter, default=integers | words, least=integers, most=integers),
    ),
    values=named(node_names, integers),
    nodes=several(nodes, least=1),
    output=node_names,
)
signatures = st.builds(
    SiteSignature,
    kind=st.sampled_from(SiteKind),
    x=several(st.integers(1, 1 << 20), least=1),
    h=several(st.integers(1, 1 << 20), least=1),
    dtype=st.sampled_from(("float32", "float16", "bfloat16")),
    device=st.sampled_from(("cpu", "cuda")),
)
runs = st.builds(
    TrainingRun,
    run_id=identifiers,
    status=st.sampled_from(RunStatus),
    sites=named(site_names, signatures),
    task=identifiers,
    host_params=counts,
)
requests = st.builds(
    KernelRequested, kernel_id=sha256s, blueprint=blueprints, site_signature=signatures
)
attempts = st.builds(
    KernelCompiled,
    kernel_id=sha256s,
    blueprint_id=identifiers,
    status=st.sampled_from(CompileStatus),
    site_signature=maybe(signatures),
    reason_code=maybe(identifiers),
    reason=maybe(words),
    sha256=maybe(sha256s),
    characterisation=maybe(
        st.builds(
            Characterisation,
            params=counts,
            bytes=counts,
            flops=counts,
            activation_bytes=counts,
            forward_ms=positive,
            backward_ms=positive,
            peak_bytes=counts,
            batch=st.integers(1, 8),
            device=st.just("cpu"),
            host_forward_ms=maybe(positive),
            host_backward_ms=maybe(positive),
            host_peak_bytes=maybe(counts),
            causal=maybe(st.booleans()),
        )
    ),
    timings_ms=named(words, positive),
)
costs = st.builds(
    KernelCost, flops=counts, latency_ratio=maybe(positive), memory_ratio=maybe(positive)
)
kernels = st.builds(
    KernelReady,
    kernel_id=sha256s,
    blueprint_id=identifiers,
    category=identifiers,
    site_signature=signatures,
    location=words,
    sha256=sha256s,
    ed25519_signature=st.binary(min_size=64, max_size=64).map(bytes.hex),
    bytes=counts,
    params=counts,
    cost=maybe(costs),
)
loadable = st.builds(
    LoadableKernel,
    kernel_id=sha256s,
    site=site_names,
    blueprint_id=identifiers,
    category=identifiers,
    params=counts,
    cost=maybe(costs),
)
seeds = st.builds(
    SeedStatus,
    site=site_names,
    slot=counts,
    state=st.sampled_from(SeedState),
    kernel_id=maybe(sha256s),
    blueprint_id=maybe(identifiers),
    alpha=finite,
    params=counts,
    age_steps=counts,
    contribution=maybe(finite),
)
outcomes = st.builds(
    DecisionOutcome,
    decision_id=sha256s,
    status=st.sampled_from(OutcomeStatus),
    step=counts,
    reason=maybe(words),
    latency_ms=maybe(finite),
)
openings = st.builds(
    RunConfig,
    seed=counts,
    slots=named(site_names, st.integers(1, 64)),
    policy=st.builds(PolicySpec, name=identifiers, params=named(words, finite)),
    host_params=counts,
    report_interval_steps=st.integers(1, INT64 - 1),
    lockstep=st.booleans(),
)
asked = {"request_id": sha256s, "run_id": identifiers}
asks = st.builds(
    RunRequest,
    **asked,
    kind=st.sampled_from((RequestKind.CULL, RequestKind.KEEP)),
    site=site_names,
    slot=maybe(counts),
) | st.builds(RunRequest, **asked, kind=st.sampled_from((RequestKind.PAUSE, RequestKind.RESUME)))
incidents = st.builds(
    Incident,
    kind=st.sampled_from(IncidentKind),
    step=counts,
    loss=maybe(finite),
    restored_step=maybe(counts),
    seeds=several(
        st.builds(
            RolledBackSeed, site=site_names, slot=counts, kernel_id=sha256s, decision_id=sha256s
        )
    ),
)
reports = st.builds(
    SeedReport,
    run_id=identifiers,
    seq=counts,
    step=counts,
    train_loss=maybe(finite),
    probe_loss=maybe(finite),
    run_config=maybe(openings),
    kernels=several(loadable),
    refusals=several(st.builds(KernelRefusal, kernel_id=sha256s, reason=words)),
    seeds=several(seeds),
    outcomes=several(outcomes),
    paused=st.booleans(),
    requests=several(asks),
    incidents=several(incidents),
    closing=st.booleans(),
)
places = {"site": site_names, "slot": counts, "kernel_id": sha256s}
plants = st.builds(
    Plant,
    **places,
    blueprint_id=identifiers,
    alpha=st.floats(0, 1, exclude_min=True),
    ramp_steps=counts,
    ramp=st.sampled_from(("linear", "cosine")),
)
operations = plants | st.builds(Cull, **places) | st.builds(Fossilize, **places)
decisions = st.builds(
    AdaptationDecision,
    decision_id=sha256s,
    run_id=identifiers,
    seq=counts,
    index=counts,
    strategy=maybe(st.sampled_from(Strategy)),
    operations=several(operations),
    reason=words,
    apply_at_step=st.integers(1, INT64),
    cause=st.builds(
        Cause, topic=words, partition=counts, offset=counts, seq=counts, sha256=sha256s
    ),
    policy=st.builds(PolicyStamp, name=identifiers, version=counts, params_sha256=sha256s),
    candidates=several(
        st.builds(
            Candidate,
            site=site_names,
            blueprint_id=identifiers,
            kernel_id=sha256s,
            pulls=counts,
            mean=maybe(finite),
            score=maybe(finite),
            excluded=maybe(words),
        )
    ),
    random=st.builds(RandomStamp, seed=counts, seq=counts, purpose=identifiers),
    state_before_sha256=sha256s,
    state_after_sha256=sha256s,
    previous_sha256=maybe(sha256s),
    request_id=maybe(sha256s),
)

EVENTS: dict[type[Event], SearchStrategy[Any]] = {
    Blueprint: blueprints,
    TrainingRun: runs,
    KernelRequested: requests,
    KernelCompiled: attempts,
    KernelReady: kernels,
    SeedReport: reports,
    AdaptationDecision: decisions,
    RunRequest: asks,
}

any_event: SearchStrategy[Event] = st.one_of(*EVENTS.values())
