from __future__ import annotations

import json
import os
import re
import signal
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from rhapsody.backends import shared_memory
from rhapsody.errors import BackendError, SpecError
from rhapsody.experiments import leftovers, peers, systems
from rhapsody.experiments.peer_scripts.measure import Order
from tests.requirements import needs_module

PYTHON = Path(sys.executable)
LONG_ENOUGH_S = 60.0

REPORT = """
import json, os, subprocess, sys
def report(text):
    order = json.loads(sys.argv[1])
    with open(order["result"], "w") as file:
        json.dump({"metrics": {"n": order["n"]}, "version": text, "waiting": ""}, file)
def leave_daemon(path):
    code = f"import os, time; open({path!r}, 'a').write(f'{{os.getpid()}} '); print(flush=True); time.sleep(600)"
    daemon = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    daemon.stdout.readline()
"""


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "GRACE_S", 0.3)


def order(tmp_path: Path) -> Order:
    return Order(
        mode="functions", n=7, workers=1, backend="", journal=False, scratch="", runs_dir=str(tmp_path), result=""
    )


def script(tmp_path: Path, code: str) -> Path:
    path = tmp_path / "script.py"
    path.write_text(REPORT + dedent(code))
    return path


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_run_returns_what_the_script_reports(tmp_path: Path) -> None:
    path = script(tmp_path, "report('1.2.3')")

    report, left = peers.run(peers.Launch(PYTHON, path), order(tmp_path), LONG_ENOUGH_S)

    assert report.metrics == {"n": 7}
    assert report.version == "1.2.3"
    assert left == []


def test_run_hides_variables_that_would_change_what_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    monkeypatch.setenv("RHAPSODY_CORES", "99")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1")
    monkeypatch.setenv("KEPT", "yes")
    path = script(tmp_path, "report(json.dumps(dict(os.environ)))")

    report, _ = peers.run(peers.Launch(PYTHON, path), order(tmp_path), LONG_ENOUGH_S)

    seen = json.loads(report.version)
    assert not {"PYTHONOPTIMIZE", "RHAPSODY_CORES", "RAY_ADDRESS"} & set(seen)
    assert seen["KEPT"] == "yes"
    assert seen["RAY_USAGE_STATS_ENABLED"] == "0"


def test_run_leaves_nothing_in_the_temporary_folder(tmp_path: Path) -> None:
    path = script(tmp_path, "open(os.path.join(os.environ['TMPDIR'], 'litter'), 'w'); report(os.getcwd())")

    report, _ = peers.run(peers.Launch(PYTHON, path), order(tmp_path), LONG_ENOUGH_S)

    assert not Path(report.version).exists()


def test_run_shows_the_last_lines_of_a_failing_script(tmp_path: Path) -> None:
    path = script(tmp_path, "print('so far so good', flush=True); sys.exit('no licence')")

    with pytest.raises(BackendError, match="exit code 1") as caught:
        peers.run(peers.Launch(PYTHON, path), order(tmp_path), LONG_ENOUGH_S)

    assert "| so far so good" in str(caught.value)
    assert "| no licence" in str(caught.value)


def test_run_refuses_a_script_that_ends_well_but_reports_nothing(tmp_path: Path) -> None:
    path = script(tmp_path, "")

    with pytest.raises(BackendError, match="no report"):
        peers.run(peers.Launch(PYTHON, path), order(tmp_path), LONG_ENOUGH_S)


@pytest.mark.parametrize("stubborn", [False, True], ids=["obedient", "ignoring SIGTERM"])
def test_deadline_ends_a_hanging_script_and_its_daemons(stubborn: bool, tmp_path: Path) -> None:  # noqa: FBT001
    pids = tmp_path / "pids"
    ignore = f"import signal; signal.signal({int(signal.SIGTERM)}, signal.SIG_IGN)" if stubborn else ""
    path = script(
        tmp_path,
        f"""
        {ignore}
        open({str(pids)!r}, 'a').write(f'{{os.getpid()}} ')
        leave_daemon({str(pids)!r})
        print('hanging now', flush=True)
        import time; time.sleep(600)
        """,
    )

    with pytest.raises(BackendError, match="not done within 3 s") as caught:
        peers.run(peers.Launch(PYTHON, path), order(tmp_path), deadline_s=3)

    started = [int(pid) for pid in pids.read_text().split()]
    assert len(set(started)) == 2
    assert not [pid for pid in started if is_there(pid)]
    assert "hanging now" in str(caught.value)


def test_run_ends_and_names_a_daemon_that_outlives_a_good_report(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    path = script(tmp_path, f"leave_daemon({str(pids)!r}); report('')")

    report, left = peers.run(peers.Launch(PYTHON, path), order(tmp_path), LONG_ENOUGH_S)

    daemon = int(pids.read_text())
    assert report.metrics == {"n": 7}
    assert len(left) == 1
    assert left[0].startswith(f"process {daemon}: ")
    assert not is_there(daemon)


def test_run_keeps_a_good_report_of_a_system_that_hangs_when_it_shuts_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "SHUTDOWN_S", 0.5)
    path = script(tmp_path, "report('1.2.3'); import time; time.sleep(600)")

    report, _ = peers.run(peers.Launch(PYTHON, path), order(tmp_path), LONG_ENOUGH_S)

    assert report.version == "1.2.3"


