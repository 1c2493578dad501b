"""Drafts of profiles, from commands on PATH that answer as recorded."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from rhapsody.deploy.sites.loading import load_site_file
from rhapsody.deploy.sites.probe import detect, draft
from rhapsody.deploy.sites.probe_ask import kind_names, vendor_of
from rhapsody.deploy.sites.profile import SchedulerKind, SiteProfile
from rhapsody.errors import BackendError, SpecError

if TYPE_CHECKING:
    from pathlib import Path

# Recorded from Slurm 22.05.8; fields that nothing reads are left out.
CONFIG = "JobRequeue              = 1\nSLURM_VERSION           = 22.05.8\n"
PARTITION = (
    "PartitionName={name} AllowGroups=ALL Default={default} QoS=N/A DefaultTime={time} MaxNodes={nodes} MaxTime={most}"
    " MinNodes=0 RootOnly=NO OverSubscribe={shared} State={state} TotalCPUs=384 TotalNodes=3 DefMemPerNode=UNLIMITED"
)
NODE = (
    "NodeName={name} CoresPerSocket={cores}  CPUTot=128 CPULoad=N/A ActiveFeatures={features} Gres={gres}"
    " RealMemory={memory} Sockets={sockets} Boards=1 State=IDLE ThreadsPerCore=2 Partitions={partitions}  BootTime=None"
)
PARTITIONS = [
    PARTITION.format(
        name="normal", default="YES", time="00:30:00", nodes="2", most="2-00:00:00", shared="NO", state="UP"
    ),
    PARTITION.format(
        name="gpu", default="NO", time="NONE", nodes="UNLIMITED", most="12:30:00", shared="EXCLUSIVE", state="UP"
    ),
    PARTITION.format(
        name="all", default="NO", time="NONE", nodes="UNLIMITED", most="UNLIMITED", shared="NO", state="UP"
    ),
    PARTITION.format(name="closed", default="NO", time="NONE", nodes="1", most="1:00:00", shared="NO", state="DOWN"),
]
CPU = {"cores": 32, "sockets": 2, "memory": 256000, "features": "(null)", "gres": "(null)"}
GPU = {"cores": 64, "sockets": 1, "memory": 512000, "features": "a100,nvme", "gres": ""}


class Machine:
    """A folder of commands that is the whole PATH, apart from what scripts need themselves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def answers(self, command: str, answers: dict[str, str], exit_code: int = 0) -> None:
        """Put a command on PATH that prints an answer for each word that its arguments hold."""
        cases = []
        for number, (word, text) in enumerate(answers.items()):
            answer = self.folder / f"{command}.{number}"
            answer.write_text(text.rstrip("\n") + "\n")
            cases.append(f'*{word}*) while IFS= read -r line; do echo "$line"; done < {answer} ;;')
        script = self.folder / command
        script.write_text(f'#!/bin/sh\ncase "$*" in {" ".join(cases)} esac\nexit {exit_code}\n')
        script.chmod(0o755)

    def profile(self, kind: SchedulerKind) -> SiteProfile:
        """Return the profile that a draft is."""
        path = self.folder / "drafted.yaml"
        path.write_text(draft("drafted", kind))
        return load_site_file(path, {})


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    return Machine(folder)


def with_slurm(machine: Machine, gres: str = "gpu:a100:4(S:0-1)") -> None:
    nodes = [NODE.format(name=f"cpu{each}", partitions="normal,all", **CPU) for each in (1, 2, 3)]
    nodes += [NODE.format(name=f"gpu{each}", partitions="gpu,all", **{**GPU, "gres": gres}) for each in (1, 2)]
    answers = {"config": CONFIG, "partition": "\n".join(PARTITIONS) + "\n", "node": "\n".join(nodes) + "\n"}
    machine.answers("scontrol", answers)


def test_slurms_partitions_become_queues(machine: Machine) -> None:
    with_slurm(machine)

    profile = machine.profile(detect())

    assert profile.scheduler.version == "22.05.8"
    assert profile.scheduler.requeue is True
    assert profile.queues is not None
    assert profile.queues.default == "normal"
    assert [queue.name for queue in profile.queue_entries] == ["normal", "gpu", "all"]
    normal, gpu, everything = profile.queue_entries
    assert (normal.max_nodes, normal.max_walltime, normal.default_walltime) == (2, timedelta(2), timedelta(minutes=30))
    assert (gpu.max_nodes, gpu.max_walltime, gpu.sharing) == (3, timedelta(hours=12, minutes=30), "exclusive")
    assert (everything.max_walltime, everything.node_kinds) == (None, ("cpu", "gpu"))


