"""A real Redis with the users of `docs/security.md`; their passwords are in no command line."""

import re
from pathlib import Path

from esper.workers.local import CAN_DIE_WITH_PARENT, RedisService
from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "security.md"


def password_of(user: str) -> str:
    """Return the password of a user."""
    return f"hunter2-redis-{user}"


class SecuredRedis(RedisService):
    """A server that knows the documented users only."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, die_with_parent=CAN_DIE_WITH_PARENT)

    @property
    def port(self) -> int:
        """The port, without TLS."""
        return self._port

    def _options(self) -> list[str]:
        users = re.findall(r"^user .*$", PAGE.read_text(), re.MULTILINE)
        lines = [line.replace("PASSWORD", password_of(line.split()[1])) for line in users]
        words = iter(super()._options())
        options = [
            f'{name.removeprefix("--")} "{value}"' for name, value in zip(words, words, strict=True)
        ]
        file = self._directory.resolve() / "redis.conf"
        file.write_text("\n".join([*options, *lines, "user default off", ""]))
        return [str(file)]
