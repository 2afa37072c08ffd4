"""From verified bytes to a module: the last step before a kernel can be planted."""

from esper.kernel.artifact import unpack
from esper.kernel.executor import Kernel
from esper.kernel.refusal import ArtifactRefused
from esper.topics.codec import sha256_of


def load_kernel(data: bytes, sha256: str) -> Kernel:
    """Return a module with parameters of its own, on the CPU.

    Raises:
        ArtifactRefused: the bytes are not those of that SHA-256, or not an artifact.
    """
    # Hashed again: what runs is what was verified, whatever happened to memory in between.
    if (found := sha256_of(data)) != sha256:
        raise ArtifactRefused(f"the kernel's bytes have SHA-256 {found}; verified was {sha256}")
    plan, tensors = unpack(data)
    return Kernel(plan, tensors, sha256)
