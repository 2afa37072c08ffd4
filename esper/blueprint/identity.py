"""The id of a kernel: a digest of everything that its bytes depend on."""

from typing import Final

import orjson

from esper.topics.codec import digest, sha256_of
from esper.topics.models import Blueprint, KernelRequested, SiteSignature

COMPILER_VERSION: Final = 2
"""Increment when the same blueprint and signature would compile to different bytes."""


def kernel_id(blueprint: Blueprint, signature: SiteSignature | None, pipeline: str = "plan") -> str:
    """Return the id of this blueprint compiled for this signature: a hexadecimal SHA-256.

    With a signature of None, the id is of a blueprint that was rejected before planning.
    """
    identity = {
        "blueprint": digest(blueprint),
        "compiler_version": COMPILER_VERSION,
        "pipeline": pipeline,
        "signature": signature.model_dump(mode="json") if signature else None,
    }
    return sha256_of(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS))


def request_for(blueprint: Blueprint, signature: SiteSignature) -> KernelRequested:
    """Return the request to compile a blueprint for a site."""
    return KernelRequested(
        kernel_id=kernel_id(blueprint, signature), blueprint=blueprint, site_signature=signature
    )
