"""Copy the kernels of a run to a folder, so that it can be replayed without the store."""

from pathlib import Path

from esper.audit import RunRecords
from esper.kernel import fetch_all_trained, fetch_kernels
from esper.settings import Settings
from esper.store import open_store
from esper.topics.codec import decode
from esper.topics.models import AdaptationDecision, KernelReady
from esper.training import trusted_key_of


def copy_kernels(settings: Settings, history: RunRecords, folder: Path) -> int:
    """Copy the kernels of a history from the store, verified; return their number.

    Raises:
        KernelMissing, StoreUnavailable, ArtifactRefused: a kernel cannot be loaded or fails
            verification.
        NotConfigured: no trusted key is configured.
    """
    announced = [decode(KernelReady, record.value) for record in history.kernels]
    fetched = fetch_kernels(
        settings.kernel_store_spec,
        trusted_key_of(settings),
        announced,
        settings.store_credentials,
    )
    trained = fetch_all_trained(
        settings.kernel_store_spec,
        [
            (fetched[plant.kernel_id].ready, plant.trained_sha256)
            for record in history.decisions
            for plant in decode(AdaptationDecision, record.value).plants
            if plant.trained_sha256 is not None and plant.kernel_id in fetched
        ],
        settings.store_credentials,
    )
    with open_store(f"file:{folder}") as target:
        for kernel in (*fetched.values(), *trained.values()):
            target.put(kernel.ready.kernel_id, kernel.data)
    return len(fetched) + len(trained)
