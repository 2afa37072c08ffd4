"""Secrets: values that no repr, log or document shows, and the files that hold them."""

import logging
import os
from functools import cache
from pathlib import Path
from typing import Annotated, Final

from pydantic import PlainSerializer, SecretStr, SerializationInfo

from esper.errors import EsperError

log = logging.getLogger(__name__)

REVEALED: Final = {"secrets": "revealed"}
"""Context for `model_dump_json`: secrets in clear, for a socket between two processes only."""

READABLE_BY_ALL: Final = 0o007


class SecretFileUnusable(EsperError, ValueError):
    """A file that should hold a secret cannot be read, is empty or has several lines."""


def _dumped(secret: SecretStr, info: SerializationInfo) -> str:
    return secret.get_secret_value() if info.context is REVEALED else str(secret)


Secret = Annotated[SecretStr, PlainSerializer(_dumped, return_type=str)]
"""A secret field: `**********` in repr, logs and JSON, unless dumped with `REVEALED`."""


def read_secret(file: Path, setting: str) -> SecretStr:
    """Return the only line of a file; `setting` is the variable that names it, for messages.

    A file that every user of the machine can read is reported in the log.

    Raises:
        SecretFileUnusable: the file cannot be read, is empty or has several lines.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        # Not the error itself: a decoding error quotes bytes of the file.
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise SecretFileUnusable(
            f"{setting}: cannot read {file} ({why}); name a file with the password"
        ) from None
    lines = text.splitlines()
    if len(lines) != 1 or not lines[0]:
        raise SecretFileUnusable(
            f"{setting}: {file} has {len(lines)} lines; write the password as its only line"
        )
    _warn_of_mode(file, setting)
    return SecretStr(lines[0])


@cache
def _warn_of_mode(file: Path, setting: str) -> None:
    """Warn once if every user can read a file. A group may: Kubernetes mounts Secrets for one."""
    if os.name == "posix" and file.stat().st_mode & READABLE_BY_ALL:
        log.warning("%s: every user can read %s; run `chmod o= %s`", setting, file, file)
