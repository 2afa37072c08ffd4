"""`esper.grow`, `esper.resume` and `esper.replay`: attach growth to a model and its optimizer."""

import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from esper.bandit import default_selection
from esper.errors import EsperError
from esper.seed import Site, find_sites, suggest_sites, unwrap_model
from esper.settings import Settings
from esper.topics.models import RunConfig, RunStatus, TrainingRun
from esper.training.auditions import NO_AUDITIONS, Auditions, NoAuditions, SamplesRefused
from esper.training.checkpoint import Checkpoint
from esper.training.decision_queue import DecisionQueue
from esper.training.frame_decoder import FrameDecoder
from esper.training.governor import Governor
from esper.training.gradients import GradientNorms
from esper.training.grow_config import GrowConfig, LockstepTimeouts, settings_of
from esper.training.growth import Growth
from esper.training.link import RunLink
from esper.training.link_config import link_config_for
from esper.training.lockstep import Lockstep, LockstepRefused
from esper.training.loss_monitor import GovernorSettings, LossMonitorState
from esper.training.optimizer import OptimizerMembership
from esper.training.probe import LossFn, Probe
from esper.training.ranks import DecisionVote, Ranks, RelayedLink, RelaySender
from esper.training.recording import ReplayRefused, RunRecording
from esper.training.replay import Replay
from esper.training.reporter import Reporter
from esper.training.run_config import is_contextual, run_config_of, site_facts
from esper.training.seed_manager import SeedManager
from esper.training.session import Link, NoGovernor, Session
from esper.training.step_driver import (
    LiveDriver,
    LockstepDriver,
    ReplayDriver,
    ResumeDriver,
    StepDriver,
)

log = logging.getLogger("esper")

RUN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")

REPORT_EVERY: Final = 50
"""Default reporting interval, in steps: a probe that costs one step then costs 2 percent."""

DEFAULTS: Final = GrowConfig()

Sites = Sequence[str] | Literal["auto"]


class RunNameRefused(EsperError, ValueError):
    """A name that cannot be part of a run id."""


def grow(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    sites: Sites,
    probe: tuple[Tensor, Tensor],
    loss_fn: LossFn,
    audition: tuple[Tensor, Tensor] | None = None,
    run: str = "run",
    slots: int = 2,
    report_every: int = REPORT_EVERY,
    seed: int = 0,
    config: GrowConfig = DEFAULTS,
) -> Growth:
    """Attach growth to a model and its optimizer; use the result as a context manager.

    With DistributedDataParallel every rank makes the same call: rank 0 talks to Kafka and measures.

    Args:
        sites: names of the submodules where the model may grow: any module that maps a tensor to a
            tensor of the same rank, samples first, and has parameters in the optimizer. "auto"
            chooses among linear, convolution and attention layers and logs the choice.
        probe: held-out inputs (N, ..) and targets (N, ..) on the model's device, on which
            contributions are measured. Never test samples. Only rank 0's probe counts.
        loss_fn: returns the mean loss of (output, target) as a scalar tensor.
        audition: inputs and targets as in `probe`, on which audition workers try kernels beside
            the training: samples that the model does not train on, and neither probe nor test
            samples; 1,000 or more. Without them kernels are only tried in the network.
        run: the run's name, in lower case; the run id is the name, the time and four hex digits.
        slots: seeds per site.
        report_every: steps between two reports; each costs one forward pass of the probe batch.
        seed: seeds the run's decisions.
        config: all other settings.

    Raises:
        RunNameRefused, SiteRefused, OptimizerRefused, ParameterUntrained, ProbeRefused,
            PolicyRefused, RanksDiffer, LockstepRefused: an argument cannot be used.
        NotConfigured, BrokerUnreachable, TopicMismatch, LinkFailed, LeaderFailed: the platform
            cannot be reached; the message names the remedy.
        LockstepBroken: in a lockstep run, kernels or the first answer did not arrive.
    """
    target = _Target.of(model, optimizer, sites, probe, loss_fn, slots, audition)
    announced = _announced(run, _family(run, config), target)
    run_config = run_config_of(
        target.host,
        target.sites,
        seed=seed,
        slots=slots,
        policy=config.policy,
        selection=config.selection or default_selection(auditions=audition is not None),
        report_every=report_every,
        lockstep=bool(config.lockstep),
        memory=config.memory_snapshot,
    )
    return _started(target, announced, run_config, config, None)


