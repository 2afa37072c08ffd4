"""The character language model: its text, and that no kernel lets it read ahead."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch

from esper.bandit import TRIALS
from esper.blueprint import shipped
from esper.kernel import Kernel
from esper.seed import find_sites
from esper.tasks import (
    CHARLM,
    CharacterHost,
    DatasetSplits,
    TextMissing,
    standard_library,
    train_task,
)
from esper.tasks.charlm import (
    BYTES,
    CAUSAL,
    CHARACTERS,
    CONTEXT,
    MAX_FILE_BYTES,
    load_library,
    next_character_loss,
)
from esper.topics.models import SelectionLimits, SiteKind
from experiments.growth.planting import KernelBuilder
from tests.seed.conftest import one_thread

__all__ = ["one_thread"]

STEPS = 80


def sources(folder: Path, count: int) -> Path:
    """Write modules to a folder, all longer than the part that is read."""
    for index in range(count):
        line = f"x{index} = {index}\n"
        (folder / f"module{index}.py").write_text(line * (MAX_FILE_BYTES // len(line) + 1))
    return folder


def test_no_file_is_in_two_parts() -> None:
    library = standard_library()
    parts = (library.train, library.probe, library.test)
    assert all(part.files for part in parts)
    for one, other in combinations(parts, 2):
        assert not set(one.files) & set(other.files)


def test_every_part_has_the_stated_number_of_bytes() -> None:
    library = standard_library()
    read = [len(part.ascii) for part in (library.train, library.probe, library.test)]
    assert read == list(BYTES.values())


def test_the_same_folder_gives_the_same_text(tmp_path: Path) -> None:
    folder = sources(tmp_path, 100)
    first = standard_library(folder)
    standard_library.cache_clear()
    assert standard_library(folder) == first
    assert standard_library(folder).sha256 == first.sha256


def test_another_text_has_another_digest(tmp_path: Path) -> None:
    folder = sources(tmp_path, 100)
    first = standard_library(folder)
    standard_library.cache_clear()
    changed = folder / first.test.files[0]
    changed.write_text(changed.read_text().replace("=", "+", 1))
    assert standard_library(folder).sha256 != first.sha256


def test_files_that_are_not_ascii_are_left_out(tmp_path: Path) -> None:
    folder = sources(tmp_path, 100)
    for number in range(0, 20, 2):
        (folder / f"module{number}.py").write_text("é" * MAX_FILE_BYTES)
    library = standard_library(folder)
    read = {*library.train.files, *library.probe.files, *library.test.files}
    assert not read & {f"module{number}.py" for number in range(0, 20, 2)}


def test_a_folder_with_too_little_source_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TextMissing) as refused:
        standard_library(sources(tmp_path, 3))
    (line,) = str(refused.value).splitlines()
    assert str(tmp_path) in line


def test_targets_are_the_text_shifted_by_one_character() -> None:
    splits = load_library()
    inputs, following = splits.train
    text = standard_library().train.ascii
    assert bytes(inputs[:2].flatten().tolist()) == text[: 2 * CONTEXT]
    assert bytes(following[:2].flatten().tolist()) == text[1 : 2 * CONTEXT + 1]


def test_the_host_reads_no_later_character() -> None:
    torch.manual_seed(0)
    host = CharacterHost().eval()
    inputs = torch.randint(CHARACTERS, (2, CONTEXT))
    other = inputs.clone()
    other[:, 40:] = torch.randint(CHARACTERS, (2, CONTEXT - 40))
    with torch.no_grad():
        before, after = host(inputs), host(other)
    assert torch.equal(before[:, :40], after[:, :40])
    assert not torch.equal(before[:, 40:], after[:, 40:])


def looks_ahead(kernel: Kernel) -> bool:
    """Return whether a kernel's output at a position depends on later positions."""
    torch.manual_seed(0)
    for parameter in kernel.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    kernel.eval()
    x, h, later = (torch.randn(2, CONTEXT, 64) for _ in range(3))
    x2, h2 = x.clone(), h.clone()
    x2[:, 40:], h2[:, 40:] = later[:, 40:], later[:, :24]
    with torch.no_grad():
        first, second = kernel(x, h), kernel(x2, h2)
    assert not torch.equal(first[:, 40:], second[:, 40:])
    return not torch.allclose(first[:, :40], second[:, :40], atol=1e-5)


def test_only_blueprints_that_do_not_look_ahead_may_be_planted() -> None:
    sites = find_sites(CharacterHost(), CHARLM.sites, load_library().probe[0][:1], slots=1)
    (signature,) = {site.signature.text: site.signature for site in sites.values()}.values()
    offered = [blueprint for blueprint in shipped() if SiteKind.SEQUENCE in blueprint.kinds]
    builder = KernelBuilder(offered)
    ahead = {
        blueprint.blueprint_id
        for blueprint in offered
        if looks_ahead(builder.kernel(blueprint.blueprint_id, signature))
    }
    assert ahead == {blueprint.blueprint_id for blueprint in offered} - set(CAUSAL)
    assert "self-attention" in ahead


def test_every_site_is_pinned_to_the_causal_blueprints() -> None:
    selection = CHARLM.allowed(TRIALS)
    assert selection.limits.pinned == dict.fromkeys(CHARLM.sites, CAUSAL)


def test_a_user_s_pin_cannot_allow_a_blueprint_that_reads_ahead() -> None:
    site, *_ = CHARLM.sites
    limits = SelectionLimits(pinned={site: ("self-attention", "low-rank-skip")})
    selection = CHARLM.allowed(TRIALS.model_copy(update={"limits": limits}))
    assert selection.limits.pinned[site] == ("low-rank-skip",)


def test_the_loss_is_the_mean_over_all_characters() -> None:
    logits = torch.randn(3, 5, CHARACTERS)
    following = torch.randint(CHARACTERS, (3, 5))
    log_likelihood = torch.log_softmax(logits, -1).gather(-1, following[..., None])
    torch.testing.assert_close(next_character_loss(logits, following), -log_likelihood.mean())


def test_a_short_training_predicts_better_than_the_frequencies_of_characters(
    one_thread: None,
) -> None:
    whole = load_library()
    test = (whole.test[0][:200], whole.test[1][:200])
    steps = iter(range(1, 10_000))
    result = train_task(
        replace(CHARLM, load=lambda: DatasetSplits(whole.train, whole.probe, test)),
        seed=0,
        epochs=1,
        should_stop=lambda: next(steps) >= STEPS,
    )
    frequencies = torch.bincount(test[1].flatten(), minlength=CHARACTERS) / test[1].numel()
    entropy = float(torch.special.entr(frequencies).sum())
    assert result.steps == STEPS
    assert result.test_loss < entropy
