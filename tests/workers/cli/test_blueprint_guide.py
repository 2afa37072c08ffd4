"""The guide to writing a blueprint, followed to the letter as far as it needs no broker."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from esper.blueprint import MAX_ACTIVATIONS, MAX_FLOPS, MAX_PARAMETERS
from esper.topics.models import MAX_NODES
from esper.workers.cli import app

DOCS = Path(__file__).parents[3] / "docs"
GUIDE = (DOCS / "blueprints.md").read_text()
NEEDS_A_BROKER = ("up", "down", "train", "topics", "blueprint publish")


def console_block(text: str) -> list[str]:
    """The lines of the first block of commands in a document."""
    block = re.search(r"```console\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return block[1].splitlines()


def commands(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each command with the lines of its here-document."""
    for number, line in enumerate(lines):
        if line.startswith("$ "):
            rest = lines[number + 1 :]
            upto = next(
                (index for index, line in enumerate(rest) if line.startswith("$ ")), len(rest)
            )
            yield line[2:], rest[:upto]


def without_white_space_at_ends(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_the_guide_has_18_lines() -> None:
    assert len(console_block(GUIDE)) == 18


def test_what_the_guide_says_to_type_works_and_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checked = []
    for command, here in commands(console_block(GUIDE)):
        if written := re.fullmatch(r"cat > (\S+) <<'END'", command):
            assert here.pop() == "END"
            Path(written[1]).write_text("\n".join(here))
            continue
        program, *words = command.split()
        assert program == "esper" and not here
        if not " ".join(words).startswith(NEEDS_A_BROKER):
            ended = CliRunner().invoke(app, words, env={"COLUMNS": "160"})
            assert ended.exit_code == 0, ended.output
            checked += without_white_space_at_ends(ended.stdout) if words[1] == "check" else []
    shown = re.search(r"```\n(tanh-mix: .*?)```", GUIDE, re.DOTALL)
    assert shown is not None
    assert checked == shown[1].splitlines()


def test_the_readme_shows_the_same_blueprint() -> None:
    lines = [line for line in console_block(GUIDE) if line.startswith(("{", " "))]
    assert "\n".join(lines) in (DOCS.parent / "README.md").read_text()


def test_the_page_of_ops_is_what_the_table_says() -> None:
    printed = CliRunner().invoke(app, ["blueprint", "ops", "--markdown"]).stdout
    assert (DOCS / "ops.md").read_text() == printed, "run `make contracts`"


def test_the_limits_are_those_that_hold() -> None:
    for limit in (MAX_PARAMETERS, MAX_ACTIVATIONS, MAX_FLOPS):
        assert f"{limit:,}" in GUIDE
    assert f"1 to {MAX_NODES} nodes" in GUIDE