def resume(
    state: Mapping[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
    *,
    sites: Sites,
    probe: tuple[Tensor, Tensor],
    loss_fn: LossFn,
    audition: tuple[Tensor, Tensor] | None = None,
    config: GrowConfig = DEFAULTS,
) -> Growth:
    """Continue the run of a checkpoint; then load the states of model and optimizer.

    Steps taken after the checkpoint are taken again, with the recorded decisions. The checkpoint
    holds the run's name, slots, report interval, seed, policies, family and memory.

    Args:
        state: what `Growth.state_dict` returned.
        model: the model as it was before it grew.
        optimizer: a new optimizer of that model.
        sites: as for `grow`, unchanged.
        probe: as for `grow`, unchanged.
        loss_fn: as for `grow`, unchanged.
        audition: as for `grow`.
        config: as for `grow`. A policy, selection, family or lockstep that is set must equal the
            checkpoint's.

    Raises:
        CheckpointRefused: the state is no checkpoint, belongs to another model or other settings,
            or decisions and kernels applied after the checkpoint do not arrive.
        RecordUnfit: the run was closed, or its reports are gone from the broker.

    All errors of `grow` apply too.
    """
    checkpoint = Checkpoint.from_state(state)
    slots = max(checkpoint.run_config.slots.values())
    target = _Target.of(model, optimizer, sites, probe, loss_fn, slots, audition)
    checkpoint.check(target.signatures, target.host_params, config)
    growth = _started(target, checkpoint.run, checkpoint.run_config, config, checkpoint)
    growth.continue_from(state)
    return growth


def replay(
    recording: RunRecording,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    sites: Sites,
    probe: tuple[Tensor, Tensor],
    loss_fn: LossFn,
    governor: bool | GovernorSettings = True,
) -> Growth:
    """Train a recorded run again, without broker or workers, and compare each report.

    Each decision takes effect at its recorded step. Give model, optimizer, sites, probe, loss_fn
    and governor as they were; every other setting comes from the recording.

    Args:
        recording: what `read_recording` returned.
        model: the model as it was before it grew.
        optimizer: a new optimizer of that model.
        sites: as for `grow`, unchanged.
        probe: as for `grow`, unchanged.
        loss_fn: as for `grow`, unchanged.
        governor: as `GrowConfig.governor`, unchanged.

    Raises:
        ReplayRefused: the recording is of another model, or there are several ranks.
        ReplayDiffers: the first report differs from the recorded one.
        SiteRefused, OptimizerRefused, ParameterUntrained, ProbeRefused: an argument cannot be used.
    """
    target = _Target.of(model, optimizer, sites, probe, loss_fn, recording.slots)
    if Ranks.several(model):
        raise ReplayRefused("a replay runs in one process; start it without torchrun")
    recording.check(target.host_params, site_facts(target.host, target.sites))
    run = _training_run(recording.run_id, recording.run_id, target)
    parts = _Parts(target, run, recording.run_config)
    link = Replay(recording, FrameDecoder(target.sites), parts.decision_queue)
    session = parts.session(link, settings_of(governor))
    return Growth(session, ReplayDriver(session, link)).open()


@dataclass(frozen=True, slots=True)
class _Target:
    """What grows, checked before the run is announced."""

    model: nn.Module
    host: nn.Module
    sites: Mapping[str, Site]
    membership: OptimizerMembership
    probe: Probe
    audition: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        optimizer: Optimizer,
        sites: Sites,
        probe: tuple[Tensor, Tensor],
        loss_fn: LossFn,
        slots: int,
        audition: tuple[Tensor, Tensor] | None = None,
    ) -> Self:
        """Return the target that the arguments of `grow` describe.

        Raises:
            SiteRefused, OptimizerRefused, ProbeRefused: an argument cannot be used.
        """
        host = unwrap_model(model)
        checked = Probe(probe, loss_fn)
        sample = checked.inputs[:1]
        names = _suggested(host, sample) if sites == "auto" else sites
        found = find_sites(host, names, sample, slots)
        return cls(model, host, found, OptimizerMembership(optimizer), checked, audition)

    @property
    def signatures(self) -> dict[str, Any]:
        """The signatures of the sites, by name."""
        return {name: site.signature for name, site in self.sites.items()}

    @property
    def host_params(self) -> int:
        """The number of parameters of the host."""
        return sum(parameter.numel() for parameter in self.host.parameters())


