"""The base class of all events, and the types of their common fields."""

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from esper.topics.models.omit_default import OmitsDefaults

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
"""A name that a person chooses: lower case, safe in a path, a key and a terminal."""

SiteName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.]{0,199}$")]
"""The dotted path of a submodule of the host, as `nn.Module.get_submodule` takes it."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest in lower-case hexadecimal."""

INT64 = 1 << 63
"""Bound of integers: larger ones are not interoperable JSON, and orjson cannot write them."""

Count = Annotated[int, Field(ge=0, lt=INT64)]
PositiveCount = Annotated[int, Field(ge=1, lt=INT64)]


class Event(OmitsDefaults):
    """Base of every model on the wire.

    Unknown fields are ignored on read, so that an older process reads the events of a newer one.
    Missing required fields, values of another type and non-finite floats are errors.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)
