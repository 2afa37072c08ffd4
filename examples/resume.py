"""Stop a growing training in the middle and resume it from a checkpoint.

esper up
esper blueprint publish --shipped
python examples/resume.py run.pt --stop-after 300     # saves and stops
python examples/resume.py run.pt                      # continues to the end
"""

import argparse
from pathlib import Path

import torch
from grow import host, samples
from torch.nn import functional as F

import esper

STEPS = 600
BATCH = 32


class Stopped(Exception):
    """Raised to leave the training loop in the middle, as an interruption would."""


def main() -> None:
    """Train from the checkpoint if it exists, otherwise from the beginning."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--stop-after", type=int, help="save and stop after this step")
    arguments = parser.parse_args()
    torch.manual_seed(0)

    model = host()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    inputs, labels = samples(4096, seed=1)
    probe = samples(512, seed=2)
    sites = ["0", "2"]
    first = 0
    if arguments.checkpoint.exists():
        state = torch.load(arguments.checkpoint)
        first = state["step"]
        growth = esper.resume(
            state["growth"],
            model,
            optimizer,
            sites=sites,
            probe=probe,
            loss_fn=F.cross_entropy,
        )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    else:
        growth = esper.grow(
            model,
            optimizer,
            sites=sites,
            probe=probe,
            loss_fn=F.cross_entropy,
            run="resumed",
            report_every=20,
        )
    try:
        with growth:
            for step in range(first, STEPS):
                batch = torch.arange(step * BATCH, (step + 1) * BATCH) % len(inputs)
                loss = F.cross_entropy(model(inputs[batch]), labels[batch])
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                growth.step(loss)
                if step + 1 == arguments.stop_after:
                    save(arguments.checkpoint, model, optimizer, growth, step + 1)
                    raise Stopped
    except Stopped:
        print(f"run {growth.run_id}: stopped after step {arguments.stop_after}")
    else:
        print(f"run {growth.run_id}: finished {STEPS} steps")


def save(
    path: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    growth: esper.Growth,
    step: int,
) -> None:
    """Write model, optimizer and growth together, between two steps."""
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "growth": growth.state_dict(),
            "step": step,
        },
        path,
    )


if __name__ == "__main__":
    main()
