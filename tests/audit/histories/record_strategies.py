"""Record one real run for every strategy, or for the named ones:
`python -m tests.audit.histories.record_strategies [STRATEGY …]`.

The command starts a separate stack, publishes few blueprints, because each decision lists all arms,
and exports the runs to `strategies/`. If a strategy decides nothing, its run is repeated with
another seed.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from esper.audit import fetch_history, write_history
from esper.bandit import TRIALS
from esper.blueprint import shipped_named
from esper.settings import Settings
from esper.tasks import TASKS
from esper.topics.models import Orchestration, OutcomeStatus, SelectionLimits
from esper.training.lineage import RunHistory
from esper.workers.cli import publish_blueprints
from esper.workers.cli.train import GrowOptions, grow_task
from esper.workers.local import running_stack
from tests.audit.histories.record import BLUEPRINTS

HERE: Final = Path(__file__).parent / "strategies"
EPOCHS: Final = 30
SEEDS: Final = range(10)

RULES: Final[Mapping[str, Orchestration]] = {
    "replace": Orchestration(),
    "diversify": Orchestration(),
    "specialize": Orchestration(dominance=2.0, dominance_stay=1.5),
    "ensemble": Orchestration(
        dominance=20.0,
        dominance_stay=10.0,
        comparable_ratio=4.0,
        comparable_ratio_stay=8.0,
        ensemble="softmax",
    ),
}
"""Rules that make each strategy act in a short run."""

LIMITS: Final = SelectionLimits(dormant_reports=2, forbidden_sites=("conv1", "conv2"))
"""One site, so that candidates compete there."""


def main() -> None:
    """Record the runs, one after the other."""
    HERE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with running_stack(home, print) as settings:
            publish_blueprints(settings, map(shipped_named, BLUEPRINTS))
            for name in sys.argv[1:] or sorted(RULES):
                record(settings, name, Path(folder))


def record(settings: Settings, strategy: str, folder: Path) -> None:
    """Train runs until one applies a decision of the strategy, and write its history."""
    selection = TRIALS.model_copy(update={"limits": LIMITS, "orchestration": RULES[strategy]})
    for seed in SEEDS:
        run = grow_task(
            settings,
            TASKS["digits"],
            seed=seed,
            epochs=EPOCHS,
            export_under=folder,
            on_start=print,
            on_epoch=lambda epoch, loss: None,
            options=GrowOptions(selection=selection, memory=False),
        )
        count = decided(run.run_history, strategy)
        print(f"{strategy}: {count} decisions in {run.run_id}, seed {seed}")
        if count:
            history = fetch_history(settings.kafka_bootstrap_servers, run.run_id)
            write_history(history, HERE / f"{strategy}.jsonl")
            return
    raise SystemExit(f"{strategy} decided nothing on {len(SEEDS)} seeds; change RULES[{strategy}]")


def decided(run_history: RunHistory, strategy: str) -> int:
    """Return the number of applied decisions of a strategy."""
    applied = {
        name
        for name, outcome in run_history.outcomes.items()
        if outcome.status is OutcomeStatus.APPLIED
    }
    return sum(
        decision.strategy == strategy and decision.decision_id in applied
        for decision in run_history.decisions
    )


if __name__ == "__main__":
    main()