def test_slurms_nodes_are_grouped_into_kinds(machine: Machine) -> None:
    with_slurm(machine)

    cpu, gpu = machine.profile(SchedulerKind.SLURM).kinds

    assert (cpu.name, cpu.count, cpu.cores, cpu.smt, cpu.gpus) == ("cpu", 3, 64, 2, None)
    assert gpu.gpus is not None
    assert (gpu.gpu_count, gpu.gpus.vendor, gpu.gpus.model) == (4, "nvidia", "a100")
    assert cpu.memory == 256000 << 20


def test_gpus_whose_maker_is_not_told_are_named_as_unknown(machine: Machine) -> None:
    with_slurm(machine, gres="gpu:4")

    profile = machine.profile(SchedulerKind.SLURM)

    assert profile.nodes is not None
    assert profile.kind("gpu").gpus is None
    assert "whose GPUs gpu has: Gres=gpu:4" in profile.nodes.unknown


def test_a_container_engine_on_path_is_named_with_the_flag_for_these_gpus(machine: Machine) -> None:
    with_slurm(machine)
    machine.answers("apptainer", {})

    container = machine.profile(SchedulerKind.SLURM).container

    assert container is not None
    assert [(engine.name, engine.gpu_flags) for engine in container.engines] == [("apptainer", ("--nv",))]


def test_a_batch_system_that_does_not_answer_is_said_so(machine: Machine) -> None:
    machine.answers("scontrol", {}, exit_code=1)

    with pytest.raises(BackendError, match=r"`scontrol show config` failed: exit code 1; run this where you submit"):
        draft("any", detect())


def queue(**more: object) -> dict[str, object]:
    return {"queue_type": "Execution", "enabled": "True", "started": "True", **more}


def test_pbs_queues_behind_a_routing_queue_become_its_bins(machine: Machine) -> None:
    small = queue(
        from_route_only="True", resources_max={"nodect": 24, "walltime": "03:00:00"}, resources_min={"nodect": 10}
    )
    queues = {
        "debug": queue(resources_max={"nodect": 2, "walltime": "01:00:00"}, resources_min={"walltime": "00:05:00"}),
        "small": small,
        "prod": queue(queue_type="Route", route_destinations="small,gone"),
        "off": {**queue(), "started": "False"},
    }
    has = {"ncpus": 64, "mem": "527433216kb", "ngpus": 4}
    machine.answers("qstat", {"json": json.dumps({"pbs_version": "2022.1.1", "Queue": queues})})
    machine.answers(
        "pbsnodes", {"json": json.dumps({"nodes": {f"x{n}": {"resources_available": has} for n in (1, 2)}})}
    )

    profile = machine.profile(detect())

    prod, debug = profile.queue_entries
    assert (prod.name, prod.bins[0].name, prod.bins[0].min_nodes, prod.bins[0].max_nodes) == ("prod", "small", 10, 24)
    assert (debug.max_nodes, debug.max_walltime, debug.min_walltime) == (2, timedelta(hours=1), timedelta(minutes=5))
    assert (profile.kinds[0].name, profile.kinds[0].count, profile.kinds[0].cores) == ("x", 2, None)
    assert "PBS counts 4 GPUs; add gpus with their vendor." in profile.kinds[0].notes


def test_a_pbs_that_does_not_speak_json_is_said_so(machine: Machine) -> None:
    machine.answers("qstat", {"json": "Queue: debug\n"})

    with pytest.raises(BackendError, match="did not answer in JSON"):
        draft("any", SchedulerKind.PBS)


def test_a_machine_without_batch_system_is_its_own_only_node(machine: Machine) -> None:
    machine.answers(
        "lscpu",
        {"CPU": "# CPU,Core,Socket,Node\n0,0,0,0\n1,1,0,0\n2,0,1,1\n3,1,1,1\n4,0,0,0\n5,1,0,0\n6,0,1,1\n7,1,1,1\n"},
    )

    this = machine.profile(detect()).kinds[0]

    assert (this.cores, this.smt, this.numa_domains) == (4, 2, 2)
    assert this.memory == (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20) << 20


def test_a_cluster_of_kubernetes_is_described_by_hand() -> None:
    with pytest.raises(SpecError, match="extend `kubernetes` by hand"):
        draft("any", SchedulerKind.KUBERNETES)


@pytest.mark.parametrize(
    ("model", "vendor"),
    [("a100", "nvidia"), ("h100-80", "nvidia"), ("mi250x", "amd"), ("pvc", "intel"), ("gpu", None), ("", None)],
)
def test_a_maker_is_known_by_the_name_of_the_model_or_not_at_all(model: str, vendor: str | None) -> None:
    assert vendor_of(model) == vendor


def test_kinds_are_named_after_their_hosts_where_these_agree() -> None:
    assert kind_names([["cpu1", "cpu2"], ["gpu-1"], ["cpu9"], ["a1", "b1"]]) == ["cpu", "gpu", "kind3", "kind4"]
