"""The `esper` command: one module or folder per group of commands, assembled here.

An exception of Esper's own is meant for the user: `main` prints it as one line and exits with 1.
Wrong usage exits with 2. Any other exception is a defect and keeps its traceback. Names that need
a Kafka client are imported on first use.
"""

import sys
from typing import TYPE_CHECKING

import typer
from pydantic import ValidationError

from esper.errors import EsperError
from esper.lazy import lazy_attributes
from esper.settings import Settings
from esper.workers.cli import (
    audit,
    blueprint,
    demo,
    dlq,
    kernel,
    keys,
    memory,
    run_control,
    stack,
    store,
    topics,
    train,
    worker,
)
from esper.workers.cli.output import Json, console, print_json, print_table

if TYPE_CHECKING:
    from esper.workers.cli.publish import publish_blueprints
    from esper.workers.cli.run_requests import find_open_run, new_request

_MODULES = {
    "find_open_run": ".run_requests",
    "new_request": ".run_requests",
    "publish_blueprints": ".publish",
}

__all__ = [
    "Json",
    "app",
    "console",
    "find_open_run",
    "main",
    "new_request",
    "print_json",
    "print_table",
    "publish_blueprints",
]

app = typer.Typer(
    name="esper",
    help="Neural networks that grow while they train, as an event-driven system on Kafka.",
    epilog="Start with `esper demo`, or with `esper up` and then `esper train digits`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("up")(stack.up)
app.command("down")(stack.down)
app.command("status")(stack.status)
app.command("train")(train.train)
app.command("audit")(audit.audit_run)
app.add_typer(blueprint.app, name="blueprint")
app.add_typer(topics.app, name="topics")
app.add_typer(dlq.app, name="dlq")
app.add_typer(worker.app, name="worker")
app.add_typer(audit.history, name="history")
app.add_typer(run_control.run, name="run")
app.add_typer(run_control.seed, name="seed")
app.add_typer(memory.app, name="memory")
app.add_typer(kernel.app, name="kernel")
app.add_typer(store.app, name="store")
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Run the command line and exit."""
    try:
        app()
    except EsperError as error:
        print(f"esper: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        for wrong in error.errors(include_input=False, include_url=False):
            name = ".".join(map(str, wrong["loc"]))
            print(f"esper: the setting {name} is wrong: {wrong['msg']}", file=sys.stderr)
        sys.exit(1)


__getattr__ = lazy_attributes(__name__, _MODULES)
