"""Sites as they are written on a command line: `feature_map:64x16x16`."""

import typer

from esper.blueprint import BlueprintRejected, sizes_of
from esper.topics.models import SiteKind, SiteSignature

FORM = "KIND:H, or KIND:X:H where x and h differ: vector:128, feature_map:3x32x32:64x16x16"


def site_of(text: str) -> SiteSignature:
    """Return the signature that a text stands for: its kind, then the shape of h, or x and h.

    Raises:
        typer.BadParameter: it is of another form, or its shapes are not of its kind.
    """
    kind, *shapes = text.split(":")
    if kind not in set(SiteKind) or len(shapes) not in (1, 2):
        raise typer.BadParameter(f"{text!r} is no site; write {FORM}")
    try:
        x, h = _shape(shapes[0]), _shape(shapes[-1])
        signature = SiteSignature(kind=SiteKind(kind), x=x, h=h)
        sizes_of(signature)
    except BlueprintRejected as error:
        raise typer.BadParameter(f"{text!r}: {error.message}") from error
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} has a shape that is none; write {FORM}") from error
    return signature


def site_text(signature: SiteSignature) -> str:
    """Return the text that stands for a signature."""
    x, h = ("x".join(map(str, shape)) for shape in (signature.x, signature.h))
    return f"{signature.kind}:{h}" if x == h else f"{signature.kind}:{x}:{h}"


def setting_of(text: str) -> tuple[str, int]:
    """Return the parameter and the value of a text like `rank=8`.

    Raises:
        typer.BadParameter: it is of another form.
    """
    name, separator, value = text.partition("=")
    if not (name and separator and value.isascii() and value.isdigit()):
        raise typer.BadParameter(f"{text!r} is no value of a parameter; write NAME=NUMBER")
    return name, int(value)


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("x"))
