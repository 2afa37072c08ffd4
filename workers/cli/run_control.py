"""`esper seed` and `esper run`: a person steers a run that trains."""

from typing import Annotated, Any

import typer

from esper.settings import Settings
from esper.workers.cli.output import Json, console, print_json

EXIT_CODES = {"done": 0, "refused": 1, "unanswered": 2}

seed = typer.Typer(
    help="Decide by hand what becomes of a seed. The record shows it, and `esper audit` proves it.",
    no_args_is_help=True,
)
run = typer.Typer(
    help="Pause and resume decisions of a run; it goes on training meanwhile.",
    no_args_is_help=True,
)

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id; it must be open.")]
Place = Annotated[
    str,
    typer.Argument(
        metavar="SITE[/SLOT]",
        help="A seed, as conv2/0; without a slot, all that is planted at the site.",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(min=0.1, help="Seconds to wait for the answer; a run hears at its next report."),
]
TIMEOUT_S = 60.0


@seed.command("cull")
def cull(run: RunId, place: Place, timeout: Timeout = TIMEOUT_S, json: Json = False) -> None:
    """Take a kernel out of the network, whatever it contributes: `esper seed cull RUN conv2/0`.

    It is asked of the trainer, decided like all else, and done between two steps. Its arm is left
    alone for a while, as after every cull; what is part of the host already cannot be culled.
    Exits 0 when applied, 1 if it is refused, 2 if no answer came in time.
    """
    _ask(run, "cull", place, timeout, json)


@seed.command("keep")
def keep(run: RunId, place: Place, timeout: Timeout = TIMEOUT_S, json: Json = False) -> None:
    """Make a kernel part of the host for good, now: `esper seed keep RUN conv2/0`.

    Only what is active, fully blended in, can be kept. There is no way back.
    Exits 0 when applied, 1 if it is refused, 2 if no answer came in time.
    """
    _ask(run, "keep", place, timeout, json)


@run.command("pause")
def pause(run: RunId, timeout: Timeout = TIMEOUT_S, json: Json = False) -> None:
    """Have nothing decided until `esper run resume RUN`; training and reports go on.

    What is planted goes on training and ramping; decisions under way are still applied, and so is
    what is asked for by hand. Exits 0 when paused, 1 if it is refused, 2 if no answer came in time.
    """
    _ask(run, "pause", None, timeout, json)


@run.command("resume")
def resume(run: RunId, timeout: Timeout = TIMEOUT_S, json: Json = False) -> None:
    """Have decisions made again.

    Exits 0 when resumed, 1 if it is refused, 2 if no answer came in time.
    """
    _ask(run, "resume", None, timeout, json)


def _ask(run_id: str, kind: str, place: str | None, timeout_s: float, json: bool) -> None:
    from esper.topics.models import RequestKind
    from esper.workers.cli.run_requests import find_open_run, new_request, send_request

    site, slot = (None, None) if place is None else _place_of(place)
    servers = Settings().kafka_bootstrap_servers
    request = new_request(find_open_run(servers, run_id), RequestKind(kind), site, slot)
    became = send_request(servers, request, timeout_s)
    if json:
        facts: dict[str, Any] = {
            **request.model_dump(mode="json"),
            "answer": became.answer.value,
            "words": became.words,
            "step": became.step,
        }
        print_json(facts)
    else:
        console.print(f"{run_id}: {request.words}: {became.words}", soft_wrap=True, markup=False)
    raise typer.Exit(EXIT_CODES[became.answer.value])


def _place_of(text: str) -> tuple[str, int | None]:
    """Return the site and slot that a text names; a site's name has no slash."""
    site, slash, slot = text.partition("/")
    if not site or (slash and not (slot.isascii() and slot.isdigit())):
        raise typer.BadParameter(f"{text!r} is no seed; write SITE/SLOT, as conv2/0, or SITE")
    return site, int(slot) if slash else None
