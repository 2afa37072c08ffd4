"""Export: plain PyTorch that computes the same where Esper is not installed, or a clear refusal."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from esper.seed import Seed, Site, find_sites
from esper.store import open_store
from esper.topics.codec import digest
from esper.topics.models import DecisionOutcome, OutcomeStatus
from esper.training import ExportError, export_model
from esper.training.export import load_exported
from esper.training.lineage import RunHistory
from tests.seed.kernels import announced, awaken, kernel_for
from tests.training.grow_fixture import RUN, decision, planting

WITHOUT_ESPER = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "esper":
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent())
from pathlib import Path
from runpy import run_path

import torch
from safetensors.torch import load_file, save_file

for folder in map(Path, sys.argv[1:]):
    load = run_path(str(folder / "model.py"))["load"]
    with torch.no_grad():
        y = load()(load_file(folder / "x.safetensors")["x"])
    save_file({"y": y}, folder / "y.safetensors")
assert "esper" not in sys.modules
"""


class Plain(nn.Module):
    """Functional operations, a Sequential, BatchNorm, an in-place ReLU, Dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Dropout2d(0.3)),
        )
        self.fc1 = nn.Linear(8, 8)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), (2, 2))
        x = x.flatten(2).mean(-1) * scale
        x = F.dropout(self.act(self.fc1(x)), 0.5, self.training)
        return torch.cat([x[:, :4], x[:, 4:] - 1], dim=1)


class Residual(nn.Module):
    """A user's module with a parameter and a non-persistent buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.gain = nn.Parameter(torch.full((4, 1, 1), 0.7))
        self.register_buffer("shift", torch.randn(4, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * torch.relu(self.conv(x)) + self.shift


class Nested(nn.Module):
    """A host with user modules, tensors at the root, and a head that `forward` does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 1)
        self.blocks = nn.ModuleList(Residual() for _ in range(2))
        self.bias = nn.Parameter(torch.randn(4))
        self.register_buffer("mean", torch.randn(2, 1, 1))
        self.head = nn.ModuleDict({"main": nn.Linear(4, 3), "unused": nn.Linear(4, 9)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x - self.mean)
        for block in self.blocks:
            x = block(x)
        x = x.mean(dim=(2, 3)) + self.bias
        y: Tensor = self.head["main"](x)
        return y


class Tied(nn.Module):
    """Two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(6, 6)
        self.two = nn.Linear(6, 6)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(torch.tanh(self.one(x)))
        return y


HOSTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, list[str]]]] = {
    "plain": (
        Plain,
        (2, 6, 6),
        {
            "features.0": ["conv-bottleneck", "squeeze-excite"],
            "features.3.0": ["gated-conv"],
            "fc1": ["gated-linear-unit", "low-rank-skip"],
        },
    ),
    "nested": (
        Nested,
        (2, 6, 6),
        {
            "blocks.1.conv": ["depthwise-separable"],
            "stem": ["residual-conv3x3"],
            "head.main": ["low-rank-skip"],
        },
    ),
    "tied": (Tied, (6,), {"one": ["linear-bottleneck"]}),
    "never grown": (Nested, (2, 6, 6), {"stem": []}),
    "channels last": (
        lambda: Plain().to(memory_format=torch.channels_last),
        (2, 6, 6),
        {"features.0": ["conv-bottleneck"]},
    ),
    "lines": (
        lambda: nn.Sequential(nn.Conv1d(3, 6, 3, padding=1), nn.Flatten(), nn.Linear(60, 3)),
        (3, 10),
        {"0": ["linear-bottleneck"]},
    ),
    "in a row": (
        lambda: nn.Sequential(
            nn.Sequential(nn.Linear(6, 2, bias=False), nn.Sequential(nn.Linear(2, 6), nn.Tanh())),
            nn.Linear(6, 3),
        ),
        (6,),
        {"0": ["linear-bottleneck", "low-rank-skip"], "1": ["low-rank-skip"]},
    ),
    "bfloat16": (lambda: Plain().bfloat16(), (2, 6, 6), {"features.0": ["squeeze-excite"]}),
}


def grown(host: str, folder: Path) -> tuple[nn.Module, dict[str, Site], Tensor, RunHistory]:
    """Return a host with non-zero kernels, a batch for it, and its run history."""
    torch.manual_seed(0)
    make, shape, blueprints = HOSTS[host]
    model = make()
    x = torch.randn(5, *shape, dtype=next(model.parameters()).dtype)
    model(x)
    sites = find_sites(model, blueprints, x[:1], slots=2)
    store, run_history = open_store(f"file:{folder / 'kernels'}"), RunHistory()
    for site in sites.values():
        for slot, blueprint_id in enumerate(blueprints[site.name]):
            kernel = kernel_for(blueprint_id, site.signature)
            awaken(kernel, slot)
            site.plant(slot, Seed(kernel, alpha=0.6))
            ready = announced(store, blueprint_id, site.signature)
            run_history.kernels[kernel.kernel_id] = ready
    return model, sites, x, run_history


def export(host: str, folder: Path) -> tuple[nn.Module, Tensor, Path]:
    model, sites, x, run_history = grown(host, folder)
    return model, x, export_model(model, sites, x[:1], run_history, RUN, folder / "out")


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, Tensor]]:
    """Return by host: the grown model's output, and its export's output without Esper."""
    root = tmp_path_factory.mktemp("hosts")
    expected = {}
    for host in HOSTS:
        (root / host).mkdir()
        model, x, folder = export(host, root / host)
        save_file({"x": x}, folder / "x.safetensors")
        with torch.no_grad():
            expected[host] = model.eval()(x)
    folders = [str(root / host / "out") for host in HOSTS]
    ran = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_ESPER, *folders],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return {
        host: (expected[host], load_file(root / host / "out" / "y.safetensors")["y"])
        for host in HOSTS
    }


