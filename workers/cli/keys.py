"""`esper keys`: the pair of keys that signs kernels and verifies them."""

from pathlib import Path
from typing import Annotated

import typer

from esper.settings import Settings
from esper.workers.cli.output import console

app = typer.Typer(help="Keys with which compile workers sign and trainers verify kernels.")


@app.callback()
def keys() -> None:
    """Keys with which compile workers sign and trainers verify kernels."""


@app.command("create")
def create(
    directory: Annotated[
        Path | None, typer.Argument(help="Where the two PEM files go. Default: ESPER_HOME/keys")
    ] = None,
) -> None:
    """Create an Ed25519 pair. A pair that is already there is left as it is."""
    from esper.compiler import KeysExist, create_keys

    target = directory or Settings().home / "keys"
    try:
        paths = create_keys(target)
    except KeysExist as error:
        console.print(f"kept: {error}", soft_wrap=True)
        return
    console.print(f"ESPER_SIGNING_KEY_FILE={paths.private}", soft_wrap=True)
    console.print(f"ESPER_TRUSTED_KEY_FILE={paths.public}", soft_wrap=True)
