"""`esper up`, `esper down`, `esper status`: Kafka, Redis and the workers on this machine."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from esper.settings import Settings
from esper.workers.cli.interrupts import interruptible
from esper.workers.cli.output import Json, console, print_json, print_table

if TYPE_CHECKING:
    from esper.workers.local.stack import LocalStack

Workers = Annotated[bool, typer.Option(help="Start the compile and the bandit worker too.")]


def up(workers: Workers = True) -> None:
    """Start Kafka, Redis, the topics and the workers on this machine, and leave them running.

    Addresses in the environment (KAFKA_BOOTSTRAP_SERVERS, ESPER_REDIS_URL) win: those services
    are used and not started. What runs already is left as it is.
    """
    try:
        with interruptible():
            state = _stack().start(console.print, workers=workers)
    except KeyboardInterrupt:
        console.print("interrupted; what this call had started has been stopped")
        raise typer.Exit(130) from None
    console.print(f"Kafka at {state.kafka_bootstrap_servers}, Redis at {state.redis_url}")
    console.print("next: `esper blueprint publish --shipped`, then `esper train digits`")


def down() -> None:
    """Stop what `esper up` started. Data stays in ESPER_HOME (.esper unless set)."""
    _stack().stop()
    console.print("stopped")


def status(json: Json = False) -> None:
    """Say what runs, where, and whether it answers. Exits 1 if something does not."""
    services = _stack().status()
    rows = [asdict(service) for service in services]
    if json:
        print_json(rows)
    else:
        print_table(list(rows[0]), [[cell or "" for cell in row.values()] for row in rows])
    raise typer.Exit(0 if all(service.health == "running" for service in services) else 1)


def _stack() -> "LocalStack":
    # Here, not at the top: the image of the workers has no local services to manage.
    from esper.workers.local.stack import LocalStack

    return LocalStack(Settings().home)
