"""Average gradients over ranks for parameters added after DistributedDataParallel was built.

DistributedDataParallel reduces only the parameters that the model had when it was wrapped. This
module reduces parameters added later: in buckets, during the backward pass, in the same order on
every rank, and not in passes that the wrapper does not reduce either (`no_sync`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from esper.seed.cuda import STREAMS, StreamManager, record_and_wait
from esper.seed.private_torch import (
    NOT_IN_BACKWARD,
    current_graph_task_id,
    queue_backward_callback,
)

BUCKET_BYTES: Final = 25 << 20
"""The bucket size of DistributedDataParallel."""


class GradientSynchronizer:
    """Replaces the gradient of each added parameter by its mean over the ranks of a group.

    A rank without a gradient for a parameter counts as zero; if no rank has one, it stays None.
    Ranks must add and remove the same parameters in the same order, between two passes.
    """

    def __init__(
        self,
        host: nn.Module,
        group: dist.ProcessGroup,
        syncs: Callable[[], bool] = lambda: True,
        streams: StreamManager = STREAMS,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        """Register a forward hook on `host`; all ranks must make this call.

        Pass a group that nothing else uses, so that other collectives cannot change the order.
        `syncs` is called in each forward pass: whether to reduce the gradients of its backward.
        """
        # Ranks connect at their first all-reduce, separately for small and large ones. In a
        # backward pass this could deadlock with the wrapper's all-reduces.
        for size in (1, bucket_bytes // 4):
            dist.all_reduce(torch.zeros(size, device=next(host.parameters()).device), group=group)
        self._group = group
        self._syncs = syncs
        self._streams = streams
        self._bucket_bytes = bucket_bytes
        self._hooks: dict[nn.Parameter, RemovableHandle] = {}
        self._buckets: list[_Bucket] = []
        self._bucket_of: dict[nn.Parameter, _Bucket] = {}
        self._reduces = True
        self._started = False
        self._launched = 0
        self._host_streams: dict[torch.device, torch.cuda.Stream] = {}
        self._forward_hook: RemovableHandle = host.register_forward_hook(self._on_forward)

    def add(self, parameters: Iterable[nn.Parameter]) -> None:
        """Reduce the gradients of these parameters too, from the next pass on."""
        for parameter in parameters:
            self._hooks[parameter] = self._register_hook(parameter)
        self._fill_buckets()

    def remove(self, parameters: Iterable[nn.Parameter]) -> None:
        """Stop reducing the gradients of these parameters."""
        for parameter in parameters:
            self._hooks.pop(parameter).remove()
        self._fill_buckets()

    def undo_point(self) -> Callable[[], None]:
        """Return a function that restores the present parameters, in their order."""
        present = list(self._hooks)

        def restore() -> None:
            for parameter in self._hooks.keys() - set(present):
                self._hooks.pop(parameter).remove()
            for parameter in present:
                hook = self._hooks.pop(parameter, None)
                self._hooks[parameter] = self._register_hook(parameter) if hook is None else hook
            self._fill_buckets()

        return restore

    def close(self) -> None:
        """Remove all hooks from the model and its parameters."""
        self.remove(list(self._hooks))
        self._forward_hook.remove()

    def _register_hook(self, parameter: nn.Parameter) -> RemovableHandle:
        register: Callable[..., RemovableHandle] = parameter.register_post_accumulate_grad_hook
        return register(self._on_gradient)

    def _fill_buckets(self) -> None:
        self._buckets = [
            _Bucket(tuple(parameters), self._group)
            for parameters in _in_buckets(list(self._hooks), self._bucket_bytes)
        ]
        self._bucket_of = {
            parameter: bucket for bucket in self._buckets for parameter in bucket.parameters
        }

    def _on_forward(self, host: nn.Module, inputs: Any, output: Any) -> None:
        if not (self._hooks and torch.is_grad_enabled()):
            return
        if current_graph_task_id() == NOT_IN_BACKWARD:
            # A backward pass that raised has not reset this.
            self._started = False
        self._reduces = self._syncs()
        self._host_streams = {
            bucket.device: torch.cuda.current_stream(bucket.device)
            for bucket in self._buckets
            if bucket.device.type == "cuda"
        }
        # A site that did not run has no gradients whose hooks could start the reduction, and
        # other ranks would wait for this one.
        for tensor in _tensors(output):
            if tensor.requires_grad:
                register: Callable[..., object] = tensor.register_hook
                register(self._start)

    def _start(self, _: Tensor | None = None) -> None:
        if self._started:
            return
        self._started, self._launched = True, 0
        for bucket in self._buckets:
            bucket.start()
        queue_backward_callback(self._finish)

    def _on_gradient(self, parameter: Tensor) -> None:
        self._start()
        if not self._reduces:
            return
        assert isinstance(parameter, nn.Parameter)
        self._bucket_of[parameter].mark_ready(parameter)
        while self._launched < len(self._buckets) and self._buckets[self._launched].complete:
            self._launch()

    def _launch(self) -> None:
        bucket = self._buckets[self._launched]
        self._launched += 1
        host_stream = self._host_streams.get(bucket.device)
        if host_stream is None:
            bucket.launch()
            return
        # The backward of each kernel in the bucket may have run on another side stream.
        record_and_wait(torch.cuda.current_stream(bucket.device), host_stream)
        with torch.cuda.stream(host_stream):
            self._streams.join(bucket.device)
            bucket.launch()

    def _finish(self) -> None:
        self._started = False
        if not self._reduces:
            return
        while self._launched < len(self._buckets):
            self._launch()
        for bucket in self._buckets:
            bucket.finish()


class _Bucket:
    """Parameters of one dtype and device whose gradients are reduced in one flat tensor.

    After the gradients, the tensor holds one number per parameter: the share of ranks with a
    gradient.
    """

    def __init__(self, parameters: tuple[nn.Parameter, ...], group: dist.ProcessGroup) -> None:
        self.parameters = parameters
        self.device = parameters[0].device
        self._group = group
        self._ranks = dist.get_world_size(group)
        self._missing = set(parameters)
        self._flat: Tensor | None = None
        self._work: dist.Work | None = None

    @property
    def complete(self) -> bool:
        """Whether every gradient of this pass is computed."""
        return not self._missing

    def start(self) -> None:
        self._missing = set(self.parameters)

    def mark_ready(self, parameter: nn.Parameter) -> None:
        self._missing.discard(parameter)

    def launch(self) -> None:
        """Start the asynchronous all-reduce."""
        present = self.parameters[0].new_ones(len(self.parameters))
        parts = []
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                present[index].zero_()
                parts.append(parameter.new_zeros(parameter.numel()))
            else:
                parts.append(parameter.grad.detach().reshape(-1))
        self._flat = torch.cat([*parts, present]).div_(self._ranks)
        self._work = dist.all_reduce(self._flat, group=self._group, async_op=True)

    def finish(self) -> None:
        """Wait for the all-reduce and write the means to the gradients."""
        assert self._flat is not None
        assert self._work is not None
        self._work.wait()
        sizes = [parameter.numel() for parameter in self.parameters]
        *means, present = torch.split(self._flat, [*sizes, len(sizes)])
        for index, (parameter, mean) in enumerate(zip(self.parameters, means, strict=True)):
            shaped = mean.view(parameter.shape)
            if parameter.grad is not None:
                parameter.grad.copy_(shaped)
            elif float(present[index]) > 0.0:
                parameter.grad = shaped.clone()
        self._flat = self._work = None


def _in_buckets(
    parameters: Sequence[nn.Parameter], most_bytes: int
) -> Iterator[list[nn.Parameter]]:
    """Yield buckets of parameters in order, of one dtype and device each."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        fits = bucket and (parameter.dtype, parameter.device) == (
            bucket[0].dtype,
            bucket[0].device,
        )
        if bucket and (not fits or size + parameter.nbytes > most_bytes):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.nbytes
    if bucket:
        yield bucket


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors in a model's output."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)
