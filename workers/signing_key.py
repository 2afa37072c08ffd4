"""The key that a worker signs with."""

from esper.errors import EsperError
from esper.settings import Settings
from esper.signing import SigningKey


class MissingKey(EsperError):
    """No signing key is configured."""


def signing_key_of(settings: Settings) -> SigningKey:
    """Return the configured signing key.

    Raises:
        MissingKey: no signing key is configured.
        KeyUnusable: the file does not hold an Ed25519 private key.
    """
    if settings.signing_key_file is None:
        raise MissingKey(
            "no signing key: set ESPER_SIGNING_KEY_FILE; `esper keys create` makes a key pair"
        )
    return SigningKey.load(settings.signing_key_file)
