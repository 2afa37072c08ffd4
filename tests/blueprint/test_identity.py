"""A kernel's id depends on all that its bytes depend on, and on nothing else."""

import subprocess
import sys

import pytest

from esper.blueprint import COMPILER_VERSION, identity, kernel_id, shipped_named
from esper.topics.codec import decode, encode
from esper.topics.models import Blueprint, SiteKind, SiteSignature

BLUEPRINT = shipped_named("low-rank-skip")
SITE = SiteSignature(kind=SiteKind.VECTOR, x=(16,), h=(32,))


def test_the_same_blueprint_at_the_same_site_has_the_same_id() -> None:
    again = decode(Blueprint, encode(BLUEPRINT))
    assert kernel_id(again, SITE.model_copy()) == kernel_id(BLUEPRINT, SITE)


def test_another_blueprint_site_or_pipeline_has_another_id() -> None:
    ids = {
        kernel_id(BLUEPRINT, SITE),
        kernel_id(BLUEPRINT, None),
        kernel_id(BLUEPRINT, SITE, pipeline="other"),
        kernel_id(BLUEPRINT, SITE.model_copy(update={"x": (17,)})),
        kernel_id(BLUEPRINT, SITE.model_copy(update={"device": "cuda"})),
        kernel_id(BLUEPRINT.model_copy(update={"summary": "changed"}), SITE),
    }
    assert len(ids) == 6


def test_another_compiler_gives_other_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    before = kernel_id(BLUEPRINT, SITE)
    monkeypatch.setattr(identity, "COMPILER_VERSION", COMPILER_VERSION + 1)
    assert kernel_id(BLUEPRINT, SITE) != before


def test_planning_does_not_load_torch() -> None:
    program = (
        "import sys; from esper.blueprint import check, kernel_id, shipped\n"
        "for entry in shipped(): check(entry); kernel_id(entry, None)\n"
        "import esper.signing, esper.compiler.compile_pool\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
