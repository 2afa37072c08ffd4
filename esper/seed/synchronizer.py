"""Averaging, over ranks, gradients of parameters that came after DistributedDataParallel was built.

That wrapper reduces what the model had when it was wrapped. What grows later is reduced here: in
buckets, while the backward pass still runs, in the same order on every rank, and not at all in
passes that the wrapper does not reduce either (`no_sync`).
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
"""As large as those of DistributedDataParallel."""


class GradientSynchronizer:
    """Gives each parameter that it knows the mean of its gradient over the ranks of a group.

    A rank on which a parameter had no gradient counts as zero; where no rank had one, none is made.
    Ranks add and remove the same parameters in the same order, between two passes.
    """

    def __init__(
        self,
        host: nn.Module,
        group: dist.ProcessGroup,
        syncs: Callable[[], bool] = lambda: True,
        streams: StreamManager = STREAMS,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        """Watch the passes of `host`; all ranks must make this call.

        A group of its own keeps the order apart from others'. `syncs` is asked in each forward
        pass whether the gradients of its backward are reduced.
        """
        # Ranks connect at their first sum, small ones and large ones apart. In a backward pass they
        # would do so while some wait for the sums of the wrapper, which others have not begun.
        for size in (1, bucket_bytes // 4):
            dist.all_reduce(torch.zeros(size, device=next(host.parameters()).device), group=group)
        self._group = group
        self._syncs = syncs
        self._streams = streams
        self._bucket_bytes = bucket_bytes
        self._hooks: dict[nn.Parameter, RemovableHandle] = {}
        self._buckets: list[_Bucket] = []
        self._where: dict[nn.Parameter, _Bucket] = {}
        self._wanted = True
        self._begun = False
        self._launched = 0
        self._hosts: dict[torch.device, torch.cuda.Stream] = {}
        self._watch: RemovableHandle = host.register_forward_hook(self._note_forward)

    def add(self, parameters: Iterable[nn.Parameter]) -> None:
        """Reduce the gradients of these too, from the next pass on."""
        for parameter in parameters:
            self._hooks[parameter] = self._watched(parameter)
        self._fill_buckets()

    def remove(self, parameters: Iterable[nn.Parameter]) -> None:
        """Know these parameters no more."""
        for parameter in parameters:
            self._hooks.pop(parameter).remove()
        self._fill_buckets()

    def undo_point(self) -> Callable[[], None]:
        """Return what makes it know just the parameters of now again, in their order."""
        kept = list(self._hooks)

        def put_back() -> None:
            for parameter in self._hooks.keys() - set(kept):
                self._hooks.pop(parameter).remove()
            for parameter in kept:
                hook = self._hooks.pop(parameter, None)
                self._hooks[parameter] = self._watched(parameter) if hook is None else hook
            self._fill_buckets()

        return put_back

    def close(self) -> None:
        """Let go of the model."""
        self.remove(list(self._hooks))
        self._watch.remove()

    def _watched(self, parameter: nn.Parameter) -> RemovableHandle:
        register: Callable[..., RemovableHandle] = parameter.register_post_accumulate_grad_hook
        return register(self._note_gradient)

    def _fill_buckets(self) -> None:
        self._buckets = [
            _Bucket(tuple(own), self._group)
            for own in _filled(list(self._hooks), self._bucket_bytes)
        ]
        self._where = {one: bucket for bucket in self._buckets for one in bucket.parameters}

    def _note_forward(self, host: nn.Module, inputs: Any, output: Any) -> None:
        if not (self._hooks and torch.is_grad_enabled()):
            return
        if current_graph_task_id() == NOT_IN_BACKWARD:
            # A backward that failed left its traces.
            self._begun = False
        self._wanted = self._syncs()
        self._hosts = {
            bucket.device: torch.cuda.current_stream(bucket.device)
            for bucket in self._buckets
            if bucket.device.type == "cuda"
        }
        # The parameters of a site that did not run have no gradient to tell that backward has
        # begun, and other ranks would wait for this one.
        for tensor in _tensors(output):
            if tensor.requires_grad:
                register: Callable[..., object] = tensor.register_hook
                register(self._begin)

    def _begin(self, _: Tensor | None = None) -> None:
        if self._begun:
            return
        self._begun, self._launched = True, 0
        for bucket in self._buckets:
            bucket.begin()
        queue_backward_callback(self._finish)

    def _note_gradient(self, parameter: Tensor) -> None:
        self._begin()
        if not self._wanted:
            return
        assert isinstance(parameter, nn.Parameter)
        self._where[parameter].note(parameter)
        while self._launched < len(self._buckets) and self._buckets[self._launched].complete:
            self._launch()

    def _launch(self) -> None:
        bucket = self._buckets[self._launched]
        self._launched += 1
        host = self._hosts.get(bucket.device)
        if host is None:
            bucket.launch()
            return
        # Kernels of one bucket may have gone back on streams of their own, the last of them here.
        record_and_wait(torch.cuda.current_stream(bucket.device), host)
        with torch.cuda.stream(host):
            self._streams.join(bucket.device)
            bucket.launch()

    def _finish(self) -> None:
        self._begun = False
        if not self._wanted:
            return
        while self._launched < len(self._buckets):
            self._launch()
        for bucket in self._buckets:
            bucket.finish()


class _Bucket:
    """Parameters of one dtype and device whose gradients travel together.

    Behind the gradients travels one number for each parameter: whether any rank had its gradient.
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
        """Whether every gradient has come in this pass."""
        return not self._missing

    def begin(self) -> None:
        self._missing = set(self.parameters)

    def note(self, parameter: nn.Parameter) -> None:
        self._missing.discard(parameter)

    def launch(self) -> None:
        """Begin to reduce; CUDA's and the network's own threads do the work."""
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
        """Put the means in place of the gradients."""
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


def _filled(parameters: Sequence[nn.Parameter], most_bytes: int) -> Iterator[list[nn.Parameter]]:
    """Yield parameters in buckets: the order kept, one dtype and device each."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        alike = bucket and (parameter.dtype, parameter.device) == (
            bucket[0].dtype,
            bucket[0].device,
        )
        if bucket and (not alike or size + parameter.nbytes > most_bytes):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.nbytes
    if bucket:
        yield bucket


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors in what a model returned."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)
