"""The facts of a run as tables for a person."""

from collections.abc import Sequence
from typing import Any

from esper.workers.cli.output import console, print_table


def print_summary(facts: dict[str, Any]) -> None:
    """Print a run's facts for a person."""
    print_seeds(facts["seeds"])
    print_reasons(facts["reasons"])
    print_table(
        ("", "test accuracy", "test loss", "parameters", "steps"),
        [
            (
                "grown",
                f"{facts['test_accuracy']:.2%}",
                f"{facts['test_loss']:.4f}",
                f"{facts['params']:,}",
                f"{facts['steps']:,}",
            )
        ],
    )
    console.print(timing_line("decision → active", facts["decision_to_active_ms"]))
    console.print(f"exported to {facts['exported']}", soft_wrap=True)
    console.print(f"prove it: esper audit {facts['run_id']}", soft_wrap=True)


def print_seeds(seeds: Sequence[dict[str, Any]]) -> None:
    """Print the table of plantings: what was tried where, why, and what became of it."""
    if not seeds:
        console.print("no kernel was planted: the run ended before one was ready")
        return
    print_table(
        ("step", "site", "blueprint", "strategy", "contribution", "became"),
        [
            (
                seed["step"],
                f"{seed['site']}/{seed['slot']}",
                seed["blueprint_id"],
                seed["strategy"],
                "not measured" if seed["contribution"] is None else f"{seed['contribution']:+.4f}",
                seed["fate"],
            )
            for seed in seeds
        ],
        title="What was planted (contribution: probe loss without the seed minus with it)",
    )


def print_reasons(reasons: Sequence[dict[str, Any]]) -> None:
    """Print what a run's strategies did, and why, in their own words."""
    if reasons:
        print_table(
            ("step", "why"),
            [(each["step"], each["reason"]) for each in reasons],
            title="What was intended (percent of the probe loss)",
        )


def timing_line(name: str, measured: dict[str, float] | None) -> str:
    """One line of timings."""
    if measured is None:
        return f"{name}: not measured"
    return (
        f"{name}: median {measured['median']:.1f} ms, p90 {measured['p90']:.1f} ms "
        f"({measured['count']} measured)"
    )
