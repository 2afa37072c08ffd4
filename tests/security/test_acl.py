"""The access control list: complete, of known names, and with one writer where it matters."""

import orjson
import pytest
from typer.testing import CliRunner

from esper.topics.acl import Operation, acl_entries, kafka_acls_commands, roles
from esper.topics.catalog import (
    ADAPTATION_DECISION,
    AUDITION_APP,
    BANDIT_APP,
    COMPILE_APP,
    DECISION_CANDIDATES,
    KERNEL_COMPILED,
    KERNEL_READY,
    RUN_CONTROL,
    TABLES,
    TOPICS,
    topic_specs,
)
from esper.workers.cli import app

NAMES = {spec.name for spec in topic_specs()}


def writers(topic: str) -> set[str]:
    return {name for name, role in roles().items() if topic in role.write}


def test_every_name_is_in_the_catalog() -> None:
    for role in roles().values():
        for _, names in role.topics():
            assert set(names) <= NAMES
            assert len(set(names)) == len(names)
        assert set(role.groups) <= {AUDITION_APP, BANDIT_APP, COMPILE_APP}


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_topic_has_a_writer_and_a_reader_in_the_list(topic: object) -> None:
    name = topic.name  # type: ignore[attr-defined]
    assert writers(name)
    assert "auditor" in {role for role, rights in roles().items() if name in rights.read}


def test_what_steers_a_run_has_one_writer() -> None:
    assert writers(ADAPTATION_DECISION.name) == writers(DECISION_CANDIDATES.name) == {"bandit"}
    assert writers(KERNEL_READY.name) == writers(KERNEL_COMPILED.name) == {"compile"}
    assert writers(RUN_CONTROL.name) == {"operator"}
    for table in TABLES:
        assert writers(table.changelog) == {table.app.removeprefix("esper-")}


def test_the_auditor_can_change_nothing() -> None:
    assert {entry.operation for entry in acl_entries() if "auditor" in entry.principal} == {
        Operation.READ
    }


def test_the_operator_can_create_and_see_every_topic() -> None:
    operator = roles()["operator"]
    assert set(operator.create) == NAMES
    seen = {*operator.read, *operator.write, *operator.delete, *operator.describe}
    assert seen == NAMES


def test_a_role_may_have_several_principals() -> None:
    entries = acl_entries({"trainer": ["User:alice", "User:bob"]})
    found = {entry.principal for entry in entries}
    assert {"User:alice", "User:bob"} <= found and "User:esper-trainer" not in found
    with pytest.raises(KeyError):
        acl_entries({"nobody": ["User:alice"]})


def test_the_command_prints_the_list_as_json_and_as_commands() -> None:
    printed = CliRunner().invoke(app, ["topics", "acl", "--json"])
    assert printed.exit_code == 0
    assert [tuple(entry.values()) for entry in orjson.loads(printed.output)] == [
        (entry.name, entry.operation, entry.principal, entry.resource) for entry in acl_entries()
    ]
    lines = CliRunner().invoke(app, ["topics", "acl", "--commands"]).output.splitlines()
    assert lines == kafka_acls_commands(acl_entries())
    assert "--add --allow-principal 'User:esper-bandit' --operation Read --group esper-bandit" in (
        lines
    )


def test_the_command_refuses_a_principal_of_no_role() -> None:
    refused = CliRunner().invoke(app, ["topics", "acl", "--principal", "king=User:alice"])
    assert refused.exit_code == 2
