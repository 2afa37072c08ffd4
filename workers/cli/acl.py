"""`esper topics acl`: print the access control list, or create its entries on the broker."""

from typing import TYPE_CHECKING, Annotated

import typer

from esper.settings import Settings
from esper.workers.cli.output import Json, console, print_json, print_table

if TYPE_CHECKING:
    from esper.topics.acl import AclEntry


def acl(
    json: Json = False,
    commands: Annotated[
        bool, typer.Option("--commands", help="Print arguments of Kafka's kafka-acls.sh.")
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Create the missing entries on the broker.")
    ] = False,
    principal: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=PRINCIPAL",
            help="A principal of a role instead of User:esper-ROLE; give it again for more.",
        ),
    ] = None,
) -> None:
    """Show what each role may do on the broker, or allow it there with --apply.

    --apply needs the credentials of a principal that may Alter the cluster, such as a super user.
    Entries that exist already stay; those that the list lacks are shown.
    """
    from esper.topics.acl import acl_entries, kafka_acls_commands

    principals = _principals(principal or [])
    entries = acl_entries(principals)
    if apply:
        _apply(entries, json)
    elif json:
        print_json([entry._asdict() for entry in entries])
    elif commands:
        for line in kafka_acls_commands(entries):
            console.print(line, soft_wrap=True, markup=False)
    else:
        _show(entries)


def _principals(given: list[str]) -> dict[str, list[str]]:
    from esper.topics.acl import roles

    principals: dict[str, list[str]] = {}
    for text in given:
        role, _, name = text.partition("=")
        if role not in roles() or ":" not in name:
            raise typer.BadParameter(
                f"{text!r} is no ROLE=PRINCIPAL such as trainer=User:alice; "
                f"roles: {', '.join(roles())}"
            )
        principals.setdefault(role, []).append(name)
    return principals


def _apply(entries: "list[AclEntry]", json: bool) -> None:
    from esper.topics.bus.acls import apply_acl

    applied = apply_acl(Settings().kafka, entries)
    if json:
        created = [entry._asdict() for entry in applied.created]
        print_json({"created": created, "others": applied.others})
        return
    kept = len(entries) - len(applied.created)
    console.print(f"{len(applied.created)} entries created, {kept} existed")
    for other in applied.others:
        console.print(f"not in the list: {other}", soft_wrap=True, markup=False)


def _show(entries: "list[AclEntry]") -> None:
    grouped: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        what = entry.operation if entry.resource == "topic" else f"{entry.operation} group"
        grouped.setdefault((entry.principal, what), []).append(entry.name)
    rows = [(principal, what, ", ".join(names)) for (principal, what), names in grouped.items()]
    print_table(("principal", "may", "topics or groups"), rows)
