"""`esper up`, `esper down`, `esper status`: Kafka, Redis, PostgreSQL, workers on this machine."""

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from esper.settings import Settings
from esper.store import without_password
from esper.workers.cli.interrupts import interruptible
from esper.workers.cli.output import Json, console, print_json, print_table

if TYPE_CHECKING:
    from esper.workers.local.stack import LocalStack

Workers = Annotated[bool, typer.Option(help="Also start the workers.")]


class Optional(StrEnum):
    """Services that are started on request."""

    POSTGRES = "postgres"


With = Annotated[
    list[Optional] | None,
    typer.Option(
        "--with", help="Also start a service. postgres: keep kernels there, Redis being a cache."
    ),
]


Supervise = Annotated[
    bool, typer.Option(help="Start again whatever ends, with growing pauses up to 30 s.")
]


Count = Annotated[int, typer.Option(min=1, max=64, help="How many to start.")]

AuditionWorkers = Annotated[
    int,
    typer.Option(min=0, max=64, help="How many to start, for runs with auditions."),
]


def up(
    workers: Workers = True,
    compile_workers: Count = 1,
    bandit_workers: Count = 1,
    audition_workers: AuditionWorkers = 1,
    with_: With = None,
    supervise: Supervise = True,
) -> None:
    """Start Kafka, Redis and the workers on this machine, create the topics, and keep all running.

    A service whose address is set (KAFKA_BOOTSTRAP_SERVERS, ESPER_REDIS_URL, ESPER_POSTGRES_URL)
    is used instead of started. Running services are not restarted.
    """
    try:
        with interruptible():
            state = _stack().start(
                console.print,
                workers=workers,
                compile_workers=compile_workers,
                bandit_workers=bandit_workers,
                audition_workers=audition_workers,
                postgres=Optional.POSTGRES in (with_ or ()),
                supervise=supervise,
            )
    except KeyboardInterrupt:
        console.print("interrupted; the services started by this call have been stopped")
        raise typer.Exit(130) from None
    redis = without_password(state.redis_url)
    console.print(f"Kafka at {state.kafka_bootstrap_servers}, Redis at {redis}")
    if state.postgres_url is not None:
        from esper.workers.local.postgres import address_of

        console.print(f"kernels in PostgreSQL at {address_of(state.postgres_url)}")
    console.print("next: `esper blueprint publish --shipped`, then `esper train digits`")


def down() -> None:
    """Stop the services that `esper up` started; data stays in ESPER_HOME (default: .esper)."""
    _stack().stop()
    console.print("stopped")


def status(json: Json = False) -> None:
    """Show each service, whether it answers, and how often it was started again.

    Exits 1 if one does not answer.
    """
    services = _stack().status()
    rows = [asdict(service) for service in services]
    if json:
        print_json(rows)
    else:
        print_table(list(rows[0]), [[cell or "" for cell in row.values()] for row in rows])
    raise typer.Exit(0 if all(service.health == "running" for service in services) else 1)


def _stack() -> "LocalStack":
    # Imported here: the workers' image does not have the packages of the local services.
    from esper.workers.local import LocalStack

    return LocalStack(Settings().home)
