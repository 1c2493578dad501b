"""Making and opening a session: arguments, variables, the run folder."""

from __future__ import annotations

import gc
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from typing_extensions import override

from rhapsody import Allocation, BackendError, ComputeTask, Node, NodeShape, Policy, Session, SpecError
from rhapsody.session.run_folder import create_run_folder, write_description
from tests.scripted import ScriptedBackend, nodes_of

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.abc import Listener, RunContext


class TestArguments:
    def test_an_unknown_backend_is_refused_with_the_valid_names(self) -> None:
        with pytest.raises(SpecError, match=r"unknown backend 'dragoon'; valid: auto, .*local"):
            Session(backend="dragoon")

    def test_an_unknown_backend_in_the_environment_is_refused_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RHAPSODY_BACKEND", "dragoon")

        with pytest.raises(SpecError, match="unknown backend 'dragoon'"):
            Session()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"cores": 0}, "cores=0"),
            ({"cores": -3}, "cores=-3"),
            ({"cores": 2.5}, "cores=2.5"),
            ({"cores": "4"}, "cores='4'"),
            ({"cores": True}, "cores=True"),
            ({"gpus": -1}, "gpus=-1"),
            ({"gpus": 1.0}, "gpus=1.0"),
            ({"cores": 1, "allocation": nodes_of(1)}, "leave out cores and gpus"),
        ],
    )
    def test_a_wrong_count_is_refused(self, arguments: dict[str, Any], words: str) -> None:
        with pytest.raises(SpecError, match=words):
            Session(**arguments)

    @pytest.mark.parametrize(("variable", "value"), [("RHAPSODY_CORES", "many"), ("RHAPSODY_GPUS", "-1")])
    def test_a_wrong_count_in_the_environment_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
    ) -> None:
        monkeypatch.setenv(variable, value)

        with pytest.raises(SpecError, match=f"{variable}='{value}'"):
            Session()

    def test_counts_come_from_the_environment_unless_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RHAPSODY_CORES", "3")
        monkeypatch.setenv("RHAPSODY_GPUS", "2")

        from_environment, given = Session().allocation, Session(cores=5, gpus=0).allocation

        assert (from_environment.usable_cores, from_environment.gpus) == (3, 2)
        assert (given.usable_cores, given.gpus) == (5, 0)

    def test_without_a_count_the_affinity_mask_decides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RHAPSODY_CORES", raising=False)

        allocation = Session().allocation

        assert allocation.usable_cores == len(os.sched_getaffinity(0))
        assert not allocation.oversubscribed

    async def test_a_wrong_policy_is_refused_on_opening(self, tmp_path: Path) -> None:
        backend = ScriptedBackend()

        with pytest.raises(SpecError, match=r"session's policy: unknown placement policy 'x'; valid: pack, spread"):
            await Session(backend=backend, policy=Policy(placement="x"), runs=tmp_path)

    async def test_a_node_that_cannot_be_reached_is_named_with_what_ssh_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ssh = tmp_path / "bin" / "ssh"
        ssh.parent.mkdir()
        ssh.write_text("#!/bin/sh\necho nobody is there >&2; exit 255\n")
        ssh.chmod(0o755)
        monkeypatch.setenv("PATH", f"{ssh.parent}{os.pathsep}{os.environ['PATH']}")
        shape = NodeShape(cores=1)
        pair = Allocation(nodes=(Node(name="localhost", shape=shape), Node(name="far", shape=shape)))

        with pytest.raises(BackendError, match=r"far: its executor exited with code 255.*nobody is there"):
            await Session(backend="local", allocation=pair, runs=tmp_path)


class TestOpening:
    async def test_before_there_is_no_run_folder(self, tmp_path: Path) -> None:
        session = Session(runs=tmp_path)

        with pytest.raises(BackendError, match="open it first"):
            _ = session.run_dir
        assert (session.tasks, session.counts, session.running, session.failures) == ([], {}, [], {})

    async def test_more_cores_than_there_are_is_said_once(self, tmp_path: Path) -> None:
        said: list[str] = []
        cores = len(os.sched_getaffinity(0)) + 1

        async with Session(backend=ScriptedBackend(), cores=cores, runs=tmp_path, notify=said.append) as session:
            description = json.loads((session.run_dir / "run.json").read_text())

        assert [text for text in said if "oversubscribed" in text] == said
        assert len(said) == 1
        assert description["oversubscribed"]

    async def test_a_submission_opens_the_session(self, tmp_path: Path) -> None:
        backend = ScriptedBackend()
        session = Session(backend=backend, cores=1, runs=tmp_path)

        await session.submit(ComputeTask(len, args=["x"]))
        backend.finish_all()
        await session.aclose()

        assert session.counts == {"DONE": 1}

    async def test_the_collectors_thresholds_are_put_back(self, tmp_path: Path) -> None:
        before = gc.get_threshold()

        async with Session(backend=ScriptedBackend(), runs=tmp_path):
            during = gc.get_threshold()

        assert during[0] >= before[0]
        assert gc.get_threshold() == before

    async def test_a_backend_that_does_not_start_leaves_a_closed_journal_and_its_own_error(
        self, tmp_path: Path
    ) -> None:
        class Broken(ScriptedBackend):
            @override
            async def start(self, context: RunContext, listener: Listener) -> None:
                raise BackendError("node n0 did not answer")

        with pytest.raises(BackendError, match="node n0 did not answer"):
            await Session(backend=Broken(), runs=tmp_path)


class TestRunFolder:
    async def test_it_holds_what_the_run_was_and_how_it_ended(self, tmp_path: Path) -> None:
        backend = ScriptedBackend()

        async with Session(backend=backend, name="my run!", runs=tmp_path) as session:
            await session.submit(ComputeTask(len, args=["x"]))
            backend.finish_all()
        description = json.loads((session.run_dir / "run.json").read_text())

        assert session.run_dir.parent == tmp_path
        assert session.uid == session.run_dir.name
        assert session.uid.startswith("my-run-")
        assert {"logs", "results", "deploy", "journal", "run.json"} <= {path.name for path in session.run_dir.iterdir()}
        assert (description["backend"], description["uid"]) == ("scripted", session.uid)
        assert description["tasks"] == {"DONE": 1}
        assert description["ended_ns"] >= description["started_ns"]

    def test_nobody_else_can_read_it(self, tmp_path: Path) -> None:
        folder = create_run_folder("x", tmp_path)
        write_description(folder, {"a": 1})

        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "run.json").stat().st_mode & 0o777 == 0o600

    def test_the_environment_names_its_place_and_the_argument_wins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RHAPSODY_RUNS", str(tmp_path / "here"))

        assert create_run_folder("x").parent == tmp_path / "here"
        assert create_run_folder("x", tmp_path / "there").parent == tmp_path / "there"

    @pytest.mark.parametrize("name", ["../../etc", "", "...", "a b/c", "ä" * 300])
    def test_no_name_leads_out_of_the_folder_of_runs(self, tmp_path: Path, name: str) -> None:
        folder = create_run_folder(name, tmp_path)

        assert folder.resolve().parent == tmp_path.resolve()
        assert len(folder.name) < 100

    def test_two_of_one_name_do_not_collide(self, tmp_path: Path) -> None:
        assert create_run_folder("x", tmp_path) != create_run_folder("x", tmp_path)

    def test_a_place_that_cannot_be_written_is_told_with_the_remedy(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")

        with pytest.raises(SpecError, match=r"run folder .*file.* cannot be made: .*--runs or RHAPSODY_RUNS"):
            create_run_folder("x", tmp_path / "file")
