"""Documents say what the code does: links, commands, Python blocks, counts."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command

import esper
from esper.blueprint import shipped
from esper.topics.catalog import topic_specs
from esper.workers.cli import app
from tests.docs import render
from tests.docs.blocks import PAGES, ROOT, Block, blocks

README = (ROOT / "README.md").read_text()


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts derive them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_of_the_repository(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page}: no file {target}"
        if anchor:
            assert anchor in anchors(file), f"{page}: no heading {target}"


@pytest.mark.parametrize("block", list(blocks("python")), ids=str)
def test_python_blocks_use_the_public_interface_alone(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.module.split(".")[0] != "esper", f"{block}: import esper alone"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "esper":
            assert node.attr in esper.__all__, f"{block}: esper.{node.attr} is not public"


@pytest.mark.parametrize("block", list(blocks("json")), ids=str)
def test_json_blocks_are_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", list(blocks("yaml")), ids=str)
def test_yaml_blocks_are_yaml(block: Block) -> None:
    yaml.safe_load(block.text)


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each `esper` command of a block, comments removed."""
    for line in block.text.splitlines():
        command = re.sub(r"^(\$ )?(kubectl .* -- )?", "", line)
        if command.startswith("esper ") and (block.language == "sh" or line.startswith("$")):
            yield shlex.split(command.partition(" | ")[0], comments=True)[1:]


@pytest.mark.parametrize("block", list(blocks("console", "sh")), ids=str)
def test_esper_commands_exist_with_their_options(block: Block) -> None:
    for words in commands(block):
        command = get_command(app)
        while words and isinstance(command, TyperGroup):
            assert words[0] in command.commands, f"{block}: no command {words[0]}"
            command = command.commands[words.pop(0)]
        known = {name for option in command.params for name in (*option.opts, "--help")}
        known |= {name for option in command.params for name in option.secondary_opts}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, f"{block}: no option {word}"


@pytest.mark.parametrize("block", list(blocks("console", "sh")), ids=str)
def test_make_targets_and_example_files_exist(block: Block) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^(?:\$ )?make (\w+)", block.text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{block}: no target {target}"
    for file in re.findall(r"examples/\w+\.py", block.text):
        assert (ROOT / file).exists(), f"{block}: no file {file}"


def test_the_transcript_of_the_readme_has_the_counts_of_the_code() -> None:
    assert f"topics: {len(list(topic_specs()))} created" in README
    assert f"blueprints: {len(shipped())} published" in README


def test_the_guide_has_the_table_of_grow_config() -> None:
    assert render.guide() == render.GUIDE.read_text(), "run `make docs`"


def test_the_table_of_policies_is_generated() -> None:
    assert render.choosing() == render.CHOOSING.read_text(), "run `make docs`"


def test_the_page_on_security_has_the_access_control_list() -> None:
    assert render.security() == render.SECURITY.read_text(), "run `make docs`"
