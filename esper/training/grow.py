"""`esper.grow`: attaching growth to a model, its optimizer, and the run's link."""

import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from esper.seed import Site, find_sites, suggest_sites, unwrap_model
from esper.settings import Settings
from esper.topics.models import (
    MemorySnapshot,
    PolicySpec,
    RunConfig,
    RunStatus,
    Selection,
    TrainingRun,
)
from esper.training.checkpoint import Checkpoint
from esper.training.frame_decoder import FrameDecoder
from esper.training.growth import SEAL_TIMEOUT_S, Growth
from esper.training.link import RunLink
from esper.training.link_config import order_for
from esper.training.lockstep import LockstepRefused, LockstepTimeouts
from esper.training.loss_monitor import GovernorSettings
from esper.training.optimizer import OptimizerMembership
from esper.training.probe import LossFn, Probe
from esper.training.ranks import Ranks, RelayedLink, RelaySender
from esper.training.recording import Recording, ReplayRefused
from esper.training.replay import Replay
from esper.training.run_config import run_config_of, site_facts
from esper.training.seed_manager import SeedManager

log = logging.getLogger("esper")

RUN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")

REPORT_EVERY: Final = 50
"""Steps between two reports, unless told: even where a probe costs as much as a step, 2 percent."""


class RunNameRefused(ValueError):
    """A name that could not be part of a run's id."""


def grow(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    sites: Sequence[str] | Literal["auto"],
    probe: tuple[Tensor, Tensor],
    loss_fn: LossFn,
    run: str = "run",
    family: str | None = None,
    slots: int = 2,
    report_every: int = REPORT_EVERY,
    seed: int = 0,
    policy: PolicySpec | None = None,
    selection: Selection | None = None,
    seal_timeout_s: float = SEAL_TIMEOUT_S,
    settings: Settings | None = None,
    resume: Mapping[str, Any] | None = None,
    lockstep: bool | LockstepTimeouts = False,
    memory: bool | MemorySnapshot | None = None,
    governor: bool | GovernorSettings = True,
    dry_run: bool = False,
    replay: Recording | None = None,
) -> Growth:
    """Attach growth to a model and its optimizer; use the result as a context manager.

    A model in DistributedDataParallel grows alike on all its ranks, each of which makes this call:
    rank 0 speaks to Kafka and measures, and what grows is reduced over the ranks too.

    Args:
        sites: names of submodules at which to grow: any that take a tensor and give one of the
            same rank, samples first, and have parameters in the optimizer. "auto" chooses among
            linear, convolution and attention layers, and says so in the log.
        probe: held-out inputs (N, ..) and targets (N, ..), on the model's device, on which
            contributions are measured. Never samples of the test set. Of several ranks, rank 0's
            counts.
        loss_fn: the mean loss of (output, target), as a scalar.
        run: what the run is called, in lower case; its id is this, the time and a few digits.
        family: runs of one family learn from each other; the run's name unless given.
        slots: seeds at each site.
        report_every: steps between two reports; each costs a forward pass of the probe batch.
        seed: seeds the run's decisions.
        policy: which bandit chooses among blueprints, one of `esper.bandit` unless given.
        selection: which bandit chooses among sites, what no decision may break, and when a kernel
            has proven itself; likewise.
        seal_timeout_s: how long closing waits for the decision that seals the run's record.
        settings: where Kafka, the kernel store and the key are; from the environment unless given.
        resume: what `Growth.state_dict` returned, to go on with that run: with a model as it was
            before it grew, and the same arguments otherwise. Load the states of model and
            optimizer next. Steps taken after it are taken again, with the decisions on record.
        lockstep: True, or how long to wait, for a run that can be repeated bit for bit: it begins
            with the kernels of the blueprints published by then, and training waits for the answer
            to each report. For science and tests, on a CPU; it costs some milliseconds a report.
        memory: whether the run begins with what earlier ones of its family found, and leaves what
            it finds to later ones, as it does unless told, in lockstep excepted. Or a snapshot, to
            begin with just that. A run without Redis begins without memory, and says so.
        governor: whether a kernel on trial under which the loss is not a number, diverges or
            collapses is taken out, and the run taken back to before it; or its thresholds. Off
            over several ranks, which the log says.
        dry_run: whether decisions are only reported on, and all withheld: the model is trained bit
            for bit as without Esper, and `esper audit` shows what would have been done.
        replay: what `read_recording` returned, to take that run's decisions at their steps, with no
            broker: give model, optimizer, sites, probe, loss_fn and governor as they were. What the
            run was told besides is on record, and counts instead of what is given here.

    Raises:
        RunNameRefused, SiteRefused, OptimizerRefused, ParameterUntrained, ProbeRefused,
            GovernorRefused, PolicyRefused, RanksDiffer, LockstepRefused, CheckpointRefused: growth
            is not possible like this.
        NotConfigured, BrokerUnreachable, LinkFailed, LeaderFailed, RecordUnfit: growth is not
            possible here; the message says what to do.
        LockstepBroken: in a lockstep run, kernels or the first answer did not come.
        ReplayRefused, ReplayDiffers: the record is of another model, or the first report differs.
    """
    host = unwrap_model(model)
    measuring = Probe(probe, loss_fn)
    sample = measuring.inputs[:1]
    if replay is not None:
        slots = replay.slots
    found = find_sites(host, _suggested(host, sample) if sites == "auto" else sites, sample, slots)
    announced = _announced(run, _family(run, family, memory), host, found)
    timeouts = LockstepTimeouts() if lockstep is True else lockstep or None
    run_config = run_config_of(
        host,
        found,
        seed=seed,
        slots=slots,
        policy=policy,
        selection=selection,
        report_every=report_every,
        lockstep=timeouts is not None,
        memory=memory if isinstance(memory, MemorySnapshot) else None,
    )
    attachment = _Attachment(
        model,
        found,
        OptimizerMembership(optimizer),
        measuring,
        announced,
        run_config,
        remembers=timeouts is None if memory is None else memory is True,
        governor=GovernorSettings() if governor is True else governor or None,
        dry_run=dry_run,
    )
    if replay is not None:
        if resume is not None:
            raise ReplayRefused("a replay begins at the first step: give no checkpoint with it")
        return attachment.replayed(replay)
    growth = attachment.begun(
        settings or Settings(),
        None if resume is None else Checkpoint.from_state(resume),
        timeouts,
        seal_timeout_s,
    )
    if resume is not None:
        growth.take_up(resume)
    return growth


