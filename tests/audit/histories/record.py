"""Record one real run under every policy, or under the named ones:
`python -m tests.audit.histories.record [POLICY …]`.

The command starts a separate stack, publishes few blueprints, because each decision lists all arms,
and exports the run of each policy to `policies/`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from esper.bandit import POLICIES, policy_for
from esper.topics.models import PolicySpec

HERE = Path(__file__).parent
CATALOG = HERE.parents[2] / "esper" / "blueprint" / "catalog"
BLUEPRINTS = ("low-rank-skip", "gated-linear-unit", "conv-bottleneck", "squeeze-excite")
EPOCHS = 10


def main() -> None:
    """Record the runs, one after the other."""
    (HERE / "policies").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        os.environ["ESPER_HOME"] = home
        _esper("up")
        try:
            _esper("blueprint", "publish", *(str(CATALOG / f"{name}.json") for name in BLUEPRINTS))
            for name in sys.argv[1:] or sorted(POLICIES):
                run = json.loads(_esper("train", "digits", "--json", *_arguments(name)))["run_id"]
                _esper("history", "export", run, str(HERE / "policies" / f"{name}.jsonl"))
                print(name, run)
        finally:
            _esper("down")


def _arguments(policy: str) -> list[str]:
    """Return arguments that make the policy select seeds too, unless it is contextual."""
    attends = not policy_for(PolicySpec(name=policy)).contextual
    return [
        *("--epochs", str(EPOCHS), "--no-memory", "--dormant-reports", "2"),
        *("--policy", policy, "--attention", policy if attends else "ucb1"),
    ]


def _esper(*arguments: str) -> str:
    command = [sys.executable, "-m", "esper.workers", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