@pytest.mark.parametrize("host", HOSTS)
def test_an_export_computes_the_same_where_esper_cannot_be_imported(
    host: str, computed: dict[str, tuple[Tensor, Tensor]]
) -> None:
    expected, found = computed[host]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_exporting_does_not_change_the_model(tmp_path: Path) -> None:
    model, sites, x, run_history = grown("plain", tmp_path)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    export_model(model, sites, x[:1], run_history, RUN, tmp_path / "out")
    assert model.training
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)


def test_the_source_is_plain_python(tmp_path: Path) -> None:
    _, _, folder = export("nested", tmp_path)
    code = (folder / "model.py").read_text().split('"""', 2)[2]
    assert "y = y + self.alpha0 * self.kernel0(x, h)" in code
    assert "def forward(self, x):" in code
    for noise in ("esper", " -> ", "; ", " : "):
        assert noise not in code


def test_an_export_can_be_trained(tmp_path: Path) -> None:
    model, x, folder = export("plain", tmp_path)
    network = load_exported(folder).train()
    network(x).square().sum().backward()
    felt = {name for name, value in network.named_parameters() if value.grad is not None}
    assert {"features.0.kernel0.expand.weight", "fc1.layer.weight"} <= felt
    trained = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in network.parameters()) == trained


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y if y.sum() > 0 else -y


class Counting(Branching):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y / len(x)


class Constant(Branching):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y * torch.arange(4.0)


class Unregistered(Branching):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor(2.0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y * self.scale


class Masked(Branching):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.fc(x)
        return y if mask is None else y * mask


class MyLinear(nn.Linear):
    pass


class Subclass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = MyLinear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y


class Attention(Branching):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.attend(x, x, x)[0])
        return y


class Noise(Branching):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return F.dropout(y, 0.5)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Branching, "Branching.forward cannot be written as plain source.*control flow"),
        (Counting, "Counting.forward cannot be written as plain source.*'len' is not supported"),
        (Constant, "Constant.forward makes a tensor that does not depend on its input; register"),
        (Unregistered, "scale is a tensor but neither parameter nor buffer; register it"),
        (Masked, "the exported source does not run"),
        (Subclass, "fc is a MyLinear, which is not a layer of torch.nn"),
        (Attention, r"attend cannot be written as nn.MultiheadAttention\(\)"),
        (Noise, "the outputs of the exported source differ by"),
    ],
)
def test_a_host_that_cannot_be_written_is_refused_in_one_line(
    kind: type[nn.Module], reason: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = kind()
    x = torch.randn(1, 4)
    sites = find_sites(model, ["fc"], x, slots=1)
    kernel = kernel_for("low-rank-skip", sites["fc"].signature)
    sites["fc"].plant(0, Seed(kernel, 1.0))
    store = open_store(f"file:{tmp_path / 'kernels'}")
    ready = announced(store, "low-rank-skip", sites["fc"].signature)
    run_history = RunHistory(kernels={ready.kernel_id: ready})
    attributes = set(vars(model))
    with pytest.raises(ExportError, match=reason) as refusal:
        export_model(model, sites, x, run_history, RUN, tmp_path)
    assert "\n" not in str(refusal.value)
    assert set(vars(model)) == attributes
    assert model.training


@pytest.mark.parametrize("inner", [False, True], ids=["own", "grown inside"])
def test_a_seed_around_a_block_is_refused(tmp_path: Path, inner: bool) -> None:
    block = nn.Sequential(nn.Conv2d(4, 4, 1)) if inner else Residual()
    model, x = nn.Sequential(block, nn.Conv2d(4, 2, 1)), torch.randn(1, 4, 5, 5)
    sites = find_sites(model, ["0", "0.0"] if inner else ["0"], x, slots=1)
    for site in sites.values():
        site.plant(0, Seed(kernel_for("gated-conv", site.signature)))
    with pytest.raises(ExportError, match="0 has inner layers and a seed planted around them"):
        export_model(model, sites, x, RunHistory(), RUN, tmp_path)


def test_the_lineage_lists_every_decision_and_the_digests_of_kernels(tmp_path: Path) -> None:
    store = open_store(f"file:{tmp_path / 'kernels'}")
    torch.manual_seed(0)
    model = Plain()
    x = torch.randn(1, 2, 6, 6)
    sites = find_sites(model, ["fc1"], x, slots=1)
    ready = announced(store, "low-rank-skip", sites["fc1"].signature)
    sites["fc1"].plant(0, Seed(kernel_for("low-rank-skip", sites["fc1"].signature), alpha=0.5))
    plan = decision(planting(sites["fc1"], 0, "low-rank-skip"))
    outcome = DecisionOutcome(decision_id=plan.decision_id, status=OutcomeStatus.APPLIED, step=3)
    run_history = RunHistory(
        decisions=[plan],
        outcomes={plan.decision_id: outcome},
        kernels={ready.kernel_id: ready},
    )
    folder = export_model(model, sites, x, run_history, RUN, tmp_path / "out")
    assert json.loads((folder / "lineage.json").read_bytes()) == {
        "format": "esper-lineage/1",
        "run_id": RUN,
        "seeds": [
            {
                "site": "fc1",
                "slot": 0,
                "alpha": 0.5,
                **ready.model_dump(mode="json"),
            }
        ],
        "decisions": [
            {
                "sha256": digest(plan),
                "decision": plan.model_dump(mode="json"),
                "outcome": outcome.model_dump(mode="json"),
            }
        ],
    }
