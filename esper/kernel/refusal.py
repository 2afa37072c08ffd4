"""Why bytes do not become a kernel in this process."""


class ArtifactRefused(Exception):
    """Bytes, or a plan, that this process will not run; the message says what is wrong."""


class BadSignature(ArtifactRefused):
    """Bytes that the holder of the trusted key did not sign."""
