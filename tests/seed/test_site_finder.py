"""Sites anywhere in a host: any layer that takes and returns a tensor, for any form of call."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn import functional as F

from esper.seed import Site, SiteRefused, find_sites, suggest_sites, unwrap_model
from esper.tasks.resnet import ResNetHost
from esper.topics.models import SiteKind
from tests.seed.kernels import awaken, plant


class Block(nn.Module):
    """Two convolutions beside a skip, scaled by a second argument."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        y: Tensor = self.second(F.relu(self.first(x)))
        return x + scale * y


class Images(nn.Module):
    """A block between convolutions: (B, 2, 6, 6) to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.out = nn.Conv2d(2, 4, 3), Block(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.block(self.stem(x), scale=0.5)
        logits: Tensor = self.out(maps.mean((2, 3)))
        return logits


class Lines(nn.Module):
    """Convolutions over lines: (B, 3, 10) to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(3, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(F.relu(self.conv(x)).mean(-1))
        return logits


class Tokens(nn.Module):
    """Attention by keyword, then an encoder layer that torch fuses in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encode = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attend(query=x, key=x, value=x)
        logits: Tensor = self.out(self.encode(attended).mean(1))
        return logits


class Chain(nn.Module):
    """A site that is an `nn.Sequential`: (B, 5, 6) to (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.body(x).mean(1))
        return logits


@dataclass(frozen=True)
class Case:
    """A host with a site, the shape of its input, and a blueprint for the site."""

    host: Callable[[], nn.Module]
    shape: tuple[int, ...]
    site: str
    blueprint: str
    x: tuple[int, ...]
    h: tuple[int, ...]


CASES = {
    "block": Case(Images, (2, 6, 6), "block", "residual-conv3x3", (4, 4, 4), (4, 4, 4)),
    "inside a block": Case(
        Images, (2, 6, 6), "block.second", "residual-conv3x3", (4, 4, 4), (4, 4, 4)
    ),
    "conv1d": Case(Lines, (3, 10), "conv", "linear-bottleneck", (10, 3), (10, 6)),
    "attention": Case(Tokens, (5, 8), "attend", "low-rank-skip", (5, 8), (5, 8)),
    "encoder layer": Case(Tokens, (5, 8), "encode", "self-attention", (5, 8), (5, 8)),
    "attention in it": Case(Tokens, (5, 8), "encode.self_attn", "token-mixing-mlp", (5, 8), (5, 8)),
    "linear in it": Case(Tokens, (5, 8), "encode.linear2", "linear-bottleneck", (5, 16), (5, 8)),
    "a row of layers": Case(Chain, (5, 6), "body", "linear-bottleneck", (5, 6), (5, 8)),
    "norm in it": Case(Tokens, (5, 8), "encode.norm1", "linear-bottleneck", (5, 8), (5, 8)),
}
EACH_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
EACH_MODE = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def made(case: Case) -> tuple[nn.Module, Site, Tensor]:
    torch.manual_seed(0)
    model = case.host()
    sites = find_sites(model, [case.site], torch.randn(1, *case.shape), slots=2)
    return model, sites[case.site], torch.randn(4, *case.shape)


def watched(model: nn.Module, site: Site, batch: Tensor) -> Tensor:
    """Return a layer's output in a pass of the model, laid out as h: (B, T, D) for Conv1d."""
    seen = []

    def watch(_: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append(output if isinstance(output, Tensor) else output[0])

    handle = site.layer.register_forward_hook(watch)
    model(batch)
    handle.remove()
    (output,) = seen
    return output.mT if isinstance(site.layer, nn.Conv1d) else output


@EACH_CASE
def test_the_signature_has_the_shapes_observed_at_the_layer(case: Case) -> None:
    _, site, _ = made(case)
    assert (site.signature.x, site.signature.h) == (case.x, case.h)
    expected = SiteKind.FEATURE_MAP if len(case.h) == 3 else SiteKind.SEQUENCE
    assert site.signature.kind is expected


@EACH_MODE
@EACH_CASE
def test_the_output_differs_from_the_hosts_own_by_exactly_alpha_times_k(
    case: Case, training: bool
) -> None:
    model, site, batch = made(case)
    model.train(training)
    with torch.set_grad_enabled(training):
        h = watched(model, site, batch)
        seed = plant(site, 0, case.blueprint, alpha=0.5)
        awaken(seed.kernel)
        inputs = []
        seed.kernel.register_forward_hook(lambda _, given, added: inputs.append((*given, added)))
        y = watched(model, site, batch)
    ((_, seen, added),) = inputs
    # In evaluation torch fuses an encoder layer that nothing is planted in, and rounds otherwise.
    torch.testing.assert_close(seen, h, rtol=0, atol=0 if training else 1e-6)
    assert torch.equal(y, seen + 0.5 * added)
    assert torch.count_nonzero(added)


@EACH_CASE
def test_evaluation_without_gradient_runs_planted_kernels_too(case: Case) -> None:
    """Torch has a fused path for whole encoder layers, which calls none of the layers in them."""
    model, site, batch = made(case)
    model.eval()
    own = model(batch)
    awaken(plant(site, 0, case.blueprint).kernel)
    with torch.no_grad():
        fused = model(batch)
    torch.testing.assert_close(fused, model(batch), rtol=0, atol=1e-5)
    assert not torch.allclose(fused, own, rtol=0, atol=1e-3)


@EACH_CASE
def test_a_fresh_kernel_is_an_exact_no_op_and_learns(case: Case) -> None:
    model, site, batch = made(case)
    before = model(batch)
    seed = plant(site, 0, case.blueprint)
    after = model(batch)
    assert torch.equal(after, before)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    silent = dict(seed.kernel.named_parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        for name, parameter in list(silent.items()):
            if parameter.grad is not None and torch.count_nonzero(parameter.grad):
                del silent[name]
        optimizer.step()
    assert not silent


@EACH_CASE
def test_a_copy_and_a_pickle_have_their_own_seeds(case: Case) -> None:
    model, site, batch = made(case)
    awaken(plant(site, 0, case.blueprint).kernel)
    model.eval()
    expected = model(batch)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(batch), expected)
        awaken(other.get_submodule(site.module_path(0)))
        assert not torch.equal(other(batch), expected)
    assert torch.equal(model(batch), expected)


@EACH_CASE
def test_an_emptied_site_leaves_nothing_behind(case: Case) -> None:
    model, site, batch = made(case)
    model.eval()
    with torch.no_grad():
        before = model(batch)
        plant(site, 0, case.blueprint)
        site.remove(0)
        assert torch.equal(model(batch), before)
    assert not any("forward" in vars(part) for part in model.modules())
    assert not any(part._forward_hooks for part in model.modules())
    assert list(model.state_dict()) == list(case.host().state_dict())


class Odd(nn.Module):
    """Layers at which nothing can grow."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 4)
        self.late = nn.MultiheadAttention(4, 1)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.wide = nn.Linear(4, 4)
        self.scripted = torch.jit.trace(nn.Linear(4, 4), torch.zeros(1, 4))  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.words(x.long().clamp(0, 8))
        tokens, _ = self.late(tokens, tokens, tokens)
        tokens, _ = self.lstm(tokens)
        maps: Tensor = self.scripted(self.wide(tokens.unsqueeze(1)))
        return maps.mean((1, 2))


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("words", "words computes torch.int64 on cpu, for which no kernel is compiled"),
        ("late", "late takes positions first; create it with batch_first=True"),
        ("lstm", "lstm, a LSTM, does not take and return a tensor; name a layer that does"),
        ("wide", r"wide computes \(1, 1, 5, 4\) of .* or with convolutions \(B, C, H, W\)"),
        ("scripted", "scripted is TorchScript, whose forward cannot change; use its original"),
    ],
)
def test_a_layer_that_cannot_be_a_site_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(SiteRefused, match=reason):
        find_sites(Odd(), [name], torch.ones(1, 5), slots=1)


@pytest.mark.parametrize(
    ("wrapper", "reason"),
    [
        (nn.DataParallel, "in DataParallel, which copies it in every pass"),
        (FullyShardedDataParallel, "sharded over ranks, and a kernel would not be"),
    ],
)
def test_a_wrapper_that_would_not_train_kernels_consistently_is_refused(
    wrapper: type[nn.Module], reason: str
) -> None:
    with pytest.raises(SiteRefused, match=f"{reason}; use DistributedDataParallel"):
        unwrap_model(wrapper.__new__(wrapper))


def test_an_unwrapped_model_is_its_own_host() -> None:
    model = nn.Linear(2, 2)
    assert unwrap_model(model) is model


def test_sites_are_suggested_in_execution_order_with_reasons() -> None:
    suggestions = suggest_sites(Tokens(), torch.randn(1, 5, 8))
    assert [(suggestion.name, suggestion.chosen) for suggestion in suggestions] == [
        ("attend", True),
        ("encode.self_attn", True),
        ("encode.linear1", True),
        ("encode.linear2", True),
        ("out", False),
    ]
    assert suggestions[-1].reason == "out gives the output of the model"


def test_of_many_layers_eight_evenly_spread_are_suggested() -> None:
    suggestions = suggest_sites(ResNetHost(), torch.randn(1, 1, 32, 32))
    chosen = [suggestion.name for suggestion in suggestions if suggestion.chosen]
    assert len(chosen) == 8
    assert (chosen[0], chosen[-1]) == ("stem", "hidden")
    assert {suggestion.reason for suggestion in suggestions if suggestion.name == "logits"} == {
        "logits gives the output of the model"
    }


def test_a_layer_that_never_runs_is_not_suggested_and_the_reason_says_so() -> None:
    model = Images()
    model.spare = nn.Linear(2, 2)
    (spare,) = (
        suggestion
        for suggestion in suggest_sites(model, torch.randn(1, 2, 6, 6))
        if suggestion.name == "spare"
    )
    assert (spare.chosen, spare.reason[:16]) == (False, "spare runs 0 tim")
