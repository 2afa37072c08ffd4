"""Every process connects as its settings say: nothing passes the bare addresses on."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

ALLOWED = {"esper/settings.py", "workers/cli/stack.py"}
"""What reads the setting, and what shows it. The local stack hands it to its own processes."""


def test_the_connection_comes_from_the_settings() -> None:
    read = set()
    for folder in ("esper", "topics", "workers"):
        for file in (ROOT / folder).rglob("*.py"):
            name = str(file.relative_to(ROOT))
            if re.search(r"\bkafka_bootstrap_servers\b", file.read_text()):
                read.add(name.removeprefix("esper/") if "/workers/" in name else name)
    others = {name for name in read if not name.startswith("workers/local/")} - ALLOWED
    assert not others, "pass `settings.kafka`, which has TLS and credentials"
