"""What a signature is for."""

from enum import StrEnum


class Purpose(StrEnum):
    """The kind of event that a signature covers; a signature for one is invalid for another."""

    DECISION = "adaptation-decision"
    ANNOUNCEMENT = "kernel-ready"
    REVOCATION = "kernel-revoked"
    AUDITION = "kernel-auditioned"

    def message(self, data: bytes) -> bytes:
        """Return the bytes to sign: the data after a line that names the purpose."""
        return b"esper " + self.encode() + b"\n" + data
