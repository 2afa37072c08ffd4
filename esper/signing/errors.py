"""Errors of keys and signatures."""

from esper.errors import EsperError


class BadSignature(EsperError):
    """No trusted key signed these bytes for this purpose."""


class KeyUnusable(EsperError):
    """A key file is missing, or holds no key of the expected kind."""


class KeysExist(KeyUnusable):
    """A key file exists; overwriting it would invalidate everything signed with the old key."""
