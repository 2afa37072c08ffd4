"""`esper blueprint`: list shipped blueprints, check a file, publish to the topic."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from esper.blueprint import (
    OPS,
    BlueprintRejected,
    author_schema,
    check,
    member,
    resolve,
    shipped,
    shipped_named,
)
from esper.settings import Settings
from esper.topics.codec import Undecodable, decode
from esper.topics.models import Blueprint, SiteSignature
from esper.workers.cli.blueprint_tables import (
    as_json,
    ops_as_json,
    ops_page,
    ops_rows,
    parameter_lines,
    site_rows,
)
from esper.workers.cli.output import Json, console, print_json, print_table
from esper.workers.cli.site import FORM, setting_of, site_of, site_text

app = typer.Typer(
    help="Blueprints: the networks that kernels are built from.", no_args_is_help=True
)

File = Annotated[Path, typer.Argument(help="Blueprint as JSON file; - for standard input.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=NUMBER", help="Set a parameter of the blueprint; repeatable."
    ),
]


@app.command("list")
def list_blueprints(json: Json = False) -> None:
    """Show the shipped blueprints."""
    if json:
        print_json([blueprint.model_dump(mode="json") for blueprint in shipped()])
        return
    rows = [
        (blueprint.blueprint_id, ", ".join(blueprint.kinds), blueprint.category, blueprint.summary)
        for blueprint in shipped()
    ]
    print_table(("blueprint", "kind", "category", "summary"), rows)


@app.command("show")
def show(blueprint_id: Annotated[str, typer.Argument(help="See `esper blueprint list`.")]) -> None:
    """Print a shipped blueprint as JSON, as a start for your own."""
    try:
        print_json(shipped_named(blueprint_id).model_dump(mode="json"))
    except KeyError as error:
        raise typer.BadParameter(str(error.args[0])) from error


@app.command("ops")
def ops(
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/ops.md.")] = False,
) -> None:
    """Show the ops that a blueprint can use, with their arguments."""
    rows = [row for row in OPS.values() if not row.internal]
    if json:
        print_json(ops_as_json(rows))
        return
    if markdown:
        sys.stdout.write(ops_page(rows))
        return
    print_table(("op", "inputs", "arguments", "result"), ops_rows(rows))


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of blueprints, for an editor or a validator."""
    print_json(author_schema())


@app.command("check")
def check_file(
    file: File,
    site: Annotated[
        list[str] | None,
        typer.Option(metavar="SITE", help=f"Site to resolve the blueprint at: {FORM}; repeatable."),
    ] = None,
    values: Set = None,
    json: Json = False,
) -> None:
    """Check a blueprint without publishing it, and show its nodes and cost at a site.

    Exits 1 if the blueprint is invalid, and names the invalid part.
    """
    sites = [site_of(text) for text in site or ()]
    blueprint = _read(file, _settings(values), json)
    documents = [_at_site(file, blueprint, signature, json) for signature in sites]
    if json:
        print_json(as_json(blueprint, documents))
    elif not sites:
        served = " and ".join(blueprint.kinds)
        count = f"{len(blueprint.nodes)} node{'s' if len(blueprint.nodes) > 1 else ''}"
        console.print(f"{blueprint.blueprint_id}: {count} for {served} sites, well formed")
        for line in parameter_lines(blueprint):
            console.print(line)


@app.command("publish")
def publish(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Blueprints as JSON; - for standard input.")
    ] = None,
    all_shipped: Annotated[
        bool, typer.Option("--shipped", help="Publish all shipped blueprints.")
    ] = False,
    values: Set = None,
) -> None:
    """Publish blueprints to `blueprint-submitted`; they are compiled for every open run.

    With --set, publish the blueprint with these parameter values, under its own id.
    """
    from esper.workers.cli.publish import publish_blueprints

    settings = _settings(values)
    if all_shipped and settings:
        raise typer.BadParameter(
            "--set cannot be used with --shipped: shipped blueprints have different parameters"
        )
    chosen = [*(shipped() if all_shipped else ()), *(_read(file, settings) for file in files or ())]
    if not chosen:
        raise typer.BadParameter("nothing to publish: name a file or give --shipped")
    positions = publish_blueprints(Settings(), chosen)
    for blueprint, position in zip(chosen, positions, strict=True):
        console.print(f"{blueprint.blueprint_id}: offset {position.offset}")


@app.command("withdraw")
def withdraw(
    blueprint_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Published ids.")],
    json: Json = False,
) -> None:
    """Withdraw blueprints: their kernels are offered to no run any more.

    Kernels that are planted stay. Lockstep runs keep the kernels that they began with. A withdrawn
    blueprint can be published again. Exits 1 if an id is not published.
    """
    from esper.workers.cli.publish import withdraw_blueprints

    positions = withdraw_blueprints(Settings(), blueprint_ids)
    withdrawn = list(zip(blueprint_ids, positions, strict=True))
    if json:
        print_json([{"blueprint_id": name, "offset": at.offset} for name, at in withdrawn])
        return
    for name, position in withdrawn:
        console.print(f"{name}: withdrawn at offset {position.offset}")


def _settings(values: Iterable[str] | None) -> dict[str, int]:
    return dict(setting_of(text) for text in values or ())


def _read(file: Path, values: Mapping[str, int], json: bool = False) -> Blueprint:
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        blueprint = decode(Blueprint, content)
        check(blueprint)
        return member(blueprint, values)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from error
    except (Undecodable, BlueprintRejected) as error:
        raise _refused(file, error, json) from error


def _at_site(
    file: Path, blueprint: Blueprint, signature: SiteSignature, json: bool
) -> dict[str, Any]:
    """Resolve a blueprint at a site; print its table, and return its JSON document."""
    try:
        resolved = resolve(blueprint, signature)
    except BlueprintRejected as error:
        raise _refused(file, error, json, site_text(signature)) from error
    table = site_rows(resolved)
    if not json:
        chosen = "".join(f", {name} {value}" for name, value in resolved.values.items())
        title = f"{blueprint.blueprint_id} at {site_text(signature)}{chosen}"
        print_table(table.columns, table.rows, title=title)
    return table.document


def _refused(
    file: Path, error: Undecodable | BlueprintRejected, json: bool, site: str | None = None
) -> typer.Exit:
    """Print why a file is invalid, as one line or as JSON; return the exit with 1."""
    if json:
        code = error.code if isinstance(error, BlueprintRejected) else "undecodable"
        print_json({"rejected": {"code": code, "reason": str(error), "site": site}})
    else:
        where = f"{file}: at {site}" if site else f"{file}"
        console.print(f"{where}: {error}", style="red", soft_wrap=True, markup=False)
    return typer.Exit(1)
