"""The Dockerfile: what it copies exists, and what it starts is what the manifests expect."""

import json
import tomllib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def instructions(root: Path) -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), continuation lines joined, comments dropped."""
    lines = (root / "Dockerfile").read_text().splitlines()
    code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = code.replace("\\\n", " ").splitlines()
    parted = (line.partition(" ") for line in joined if line)
    return [(word, rest.strip()) for word, _, rest in parted]


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return table


def test_the_image_starts_the_esper_command(
    instructions: list[tuple[str, str]], project: dict[str, Any]
) -> None:
    (entry_point,) = (json.loads(rest) for word, rest in instructions if word == "ENTRYPOINT")
    assert entry_point == ["esper"]
    assert "esper" in project["scripts"]


def test_the_image_installs_an_extra_that_exists_at_the_pinned_versions(
    instructions: list[tuple[str, str]], project: dict[str, Any]
) -> None:
    installs = [rest for word, rest in instructions if word == "RUN" and "pip install" in rest]
    assert installs
    assert all("--constraint constraints.txt" in install for install in installs)
    assert '".[workers]"' in installs[-1]
    assert "workers" in project["optional-dependencies"]


def test_what_is_copied_exists_and_is_let_through_to_the_build(
    instructions: list[tuple[str, str]], root: Path
) -> None:
    rules = (root / ".dockerignore").read_text().splitlines()
    for word, rest in instructions:
        if word != "COPY" or "--from=" in rest:
            continue
        for source in rest.split()[:-1]:
            assert (root / source).exists(), f"the Dockerfile copies {source}, which is not there"
            assert sent_to_build(source, rules), f".dockerignore holds back {source}"


def test_nothing_but_the_sources_is_sent_to_the_build(root: Path) -> None:
    rules = (root / ".dockerignore").read_text().splitlines()
    for private in (".git", ".env", ".esper", ".venv", "tests", "keys", "signing-key.pem"):
        assert not sent_to_build(private, rules)


def test_the_image_runs_as_the_user_that_the_pods_ask_for(
    instructions: list[tuple[str, str]], render: Callable[[str], list[dict[str, Any]]]
) -> None:
    user = [rest for word, rest in instructions if word == "USER"][-1]
    asked = {
        f"{context['runAsUser']}:{context['runAsGroup']}"
        for manifest in render("base")
        if "template" in manifest.get("spec", {})
        for context in [manifest["spec"]["template"]["spec"]["securityContext"]]
    }
    assert asked == {user}


def sent_to_build(path: str, rules: list[str]) -> bool:
    """Whether Docker sends a top-level path: the last rule that matches decides."""
    sent = True
    for rule in rules:
        if rule and not rule.startswith("#") and fnmatch(path, rule.removeprefix("!")):
            sent = rule.startswith("!")
    return sent