def _started(
    target: _Target,
    run: TrainingRun,
    run_config: RunConfig,
    config: GrowConfig,
    checkpoint: Checkpoint | None,
) -> Growth:
    """Return growth whose run is announced: on every rank, or on none."""
    if run_config.lockstep and Ranks.several(target.model):
        raise LockstepRefused("lockstep needs one process; start the training without torchrun")
    ranks = Ranks.of(target.model)
    if ranks is not None:
        run = ranks.agreed(run, run_config, checkpoint.step if checkpoint else 0)
    governor = config.governor_settings
    if ranks is not None and governor is not None:
        governor = None
        log.warning("the governor is off over several ranks: they would not act alike")
    auditions = _auditions(target, run_config)
    parts = _Parts(target, run, run_config, ranks, auditions=auditions, dry_run=config.dry_run)
    with nullcontext() if ranks is None else ranks.share_outcome():
        link = _link(target, run, run_config, config, ranks, checkpoint)
        session = parts.session(link, governor, checkpoint)
        driver: StepDriver = LiveDriver(session, config.seal_timeout_s)
        if run_config.lockstep and isinstance(link, RunLink):
            timeouts = config.lockstep_timeouts or LockstepTimeouts()
            lockstep = Lockstep(run.run_id, link, session.decision_queue, timeouts)
            driver = LockstepDriver(session, lockstep, config.seal_timeout_s)
        if checkpoint is not None:
            driver = ResumeDriver(session, driver)
        return Growth(session, driver, checkpoint).open()


class _Parts:
    """The parts of a run that do not depend on its link."""

    def __init__(
        self,
        target: _Target,
        run: TrainingRun,
        run_config: RunConfig,
        ranks: Ranks | None = None,
        *,
        auditions: Auditions | NoAuditions = NO_AUDITIONS,
        dry_run: bool = False,
    ) -> None:
        self._target, self._run, self._ranks = target, run, ranks
        self._run_config = run_config
        self._seed_manager = SeedManager(
            target.sites, target.membership, None if ranks is None else ranks.synchronizer()
        )
        self._reporter = Reporter(run.run_id, run_config)
        self._auditions = auditions
        self.decision_queue = DecisionQueue(
            self._seed_manager,
            self._reporter,
            None if ranks is None else DecisionVote(ranks),
            auditions=self._auditions,
            dry_run=dry_run,
        )

    def session(
        self, link: Link, governor: GovernorSettings | None, checkpoint: Checkpoint | None = None
    ) -> Session:
        """Return the session of these parts, restored from a checkpoint if there is one."""
        if checkpoint is not None:
            checkpoint.restore(self._seed_manager, self.decision_queue, self._reporter)
        contextual = is_contextual(self._run_config) and link.reports
        if isinstance(self._auditions, Auditions) and isinstance(link, RunLink):
            self._auditions.connect(link)
        return Session(
            self._run,
            self._target.host,
            self._target.probe,
            self._seed_manager,
            self._reporter,
            self.decision_queue,
            link,
            NoGovernor() if governor is None else self._governor(governor, checkpoint),
            GradientNorms(self._target.sites) if contextual else None,
            self._ranks,
            self._auditions,
        )

    def _governor(self, settings: GovernorSettings, checkpoint: Checkpoint | None) -> Governor:
        governor = Governor(
            settings,
            self._target.host,
            self._seed_manager,
            self._run_config.report_interval_steps,
            self.decision_queue.planted_at,
            self.decision_queue.note_incident,
        )
        if checkpoint is not None:
            governor.resume(
                checkpoint.loss_monitor_state or LossMonitorState(),
                host_reported=any(not incident.seeds for incident in checkpoint.incidents),
            )
        return governor


