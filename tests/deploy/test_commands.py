"""Every esper command that is deployed or documented for operation exists, options included."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from esper.workers.cli import app


@pytest.mark.parametrize(
    "folder", ["base", "overlays/dev", "overlays/postgres", "overlays/secured"]
)
def test_commands_of_the_manifests_exist(
    render: Callable[[str], list[dict[str, Any]]], folder: str
) -> None:
    containers = list(our_containers(render(folder)))
    assert containers
    for container in containers:
        # The image's entry point is `esper`, and a `command` would replace it.
        assert "command" not in container
        require_command(container["args"])


def test_commands_of_the_compose_file_exist(root: Path) -> None:
    compose = yaml.safe_load((root / "docker-compose.yml").read_text())
    services = list(our_containers(compose["services"]))
    assert services
    for service in services:
        assert "entrypoint" not in service
        require_command(service["command"])


def test_the_keys_of_the_compose_file_are_made_once_and_kept(root: Path, tmp_path: Path) -> None:
    services = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]
    # Every `docker compose up` runs this service again, and the others wait for it to succeed.
    runs = [
        CliRunner().invoke(app, services["keys"]["command"], env={"ESPER_HOME": str(tmp_path)})
        for _ in range(2)
    ]
    assert [run.exit_code for run in runs] == [0, 0], runs[-1].output
    for service, variable in (
        ("compile", "ESPER_SIGNING_KEY_FILE"),
        ("trainer", "ESPER_TRUSTED_KEY_FILE"),
    ):
        inside = Path(services[service]["environment"][variable])
        assert (tmp_path / inside.relative_to("/var/lib/esper")).is_file()


def test_commands_of_the_operations_page_exist(root: Path) -> None:
    page = (root / "docs" / "operations.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)
    commands = re.findall(r"^(?:kubectl .* -- )?esper (.+)$", "\n".join(blocks), flags=re.MULTILINE)
    assert commands
    for command in commands:
        require_command(shlex.split(command, comments=True))


def our_containers(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the containers, at any depth, that run the image of this project."""
    if isinstance(node, dict):
        if str(node.get("image", "")).startswith("esper:"):
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from our_containers(part)


def require_command(args: list[str]) -> None:
    """Fail unless `esper ARGS` parses; the command is not run."""
    line = shlex.join(["esper", *args])
    command = get_command(app)
    rest = list(args)
    while isinstance(command, TyperGroup):
        assert rest, f"`{line}` names a group of commands, not a command"
        name = rest.pop(0)
        assert name in command.commands, f"`{line}`: there is no command {name!r}"
        command = command.commands[name]
    command.make_context(line, rest)
