"""`FrameDecoder` turns frames of the data channel into decisions and kernels."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from esper.kernel import (
    ArtifactRefused,
    Delivery,
    Kernel,
    KernelsFailed,
    KernelsPrepared,
    load_kernel,
)
from esper.link import Frame, Kind
from esper.seed import STREAMS, Site
from esper.topics.codec import decode
from esper.topics.models import AdaptationDecision, AuditionResult, RunRequest, SiteSignature

log = logging.getLogger("esper")

Deliver = Callable[[Delivery[Kernel] | RunRequest | AuditionResult], None]
OnDecision = Callable[[AdaptationDecision, int], None]


class FrameDecoder:
    """Decodes the data channel of one run: builds kernels and moves them to their site's device."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._devices = {
            site.signature.model_dump_json(): next(site.layer.parameters()).device
            for site in sites.values()
        }

    def on_frame(self, frame: Frame, deliver: Deliver, on_decision: OnDecision) -> None:
        """Pass on a frame's kernels, their failure reason, or its decision with its time in ms."""
        match frame.kind:
            case Kind.DECISION:
                on_decision(decode(AdaptationDecision, frame.body), frame.head["timestamp_ms"])
            case Kind.KERNELS_PREPARED:
                deliver(self._built(frame))
            case Kind.KERNELS_FAILED:
                deliver(KernelsFailed(**frame.head))

    def kernel(self, data: bytes, sha256: str) -> Kernel:
        """Return a fresh kernel from verified bytes, on its site's device.

        Raises:
            ArtifactRefused: the bytes do not match the SHA-256, or are no kernel artifact.
        """
        return self._on_device(load_kernel(data, sha256))

    def _built(self, frame: Frame) -> Delivery[Kernel]:
        """Return all kernels of a frame, or the reason why one of them failed."""
        token: str = frame.head["token"]
        listed: list[tuple[str, str, int]] = frame.head["kernels"]
        kernels: dict[str, Kernel] = {}
        start = 0
        try:
            for kernel_id, sha256, size in listed:
                kernels[kernel_id] = self._no_op(frame.body[start : start + size], sha256)
                start += size
        except (ArtifactRefused, torch.OutOfMemoryError) as error:
            return KernelsFailed(token, str(error))
        except Exception as error:
            # A bug must be answered too, or the decision would wait forever.
            log.exception("a kernel of decision %s cannot be built", token[:12])
            reason: Any = f"{type(error).__name__}: {error}"
            return KernelsFailed(token, reason)
        return KernelsPrepared(token, kernels)

    def _no_op(self, data: bytes, sha256: str) -> Kernel:
        """Return a kernel that changes nothing yet; on the CPU, a look at it waits for no GPU."""
        kernel = load_kernel(data, sha256)
        if not kernel.is_no_op:
            raise ArtifactRefused(
                f"kernel {kernel.kernel_id[:12]} would change the network when planted: the "
                "weights of its last step are not zero"
            )
        return self._on_device(kernel)

    def _on_device(self, kernel: Kernel) -> Kernel:
        return STREAMS.to_device(kernel, self._device(kernel.plan.signature))

    def _device(self, signature: SiteSignature) -> torch.device:
        known = self._devices.get(signature.model_dump_json())
        return torch.device(signature.device) if known is None else known
