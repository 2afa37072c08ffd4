"""What all events share: frozen, strict about types, forgiving about fields they do not know."""

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from esper.topics.models.omit_default import OmitsDefaults

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
"""A name chosen by a person: lower case, safe in a path, a key and a terminal."""

SiteName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.]{0,199}$")]
"""The dotted path of a submodule of the host, as `nn.Module.get_submodule` takes it."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest, lower-case hexadecimal."""

INT64 = 1 << 63
"""Integers beyond 64 bits are no interoperable JSON, and nothing here could write them again."""

Count = Annotated[int, Field(ge=0, lt=INT64)]


class Event(OmitsDefaults):
    """Base of every model on the wire.

    Unknown fields are ignored on read, so that an older process reads a newer one's events;
    missing required fields, values of another type and non-finite floats are errors.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)
