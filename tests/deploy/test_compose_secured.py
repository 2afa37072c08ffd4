"""docker-compose.secured.yml: one user and its own secrets for each service of the other file."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from esper.settings import Settings
from esper.topics.acl import default_principal
from esper.topics.connection import SecurityProtocol

ROLES = {
    "topics": "operator",
    "compile": "compile",
    "bandit": "bandit",
    "audition": "audition",
    "trainer": "trainer",
}


class ComposeLoader(yaml.SafeLoader):
    """Reads `!override`, which replaces a value of the first file instead of merging."""


ComposeLoader.add_constructor(
    "!override", lambda loader, node: loader.construct_mapping(node, deep=True)
)


@pytest.fixture(scope="module")
def secured(root: Path) -> dict[str, Any]:
    """The file, with its variables as they are."""
    text = (root / "docker-compose.secured.yml").read_text()
    loaded: dict[str, Any] = yaml.load(text, ComposeLoader)
    return loaded


def test_every_service_logs_in_as_the_user_of_its_role(secured: dict[str, Any]) -> None:
    assert secured["services"].keys() == ROLES.keys()
    for name, service in secured["services"].items():
        assert service["environment"].keys() <= {f.alias for f in Settings.model_fields.values()}
        settings = Settings.model_validate(service["environment"])
        assert settings.kafka_security_protocol is SecurityProtocol.SASL_SSL
        assert f"User:{settings.kafka_sasl_username}" == default_principal(ROLES[name])
        mounted = {f"/run/secrets/{secret['target']}" for secret in service["secrets"]}
        files = {settings.kafka_sasl_password_file, settings.kafka_ssl_ca_file}
        if name != "topics":
            files |= {settings.redis_password_file, settings.redis_ca_file}
        assert {str(file) for file in files} == mounted


def test_no_service_has_the_secret_of_another(secured: dict[str, Any], root: Path) -> None:
    used = [
        secret["source"]
        for service in secured["services"].values()
        for secret in service["secrets"]
        if secret["source"] != "ca"
    ]
    assert sorted([*used, "ca"]) == sorted(secured["secrets"])
    for secret in secured["secrets"].values():
        folder = Path(secret["file"]).parts[0]
        assert f"/{folder}/" in (root / ".gitignore").read_text().splitlines()


def test_it_changes_services_of_the_first_file_and_waits_for_none_that_it_replaces(
    secured: dict[str, Any], root: Path
) -> None:
    first = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]
    for name, service in secured["services"].items():
        assert name in first
        assert service["depends_on"].keys() <= first.keys() - {"kafka", "redis"}
