"""docker-compose.yml: every service, command, setting and volume that it names must exist."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from esper.settings import Settings
from esper.store import open_store

Service = dict[str, Any]


@pytest.fixture(scope="module")
def compose(root: Path) -> dict[str, Any]:
    """The file as Compose reads it, anchors resolved."""
    parsed: dict[str, Any] = yaml.safe_load((root / "docker-compose.yml").read_text())
    return parsed


@pytest.fixture(scope="module")
def ours(compose: dict[str, Any]) -> dict[str, Service]:
    """The services that run this project's image."""
    return {n: s for n, s in compose["services"].items() if s["image"].startswith("esper:")}


def test_every_environment_variable_is_a_setting_with_an_accepted_value(
    ours: dict[str, Service],
) -> None:
    known = {field.alias for field in Settings.model_fields.values()}
    for service in ours.values():
        given = service.get("environment", {})
        assert given.keys() <= known
        Settings.model_validate(given)


def test_our_containers_are_locked_down(ours: dict[str, Service]) -> None:
    for service in ours.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "user" not in service and "privileged" not in service


def test_the_other_images_are_those_of_the_dev_components(
    compose: dict[str, Any], render: Callable[[str], list[dict[str, Any]]]
) -> None:
    others = {s["image"] for s in compose["services"].values() if "esper:" not in s["image"]}
    in_kubernetes = {
        container["image"]
        for manifest in render("overlays/dev")
        if manifest["kind"] == "StatefulSet"
        for container in manifest["spec"]["template"]["spec"]["containers"]
        if "esper:" not in container["image"]
    }
    assert others == in_kubernetes


def test_a_service_waits_only_for_what_the_other_can_show(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for other, wait in service.get("depends_on", {}).items():
            assert other in services, f"{name} waits for {other}, which is no service"
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{other} has no healthcheck"


def test_workers_are_asked_for_their_health_where_they_answer(ours: dict[str, Service]) -> None:
    for name in ("compile", "bandit", "audition"):
        port = ours[name]["environment"]["ESPER_METRICS_PORT"]
        assert f"http://127.0.0.1:{port}/healthz" in ours[name]["healthcheck"]["test"][-1]


def test_every_volume_is_declared_and_every_mounted_file_exists(
    compose: dict[str, Any], root: Path
) -> None:
    named = set()
    for service in compose["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (root / source).is_file()
            else:
                named.add(source)
    assert named == compose["volumes"].keys()


def test_ports_are_open_to_this_machine_only(compose: dict[str, Any]) -> None:
    published = [p for s in compose["services"].values() for p in s.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.fixture(scope="module")
def with_postgres(root: Path) -> dict[str, Any]:
    """The file that adds PostgreSQL."""
    parsed: dict[str, Any] = yaml.safe_load((root / "docker-compose.postgres.yml").read_text())
    return parsed


def test_the_postgres_file_moves_the_kernels_of_existing_services(
    compose: dict[str, Any], with_postgres: dict[str, Any]
) -> None:
    changed = with_postgres["services"].keys() - {"postgres"}
    assert changed == {"compile", "audition", "trainer"} <= compose["services"].keys()
    for name in changed:
        given = with_postgres["services"][name]["environment"]
        with open_store(given["ESPER_KERNEL_STORE"]) as store:
            assert [tier.tier for tier in store.health()] == ["redis", "postgresql"]
        assert given.keys() == {"ESPER_KERNEL_STORE", "PGPASSWORD"}


def test_the_password_of_postgres_is_required_and_not_in_the_file(
    with_postgres: dict[str, Any],
) -> None:
    services = with_postgres["services"]
    passwords = {services["postgres"]["environment"]["POSTGRES_PASSWORD"]} | {
        services[name]["environment"]["PGPASSWORD"] for name in ("compile", "trainer")
    }
    (password,) = passwords
    assert password.startswith("${ESPER_POSTGRES_PASSWORD:?")


def test_the_postgres_file_has_the_image_of_kubernetes_and_a_loopback_port(
    with_postgres: dict[str, Any], render: Callable[[str], list[dict[str, Any]]]
) -> None:
    service = with_postgres["services"]["postgres"]
    images = {
        container["image"]
        for manifest in render("overlays/postgres")
        if manifest["kind"] == "StatefulSet"
        for container in manifest["spec"]["template"]["spec"]["containers"]
    }
    assert service["image"] in images
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "healthcheck" in service
    assert with_postgres["volumes"].keys() == {"postgres"}
