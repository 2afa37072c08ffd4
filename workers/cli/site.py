"""Parse and format site signatures of the command line: `feature_map:64x16x16`."""

import typer

from esper.blueprint import BlueprintRejected, sizes_of
from esper.topics.models import SiteKind, SiteSignature

FORM = "KIND:H, or KIND:X:H where x and h differ: vector:128, feature_map:3x32x32:64x16x16"


def site_of(text: str) -> SiteSignature:
    """Return the signature for a text: a kind, then the shape of h, or the shapes of x and h.

    Raises:
        typer.BadParameter: the text is malformed, or the shapes do not fit the kind.
    """
    kind, *shapes = text.split(":")
    if kind not in set(SiteKind) or len(shapes) not in (1, 2):
        raise typer.BadParameter(f"{text!r} is not a site; write {FORM}")
    try:
        x, h = _shape(shapes[0]), _shape(shapes[-1])
        signature = SiteSignature(kind=SiteKind(kind), x=x, h=h)
        sizes_of(signature)
    except BlueprintRejected as error:
        raise typer.BadParameter(f"{text!r}: {error.message}") from error
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} has an invalid shape; write {FORM}") from error
    return signature


def site_text(signature: SiteSignature) -> str:
    """Return the text for a signature."""
    x, h = ("x".join(map(str, shape)) for shape in (signature.x, signature.h))
    return f"{signature.kind}:{h}" if x == h else f"{signature.kind}:{x}:{h}"


def setting_of(text: str) -> tuple[str, int]:
    """Return parameter and value of a text like `rank=8`.

    Raises:
        typer.BadParameter: the text is malformed.
    """
    name, separator, value = text.partition("=")
    if not (name and separator and value.isascii() and value.isdigit()):
        raise typer.BadParameter(f"{text!r} is not a parameter value; write NAME=NUMBER")
    return name, int(value)


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("x"))
