"""`esper kernel`: announced kernels, and their revocation."""

from typing import Annotated, Any, Final

import typer

from esper.errors import EsperError
from esper.settings import Settings
from esper.workers.cli.output import Json, console, print_json, print_table

app = typer.Typer(
    help="Announced kernels: list them, revoke one, sign them with a new key.",
    no_args_is_help=True,
)

TIMEOUT_S: Final = 30.0
SHORT: Final = 12


class KernelUnknown(EsperError):
    """No announced kernel has this SHA-256."""


@app.command("list")
def list_kernels(json: Json = False) -> None:
    """List the announced kernels: blueprint, site, size, SHA-256, and whether they are revoked."""
    from esper.topics.announcements import announced_kernels

    reasons = _revocations()
    rows: list[dict[str, Any]] = [
        {
            "blueprint": ready.blueprint_id,
            "site": ready.site_signature.text,
            "params": ready.params,
            "bytes": ready.bytes,
            "kernel_id": ready.kernel_id,
            "sha256": ready.sha256,
            "revoked": reasons.get(ready.sha256),
        }
        for ready in announced_kernels(Settings().kafka)
    ]
    if json:
        print_json(rows)
    elif not rows:
        console.print("no kernels")
    else:
        shown = [
            row | {"sha256": row["sha256"][:SHORT], "revoked": row["revoked"] or ""} for row in rows
        ]
        columns = ("blueprint", "site", "params", "bytes", "sha256", "revoked")
        print_table(columns, [[row[column] for column in columns] for row in shown])


@app.command("revoke")
def revoke(
    sha256: Annotated[
        str, typer.Argument(help="SHA-256 of the kernel's bytes, or its first digits.")
    ],
    reason: Annotated[str, typer.Option(help="Why; trainers report it. At most 500 characters.")],
    json: Json = False,
) -> None:
    """Revoke a kernel: no trainer plants it from now on, running ones included.

    Where it was planted before, it stays, and the trainer logs where; remove it with
    `esper seed cull`. Needs the signing key. A revocation cannot be undone.
    """
    from esper.kernel import sign_revocation
    from esper.topics.bus import Bus
    from esper.topics.catalog import KERNEL_REVOKED
    from esper.workers.signing_key import signing_key_of

    settings = Settings()
    key = signing_key_of(settings)
    whole = _whole(sha256)
    revoked = sign_revocation(key, whole, reason[:500])
    bus = Bus.connect(settings.kafka, source="/esper/cli")
    try:
        bus.publish(KERNEL_REVOKED, revoked).result(TIMEOUT_S)
    finally:
        bus.close()
    if json:
        print_json({"sha256": whole, "reason": revoked.reason})
    else:
        console.print(f"revoked {whole}", soft_wrap=True)


@app.command("sign-again")
def sign_again(json: Json = False) -> None:
    """Sign the announcements of all kernels with the present signing key, after a rotation.

    Only announcements that a trusted key has signed are signed again. Run it before
    `esper keys retire`.
    """
    from esper.kernel import ArtifactRefused, sign_announcement, verify_announcement
    from esper.signing import TrustedKeys
    from esper.topics.announcements import announced_kernels
    from esper.topics.bus import Bus
    from esper.topics.catalog import KERNEL_READY
    from esper.training import trusted_key_of
    from esper.workers.signing_key import signing_key_of

    settings = Settings()
    key, trusted = signing_key_of(settings), TrustedKeys(trusted_key_of(settings))
    signed = refused = 0
    bus = Bus.connect(settings.kafka, source="/esper/cli")
    try:
        for ready in announced_kernels(Settings().kafka):
            try:
                verify_announcement(trusted, ready)
            except ArtifactRefused:
                refused += 1
                continue
            bus.publish(KERNEL_READY, sign_announcement(key, ready)).result(TIMEOUT_S)
            signed += 1
    finally:
        bus.close()
    if json:
        print_json({"signed": signed, "refused": refused})
    else:
        console.print(
            f"signed {signed} announcements, refused {refused} without a trusted signature"
        )


def _revocations() -> dict[str, str]:
    """Return the reason of each revocation, by SHA-256."""
    from esper.topics.bus import read_topic
    from esper.topics.catalog import KERNEL_REVOKED
    from esper.topics.codec import Undecodable, decode
    from esper.topics.models import KernelRevoked

    reasons = {}
    for record in read_topic(Settings().kafka, KERNEL_REVOKED.name):
        try:
            revoked = decode(KernelRevoked, record.value)
        except Undecodable:
            continue
        reasons[revoked.sha256] = revoked.reason
    return reasons


def _whole(sha256: str) -> str:
    """Return the SHA-256 of the one announced kernel that starts with the given digits."""
    from esper.topics.announcements import announced_kernels

    kernels = announced_kernels(Settings().kafka)
    found = {one.sha256 for one in kernels if one.sha256.startswith(sha256.lower())}
    if len(found) != 1:
        raise KernelUnknown(
            f"{len(found)} announced kernels have a SHA-256 that starts with {sha256!r}; "
            "see: esper kernel list"
        )
    return found.pop()
