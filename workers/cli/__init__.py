"""The `esper` command: one module for each group of commands, all of them here.

An error of one of our own exception trees is meant for the user: one line that says what to do,
exit code 1. Wrong use exits with 2. Any other exception is a defect and keeps its traceback.
"""

import sys

import typer

from esper.workers.cli import (
    audit,
    blueprint,
    demo,
    keys,
    memory,
    stack,
    steering,
    topics,
    train,
    worker,
)

OUR_PACKAGE = "esper."

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
app.add_typer(worker.app, name="worker")
app.add_typer(audit.history, name="history")
app.add_typer(steering.run, name="run")
app.add_typer(steering.seed, name="seed")
app.add_typer(memory.app, name="memory")
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Run the command line and exit."""
    try:
        app()
    except Exception as error:
        if not type(error).__module__.startswith(OUR_PACKAGE):
            raise
        print(f"esper: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
