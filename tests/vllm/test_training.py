"""Trainings by the real PyTorch, on the CPU, in the environment of the real vLLM: killed, they go on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from rhapsody import Restart, ServiceError, ServiceTask, Session
from tests.eventually import eventually
from tests.hosts.conftest import make_hosts, make_job, over  # noqa: F401 - fixtures
from tests.hosts.over import RHAPSODY
from tests.leftovers import processes
from tests.requirements import needs_command, needs_module
from tests.vllm import training_campaign
from tests.vllm.serving import VLLM

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hosts.over import Campaign
    from tests.leftovers import Process

PYTHON = VLLM.with_name("python")
SCRIPT = training_campaign.SCRIPT
STEPS = 1000
SAVED_EVERY = 50
PROCESS = "RANK=1", b"train_sine.py"
"""Process 1 of a training."""
LAUNCHER = "RHAPSODY_SERVICE_REPLICA=0", b"torch_start.py"
"""PyTorch's launcher on a node."""
LAUNCHER_OF_NODE_1 = "RHAPSODY_RANK=1", b"torch_start.py"
KILLS = [
    pytest.param("local", PROCESS, "process 1 of the training was ended by signal SIGKILL on", id="a process"),
    pytest.param(
        "dragon",
        LAUNCHER,
        "killed was ended by signal 9 (SIGKILL)",
        id="the launcher, over dragon",
        marks=[pytest.mark.dragon, needs_module("dragon", install="rhapsody-hpc[dragon]")],
    ),
]
BY_DEEPSPEED = """
import sys

import deepspeed
import torch

model = torch.nn.Linear(1, 1)
config = {"train_micro_batch_size_per_gpu": 4, "optimizer": {"type": "Adam", "params": {"torch_adam": True}}}
engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
for _ in range(3):
    engine.backward(engine(torch.ones(4, 1)).square().mean())
    engine.step()
print("steps", engine.global_steps, "of", deepspeed.comm.get_world_size(), flush=True)
"""


class Result(NamedTuple):
    """What the script said at its end."""

    steps: int
    digests: list[str]


def result(log: Path) -> Result:
    """Return what the script said at its end; one digest of weights for each process."""
    found = re.search(r"^(\d+) steps, loss [\d.]+, weights (.+)$", log.read_text(), re.MULTILINE)
    assert found is not None, log.read_text()
    return Result(int(found[1]), found[2].split())


def log_of(run_dir: Path, name: str, start: int) -> Path:
    return run_dir / "logs" / f"service.{name}.0.{start}.1.out"


def of_training(folder: Path) -> list[Process]:
    """Return all processes of the training that saves in a folder."""
    wanted = f"RHAPSODY_CHECKPOINTS={folder}".encode()
    return [each for each in processes().values() if wanted in each.environ.split(b"\0")]


async def kill(which: tuple[str, bytes], folder: Path, is_over: Callable[[], bool]) -> None:
    """Kill a process of a training as soon as that has saved something; by a variable of it, and its command."""
    await eventually(lambda: is_over() or list(folder.glob("step-*.pt")), within_s=100, what="a checkpoint is there")
    variable, command = which
    mine = [each for each in of_training(folder) if variable.encode() in each.environ.split(b"\0")]
    (victim,) = [each for each in mine if command in each.command]
    os.kill(victim.pid, signal.SIGKILL)


@pytest.mark.parametrize(("backend", "victim", "why"), KILLS)
async def test_training_that_is_killed_goes_on_as_if_nothing_had_happened(
    backend: str, victim: tuple[str, bytes], why: str, tmp_path: Path
) -> None:
    folder, messages = tmp_path / "saved", list[str]()
    async with Session(backend=backend, cores=4, runs=tmp_path / "runs", notify=messages.append) as session:
        calm = ServiceTask.torchrun(SCRIPT, STEPS, name="calm", python=PYTHON, processes_per_node=2)
        killed = ServiceTask.torchrun(
            SCRIPT, STEPS, name="killed", python=PYTHON, processes_per_node=2, checkpoints=folder
        )
        await session.start(calm)
        await session.start(killed)

        await kill(victim, folder, lambda: killed.state.is_over)
        await killed.done(timeout_s=150)
        await calm.done(timeout_s=150)

        assert (calm.status[0].restarts, killed.status[0].restarts) == (0, 1)
        expected, found = (result(log_of(session.run_dir, name, start)) for name, start in (("calm", 1), ("killed", 2)))
        assert expected.steps == STEPS
        assert 0 < found.steps <= STEPS - SAVED_EVERY
        assert set(expected.digests) == set(found.digests)
        assert [len(digests) for digests in (expected.digests, set(found.digests))] == [2, 1]
    (message,) = [each for each in messages if "started again" in each]
    assert why in message
    assert not of_training(folder)


