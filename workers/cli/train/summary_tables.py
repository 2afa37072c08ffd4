"""The facts of a run as tables on the console."""

from collections.abc import Sequence
from typing import Any

from esper.workers.cli.output import console, print_table


def print_summary(facts: dict[str, Any]) -> None:
    """Print the facts of a run."""
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
    console.print(f"audit it: esper audit {facts['run_id']}", soft_wrap=True)


def print_seeds(seeds: Sequence[dict[str, Any]]) -> None:
    """Print one row per planted kernel: where, by which strategy, its contribution and its fate."""
    if not seeds:
        console.print("no kernel was planted: the run ended before a kernel was ready")
        return
    print_table(
        ("step", "site", "blueprint", "strategy", "contribution", "fate"),
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
        title="Planted kernels (contribution: probe loss without the kernel minus with it)",
    )


def print_reasons(reasons: Sequence[dict[str, Any]]) -> None:
    """Print the steps and reasons of the strategies' decisions."""
    if reasons:
        print_table(
            ("step", "why"),
            [(reason["step"], reason["reason"]) for reason in reasons],
            title="Reasons of the strategies (percent of the probe loss)",
        )


def timing_line(name: str, measured: dict[str, float] | None) -> str:
    """Return one line with the median and the 90th percentile."""
    if measured is None:
        return f"{name}: not measured"
    return (
        f"{name}: median {measured['median']:.1f} ms, p90 {measured['p90']:.1f} ms "
        f"({measured['count']} measured)"
    )
