"""The configuration of a run's link: the broker, the kernel store, the trusted key."""

from pathlib import Path

from esper.errors import EsperError
from esper.link import LinkConfig, Resumption
from esper.settings import Settings
from esper.signing import read_public_keys
from esper.topics.models import TrainingRun


class NotConfigured(EsperError, ValueError):
    """A required setting is missing; the message names it."""


def trusted_key_of(settings: Settings) -> Path:
    """Return the file of the key that kernels are verified with.

    Raises:
        NotConfigured: no such key is named.
    """
    if settings.trusted_key_file is None:
        raise NotConfigured(
            "no key to verify kernels with; start the local stack with `esper up`, "
            "or set ESPER_TRUSTED_KEY_FILE to the public key of your compile workers"
        )
    return settings.trusted_key_file


def link_config_for(
    settings: Settings,
    run: TrainingRun,
    *,
    lockstep: bool = False,
    resumption: Resumption | None = None,
    reads_memory: bool = False,
    auditions: bool = False,
    run_seed: int = 0,
) -> LinkConfig:
    """Return the configuration of a run's sidecar; a resumed run does not read memory again.

    Raises:
        NotConfigured: no trusted key is named.
        KeyUnusable: it cannot be read.
        SettingMissing, SecretFileUnusable: the credentials are incomplete.
    """
    key = trusted_key_of(settings)
    read_public_keys(key)
    return LinkConfig(
        kafka=settings.kafka,
        kernel_store=settings.kernel_store_spec,
        trusted_key_file=str(key),
        source=f"/esper/run/{run.run_id}",
        run=run.model_copy(
            update={
                "lockstep": lockstep,
                "kernels_per_site": settings.kernels_per_site,
                "kernels_per_publisher": settings.kernels_per_publisher,
            }
        ),
        lockstep=lockstep,
        resumption=resumption,
        remember=reads_memory and resumption is None,
        auditions=auditions,
        run_seed=run_seed,
        redis_url=settings.redis_url,
        store_credentials=settings.store_credentials,
    )
