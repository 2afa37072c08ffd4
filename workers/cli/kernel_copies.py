"""The kernels of a run, copied out of the store, so that the run can be replayed without it."""

from pathlib import Path

from esper.audit import RunRecords
from esper.kernel import fetch_kernels
from esper.settings import Settings
from esper.store import open_store
from esper.topics.codec import decode
from esper.topics.models import KernelReady
from esper.training.link_config import trusted_key_of


def copy_kernels(settings: Settings, history: RunRecords, folder: Path) -> int:
    """Copy what the store has of the kernels that a history names, verified; return how many.

    Raises:
        KernelMissing, StoreUnavailable, ArtifactRefused: one cannot be had, or was altered.
        NotConfigured: no trusted key is named.
    """
    announced = [decode(KernelReady, record.value) for record in history.kernels]
    fetched = fetch_kernels(settings.kernel_store_url, trusted_key_of(settings), announced)
    target = open_store(f"file:{folder}")
    for kernel_id, kernel in fetched.items():
        target.put(kernel_id, kernel.data)
    return len(fetched)
