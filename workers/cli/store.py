"""`esper store`: figures, verification, warming and garbage collection of the kernel store."""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from esper.errors import EsperError
from esper.settings import Settings
from esper.workers.cli.output import Json, console, print_json, print_table

if TYPE_CHECKING:
    from esper.store import Collected, KernelStore

FAILED: Final = 1
MIN_AGE_S: Final = 3600
_AGE: Final = re.compile(r"(\d+)(h|d)")
_SECONDS: Final = {"h": 3600, "d": 86_400}

app = typer.Typer(
    help="The kernel store of ESPER_KERNEL_STORE: its tiers and their content.",
    no_args_is_help=True,
)


class StoreIncomplete(EsperError):
    """The trusted key that verification needs is not configured."""


@app.command("stat")
def stat(json: Json = False) -> None:
    """Show each tier: whether it answers, its entries and their size. Exits 1 if one is down.

    The memory tier is empty here: each process has its own.
    """
    from esper.store import state_of, tier_facts

    with _open() as store:
        facts = tier_facts(store)
        state = state_of(store.health())
    if json:
        print_json({"state": state, "tiers": [asdict(fact) for fact in facts]})
    else:
        print_table(
            ("tier", "address", "durable", "health", "entries", "bytes", "oldest"),
            [
                (
                    fact.tier,
                    fact.address,
                    "yes" if fact.durable else "no",
                    "up" if fact.error is None else "down",
                    "" if fact.entries is None else fact.entries,
                    "" if fact.bytes is None else f"{fact.bytes:,}",
                    "" if fact.oldest_s is None else _age(time.time() - fact.oldest_s),
                )
                for fact in facts
            ],
        )
        for fact in facts:
            if fact.error is not None:
                console.print(f"{fact.tier}: {fact.error}", soft_wrap=True, markup=False)
        console.print(f"the store is {state}")
    raise typer.Exit(FAILED if any(fact.error is not None for fact in facts) else 0)


@app.command("verify")
def verify(
    signatures: Annotated[
        bool, typer.Option(help="Verify the signatures of announced kernels; reads the broker.")
    ] = True,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Put entries with a wrong SHA-256 aside.")
    ] = False,
    json: Json = False,
) -> None:
    """Read every entry of every tier, and verify its SHA-256 and its signature.

    Exits 1 if an entry is bad or a tier does not answer.
    """
    from esper.store import verify_tiers

    check, known = _signature_check() if signatures else (None, 0)
    with _open() as store:
        results = verify_tiers(store, check, quarantine=quarantine)
    if json:
        print_json({"signatures_known": known, "tiers": [asdict(result) for result in results]})
    else:
        print_table(
            ("tier", "checked", "bad", "not in the durable tier"),
            [(one.tier, one.checked, len(one.bad), len(one.not_durable)) for one in results],
        )
        for one in results:
            for location, why in one.bad.items():
                console.print(f"{one.tier} {location}: {why}", soft_wrap=True, markup=False)
            if one.error is not None:
                console.print(f"{one.tier}: {one.error}", soft_wrap=True, markup=False)
    if any(one.bad or one.error for one in results):
        raise typer.Exit(FAILED)


@app.command("warm")
def warm(json: Json = False) -> None:
    """Copy the kernels that caches lack from the durable tier to the caches."""
    from esper.store import warm_caches

    with _open() as store:
        copied = warm_caches(store)
    if json:
        print_json(copied)
        return
    if not copied:
        console.print("the store has no cache outside of the processes")
    for tier, count in copied.items():
        console.print(f"{tier}: {count} copied")


@app.command("gc")
def gc(
    apply: Annotated[bool, typer.Option("--apply", help="Delete. Default: only show.")] = False,
    older_than: Annotated[
        str, typer.Option(help="Keep entries stored more recently than this, such as 12h or 7d.")
    ] = "7d",
    keep: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder with exported networks or histories whose kernels are kept, besides "
            "ESPER_HOME. May be repeated.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Delete kernels that no announcement, no decision of a run and no lineage names.

    An entry that was stored lately is kept: its announcement may follow. Exits 1 if a cache does
    not answer.
    """
    from esper.store import collect_garbage
    from esper.workers.cli.named_kernels import named_kernels

    settings = Settings()
    older_than_s = _seconds(older_than)
    named = named_kernels(settings.kafka, [settings.home, *(keep or ())])
    with _open() as store:
        results = collect_garbage(store, named, older_than_s=older_than_s, apply=apply)
    if json:
        print_json({"applied": apply, "tiers": [asdict(result) for result in results]})
    else:
        _print_collected(results, apply)
    if any(result.error is not None for result in results):
        raise typer.Exit(FAILED)


def _print_collected(results: "list[Collected]", applied: bool) -> None:
    for one in results:
        for location in one.locations:
            console.print(f"{one.tier} {location}", soft_wrap=True)
    verb = "deleted" if applied else "would be deleted"
    for one in results:
        if one.error is not None:
            console.print(f"{one.tier}: {one.error}", soft_wrap=True, markup=False)
            continue
        count = len(one.locations)
        console.print(f"{one.tier}: {count} {verb}, {one.bytes:,} bytes; {one.kept} kept")
    if not applied and any(one.locations for one in results):
        console.print("nothing was deleted; add --apply")


def _signature_check() -> tuple[Callable[[str, str], str | None], int]:
    """Return a check of announced signatures, and the number of announcements."""
    from esper.kernel import ArtifactRefused, verify_announcement
    from esper.signing import TrustedKeys
    from esper.topics.announcements import announced_kernels

    settings = Settings()
    if settings.trusted_key_file is None:
        raise StoreIncomplete(
            "no key to verify signatures with; set ESPER_TRUSTED_KEY_FILE, or add --no-signatures"
        )
    keys = TrustedKeys(settings.trusted_key_file)
    kernels = announced_kernels(settings.kafka)
    announced = {(ready.kernel_id, ready.sha256): ready for ready in kernels}

    def check(kernel_id: str, sha256: str) -> str | None:
        ready = announced.get((kernel_id, sha256))
        if ready is None:
            return None
        try:
            verify_announcement(keys, ready)
        except ArtifactRefused as error:
            return str(error)
        return None

    return check, len(announced)


def _open() -> "KernelStore":
    from esper.store import open_store

    # The commands print the same failures.
    logging.getLogger("esper.store").setLevel(logging.CRITICAL)
    settings = Settings()
    return open_store(settings.kernel_store_spec, settings.store_credentials)


def _seconds(age: str) -> float:
    found = _AGE.fullmatch(age)
    if found is None or (seconds := int(found[1]) * _SECONDS[found[2]]) < MIN_AGE_S:
        raise typer.BadParameter(f"{age!r} is no age of at least 1h; write it as 12h or 7d")
    return seconds


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
