"""The keys of the deployment that the tests play."""

from pathlib import Path
from tempfile import TemporaryDirectory

from esper.signing import SigningKey, TrustedKeys, create_keys

_FOLDER = TemporaryDirectory(prefix="esper-test-keys-")
PATHS = create_keys(Path(_FOLDER.name))
KEY = SigningKey.load(PATHS.private)
TRUSTED = TrustedKeys(PATHS.public)
