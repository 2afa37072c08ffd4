"""The Kubernetes manifests: what kustomize renders must be valid, locked down, and about Esper."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest

from esper.settings import Settings
from esper.store import open_store
from esper.topics.acl import default_principal, roles
from esper.topics.catalog import MAX_MESSAGE_BYTES
from esper.topics.connection import SecurityProtocol
from esper.version import VERSION
from esper.workers.faust import STOP_SLACK_S

Manifest = dict[str, Any]
Render = Callable[[str], list[Manifest]]

FOLDERS = ("base", "overlays/dev", "overlays/postgres", "overlays/secured")
WORKERS = {"esper-compile", "esper-bandit", "esper-audition"}
DEV_IMAGES = {"apache/kafka:4.3.0", "redis:7-alpine"}
SERVICE_IMAGES = {
    "base": set[str](),
    "overlays/dev": DEV_IMAGES,
    "overlays/postgres": DEV_IMAGES | {"postgres:18-alpine"},
    "overlays/secured": set[str](),
}
PRINCIPALS = {
    "esper-compile": "compile",
    "esper-bandit": "bandit",
    "esper-audition": "audition",
    "esper-train-digits": "trainer",
    "esper-topics": "operator",
}
"""The role of each workload in the access control list."""

MADE_BY_HAND = {
    "esper-signing-key",
    "esper-trusted-key",
    "esper-secret-settings",
    "esper-ca",
    *(f"esper-credentials-{role}" for role in PRINCIPALS.values()),
}
"""Objects that the operator creates (docs/operations.md): the repository has no keys."""

REDISS = "rediss://redis.example.com:6379/0"
PASSWORD_OF_POSTGRES = "PGPASSWORD"
"""Read by PostgreSQL's client library, so that no address has the password."""

in_each_folder = pytest.mark.parametrize("folder", FOLDERS)


@in_each_folder
def test_every_object_satisfies_the_strict_schema(render: Render, folder: str) -> None:
    objects = render(folder)
    assert objects
    for manifest in objects:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@in_each_folder
def test_every_image_is_ours_or_a_named_dev_service(render: Render, folder: str) -> None:
    images = {c["image"] for pod in pods(render(folder)) for c in all_containers(pod)}
    assert {image for image in images if not image.startswith("esper:")} == SERVICE_IMAGES[folder]


def test_base_runs_the_image_of_this_version(render: Render) -> None:
    images = {c["image"] for pod in pods(render("base")) for c in all_containers(pod)}
    assert images == {f"esper:{VERSION}"}


@in_each_folder
def test_every_environment_variable_is_a_setting_with_an_accepted_value(
    render: Render, folder: str
) -> None:
    for pod in pods(render(folder)):
        for container in our_containers(pod):
            settings_of(container, render(folder))


@in_each_folder
def test_every_pod_satisfies_the_restricted_profile(render: Render, folder: str) -> None:
    for pod in pods(render(folder)):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert volume_kinds(pod) <= {"emptyDir", "configMap", "secret"}
        for container in all_containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in container.get("ports", []))


