"""`esper keys`: the keys that sign kernels and decisions, and that trainers trust."""

from pathlib import Path
from typing import Annotated

import typer

from esper.settings import Settings
from esper.workers.cli.output import Json, console, print_json, print_table

app = typer.Typer(
    help="Keys: compile and bandit workers sign with one, trainers trust one or several.",
    no_args_is_help=True,
)

Directory = Annotated[
    Path | None, typer.Argument(help="Folder of the PEM files. Default: ESPER_HOME/keys")
]


def _folder(directory: Path | None) -> Path:
    return directory or Settings().home / "keys"


@app.command("create")
def create(directory: Directory = None) -> None:
    """Create an Ed25519 key pair; an existing pair is kept."""
    from esper.signing import KeysExist, create_keys

    try:
        paths = create_keys(_folder(directory))
    except KeysExist as error:
        console.print(f"kept: {error}", soft_wrap=True)
        return
    console.print(f"ESPER_SIGNING_KEY_FILE={paths.private}", soft_wrap=True)
    console.print(f"ESPER_TRUSTED_KEY_FILE={paths.public}", soft_wrap=True)


@app.command("list")
def list_keys(directory: Directory = None, json: Json = False) -> None:
    """List the trusted keys by fingerprint, and which one signs."""
    from esper.signing import signing_states

    rows = [
        {"fingerprint": key, "state": state} for key, state in signing_states(_folder(directory))
    ]
    if json:
        print_json(rows)
    else:
        print_table(("fingerprint", "state"), [list(row.values()) for row in rows])


@app.command("rotate")
def rotate(
    directory: Directory = None,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare", help="Create and trust the next key, but do not sign with it yet."
        ),
    ] = False,
) -> None:
    """Sign with a new key from the next start of the workers; the old one stays trusted.

    Where trainers have copies of the trusted keys: run with --prepare, give all trainers the new
    trusted-key.pem, then run without it and restart the workers. Running trainers read the file
    again by themselves. `esper kernel sign-again` and `esper keys retire` end the old key's use.
    """
    from esper.signing import prepare_rotation, rotate_keys

    if prepare:
        console.print(
            f"{prepare_rotation(_folder(directory))} is trusted, and signs after: esper keys rotate"
        )
        return
    console.print(f"{rotate_keys(_folder(directory))} signs from now on; restart the workers")


@app.command("retire")
def retire(
    fingerprint: Annotated[str, typer.Argument(help="Fingerprint of the key; see `list`.")],
    directory: Directory = None,
) -> None:
    """Trust a key no longer: trainers refuse all kernels and decisions that it signed.

    Kernels that it signed can be loaded again after `esper kernel sign-again`.
    """
    from esper.signing import retire_key

    retire_key(_folder(directory), fingerprint)
    console.print(f"{fingerprint} is no longer trusted")
