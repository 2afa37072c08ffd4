"""`esper keys`: the key pair that signs and verifies kernels."""

from pathlib import Path
from typing import Annotated

import typer

from esper.settings import Settings
from esper.workers.cli.output import console

app = typer.Typer(help="Keys for signing kernels (compile workers) and verifying them (trainers).")


@app.callback()
def keys() -> None:
    """Keys for signing kernels (compile workers) and verifying them (trainers)."""


@app.command("create")
def create(
    directory: Annotated[
        Path | None, typer.Argument(help="Folder for the two PEM files. Default: ESPER_HOME/keys")
    ] = None,
) -> None:
    """Create an Ed25519 key pair; an existing pair is kept."""
    from esper.compiler import KeysExist, create_keys

    target = directory or Settings().home / "keys"
    try:
        paths = create_keys(target)
    except KeysExist as error:
        console.print(f"kept: {error}", soft_wrap=True)
        return
    console.print(f"ESPER_SIGNING_KEY_FILE={paths.private}", soft_wrap=True)
    console.print(f"ESPER_TRUSTED_KEY_FILE={paths.public}", soft_wrap=True)
