"""Teaches a small network the sine: a script for PyTorch's launcher that can be killed at any moment, and goes on.

Started by `training.py`, once for each process. It saves every so many steps in the folder that `RHAPSODY_CHECKPOINTS`
names, and begins with the newest that it finds there.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed

SAVED_EVERY = 50


def train(steps: int) -> None:
    """Train from the newest checkpoint on; each process with data of its own, all with the same network."""
    torch.manual_seed(0)
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    network = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    model = torch.nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    folder = Path(os.environ["RHAPSODY_CHECKPOINTS"])
    done = restore(folder, network, optimizer)
    loss = torch.zeros(())
    for step in range(done + 1, steps + 1):
        torch.manual_seed(step * processes + rank)  # so that a restart sees the same data
        x = torch.rand(64, 1) * 6
        loss = torch.nn.functional.mse_loss(model(x), torch.sin(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0 and (step % SAVED_EVERY == 0 or step == steps):
            save(folder, step, network, optimizer)
    conclude(network, f"{steps - done} steps, loss {loss.item():.4f}")


def restore(folder: Path, network: Any, optimizer: Any) -> int:  # noqa: ANN401 - torch has no types here
    """Take over the newest checkpoint; return how many steps it has seen."""
    newest = [max(folder.glob("step-*.pt"), default=None)]
    distributed.broadcast_object_list(newest)  # what process 0 sees, those on other nodes may not see yet
    if newest[0] is None:
        return 0
    saved = torch.load(newest[0])
    network.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    say(f"goes on from step {saved['step']}")
    return int(saved["step"])


def save(folder: Path, step: int, network: Any, optimizer: Any) -> None:  # noqa: ANN401 - as above
    """Write a checkpoint: whole or not at all, whenever this process is killed."""
    path = folder / f"step-{step:08}.pt"
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save({"step": step, "network": network.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)


def conclude(network: Any, result: str) -> None:  # noqa: ANN401 - as above
    """Say what came of it, with a digest of each process's weights: they are the same."""
    weights = b"".join(value.numpy().tobytes() for value in network.state_dict().values())
    digests = [""] * distributed.get_world_size()
    distributed.all_gather_object(digests, hashlib.sha256(weights).hexdigest()[:16])
    say(f"{result}, weights {' '.join(digests)}")


def say(text: str) -> None:
    """Print a line, once for all processes."""
    if distributed.get_rank() == 0:
        print(text, flush=True)


if __name__ == "__main__":
    distributed.init_process_group()  # nccl where there are GPUs, gloo elsewhere
    train(int(sys.argv[1]))
    distributed.barrier()
    # Gloo's threads, which live on, may abort a Python that ends. Source: pytorch/pytorch pull 179291, checked 2026-11
    os._exit(0)
