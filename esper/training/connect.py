"""Reaching what a run needs: the broker, the kernel store, the key that kernels are signed with."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from esper.kernel.trust import load_public
from esper.settings import Settings
from esper.store import KernelStore, open_store
from topics.bus import Bus


class NotConfigured(ValueError):
    """A setting that growth cannot do without is missing; the message says which."""


@dataclass(frozen=True, slots=True)
class Connections:
    """What a run holds open while it trains."""

    bus: Bus
    store: KernelStore
    trusted_key: Ed25519PublicKey


def connect(settings: Settings, *, source: str) -> Connections:
    """Return the connections that settings name.

    Raises:
        NotConfigured: no trusted key is named.
        BrokerUnreachable: no broker answers.
    """
    if settings.trusted_key_file is None:
        raise NotConfigured(
            "no key to verify kernels with; start the local stack with `esper up`, "
            "or set ESPER_TRUSTED_KEY_FILE to the public key of your compile workers"
        )
    return Connections(
        trusted_key=load_public(settings.trusted_key_file),
        store=open_store(settings.kernel_store_url),
        bus=Bus.connect(settings.kafka_bootstrap_servers, source=source),
    )