@dataclass(frozen=True, slots=True)
class _Attachment:
    """A model and what grows in it, all checked, before anyone else has heard of the run."""

    model: nn.Module
    sites: Mapping[str, Site]
    membership: OptimizerMembership
    probe: Probe
    run: TrainingRun
    run_config: RunConfig
    remembers: bool
    governor: GovernorSettings | None
    dry_run: bool

    def begun(
        self,
        settings: Settings,
        resumed: Checkpoint | None,
        timeouts: LockstepTimeouts | None,
        seal_timeout_s: float,
    ) -> Growth:
        """Return growth with its run announced, on every rank, or on none."""
        if resumed is not None:
            resumed.check(self.run, self.run_config)
        if timeouts is not None and Ranks.several(self.model):
            raise LockstepRefused(
                "a run of several ranks does not go in lockstep; train it in one process"
            )
        ranks = Ranks.of(self.model)
        run = self._named(resumed, ranks)
        seed_manager = SeedManager(
            self.sites, self.membership, None if ranks is None else ranks.synchronizer()
        )
        governor = self.governor
        if ranks is not None and governor is not None:
            governor = None
            log.warning("the governor is off over several ranks: they would not act alike")
        with nullcontext() if ranks is None else ranks.told():
            return Growth(
                unwrap_model(self.model),
                seed_manager,
                self.probe,
                run,
                self.run_config if resumed is None else resumed.run_config,
                self._link(settings, run, resumed, ranks),
                ranks=ranks,
                seal_timeout_s=seal_timeout_s,
                timeouts=timeouts,
                resumed=resumed,
                governor=governor,
                dry_run=self.dry_run,
            ).open()

    def replayed(self, recording: Recording) -> Growth:
        """Return growth that takes all it does from a record."""
        if Ranks.several(self.model):
            raise ReplayRefused("a replay does not go over several ranks; run it in one process")
        host = unwrap_model(self.model)
        recording.check(self.run.host_params, site_facts(host, self.sites))
        return Growth(
            host,
            SeedManager(self.sites, self.membership),
            self.probe,
            self.run.model_copy(update={"run_id": recording.run_id}),
            recording.run_config,
            Replay(recording, FrameDecoder(recording.run_id, self.sites)),
            seal_timeout_s=0.0,
            governor=self.governor,
        ).open()

    def _named(self, resumed: Checkpoint | None, ranks: Ranks | None) -> TrainingRun:
        """Return the run under the name that it has already, or that rank 0 gave it."""
        named = self.run if resumed is None else resumed.run
        step = resumed.step if resumed else 0
        return named if ranks is None else ranks.agreed(named, self.run_config, step)

    def _link(
        self,
        settings: Settings,
        run: TrainingRun,
        resumed: Checkpoint | None,
        ranks: Ranks | None,
    ) -> RunLink | RelayedLink:
        """Return the way to Kafka: a rank other than the first goes through that one."""
        decoder = FrameDecoder(run.run_id, self.sites)
        if ranks is not None and not ranks.leads:
            return RelayedLink(ranks, decoder)
        order = order_for(
            settings,
            run,
            lockstep=self.run_config.lockstep,
            resumption=resumed.resumption if resumed else None,
            remember=self.remembers,
        )
        return RunLink(order, decoder, None if ranks is None else RelaySender(ranks))


def _suggested(model: nn.Module, sample: Tensor) -> list[str]:
    suggestions = suggest_sites(model, sample)
    for each in suggestions:
        log.info("%s: %s", "site" if each.chosen else "no site", each.reason)
    return [each.name for each in suggestions if each.chosen]


def _family(name: str, family: str | None, memory: bool | MemorySnapshot | None) -> str:
    """Return the family of a run: as given, or that of the memory that it begins with, or its name.

    Raises:
        RunNameRefused: one is given, and memory of another.
    """
    if not isinstance(memory, MemorySnapshot):
        return name if family is None else family
    if family not in (None, memory.family):
        raise RunNameRefused(
            f"a run of family {family!r} cannot begin with memory of family {memory.family!r}; "
            "name one family"
        )
    return memory.family


def _announced(name: str, family: str, model: nn.Module, sites: Mapping[str, Site]) -> TrainingRun:
    for what, text in (("run", name), ("family", family)):
        if not RUN_NAME.fullmatch(text):
            raise RunNameRefused(
                f"a {what} cannot be called {text!r}: give 1 to 40 of a-z, 0-9, '.', '_' and '-', "
                "beginning with a letter or digit"
            )
    return TrainingRun(
        run_id=f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}",
        status=RunStatus.OPEN,
        sites={site.name: site.signature for site in sites.values()},
        task=family,
        host_params=sum(parameter.numel() for parameter in model.parameters()),
    )
