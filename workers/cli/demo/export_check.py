"""Running an exported network in a fresh interpreter that cannot import Esper."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper.errors import EsperError

TOLERANCE = 1e-6
TIMEOUT_S = 120

SCRIPT = """
import importlib.util
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "esper":
            raise ImportError(f"{name} cannot be imported here")

sys.meta_path.insert(0, Refuse())
import torch

folder, inputs, outputs = sys.argv[1:]
spec = importlib.util.spec_from_file_location("model", folder + "/model.py")
model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(model)
with torch.no_grad():
    torch.save(model.load(folder)(torch.load(inputs)), outputs)
"""


class FreshInterpreterFailed(EsperError):
    """The exported network did not load or run; the message is the interpreter's last line."""


class Comparison(NamedTuple):
    """Differences between the outputs of the exported and of the grown network."""

    samples: int
    max_difference: float
    equal: bool


def compare_in_fresh_interpreter(folder: Path, model: nn.Module, samples: Tensor) -> Comparison:
    """Compare the outputs of an exported network with those of `model`, to 1e-6.

    Raises:
        FreshInterpreterFailed: the exported network did not load or run.
    """
    model.eval()
    with torch.no_grad():
        expected = model(samples)
    with tempfile.TemporaryDirectory() as scratch:
        inputs, outputs = Path(scratch, "inputs.pt"), Path(scratch, "outputs.pt")
        torch.save(samples, inputs)
        ended = subprocess.run(
            [sys.executable, "-I", "-c", SCRIPT, str(folder), str(inputs), str(outputs)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if ended.returncode != 0:
            last = ended.stderr.strip().splitlines()[-1:]
            raise FreshInterpreterFailed(f"{folder}: {''.join(last) or 'no message'}")
        found = torch.load(outputs)
    difference = float((expected - found).abs().max())
    return Comparison(len(samples), difference, difference <= TOLERANCE)
