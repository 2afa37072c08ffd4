"""Reasons for which a planted site on a GPU runs eagerly instead of replaying a graph."""

from enum import StrEnum

import torch
from torch import Tensor, nn

from esper.seed.cuda.parallel_branches import CapturedRegion
from esper.seed.private_torch import (
    NOT_IN_BACKWARD,
    any_global_hook,
    current_graph_task_id,
    has_hooks,
    saves_tensors_through_hooks,
    sees_single_operations,
)


class EagerReason(StrEnum):
    """Why a planted site did not replay a graph."""

    SETTLING = "settling"
    CHANGING = "changing"
    NO_GRADIENT = "no-gradient"
    EVALUATION = "evaluation"
    PER_SAMPLE_ALPHA = "per-sample-alpha"
    CHECKPOINT = "checkpoint"
    TRANSFORMED = "transformed"
    ANOMALY_DETECTION = "anomaly-detection"
    HOOKS = "hooks"
    CALLER_CAPTURES = "caller-captures"
    COMPILED_HOST = "compiled-host"
    IN_USE = "in-use"
    OTHER_WEIGHTS = "other-weights"
    OUT_OF_MEMORY = "out-of-memory"
    NOT_CAPTURABLE = "not-capturable"
    OFF = "off"


def eager_reason(region: CapturedRegion, inputs: tuple[Tensor, ...]) -> EagerReason | None:
    """Return why a replay would differ from the eager pass on these inputs; None if it would not.

    Hooks of the site's own layer run either way, around its forward; hooks of kernels do not.
    """
    if not torch.is_grad_enabled():
        return EagerReason.NO_GRADIENT
    if inputs[0].is_cuda and torch.cuda.is_current_stream_capturing():
        return EagerReason.CALLER_CAPTURES
    if _is_transformed(inputs):
        return EagerReason.TRANSFORMED
    if _is_checkpointed():
        return EagerReason.CHECKPOINT
    if torch.is_anomaly_enabled():
        # Anomaly detection reads each operation's gradient, which a capture cannot wait for.
        return EagerReason.ANOMALY_DETECTION
    return _reason_within(region)


def _is_transformed(inputs: tuple[Tensor, ...]) -> bool:
    """Return whether a function transform, a mode or a subclass sees single operations."""
    return (
        any(type(value) not in (Tensor, nn.Parameter) for value in inputs)
        or sees_single_operations()
    )


def _is_checkpointed() -> bool:
    """Return whether saved tensors go through hooks, or a backward pass recomputes a forward."""
    return saves_tensors_through_hooks() or current_graph_task_id() != NOT_IN_BACKWARD


def _reason_within(region: CapturedRegion) -> EagerReason | None:
    if region.layer is not None and not region.layer.training:
        return EagerReason.EVALUATION
    for seed in region.seeds:
        if not (seed.training and seed.kernel.training):
            return EagerReason.EVALUATION
        if seed.alpha.dim():
            return EagerReason.PER_SAMPLE_ALPHA
        if has_hooks(seed) or has_hooks(seed.kernel):
            return EagerReason.HOOKS
    return EagerReason.HOOKS if any_global_hook() else None