@in_each_folder
def test_the_namespace_enforces_the_restricted_profile(render: Render, folder: str) -> None:
    (namespace,) = of_kind(render(folder), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@in_each_folder
def test_no_pod_gets_a_token_or_the_variables_of_services(render: Render, folder: str) -> None:
    for pod in pods(render(folder)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False


@in_each_folder
def test_every_container_states_what_it_needs(render: Render, folder: str) -> None:
    for pod in pods(render(folder)):
        for container in all_containers(pod):
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@in_each_folder
def test_every_mount_has_a_volume_and_every_volume_a_source(render: Render, folder: str) -> None:
    objects = render(folder)
    made = names(of_kind(objects, "ConfigMap"))
    for workload in workloads(objects):
        pod = pod_of(workload)
        claims = workload["spec"].get("volumeClaimTemplates", [])
        volumes = {v["name"] for v in pod.get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in claims}
        mounts = {m["name"] for c in all_containers(pod) for m in c.get("volumeMounts", [])}
        assert mounts == volumes
        assert set(sources(pod)) <= made | MADE_BY_HAND


@in_each_folder
def test_no_secret_is_in_the_repository(render: Render, folder: str) -> None:
    assert of_kind(render(folder), "Secret") == []


@in_each_folder
def test_only_workers_see_the_signing_key(render: Render, folder: str) -> None:
    holders = [w for w in workloads(render(folder)) if "esper-signing-key" in sources(pod_of(w))]
    assert names(holders) == WORKERS


@in_each_folder
def test_each_worker_is_known_by_the_stable_name_of_its_pod(render: Render, folder: str) -> None:
    for name in WORKERS:
        (container,) = pod_of(named(render(folder), "StatefulSet", name))["containers"]
        assert {
            "name": "ESPER_INSTANCE_ID",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
        } in container["env"]


@in_each_folder
def test_probes_and_scrapes_ask_where_the_worker_answers(render: Render, folder: str) -> None:
    objects = render(folder)
    for worker in (named(objects, "StatefulSet", name) for name in WORKERS):
        (container,) = pod_of(worker)["containers"]
        served = settings_of(container, objects).metrics_port
        (port,) = container["ports"]
        assert (port["name"], port["containerPort"]) == ("metrics", served)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {"path": "/healthz", "port": "metrics"}
        service = named(objects, "Service", worker["spec"]["serviceName"])
        annotations = service["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == str(served)
        assert annotations["prometheus.io/path"] == "/metrics"


@in_each_folder
def test_every_service_and_disruption_budget_selects_the_pods_of_its_name(
    render: Render, folder: str
) -> None:
    objects = render(folder)
    labels = {
        w["metadata"]["name"]: w["spec"]["template"]["metadata"]["labels"].items()
        for w in of_kind(objects, "StatefulSet")
    }
    for service in of_kind(objects, "Service"):
        assert service["spec"]["selector"].items() <= labels[service["metadata"]["name"]]
    budgets = of_kind(objects, "PodDisruptionBudget")
    assert names(budgets) == WORKERS
    for budget in budgets:
        selected = budget["spec"]["selector"]["matchLabels"].items()
        assert selected <= labels[budget["metadata"]["name"]]


@in_each_folder
def test_a_stopping_compile_worker_may_finish_the_kernel_in_work(
    render: Render, folder: str
) -> None:
    pod = pod_of(named(render(folder), "StatefulSet", "esper-compile"))
    (container,) = pod["containers"]
    kernel_s = settings_of(container, render(folder)).compile_timeout_s
    assert pod["terminationGracePeriodSeconds"] >= kernel_s + STOP_SLACK_S


@in_each_folder
def test_applying_the_manifests_does_not_start_a_training(render: Render, folder: str) -> None:
    trainer = named(render(folder), "Job", "esper-train-digits")
    assert trainer["spec"]["suspend"] is True


@in_each_folder
def test_the_topics_job_makes_way_for_the_next_release(render: Render, folder: str) -> None:
    topics = named(render(folder), "Job", "esper-topics")
    assert topics["spec"]["ttlSecondsAfterFinished"] > 0


def test_each_secured_workload_logs_in_as_its_own_user_with_files(render: Render) -> None:
    objects = render("overlays/secured")
    found = {workload["metadata"]["name"]: workload for workload in workloads(objects)}
    assert found.keys() == PRINCIPALS.keys()
    for name, workload in found.items():
        pod, role = pod_of(workload), PRINCIPALS[name]
        assert role in roles()
        (container,) = our_containers(pod)
        settings = settings_of(container, objects)
        assert settings.kafka_security_protocol is SecurityProtocol.SASL_SSL
        assert f"User:{settings.kafka_sasl_username}" == default_principal(role)
        assert (settings.kernel_store_spec, settings.redis_url) == (REDISS, REDISS)
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for file in (settings.kafka_sasl_password_file, settings.redis_password_file):
            assert file is not None
            volume = volumes[mounts[str(file.parent)]["name"]]
            assert volume["secret"]["secretName"] == f"esper-credentials-{role}"
            assert volume["secret"]["defaultMode"] & 0o007 == 0
        for file in (settings.kafka_ssl_ca_file, settings.redis_ca_file):
            assert file is not None
            assert volumes[mounts[str(file.parent)]["name"]]["configMap"]["name"] == "esper-ca"


def test_the_password_of_postgres_comes_from_a_secret_and_reaches_the_users_of_the_store_alone(
    render: Render,
) -> None:
    objects = render("overlays/postgres")
    holders = {}
    for workload in workloads(objects):
        for container in all_containers(pod_of(workload)):
            for variable in container.get("env", []):
                if "secretKeyRef" in variable.get("valueFrom", {}):
                    key = variable["valueFrom"]["secretKeyRef"]
                    holders[workload["metadata"]["name"]] = variable["name"]
                    assert key == {"name": "esper-postgres", "key": "password"}
    assert holders == {
        "postgres": "POSTGRES_PASSWORD",
        "esper-compile": PASSWORD_OF_POSTGRES,
        "esper-train-digits": PASSWORD_OF_POSTGRES,
    }


def test_the_postgres_overlay_keeps_kernels_in_postgresql_with_redis_before_it(
    render: Render,
) -> None:
    objects = render("overlays/postgres")
    services = names(of_kind(objects, "Service"))
    (container,) = pod_of(named(objects, "StatefulSet", "esper-compile"))["containers"]
    with open_store(settings_of(container, objects).kernel_store_spec) as store:
        tiers = store.health()
    assert [tier.tier for tier in tiers] == ["redis", "postgresql"]
    assert {urlsplit(tier.address).hostname for tier in tiers} <= services


def test_the_dev_broker_takes_our_largest_message_and_makes_no_topic_by_itself(root: Path) -> None:
    lines = (root / "deploy/k8s/components/kafka-dev/server.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
    assert properties["auto.create.topics.enable"] == "false"
    assert int(properties["message.max.bytes"]) >= MAX_MESSAGE_BYTES


def test_the_overlay_of_the_operations_page_builds(
    render: Render, root: Path, tmp_path: Path
) -> None:
    page = (root / "docs" / "operations.md").read_text()
    (overlay,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    base = os.path.relpath(root / "deploy/k8s/base", tmp_path)
    written = overlay.replace("../esper/deploy/k8s/base", base)
    (tmp_path / "kustomization.yaml").write_text(written)
    objects = render(str(tmp_path))
    for manifest in objects:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    (container,) = pod_of(named(objects, "StatefulSet", "esper-compile"))["containers"]
    assert container["image"] == f"registry.example.com/esper:{VERSION}"
    settings = settings_of(container, objects)
    assert "kafka-0.example.com:9092" in settings.kafka_bootstrap_servers
    assert settings.kernel_store == "redis://redis.example.com:6379/0"
    assert volume_kinds(pod_of(named(objects, "Job", "esper-train-digits"))) >= {
        "persistentVolumeClaim"
    }


def of_kind(objects: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in objects if manifest["kind"] == kind]


def named(objects: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (m for m in of_kind(objects, kind) if m["metadata"]["name"] == name)
    return found


def names(objects: list[Manifest]) -> set[str]:
    return {manifest["metadata"]["name"] for manifest in objects}


def workloads(objects: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in objects if "template" in manifest.get("spec", {})]


def pod_of(workload: Manifest) -> Manifest:
    pod: Manifest = workload["spec"]["template"]["spec"]
    return pod


def pods(objects: list[Manifest]) -> list[Manifest]:
    return [pod_of(workload) for workload in workloads(objects)]


def all_containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def our_containers(pod: Manifest) -> list[Manifest]:
    return [c for c in all_containers(pod) if c["image"].startswith("esper:")]


def environment(container: Manifest, objects: list[Manifest]) -> dict[str, str]:
    """What the container's process will find in its environment, fields of the pod as a name."""
    config = {c["metadata"]["name"]: c["data"] for c in of_kind(objects, "ConfigMap")}
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= config[source["configMapRef"]["name"]] if "configMapRef" in source else {}
    return found | {v["name"]: v.get("value", "pod-0") for v in container.get("env", [])}


def settings_of(container: Manifest, objects: list[Manifest]) -> Settings:
    """Return the settings of a container; fail on an unknown variable or an invalid value."""
    given = environment(container, objects)
    known = {field.alias for field in Settings.model_fields.values()}
    unknown = given.keys() - known - {PASSWORD_OF_POSTGRES}
    assert not unknown, f"no setting has the name {unknown}"
    return Settings.model_validate(given)


def volume_kinds(pod: Manifest) -> set[str]:
    return {kind for volume in pod.get("volumes", []) for kind in volume if kind != "name"}


def sources(pod: Manifest) -> Iterator[str]:
    """Names of the ConfigMaps and Secrets that the pod mounts or takes its environment from."""
    for volume in pod.get("volumes", []):
        if "configMap" in volume:
            yield volume["configMap"]["name"]
        if "secret" in volume:
            yield volume["secret"]["secretName"]
    for container in all_containers(pod):
        for source in container.get("envFrom", []):
            yield (source.get("configMapRef") or source["secretRef"])["name"]
