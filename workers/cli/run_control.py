"""`esper seed` and `esper run`: manual requests to a running training."""

from typing import Annotated, Any

import typer

from esper.settings import Settings
from esper.workers.cli.output import Json, console, print_json

EXIT_CODES = {"done": 0, "refused": 1, "unanswered": 2}

seed = typer.Typer(
    help="Cull or keep a kernel by hand. The request is part of the audited record.",
    no_args_is_help=True,
)
run = typer.Typer(
    help="Pause and resume the decisions of a run; training continues.",
    no_args_is_help=True,
)

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of an open run.")]
SlotText = Annotated[
    str,
    typer.Argument(
        metavar="SITE[/SLOT]",
        help="A slot, such as conv2/0; a site alone stands for all its kernels.",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        min=0.1, help="Seconds to wait for the result; a run reads requests at its next report."
    ),
]
TIMEOUT_S = 60.0


@seed.command("cull")
def cull(run: RunId, slot: SlotText, timeout: Timeout = TIMEOUT_S, json: Json = False) -> None:
    """Remove a kernel from the network, whatever its contribution: `esper seed cull RUN conv2/0`.

    The trainer applies the cull between two steps. The blueprint is not planted there again for a
    while, as after every cull. A fossilized kernel cannot be culled.
    Exits 0 if applied, 1 if refused, 2 without a result in time.
    """
    _send(run, "cull", slot, timeout, json)


@seed.command("keep")
def keep(run: RunId, slot: SlotText, timeout: Timeout = TIMEOUT_S, json: Json = False) -> None:
    """Fossilize a kernel: make it a permanent part of the host: `esper seed keep RUN conv2/0`.

    The kernel must be active, that is fully blended in. This cannot be undone.
    Exits 0 if applied, 1 if refused, 2 without a result in time.
    """
    _send(run, "keep", slot, timeout, json)


@run.command("pause")
def pause(run: RunId, timeout: Timeout = TIMEOUT_S, json: Json = False) -> None:
    """Stop the decisions of a run until `esper run resume RUN`; training and reports continue.

    Planted kernels continue to train and ramp. Earlier decisions and manual requests are still
    applied. Exits 0 if paused, 1 if refused, 2 without a result in time.
    """
    _send(run, "pause", None, timeout, json)


@run.command("resume")
def resume(run: RunId, timeout: Timeout = TIMEOUT_S, json: Json = False) -> None:
    """Resume the decisions of a paused run.

    Exits 0 if resumed, 1 if refused, 2 without a result in time.
    """
    _send(run, "resume", None, timeout, json)


def _send(run_id: str, kind: str, slot_text: str | None, timeout_s: float, json: bool) -> None:
    from esper.topics.models import RequestKind
    from esper.workers.cli.run_requests import find_open_run, new_request, send_request

    site, slot = (None, None) if slot_text is None else _site_and_slot(slot_text)
    servers = Settings().kafka
    request = new_request(find_open_run(servers, run_id), RequestKind(kind), site, slot)
    result = send_request(servers, request, timeout_s)
    if json:
        facts: dict[str, Any] = {
            **request.model_dump(mode="json"),
            "answer": result.status.value,
            "words": result.message,
            "step": result.step,
        }
        print_json(facts)
    else:
        console.print(
            f"{run_id}: {request.as_command}: {result.message}", soft_wrap=True, markup=False
        )
    raise typer.Exit(EXIT_CODES[result.status.value])


def _site_and_slot(text: str) -> tuple[str, int | None]:
    """Parse SITE or SITE/SLOT; a site's name has no slash."""
    site, slash, slot = text.partition("/")
    if not site or (slash and not (slot.isascii() and slot.isdigit())):
        raise typer.BadParameter(
            f"{text!r} is not a slot; write SITE/SLOT, such as conv2/0, or SITE"
        )
    return site, int(slot) if slash else None
