"""The metadata of an artifact: read the plan without the weights and without torch."""

from typing import Final

import orjson

from esper.kernel.plan import MAX_PLAN_BYTES, KernelPlan
from esper.kernel.refusal import ArtifactRefused

MAX_ARTIFACT_BYTES: Final = 32 << 20
MAX_HEADER_BYTES: Final = 4 * MAX_PLAN_BYTES
LENGTH_BYTES: Final = 8
PLAN_KEY: Final = "esper.plan"


def plan_of(data: bytes) -> KernelPlan:
    """Return the plan in the metadata of an artifact.

    Raises:
        ArtifactRefused: the plan is missing or invalid.
    """
    check_length(data)
    return KernelPlan.from_json(_plan_json(data))


def check_length(data: bytes) -> None:
    """Raise ArtifactRefused if an artifact is too large."""
    if len(data) > MAX_ARTIFACT_BYTES:
        raise ArtifactRefused(f"the artifact has {len(data)} bytes; at most {MAX_ARTIFACT_BYTES}")


def _plan_json(data: bytes) -> bytes:
    """Return the plan in a safetensors header: a little-endian length, then a JSON object."""
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if length > min(MAX_HEADER_BYTES, len(data) - LENGTH_BYTES):
        raise ArtifactRefused(f"the header has {length} bytes in an artifact of {len(data)}")
    try:
        header = orjson.loads(data[LENGTH_BYTES : LENGTH_BYTES + length])
    except orjson.JSONDecodeError as error:
        raise ArtifactRefused(f"the header is not JSON: {error}") from error
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    plan = metadata.get(PLAN_KEY) if isinstance(metadata, dict) else None
    if not isinstance(plan, str):
        raise ArtifactRefused(f"the artifact has no plan: no {PLAN_KEY} in its metadata")
    return plan.encode()
