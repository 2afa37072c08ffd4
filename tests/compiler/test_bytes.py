"""One blueprint at one site is one sequence of bytes: in any process, on any day."""

import os
import subprocess
import sys

import orjson

from esper.blueprint import COMPILER_VERSION, shipped
from tests.compiler import golden

ELSEWHERE = """
import sys
import orjson, torch
from tests.compiler import golden

torch.set_num_threads(3)
sys.stdout.buffer.write(orjson.dumps(golden.digests(backwards=True)))
"""


def test_the_bytes_are_those_of_the_day_they_were_committed() -> None:
    assert golden.differences(golden.digests()) == [], (
        "if this is meant, raise COMPILER_VERSION and run `python -m tests.compiler.golden --renew`"
    )


def test_the_committed_bytes_are_of_this_version_and_of_the_whole_catalog() -> None:
    committed = golden.committed()
    assert committed["compiler_version"] == COMPILER_VERSION
    named = {name.partition(" at ")[0] for name in committed["sha256"]}
    assert named == {blueprint.blueprint_id for blueprint in shipped()}
    built = [digest for digest in committed["sha256"].values() if len(digest) == 64]
    assert len(set(built)) == len(built) > 2 * len(named)


def test_another_process_with_other_hashes_threads_and_order_of_keys_makes_them_too() -> None:
    made = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=True,
    ).stdout
    assert golden.differences(orjson.loads(made)) == []