@needs_command("ip", package="iproute2")
@needs_command("nsenter", package="util-linux")
@needs_command("mpiexec", package="openmpi-bin")
async def test_training_over_two_hosts_that_loses_the_launcher_on_one_goes_on(
    over: Callable[[int], Campaign],  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    campaign = over(2)
    folder = tmp_path / "checkpoints"
    run = [RHAPSODY, "run", training_campaign.__file__, "--backend", "local", "--cores", "1"]
    command = ["env", f"RHAPSODY_RUNS={tmp_path / 'runs'}", *run, "--", str(PYTHON), str(STEPS), str(folder)]
    campaign.job.start("", command=command)

    try:
        await kill(LAUNCHER_OF_NODE_1, folder, lambda: campaign.job.agents[0].code is not None)
    except (AssertionError, ValueError) as exc:
        raise AssertionError(f"{exc}; the agents said:\n{campaign.job.said()}") from exc
    found = await campaign.found(within_s=150)

    assert found["restarts"] == 1
    steps, digests = result(log_of(Path(found["run"]), "training", 2))
    assert 0 < steps <= STEPS - SAVED_EVERY
    assert len(digests) == 2
    assert len(set(digests)) == 1
    await campaign.nothing_is_left()


def test_example_trains(tmp_path: Path) -> None:
    command = [RHAPSODY, "run", str(SCRIPT.with_name("training.py")), "--cores", "2", "--", str(PYTHON), "100"]
    env = os.environ | {"RHAPSODY_RUNS": str(tmp_path)}

    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)

    assert "trained, after 0 restarts: step-00000100.pt has" in done.stdout


async def test_script_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text(
        "import os\nfrom torch import distributed\ndistributed.init_process_group()\n"
        "if os.environ['RANK'] == '1':\n    raise ValueError('no more data')\n"
        "distributed.barrier()\n"
    )
    async with Session(backend="local", cores=2, runs=tmp_path / "runs", notify=lambda _: None) as session:
        service = ServiceTask.torchrun(script, python=PYTHON, processes_per_node=2, restart=Restart(limit=0))
        await session.start(service)

        with pytest.raises(ServiceError) as failed:
            await service.done(timeout_s=150)

    said = str(failed.value)
    assert "did not end well: replica 0: training exited with code 1" in said.partition("\n")[0]
    assert "process 1 of the training exited with code 1" in said.partition("\n")[0]
    assert "ValueError: no more data" in said


async def test_training_by_deepspeed_takes_its_steps(tmp_path: Path) -> None:
    python = os.environ.get("RHAPSODY_TEST_DEEPSPEED", str(PYTHON))
    if subprocess.run([python, "-c", "import deepspeed"], capture_output=True, check=False).returncode:  # noqa: ASYNC221
        pytest.skip(f"{python} has no deepspeed; name one that has by RHAPSODY_TEST_DEEPSPEED")
    script = tmp_path / "by_deepspeed.py"
    script.write_text(BY_DEEPSPEED)
    async with Session(backend="local", cores=2, runs=tmp_path / "runs", notify=lambda _: None) as session:
        service = ServiceTask.deepspeed(script, python=python, processes_per_node=2, env={"DS_ACCELERATOR": "cpu"})
        await session.start(service)

        await service.done(timeout_s=220)  # the first time on a machine, DeepSpeed compiles

        lines = log_of(session.run_dir, "training", 1).read_text().splitlines()
    assert lines.count("steps 3 of 2") == 2
