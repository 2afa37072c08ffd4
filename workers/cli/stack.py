"""`esper up`, `esper down`, `esper status`: Kafka, Redis, PostgreSQL, workers on this machine."""

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from esper.settings import Settings
from esper.workers.cli.interrupts import interruptible
from esper.workers.cli.output import Json, console, print_json, print_table

if TYPE_CHECKING:
    from esper.workers.local.stack import LocalStack

Workers = Annotated[bool, typer.Option(help="Also start the compile and bandit workers.")]


class Optional(StrEnum):
    """Services that are started on request."""

    POSTGRES = "postgres"


With = Annotated[
    list[Optional] | None,
    typer.Option(
        "--with", help="Also start a service. postgres: keep kernels there, Redis being a cache."
    ),
]


def up(workers: Workers = True, with_: With = None) -> None:
    """Start Kafka, Redis and the workers on this machine, create the topics, and keep all running.

    A service whose address is set (KAFKA_BOOTSTRAP_SERVERS, ESPER_REDIS_URL, ESPER_POSTGRES_URL)
    is used instead of started. Running services are not restarted.
    """
    try:
        with interruptible():
            state = _stack().start(
                console.print, workers=workers, postgres=Optional.POSTGRES in (with_ or ())
            )
    except KeyboardInterrupt:
        console.print("interrupted; the services started by this call have been stopped")
        raise typer.Exit(130) from None
    console.print(f"Kafka at {state.kafka_bootstrap_servers}, Redis at {state.redis_url}")
    if state.postgres_url is not None:
        from esper.workers.local.postgres import address_of

        console.print(f"kernels in PostgreSQL at {address_of(state.postgres_url)}")
    console.print("next: `esper blueprint publish --shipped`, then `esper train digits`")


def down() -> None:
    """Stop the services that `esper up` started; data stays in ESPER_HOME (default: .esper)."""
    _stack().stop()
    console.print("stopped")


def status(json: Json = False) -> None:
    """Show each service, its address and whether it answers. Exits 1 if one does not."""
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
