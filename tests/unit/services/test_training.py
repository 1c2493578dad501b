"""Trainings: the command line that a node starts, what is refused, and what is told where a module is missing."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody import Resources, Restart, ServiceTask, SpecError
from rhapsody.services import torch_start

if TYPE_CHECKING:
    from pathlib import Path

STARTER = torch_start.__file__


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.touch()
    return path


def words(service: ServiceTask) -> list[str]:
    return [str(service.executable), *map(str, service.arguments)]


def test_training_on_one_node_asks_nobody_for_a_meeting_place(script: Path) -> None:
    service = ServiceTask.torchrun(script, "--epochs", 3, python="/envs/torch/bin/python", processes_per_node=2)

    assert words(service) == [
        "/envs/torch/bin/python", STARTER, "torch", "--standalone", "--local-addr", "{host}", "--log-dir",
        "{work_dir}", "--nproc-per-node", "2", str(script), "--epochs", "3",
    ]  # fmt: skip
    assert service.resources == Resources(cores_per_rank=2)
    assert (service.name, service.ends, service.listens) == ("training", True, False)


def test_training_on_several_nodes_meets_at_its_first_rank(script: Path) -> None:
    service = ServiceTask.torchrun(script, nodes=2, processes_per_node="gpus", gpus_per_node=4, cores_per_process=8)

    assert words(service) == [
        sys.executable, STARTER, "torch", "--nnodes", "{ranks}", "--node-rank", "{rank}", "--master-addr",
        "{leader_host}", "--master-port", "{leader_port}", "--local-addr", "{host}", "--log-dir",
        "{work_dir}", "--nproc-per-node", "4", str(script),
    ]  # fmt: skip
    assert service.resources == Resources(ranks=2, ranks_per_node=1, cores_per_rank=32, gpus_per_rank=4)
    assert service.env["OMP_NUM_THREADS"] == "8"


def test_training_by_deepspeed_needs_both_modules_and_is_started_alike(script: Path) -> None:
    by_deepspeed = ServiceTask.deepspeed(script, "--deepspeed_config", "zero.json", nodes=2)
    by_torchrun = ServiceTask.torchrun(script, "--deepspeed_config", "zero.json", nodes=2)

    assert words(by_deepspeed)[2] == "torch,deepspeed"
    assert words(by_deepspeed)[3:] == words(by_torchrun)[3:]


def test_training_of_a_module_is_started_as_one() -> None:
    service = ServiceTask.torchrun("my.recipe", "--fast", module=True)

    assert words(service)[-3:] == ["--module", "my.recipe", "--fast"]


def test_training_takes_resources_as_they_are(script: Path) -> None:
    resources = Resources(ranks=3, cores_per_rank=6, memory_per_rank="2GiB")

    service = ServiceTask.torchrun(script, resources=resources, processes_per_node=4)

    assert service.resources is resources
    assert "--nnodes" in words(service)
    assert service.env["OMP_NUM_THREADS"] == "1"


def test_training_saves_in_a_folder_of_each_replica_that_stays(script: Path, tmp_path: Path) -> None:
    own = ServiceTask.torchrun(script, replicas=2)
    given = ServiceTask.torchrun(script, checkpoints=tmp_path / "mine", env={"SEED": "7"})

    assert own.env["RHAPSODY_CHECKPOINTS"] == "{state_dir}/checkpoints/{replica}"
    assert given.env["RHAPSODY_CHECKPOINTS"] == str(tmp_path / "mine")
    assert given.env["SEED"] == "7"


def test_training_that_fails_is_not_tried_for_ever_unless_users_say_so(script: Path) -> None:
    patient = Restart(limit=100)

    assert ServiceTask.torchrun(script).restart == Restart(limit=3, steady_s=math.inf)
    assert ServiceTask.torchrun(script, restart=patient).restart is patient


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"processes_per_node": "gpus"}, "gpus_per_node=…"),
        ({"processes_per_node": 0}, "processes_per_node=0 must be a whole number from 1"),
        ({"processes_per_node": "all"}, "processes_per_node='all' must be"),
        ({"nodes": 0}, "ranks=0 must be at least 1"),
        ({"resources": Resources(), "nodes": 2}, "resources=… or nodes=…, not both"),
        ({"checkpoints": "/saved", "replicas": 2}, "add {replica} to the path"),
        ({"arguments": ["--epochs"]}, "arguments=… cannot be given: the script's arguments follow the script"),
        ({"listens": True}, "listens=… cannot be given"),
    ],
)
def test_training_refuses(options: dict[str, Any], text: str, script: Path) -> None:
    with pytest.raises(SpecError) as refused:
        ServiceTask.torchrun(script, **options)

    assert text in str(refused.value)


def test_training_refuses_a_script_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"there is no script .*/missing\.py; .*module=True"):
        ServiceTask.torchrun("missing.py", cwd=tmp_path)


def test_training_says_which_interpreter_lacks_a_module_before_it_starts_anything(tmp_path: Path) -> None:
    command = [sys.executable, STARTER, "json,none_of_this_name", "--standalone", "train.py"]

    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert done.returncode == 1
    assert done.stderr.startswith(f"rhapsody: {sys.executable} has no module none_of_this_name; install it there")


def test_training_does_not_take_our_modules_for_others(tmp_path: Path) -> None:
    command = [sys.executable, STARTER, "supervisor", "train.py"]  # there is one beside the script

    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert "has no module supervisor" in done.stderr


def test_service_that_ends_has_no_endpoint() -> None:
    with pytest.raises(SpecError, match="with ends=True say listens=False"):
        ServiceTask("both", executable="true", ends=True)


async def test_end_of_a_service_that_stays_is_not_waited_for() -> None:
    with pytest.raises(SpecError, match="does not end by itself"):
        await ServiceTask("stays", executable="true").done()