def test_run_frees_shared_memory_of_killed_processes_and_of_nobody_else(tmp_path: Path) -> None:
    names = [f"rhapsody-test-{uuid.uuid4().hex}" for _ in range(2)]
    mine, strangers = (shared_memory.FOLDER / name for name in names)
    strangers.write_bytes(b"somebody else's")
    path = script(
        tmp_path,
        f"""
        import mmap, time
        with open({str(mine)!r}, "w+b") as file:
            file.truncate(4096)
            memory = mmap.mmap(file.fileno(), 4096)
        time.sleep(600)
        """,
    )

    try:
        with pytest.raises(BackendError, match="not done within 2 s"):
            peers.run(peers.Launch(PYTHON, path), order(tmp_path), deadline_s=2)

        assert not mine.exists()
        assert strangers.exists()
    finally:
        strangers.unlink()
        mine.unlink(missing_ok=True)


def test_run_names_shared_memory_that_a_good_run_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "SHUTDOWN_S", 0.5)
    mine = shared_memory.FOLDER / f"rhapsody-test-{uuid.uuid4().hex}"
    path = script(
        tmp_path,
        f"""
        import mmap, time
        with open({str(mine)!r}, "w+b") as file:
            file.truncate(4096)
            memory = mmap.mmap(file.fileno(), 4096)
        report('')
        time.sleep(600)
        """,
    )

    _, left = peers.run(peers.Launch(PYTHON, path), order(tmp_path), LONG_ENOUGH_S)

    assert left[-1] == f"file {mine}"
    assert not mine.exists()


def test_script_over_dragon_is_started_by_a_shell_since_dragon_hangs_when_it_leads_a_session() -> None:
    launch = peers.Launch(Path("/env/bin/python"), Path("/here/run_dragon_pool.py"), over_dragon=True)

    assert launch.command[0] == "/bin/sh"
    assert launch.command[-3:] == ["/env/bin/dragon", "-s", "/here/run_dragon_pool.py"]


def test_script_over_dragon_gets_sane_sizes_unless_the_user_has_set_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DRAGON_DEFAULT_SEG_SZ", raising=False)
    monkeypatch.setenv("DRAGON_INF_SEG_SZ", "7")
    dragon = tmp_path / "bin" / "dragon"
    dragon.parent.mkdir()
    dragon.write_text(f'#!/bin/sh\nshift\nexec {PYTHON} "$@"\n')
    dragon.chmod(0o700)
    path = script(tmp_path, "report(json.dumps(dict(os.environ)))")
    launch = peers.Launch(dragon.parent / "python", path, over_dragon=True)

    report, _ = peers.run(launch, order(tmp_path), LONG_ENOUGH_S)

    seen = json.loads(report.version)
    assert int(seen["DRAGON_DEFAULT_SEG_SZ"]) >= 1 << 28
    assert seen["DRAGON_INF_SEG_SZ"] == "7"
    assert seen["PATH"].startswith(f"{dragon.parent}:")


@pytest.mark.dragon
@needs_module("dragon", install="rhapsody-hpc[dragon]")
def test_pool_over_dragon_is_measured(tmp_path: Path) -> None:
    launch = peers.Launch(PYTHON, peers.HERE / "peer_scripts" / "run_dragon_pool.py", over_dragon=True)
    wanted = replace(order(tmp_path), backend="map, chunksize 1")

    report, left = peers.run(launch, wanted, LONG_ENOUGH_S)

    assert report.metrics["tasks_per_s"] > 0
    assert report.metrics["workers_cpu_us_per_task"] > 0
    assert left == []


@pytest.mark.dragon
@needs_module("dragon", install="rhapsody-hpc[dragon]")
def test_nothing_is_left_of_dragon_when_it_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "SHUTDOWN_S", 0.5)
    path = script(tmp_path, "report(str(os.getppid())); import time; time.sleep(600)")

    report, left = peers.run(peers.Launch(PYTHON, path, over_dragon=True), order(tmp_path), LONG_ENOUGH_S)

    front_end = int(report.version)
    files = [Path(name.removeprefix("file ")) for name in left if name.startswith("file ")]
    assert not is_there(front_end)
    assert any(file.name.startswith("DD") for file in files)
    assert not [file for file in files if file.exists()]


def test_environment_of_a_system_without_its_own_is_this_interpreter() -> None:
    python = peers.prepare(systems.PEERS["processpool"])

    assert python == PYTHON


def test_environment_that_cannot_be_built_shows_what_pip_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peer_requirements").mkdir()
    (tmp_path / "peer_requirements" / "broken.txt").write_text("absent @ file:///nonexistent/absent-1.0.tar.gz\n")
    monkeypatch.setattr(peers, "HERE", tmp_path)
    monkeypatch.setenv("RHAPSODY_BENCH_ENVS", str(tmp_path / "envs"))
    broken = systems.System("broken", "run_broken.py", {})

    with pytest.raises(BackendError, match=r"pip install .*exit code 1") as caught:
        peers.prepare(broken)

    assert "/nonexistent/absent-1.0.tar.gz" in str(caught.value)
    assert not (tmp_path / "envs" / "broken" / ".made-from").exists()


def test_unknown_peer_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(SpecError, match="unknown peer 'rey'; valid: dask, dragon-batch, "):
        systems.peer_named("rey")


@pytest.mark.parametrize("system", [system for system in systems.PEERS.values() if system.own_environment], ids=str)
def test_requirements_of_a_peer_are_pins_and_nothing_else(system: systems.System) -> None:
    path = peers.HERE / "peer_requirements" / f"{system.name}.txt"

    lines = path.read_text().splitlines()

    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9A-Za-z.]+", line) for line in lines)


@pytest.mark.parametrize("system", [*systems.PEERS.values(), systems.RHAPSODY, systems.SUBPROCESS], ids=str)
def test_script_of_a_system_exists(system: systems.System) -> None:
    path = peers.HERE / "peer_scripts" / system.script

    assert os.access(path, os.R_OK)
