"""Copy the kernels of a run to a folder, so that it can be replayed without the store."""

from pathlib import Path

from esper.audit import RunRecords
from esper.kernel import fetch_kernels
from esper.settings import Settings
from esper.store import open_store
from esper.topics.codec import decode
from esper.topics.models import KernelReady
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
    with open_store(f"file:{folder}") as target:
        for kernel_id, kernel in fetched.items():
            target.put(kernel_id, kernel.data)
    return len(fetched)
