"""The demo: from published blueprints to a grown, exported and audited network."""

from collections.abc import Callable
from pathlib import Path

from esper.audit import audit, fetch_history
from esper.blueprint import shipped
from esper.settings import Settings
from esper.tasks import MNIST1D, OnEpoch, train_task
from esper.topics.bus import read_topic
from esper.topics.catalog import BLUEPRINT_SUBMITTED, KERNEL_READY, TRAINING_RUN
from esper.topics.codec import decode
from esper.topics.models import Blueprint, KernelReady, TrainingRun
from esper.workers.cli.demo.export_check import compare_in_fresh_interpreter
from esper.workers.cli.publish import publish_blueprints
from esper.workers.cli.train.summary import Facts, spread, summary
from esper.workers.cli.train.trainer import GrowOptions, grow_task
from esper.workers.local.stack import running_stack

Say = Callable[[str], None]


def run_demo(
    home: Path, *, seed: int, epochs: int, say: Say, on_epoch: OnEpoch, postgres: bool = False
) -> Facts:
    """Run the demo on a temporary stack under `home` and return its facts."""
    with running_stack(home, say, postgres=postgres, audition_workers=1) as settings:
        published = publish_blueprints(settings, shipped())
        say(f"blueprints: {len(published)} published to {BLUEPRINT_SUBMITTED.name}")
        grown = grow_task(
            settings,
            MNIST1D,
            seed=seed,
            epochs=epochs,
            export_under=home / "grown",
            on_start=lambda run_id: say(f"run {run_id}: training; it waits for its auditions"),
            on_epoch=on_epoch,
            # This host trains for ten seconds: without waiting it would end before its auditions.
            options=GrowOptions(lockstep=True),
        )
        say("export: loading the grown network in an interpreter without esper")
        comparison = compare_in_fresh_interpreter(
            grown.exported, grown.result.model, MNIST1D.load().test[0]
        )
        say("audit: recomputing every decision from the topics")
        verdict = audit(fetch_history(settings.kafka, grown.run_id))
        submit_to_ready = submit_to_ready_ms(settings, grown.run_id)
    say("control: training the same host with the same seed, without growth")
    control = train_task(MNIST1D, seed, epochs)
    return {
        **summary(grown),
        "never_grown": {"test_accuracy": control.test_accuracy, "params": control.params},
        "export_check": comparison._asdict(),
        "audit": verdict.facts(),
        "submit_to_ready_ms": spread(submit_to_ready),
        "files": str(home),
    }


def submit_to_ready_ms(settings: Settings, run_id: str) -> list[float]:
    """Return, per kernel of a run, the ms from its blueprint (or the later run) to ready.

    The times are the record timestamps, set by the clocks of their producers.
    """
    servers = settings.kafka
    run_record = read_topic(servers, TRAINING_RUN.name, key=run_id.encode())[0]
    run = decode(TrainingRun, run_record.value)
    signatures = list(run.sites.values())
    submitted = {
        decode(Blueprint, record.value).blueprint_id: record.timestamp_ms
        for record in read_topic(servers, BLUEPRINT_SUBMITTED.name)
        if record.value is not None
    }
    ready = [
        (record, decode(KernelReady, record.value))
        for record in read_topic(servers, KERNEL_READY.name)
        if record.value is not None
    ]
    return [
        record.timestamp_ms - max(submitted[kernel.blueprint_id], run_record.timestamp_ms)
        for record, kernel in ready
        if kernel.site_signature in signatures and kernel.blueprint_id in submitted
    ]


def succeeded(facts: Facts) -> bool:
    """Return whether a kernel was planted and export and audit succeeded, at any accuracy."""
    planted = any(
        seed["fate"].startswith(("kept", "merged", "culled", "on trial")) for seed in facts["seeds"]
    )
    return bool(planted and facts["audit"]["identical"] and facts["export_check"]["equal"])
