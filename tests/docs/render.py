"""Write the generated parts of the documents.

python -m tests.docs.render                  # tables that come from the code
python -m tests.docs.render --transcript     # README's demo output, from a real `esper demo`
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from esper.bandit.policy_table import policy_table
from esper.topics.acl import Operation, default_principal, roles
from esper.training import config_table
from tests.docs.blocks import ROOT

GUIDE = ROOT / "docs" / "guide.md"
CHOOSING = ROOT / "docs" / "choosing.md"
README = ROOT / "README.md"
SECURITY = ROOT / "docs" / "security.md"
TRANSCRIPT_COLUMNS = "100"
ROWS = 6


def replace_block(page: Path, name: str, content: str) -> str:
    """Return the page with the text between the markers of `name` replaced.

    Raises:
        ValueError: the page has no such markers.
    """
    pattern = rf"(<!-- {name}: [^>]*-->\n).*?(<!-- /{name} -->)"
    text, count = re.subn(
        pattern, lambda found: found[1] + content + found[2], page.read_text(), flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"{page}: {count} blocks named {name}; write one pair of markers")
    return text


def guide() -> str:
    """Return the user guide with the table of GrowConfig's fields."""
    return replace_block(GUIDE, "grow-config", config_table())


def choosing() -> str:
    """Return the page on selection with the table of policies."""
    return replace_block(CHOOSING, "policies", policy_table())


def security() -> str:
    """Return the page on security with the access control list."""
    rows = ["| role, principal | operation | topics, or groups |", "| --- | --- | --- |"]
    for name, role in roles().items():
        rows.append(f"| **{name}**, `{default_principal(name)}` | | {role.summary} |")
        rows += [f"| | {operation} | {_code(names)} |" for operation, names in role.topics()]
        if role.groups:
            rows.append(f"| | {Operation.READ} (group) | {_code(role.groups)} |")
    return replace_block(SECURITY, "acl", "\n".join(rows) + "\n")


def _code(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def readme(transcript: str) -> str:
    """Return the README with this output of `esper demo`."""
    return replace_block(README, "demo", f"```text\n{transcript.rstrip()}\n```\n")


def demo_output() -> str:
    """Run the demo and return its standard output; progress lines end where they are redrawn."""
    ended = subprocess.run(
        [sys.executable, "-m", "esper.workers", "demo"],
        env=os.environ | {"COLUMNS": TRANSCRIPT_COLUMNS, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return shortened(ended.stdout)


def shortened(output: str) -> str:
    """Return a demo's output with `ROWS` rows per table, without its folder."""
    kept: list[str] = []
    rows = 0
    for line in map(str.rstrip, output.splitlines()):
        rows = rows + 1 if line.startswith("│") else 0
        if rows == ROWS + 1:
            kept.append("│ …")
        if rows <= ROWS and not line.startswith("files: "):
            kept.append(line)
    return "\n".join(kept)


def main() -> None:
    """Render what the arguments name."""
    GUIDE.write_text(guide())
    CHOOSING.write_text(choosing())
    SECURITY.write_text(security())
    if "--transcript" in sys.argv[1:]:
        README.write_text(readme(demo_output()))


if __name__ == "__main__":
    main()
