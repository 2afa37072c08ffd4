"""The list of reasons, as programs and readers have it."""

import re
from pathlib import Path

from esper.blueprint import RejectionCode

PAGE = Path(__file__).parents[2] / "docs" / "rejections.md"
ROW = re.compile(r"^\| `([a-z-]+)` \| \S.* \|$", re.MULTILINE)


def test_every_code_has_its_line_in_the_documentation_and_there_are_no_others() -> None:
    listed = ROW.findall(PAGE.read_text())
    assert sorted(listed) == sorted(RejectionCode)
