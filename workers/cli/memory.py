"""`esper memory`: what the runs of each task family left to later ones."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esper.settings import Settings
from esper.workers.cli.output import Json, console, print_json, print_table

if TYPE_CHECKING:
    from esper.bandit import FamilyMemory
    from esper.store import RedisRunMemory

DIFFERENT, UNREADABLE = 1, 2

app = typer.Typer(help="What runs of a task family left to later ones.", no_args_is_help=True)

Family = Annotated[str, typer.Argument(help="A family; `esper memory show` names all.")]


class RedisUnnamed(ValueError):
    """There is no memory to speak of; the message says what to set."""


@app.command("show")
def show(
    family: Annotated[str | None, typer.Argument(help="Default: all, in brief.")] = None,
    json: Json = False,
) -> None:
    """Show the families of which something is remembered, or what is remembered of one.

    weight: how many trials it counts as in a run that begins now; mean: their mean reward, from 0
    to 1, where 0.5 is a kernel that does nothing.
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
    arms = sorted(known.arms.items(), key=lambda each: (each[0][0], -each[1].mean, each[0]))
    rows = [
        (signature, blueprint, f"{arm.weight:.1f}", f"{arm.mean:.3f}", _age(now_ms - arm.at_ms))
        for (signature, blueprint), arm in arms
    ]
    title = f"{family}: {_count(len(known.runs), 'run')}"
    print_table(("site", "blueprint", "weight", "mean", "last tried"), rows, title=title)


@app.command("forget")
def forget(
    family: Family,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Drop all that is remembered of a family; its next run begins without memory."""
    memory = _memory()
    _require(memory, family)
    if not yes:
        typer.confirm(f"drop all that is remembered of family {family}?", abort=True)
    memory.forget(family)
    console.print(f"{family}: forgotten")


@app.command("learn")
def learn(run: Annotated[str, typer.Argument(help="The run's id.")]) -> None:
    """Add to memory what a run found, from its record: for runs that closed while Redis was away.

    Audits the run first; a run counts once, however often it is learnt. Exits 1 if its record
    differs or it teaches nothing, 2 if it could not be read.
    """
    from esper.audit import HistoryUnreadable, audit, fetch_history, last_state
    from esper.orchestrator import memory_updates

    memory = _memory()
    try:
        history = fetch_history(Settings().kafka_bootstrap_servers, run)
    except HistoryUnreadable as error:
        raise _refused(str(error), UNREADABLE) from error
    verdict = audit(history)
    if not verdict.identical:
        raise _refused(str(verdict), DIFFERENT)
    if not verdict.closed:
        raise _refused(f"run {run} is not closed yet, and may find more", DIFFERENT)
    state = last_state(history)
    opened_with = state.run.run_config.memory
    if opened_with is None:
        raise _refused(f"run {run} was told to do without memory, and leaves none", DIFFERENT)
    family, lessons = opened_with.family, memory_updates(state)
    if memory.fold(family, lessons, run_id=run, at_ms=int(time.time() * 1000)):
        arms = _count(len(lessons), "blueprint")
        console.print(f"{family}: learnt of {arms} from {run}", soft_wrap=True)
    else:
        console.print(f"{family}: {run} counts already", soft_wrap=True)


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
    readable = [each for each in facts if "unreadable" not in each]
    if readable or not facts:
        now_ms = time.time() * 1000
        print_table(
            ("family", "runs", "blueprints at sites", "weight", "last tried"),
            [
                (
                    each["family"],
                    each["runs"],
                    each["arms"],
                    f"{each['weight']:.1f}",
                    "never" if each["at_ms"] is None else _age(now_ms - each["at_ms"]),
                )
                for each in readable
            ],
        )
    for each in facts:
        if "unreadable" in each:
            console.print(each["unreadable"], style="red", soft_wrap=True, markup=False)


def _memory() -> "RedisRunMemory":
    from esper.store import RedisRunMemory

    settings = Settings()
    if settings.redis_url is None:
        raise RedisUnnamed(
            "no Redis is named; start the local stack with `esper up`, or set ESPER_REDIS_URL"
        )
    return RedisRunMemory(settings.redis_url, kept_days=settings.memory_days)


def _require(memory: "RedisRunMemory", family: str) -> None:
    known = memory.families()
    if family not in known:
        raise typer.BadParameter(
            f"nothing is remembered of family {family!r}; there are: {', '.join(known) or 'none'}"
        )


def _facts(family: str, memory: "FamilyMemory") -> dict[str, Any]:
    """Return what is known of a family, as a `MemorySnapshot` has it and more."""
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


def _age(ms: float) -> str:
    minutes = max(0.0, ms) / 60_000
    if minutes < 90:
        return f"{minutes:.0f} min ago"
    return f"{minutes / 60:.0f} h ago" if minutes < 48 * 60 else f"{minutes / 1440:.0f} d ago"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _refused(why: str, code: int) -> typer.Exit:
    """Say in one line why nothing is learnt; return the end with this code."""
    console.print(why, style="red", soft_wrap=True, markup=False)
    return typer.Exit(code)
