"""`esper blueprint`: the shipped ones, checking a file, publishing to the topic."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from esper.blueprint import BlueprintRejected, check, shipped, shipped_named
from esper.settings import Settings
from topics.codec import Undecodable, decode
from topics.models import Blueprint
from workers.cli.output import Json, console, print_json, print_table

app = typer.Typer(help="Networks to grow with.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="A blueprint as JSON; - for standard input.")]


@app.command("list")
def list_blueprints(json: Json = False) -> None:
    """Show the shipped blueprints."""
    if json:
        print_json([blueprint.model_dump(mode="json") for blueprint in shipped()])
        return
    rows = [
        (blueprint.blueprint_id, blueprint.kind.value, blueprint.category, blueprint.summary)
        for blueprint in shipped()
    ]
    print_table(("blueprint", "kind", "category", "what it is"), rows)


@app.command("show")
def show(blueprint_id: Annotated[str, typer.Argument(help="See `esper blueprint list`.")]) -> None:
    """Print one shipped blueprint as JSON: a start for your own."""
    try:
        print_json(shipped_named(blueprint_id).model_dump(mode="json"))
    except KeyError as error:
        raise typer.BadParameter(str(error.args[0])) from error


@app.command("check")
def check_file(file: File) -> None:
    """Check a blueprint without publishing it. Exits 1, saying where it is wrong."""
    blueprint = _read(file)
    console.print(
        f"{blueprint.blueprint_id}: {len(blueprint.nodes)} nodes for {blueprint.kind} sites, "
        "well formed"
    )


@app.command("publish")
def publish(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Blueprints as JSON; - for standard input.")
    ] = None,
    all_shipped: Annotated[bool, typer.Option("--shipped", help="All shipped ones.")] = False,
) -> None:
    """Publish blueprints to `blueprint-submitted`; they are compiled for every open run."""
    from workers.submit import publish_blueprints

    chosen = [*(shipped() if all_shipped else ()), *(_read(file) for file in files or ())]
    if not chosen:
        raise typer.BadParameter("name a file, or give --shipped")
    positions = publish_blueprints(Settings(), chosen)
    for blueprint, position in zip(chosen, positions, strict=True):
        console.print(f"{blueprint.blueprint_id}: offset {position.offset}")


def _read(file: Path) -> Blueprint:
    try:
        value = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        blueprint = decode(Blueprint, value)
        check(blueprint)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from error
    except (Undecodable, BlueprintRejected) as error:
        console.print(f"{file}: {error}", style="red", soft_wrap=True)
        raise typer.Exit(1) from error
    return blueprint
