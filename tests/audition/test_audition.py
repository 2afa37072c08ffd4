"""Auditions find the kernel that the host lacks, and nothing where nothing is missing."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from esper.audition import (
    AuditionLoss,
    AuditionSite,
    Score,
    SiteSnapshot,
    SnapshotRefused,
    audition_control,
    audition_kernel,
)
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


def site_of(shown: SiteSnapshot, signature: SiteSignature = SIGNATURE) -> AuditionSite:
    return AuditionSite.of(signature, shown)


def score_of(name: str, site: AuditionSite, steps: int) -> Score:
    return audition_kernel(plan(name, site.signature), [site], steps, seed=0)[0].score


def test_the_kernel_that_sees_the_shapes_gains_most_and_beats_the_control() -> None:
    site = site_of(snapshot(*lines()))
    (control,) = audition_control([site], 200, seed=0)
    scores = {
        name: score_of(name, site, 200)
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
    site = site_of(snapshot(x, labels[order]))
    for name in ("line-conv", "channel-mixing-mlp", "low-rank-skip", "identity"):
        score = score_of(name, site, 200)
        assert score.gain - 2 * score.error <= 0.0


def test_what_the_host_would_learn_alone_is_no_gain() -> None:
    x, _ = lines()
    weight = torch.randn(48, generator=torch.Generator().manual_seed(3))
    labels = (x @ weight > 0).long()
    shown = snapshot(x, labels)
    # The layer's output tells the label, and the host only has not used it yet.
    h = torch.cat([shown.h[:, :7], (x @ weight).unsqueeze(1)], 1)
    shown = SiteSnapshot(x, h, shown.outputs, shown.targets, shown.loss)
    site = site_of(shown)
    assert site.host_loss < 0.4
    score = score_of("low-rank-skip", site, 40)
    assert score.gain < 0.1


def test_equal_arguments_give_equal_scores_and_weights() -> None:
    kernel = plan("dropout-mlp")
    first, second = (
        audition_kernel(kernel, [site_of(snapshot(*lines()))], 50, seed=5)[0] for _ in range(2)
    )
    assert (first.score, first.curve) == (second.score, second.curve)
    for name, tensor in first.weights.items():
        assert torch.equal(tensor, second.weights[name])


@pytest.mark.parametrize("name", ["dropout-mlp", "gated-residual", "line-conv"])
def test_sites_trained_together_score_as_each_does_alone(name: str) -> None:
    shown = snapshot(*lines())
    other = SiteSnapshot(shown.x.flip(0), shown.h.flip(0), shown.outputs, shown.targets, shown.loss)
    sites, kernel = [site_of(shown), site_of(other)], plan(name)
    together = audition_kernel(kernel, sites, 40, seed=5)
    for site, found in zip(sites, together, strict=True):
        (alone,) = audition_kernel(kernel, [site], 40, seed=5)
        assert found.score.gain == pytest.approx(alone.score.gain, abs=1e-4)
        assert [step for step, _ in found.curve] == [step for step, _ in alone.curve]
        for weight, tensor in alone.weights.items():
            torch.testing.assert_close(found.weights[weight], tensor, rtol=1e-3, atol=1e-3)
    assert together[0].score.gain != together[1].score.gain
    for both, one in zip(audition_control(sites, 40, 5), sites, strict=True):
        assert both.gain == pytest.approx(audition_control([one], 40, 5)[0].gain, abs=1e-4)


def test_sites_with_other_samples_do_not_train_together() -> None:
    x, labels = lines()
    sites = [site_of(snapshot(x, labels)), site_of(snapshot(x, 1 - labels))]
    with pytest.raises(SnapshotRefused, match="different samples"):
        audition_kernel(plan("low-rank-skip"), sites, 5, seed=0)
    with pytest.raises(SnapshotRefused, match="different samples"):
        audition_control(sites, 5, seed=0)


def test_a_site_at_which_a_kernel_diverges_leaves_the_others_alone() -> None:
    shown = snapshot(*lines())
    huge = SiteSnapshot(shown.x * 1e30, shown.h * 1e30, shown.outputs, shown.targets, shown.loss)
    kernel = plan("gated-linear-unit")
    good, bad = audition_kernel(kernel, [site_of(shown), site_of(huge)], 20, seed=0)
    (alone,) = audition_kernel(kernel, [site_of(shown)], 20, seed=0)
    assert not all(bool(tensor.isfinite().all()) for tensor in bad.weights.values())
    assert good.score.gain == pytest.approx(alone.score.gain, abs=1e-4)


def test_an_audition_leaves_the_random_numbers_of_its_process_alone() -> None:
    shown = snapshot(*lines())
    before = torch.get_rng_state()
    site = site_of(shown)
    score_of("dropout-mlp", site, 10)
    audition_control([site], 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_trained_weights_are_an_artifact_that_changes_nothing_when_planted() -> None:
    site = site_of(snapshot(*lines()))
    kernel = plan("line-conv")
    (found,) = audition_kernel(kernel, [site], 20, seed=0)
    data = pack(kernel, found.weights)
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
    site = site_of(shown, signature)
    score = score_of(name, site, 10)
    assert score.error > 0
    assert audition_control([site], 10, seed=0)[0].steps == 10


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
    site = site_of(shown, signature)
    kernel = plan("line-conv", signature)
    (found,) = audition_kernel(kernel, [site], 60, seed=0)
    assert found.score.gain > 0.1
    data = pack(kernel, found.weights)
    assert load_kernel(data, sha256_of(data)).is_no_op


def test_values_are_learnt_as_labels_are() -> None:
    x, labels = lines()
    shown = snapshot(x, labels)
    values = (2.0 * labels - 1).reshape(-1, 1, 1)
    shown = SiteSnapshot(
        shown.x, shown.h, torch.zeros(COUNT, 1, 1), values, AuditionLoss.MEAN_SQUARED_ERROR
    )
    site = site_of(shown)
    found, other = (score_of(name, site, 200) for name in ("line-conv", "low-rank-skip"))
    assert found.gain - 2 * found.error > max(0.0, other.gain)
