"""`esper memory`: the trial results that later runs of a task family start from."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.errors import EsperError
from esper.settings import Settings
from esper.workers.cli.output import Json, age, console, print_json, print_table

if TYPE_CHECKING:
    from esper.bandit import FamilyMemory
    from esper.store import RedisRunMemory

DIFFERENT, UNREADABLE = 1, 2

app = typer.Typer(
    help="Trial results of earlier runs, kept per task family for later runs.", no_args_is_help=True
)

Family = Annotated[str, typer.Argument(help="Task family; `esper memory show` lists them.")]


class RedisNotConfigured(EsperError, ValueError):
    """No Redis URL is configured."""


@app.command("show")
def show(
    family: Annotated[
        str | None, typer.Argument(help="Task family. Default: a summary of all.")
    ] = None,
    json: Json = False,
) -> None:
    """Show all families in memory, or the results of one.

    weight: number of trials that the results count as in a new run. mean: mean reward of the
    trials, from 0 to 1; a kernel without effect has 0.5.
    """
    memory = _memory()
    if family is None:
        _show_all(memory, json)
        return
    _require(memory, family)
    known = memory.read(family)
    if json:
        print_json(_facts(family, known))
        return
    now_ms = time.time() * 1000
    arms = sorted(known.arms.items(), key=lambda item: (item[0][0], -item[1].mean, item[0]))
    rows = [
        (signature, blueprint, f"{arm.weight:.1f}", f"{arm.mean:.3f}", _ago(now_ms - arm.at_ms))
        for (signature, blueprint), arm in arms
    ]
    title = f"{family}: {_count(len(known.runs), 'run')}"
    print_table(("site", "blueprint", "weight", "mean", "last tried"), rows, title=title)


@app.command("forget")
def forget(
    family: Family,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete the memory of a family; its next run starts without memory."""
    memory = _memory()
    _require(memory, family)
    if not yes:
        typer.confirm(f"delete the memory of family {family}?", abort=True)
    memory.forget(family)
    console.print(f"{family}: memory deleted")


@app.command("learn")
def learn(run: Annotated[str, typer.Argument(help="The run's id.")]) -> None:
    """Add a closed run to memory from its topics; for runs that closed while Redis was away.

    Audits the run first. A run that is in memory is not added again. Exits 1 if the audit finds a
    difference or the run has no memory, 2 if its records could not be read.
    """
    from esper.audit import HistoryUnreadable, audit, fetch_history, last_state
    from esper.orchestrator import memory_updates

    memory = _memory()
    try:
        history = fetch_history(Settings().kafka, run)
    except HistoryUnreadable as error:
        raise _refused(str(error), UNREADABLE) from error
    verdict = audit(history)
    if not verdict.identical:
        raise _refused(str(verdict), DIFFERENT)
    if not verdict.closed:
        raise _refused(f"run {run} is not closed; learn from it after it closes", DIFFERENT)
    state = last_state(history)
    run_memory = state.run.run_config.memory
    if run_memory is None:
        raise _refused(f"run {run} runs without memory, so it has no family to add to", DIFFERENT)
    family, updates = run_memory.family, memory_updates(state)
    if memory.fold(family, updates, run_id=run, at_ms=int(time.time() * 1000)):
        arms = _count(len(updates), "blueprint")
        console.print(f"{family}: added {arms} from {run}", soft_wrap=True)
    else:
        console.print(f"{family}: {run} is in memory already", soft_wrap=True)


def _show_all(memory: "RedisRunMemory", json: bool) -> None:
    from esper.store import MemoryUnreadable

    facts: list[dict[str, Any]] = []
    for family in memory.families():
        try:
            facts.append(_brief(family, memory.read(family)))
        except MemoryUnreadable as error:
            facts.append({"family": family, "unreadable": str(error)})
    if json:
        print_json(facts)
        return
    readable = [row for row in facts if "unreadable" not in row]
    if readable or not facts:
        now_ms = time.time() * 1000
        print_table(
            ("family", "runs", "blueprints at sites", "weight", "last tried"),
            [
                (
                    row["family"],
                    row["runs"],
                    row["arms"],
                    f"{row['weight']:.1f}",
                    "never" if row["at_ms"] is None else _ago(now_ms - row["at_ms"]),
                )
                for row in readable
            ],
        )
    for row in facts:
        if "unreadable" in row:
            console.print(row["unreadable"], style="red", soft_wrap=True, markup=False)


def _memory() -> "RedisRunMemory":
    from esper.store import RedisRunMemory

    settings = Settings()
    if settings.redis_url is None:
        raise RedisNotConfigured(
            "no Redis is configured; start the local stack with `esper up`, or set ESPER_REDIS_URL"
        )
    return RedisRunMemory(
        settings.redis_url, settings.store_credentials, kept_days=settings.memory_days
    )


def _require(memory: "RedisRunMemory", family: str) -> None:
    known = memory.families()
    if family not in known:
        raise typer.BadParameter(
            f"no memory of family {family!r}; families: {', '.join(known) or 'none'}"
        )


def _facts(family: str, memory: "FamilyMemory") -> dict[str, Any]:
    """Return the memory of a family: the fields of a `MemorySnapshot` and more."""
    arms = [
        {"signature": signature, "blueprint_id": blueprint, **arm._asdict()}
        for (signature, blueprint), arm in sorted(memory.arms.items())
    ]
    return {"family": family, "runs": memory.runs, "arms": arms}


def _brief(family: str, memory: "FamilyMemory") -> dict[str, Any]:
    arms = memory.arms.values()
    return {
        "family": family,
        "runs": len(memory.runs),
        "arms": len(arms),
        "weight": sum(arm.weight for arm in arms),
        "at_ms": max((arm.at_ms for arm in arms), default=None),
    }


def _ago(ms: float) -> str:
    return f"{age(ms / 1000)} ago"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _refused(why: str, code: int) -> typer.Exit:
    """Print why nothing is learnt, in one line; return the exit with `code`."""
    console.print(why, style="red", soft_wrap=True, markup=False)
    return typer.Exit(code)
