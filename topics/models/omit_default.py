"""`OmitDefault[T]`: a field that is left out of the bytes while it equals its default.

A field that is added to an event is declared this way. Events without it then keep the bytes, and
so the digests, that they had under earlier contracts.
"""

import operator
from functools import partial
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticUndefined

T = TypeVar("T")


class _Marker:
    """Metadata that marks a field of an `OmitsDefaults` model."""


_MARKER: Final = _Marker()

OmitDefault = Annotated[T, _MARKER]
"""Type of a field of an `OmitsDefaults` model that is not serialised while it has its default."""


class OmitsDefaults(BaseModel):
    """Base of the models whose fields can be declared as `OmitDefault[T]`.

    Raises:
        TypeError: on definition of a subclass whose `OmitDefault` field has no default value.
    """

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler, /
    ) -> CoreSchema:
        """Make pydantic exclude the marked fields by value."""
        for name, field in cls.__pydantic_fields__.items():
            if _MARKER in field.metadata:
                if field.default is PydanticUndefined:
                    raise TypeError(f"{cls.__name__}.{name} is OmitDefault; give it a default")
                # `is` for None and `==` otherwise, both without a Python frame for each value.
                same = operator.is_ if field.default is None else operator.eq
                field.exclude_if = partial(same, field.default)
        return handler(source)
