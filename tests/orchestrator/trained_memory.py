"""A run whose trials give memory updates."""

from esper.topics.models import MemorySnapshot, SiteFacts, SiteKind
from tests.orchestrator.trainer import Trainer, kernel

SIGNATURES = {"conv1": "feature_map:8x8x8>8x8x8", "conv2": "feature_map:8x8x8>8x8x8"}
SIGNATURES["fc"] = "vector:32>12"


def trained_run(
    family: str | None, run_id: str = "run", reports: int = 30, closing: bool = True
) -> Trainer:
    """Return a run of three sites, two with one signature; `b` lowers the loss, `a` raises it.

    Without a family the run uses no memory.
    """
    sites = {
        site: SiteFacts(
            kind=SiteKind(signature.partition(":")[0]), signature=signature, depth=0.0, params=100
        )
        for site, signature in SIGNATURES.items()
    }
    trainer = Trainer(
        dict.fromkeys(sites, 1),
        run_id=run_id,
        sites=sites,
        memory=None if family is None else MemorySnapshot(family=family),
    )
    trainer.report()
    offered = [kernel(site, name) for site in sites for name in ("a", "b")]
    decisions = trainer.report(*offered)
    worth = {kernel.kernel_id: 0.2 if kernel.blueprint_id == "b" else -0.2 for kernel in offered}
    while trainer.seq < reports:
        trainer.accept(decisions)
        contributions = {
            slot_id: worth[seed.kernel_id]
            for slot_id, seed in trainer.seeds.items()
            if seed.kernel_id is not None
        }
        decisions = trainer.report(contributions=contributions)
    trainer.accept(decisions)
    trainer.report(closing=closing)
    return trainer
