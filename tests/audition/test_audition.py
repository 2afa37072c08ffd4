"""Auditions find the kernel that the host lacks, and nothing where nothing is missing."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from esper.audition import AuditionLoss, SiteAudition, SiteSnapshot
from esper.blueprint import shipped_named
from esper.compiler import BlueprintCompiler
from esper.kernel import TORCH_DTYPES, KernelPlan, load_kernel, pack
from esper.topics.codec import sha256_of
from esper.topics.models import SiteKind, SiteSignature

SIGNATURE = SiteSignature(kind=SiteKind.VECTOR, x=(48,), h=(8,))
COUNT = 1000


def plan(name: str, signature: SiteSignature = SIGNATURE) -> KernelPlan:
    return BlueprintCompiler().compile(shipped_named(name), signature)


def lines(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return lines (N, 48) with one of two shapes anywhere, of either sign, and which one."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(COUNT, 48, generator=generator)
    labels = torch.randint(2, (COUNT,), generator=generator)
    starts = torch.randint(44, (COUNT,), generator=generator)
    shapes = torch.tensor([[2.0, -2.0, 2.0, -2.0], [2.0, 2.0, -2.0, -2.0]])
    signs = 2 * torch.randint(2, (COUNT, 1), generator=generator) - 1
    for row in range(COUNT):
        x[row, starts[row] : starts[row] + 4] += signs[row] * shapes[labels[row]]
    return x, labels


def snapshot(x: Tensor, labels: Tensor) -> SiteSnapshot:
    """Return a snapshot of a host that knows nothing: random h, outputs of zero."""
    torch.manual_seed(1)
    h = torch.relu(x @ torch.randn(48, 8) / 5)
    outputs = torch.zeros(len(x), 1, 2)
    return SiteSnapshot(x, h, outputs, labels.unsqueeze(1), AuditionLoss.CROSS_ENTROPY)


def test_the_kernel_that_sees_the_shapes_gains_most_and_beats_the_control() -> None:
    audition = SiteAudition(SIGNATURE, snapshot(*lines()), seed=0)
    control = audition.control(200)
    scores = {
        name: audition.run(plan(name), 200)
        for name in ("line-conv", "channel-mixing-mlp", "low-rank-skip", "identity")
    }
    best = max(scores, key=lambda name: scores[name].gain)
    assert best == "line-conv"
    score = scores[best]
    assert score.gain - 2 * score.error > max(0.0, control.gain)
    for name in scores.keys() - {best}:
        assert scores[name].gain < score.gain - 2 * score.error


def test_without_anything_to_find_no_gain_exceeds_its_error() -> None:
    x, labels = lines()
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(2))
    audition = SiteAudition(SIGNATURE, snapshot(x, labels[order]), seed=0)
    for name in ("line-conv", "channel-mixing-mlp", "low-rank-skip", "identity"):
        score = audition.run(plan(name), 200)
        assert score.gain - 2 * score.error <= 0.0


def test_what_the_host_would_learn_alone_is_no_gain() -> None:
    x, _ = lines()
    weight = torch.randn(48, generator=torch.Generator().manual_seed(3))
    labels = (x @ weight > 0).long()
    shown = snapshot(x, labels)
    # The layer's output tells the label, and the host only has not used it yet.
    h = torch.cat([shown.h[:, :7], (x @ weight).unsqueeze(1)], 1)
    shown = SiteSnapshot(x, h, shown.outputs, shown.targets, shown.loss)
    audition = SiteAudition(SIGNATURE, shown, seed=0)
    assert audition.host_loss < 0.4
    score = audition.run(plan("low-rank-skip"), 40)
    assert score.gain < 0.1


def test_the_score_does_not_depend_on_the_calls_in_which_the_steps_were_taken() -> None:
    shown = snapshot(*lines())
    at_once = SiteAudition(SIGNATURE, shown, seed=5)
    in_rungs = SiteAudition(SIGNATURE, shown, seed=5)
    kernel = plan("dropout-mlp")
    in_rungs.run(kernel, 15)
    in_rungs.run(plan("line-conv"), 30)
    first, second = at_once.run(kernel, 50), in_rungs.run(kernel, 50)
    assert first == second
    for name, tensor in at_once.weights(kernel.kernel_id).items():
        assert torch.equal(tensor, in_rungs.weights(kernel.kernel_id)[name])


def test_an_earlier_request_that_comes_again_has_the_score_and_the_weights_of_its_steps() -> None:
    audition = SiteAudition(SIGNATURE, snapshot(*lines()), seed=5)
    kernel = plan("line-conv")
    first, weights = audition.run(kernel, 20), audition.weights(kernel.kernel_id)
    control = audition.control(20)
    later = audition.run(kernel, 50), audition.control(50)
    assert (audition.run(kernel, 20), audition.control(20)) == (first, control)
    again = audition.weights(kernel.kernel_id)
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    assert (audition.run(kernel, 50), audition.control(50)) == later


def test_an_audition_leaves_the_random_numbers_of_its_process_alone() -> None:
    shown = snapshot(*lines())
    before = torch.get_rng_state()
    audition = SiteAudition(SIGNATURE, shown, seed=0)
    audition.run(plan("dropout-mlp"), 10)
    audition.control(10)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_trained_weights_are_an_artifact_that_changes_nothing_when_planted() -> None:
    audition = SiteAudition(SIGNATURE, snapshot(*lines()), seed=0)
    kernel = plan("line-conv")
    audition.run(kernel, 20)
    data = pack(kernel, audition.weights(kernel.kernel_id))
    loaded = load_kernel(data, sha256_of(data))
    assert loaded.is_no_op
    assert not loaded(torch.randn(3, 48), torch.randn(3, 8)).any()
    assert any(bool(parameter.any()) for parameter in loaded.parameters())


@pytest.mark.parametrize(
    ("signature", "name", "positions"),
    [
        (SiteSignature(kind=SiteKind.FEATURE_MAP, x=(3, 8, 8), h=(4, 4, 4)), "squeeze-excite", 1),
        (SiteSignature(kind=SiteKind.FEATURE_MAP, x=(3, 8, 8), h=(4, 1, 1)), "channel-film", 1),
        (SiteSignature(kind=SiteKind.SEQUENCE, x=(6, 5), h=(6, 7)), "token-shift", 1),
        (SiteSignature(kind=SiteKind.SEQUENCE, x=(6, 5), h=(6, 7)), "token-shift", 6),
    ],
    ids=["map", "map of one cell", "sequence", "sequence by position"],
)
def test_kernels_at_other_kinds_of_sites_are_scored(
    signature: SiteSignature, name: str, positions: int
) -> None:
    torch.manual_seed(0)
    shown = SiteSnapshot(
        torch.randn(64, *signature.x),
        torch.randn(64, *signature.h),
        torch.randn(64, positions, 3),
        torch.randint(3, (64, positions)),
        AuditionLoss.CROSS_ENTROPY,
    )
    audition = SiteAudition(signature, shown, seed=0)
    score = audition.run(plan(name, signature), 10)
    assert score.error > 0
    assert audition.control(10).steps == 10


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_kernel_of_half_precision_is_trained_in_single_and_packed_in_its_own(
    dtype: Literal["bfloat16", "float16"],
) -> None:
    signature = SIGNATURE.model_copy(update={"dtype": dtype})
    shown = snapshot(*lines())
    half = TORCH_DTYPES[dtype]
    shown = SiteSnapshot(
        shown.x.to(half), shown.h.to(half), shown.outputs.to(half), shown.targets, shown.loss
    )
    audition = SiteAudition(signature, shown, seed=0)
    kernel = plan("line-conv", signature)
    assert audition.run(kernel, 60).gain > 0.1
    data = pack(kernel, audition.weights(kernel.kernel_id))
    assert load_kernel(data, sha256_of(data)).is_no_op


def test_values_are_learnt_as_labels_are() -> None:
    x, labels = lines()
    shown = snapshot(x, labels)
    values = (2.0 * labels - 1).reshape(-1, 1, 1)
    shown = SiteSnapshot(
        shown.x, shown.h, torch.zeros(COUNT, 1, 1), values, AuditionLoss.MEAN_SQUARED_ERROR
    )
    audition = SiteAudition(SIGNATURE, shown, seed=0)
    found, other = (audition.run(plan(name), 200) for name in ("line-conv", "low-rank-skip"))
    assert found.gain - 2 * found.error > max(0.0, other.gain)
