"""The identity of a kernel: a digest of all that its bytes depend on."""

from collections.abc import Iterable, Iterator
from typing import Final

import orjson

from esper.topics.codec import digest, sha256_of
from esper.topics.models import Blueprint, KernelRequested, SiteSignature, TrainingRun

COMPILER_VERSION: Final = 2
"""Raised whenever the same blueprint and signature would give other bytes than before."""


def kernel_id(blueprint: Blueprint, signature: SiteSignature | None, pipeline: str = "plan") -> str:
    """Return the SHA-256, in hexadecimal, that names this blueprint compiled for this signature.

    A signature of None names the blueprint refused before any site was considered.
    """
    identity = {
        "blueprint": digest(blueprint),
        "compiler_version": COMPILER_VERSION,
        "pipeline": pipeline,
        "signature": signature.model_dump(mode="json") if signature else None,
    }
    return sha256_of(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS))


def request_for(blueprint: Blueprint, signature: SiteSignature) -> KernelRequested:
    """Return the compile work that makes a kernel of a blueprint at a site."""
    return KernelRequested(
        kernel_id=kernel_id(blueprint, signature), blueprint=blueprint, site_signature=signature
    )


def requests_for(
    blueprints: Iterable[Blueprint], runs: Iterable[TrainingRun]
) -> Iterator[KernelRequested]:
    """Yield the compile work for these blueprints at the sites of these runs, each kernel once."""
    signatures = {digest(site): site for run in runs for site in run.sites.values()}
    for blueprint in blueprints:
        for signature in signatures.values():
            if signature.kind in blueprint.kinds:
                yield request_for(blueprint, signature)