def _auditions(target: _Target, run_config: RunConfig) -> Auditions | NoAuditions:
    """Return the auditions of a run.

    Raises:
        SamplesRefused: the selection has auditions, and there are no samples for them.
    """
    selection = run_config.selection
    if selection is None or selection.auditions is None:
        return NO_AUDITIONS
    if target.audition is None:
        raise SamplesRefused(
            "the selection tries kernels in auditions; give `audition=(inputs, targets)`, samples "
            "that the model does not train on"
        )
    probe = target.probe
    return Auditions(target.host, target.sites, target.audition, probe.loss_fn)


def _link(
    target: _Target,
    run: TrainingRun,
    run_config: RunConfig,
    config: GrowConfig,
    ranks: Ranks | None,
    checkpoint: Checkpoint | None,
) -> RunLink | RelayedLink:
    """Return the link to Kafka; ranks other than rank 0 relay through rank 0."""
    decoder = FrameDecoder(target.sites)
    if ranks is not None and not ranks.leads:
        return RelayedLink(ranks, decoder)
    link_config = link_config_for(
        config.settings or Settings(),
        run,
        lockstep=run_config.lockstep,
        resumption=checkpoint.resumption if checkpoint else None,
        reads_memory=config.reads_memory,
        auditions=run_config.selection is not None and run_config.selection.auditions is not None,
        run_seed=run_config.seed,
    )
    return RunLink(link_config, decoder, None if ranks is None else RelaySender(ranks))


def _suggested(model: nn.Module, sample: Tensor) -> list[str]:
    suggestions = suggest_sites(model, sample)
    for suggestion in suggestions:
        log.info("%s: %s", "site" if suggestion.chosen else "no site", suggestion.reason)
    return [suggestion.name for suggestion in suggestions if suggestion.chosen]


def _family(name: str, config: GrowConfig) -> str:
    """Return the run's family: the configured one, that of the given memory, or the run's name.

    Raises:
        RunNameRefused: the configured family is not that of the given memory.
    """
    memory = config.memory_snapshot
    if memory is None:
        return name if config.family is None else config.family
    if config.family not in (None, memory.family):
        raise RunNameRefused(
            f"a run of family {config.family!r} cannot begin with memory of family "
            f"{memory.family!r}; name one family"
        )
    return memory.family


def _announced(name: str, family: str, target: _Target) -> TrainingRun:
    for what, text in (("run", name), ("family", family)):
        if not RUN_NAME.fullmatch(text):
            raise RunNameRefused(
                f"a {what} cannot be called {text!r}: give 1 to 40 of a-z, 0-9, '.', '_' and '-', "
                "beginning with a letter or digit"
            )
    started = time.strftime("%Y%m%d-%H%M%S")
    return _training_run(f"{name}-{started}-{secrets.token_hex(2)}", family, target)


def _training_run(run_id: str, family: str, target: _Target) -> TrainingRun:
    return TrainingRun(
        run_id=run_id,
        status=RunStatus.OPEN,
        sites=target.signatures,
        task=family,
        host_params=target.host_params,
    )
