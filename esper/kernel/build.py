"""Build a module from verified bytes."""

from esper.kernel.artifact import unpack
from esper.kernel.executor import Kernel
from esper.kernel.refusal import ArtifactRefused
from esper.topics.codec import sha256_of


def load_kernel(data: bytes, sha256: str) -> Kernel:
    """Return the kernel of an artifact, on the CPU.

    Raises:
        ArtifactRefused: the bytes have another SHA-256, or are not an artifact.
    """
    # Hashed again, so that the executed bytes are the verified ones even after memory corruption.
    if (found := sha256_of(data)) != sha256:
        raise ArtifactRefused(f"the artifact has SHA-256 {found}; the verified one was {sha256}")
    plan, tensors = unpack(data)
    return Kernel(plan, tensors, sha256)
