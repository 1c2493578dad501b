"""The image in podman: without rights, as any user, with nothing to write to but /tmp."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.containers.engine import CAMPAIGN, HARMLESS, podman, rhapsody_image, run

if TYPE_CHECKING:
    from pathlib import Path

DRAGON = """
import multiprocessing

import dragon


def square(number):
    return number * number


if __name__ == "__main__":
    multiprocessing.set_start_method("dragon")
    with multiprocessing.Pool(2) as pool:
        print("seen", sum(pool.map(square, range(10))))
"""


@pytest.fixture
def work(tmp_path: Path) -> tuple[str, ...]:
    """Return options that mount a folder with a campaign and a program of Dragon's, readable by all."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "campaign.py").write_text(CAMPAIGN)
    (folder / "app.py").write_text(DRAGON)
    return "--volume", f"{folder}:/work:ro", "--env", "RHAPSODY_RUNS=/tmp/runs", "--shm-size", "2g"


def test_trial_passes(image: str) -> None:
    code, said = rhapsody_image("test", image)

    assert code == 0, said
    assert said.count("ok   ") == 5


def test_trial_says_how_much_shared_memory_is_missing(image: str) -> None:
    code, said = rhapsody_image("test", image, "--shm-size", "64m")

    assert code == 1
    assert "WRONG  shared memory: Dragon needs 1024 MiB of shared memory, /dev/shm has 64 MiB free" in said
    assert "--shm-size 8g" in said
    assert "did not pass" in said


@pytest.mark.parametrize("user", ["0:0", "12345:12345", "65534:0"])
@pytest.mark.parametrize("backend", ["local", "dragon"])
def test_campaign_runs_as_any_user(image: str, work: tuple[str, ...], user: str, backend: str) -> None:
    command = ["rhapsody", "run", "campaign.py", "--backend", backend, "--cores", "2", "--quiet"]

    done = podman(image, *command, options=(*work, "--user", user))

    assert done.returncode == 0, done.stderr
    assert f"seen 285 [2, 2] {user.partition(':')[0]}\n" in done.stdout


def test_dragons_own_command_runs(image: str, work: tuple[str, ...]) -> None:
    done = podman(image, "dragon", "-s", "app.py", options=work)

    assert "seen 285\n" in done.stdout, done.stderr


def test_dragons_own_command_is_refused_with_too_little_shared_memory(image: str, work: tuple[str, ...]) -> None:
    done = podman(image, "dragon", "-s", "app.py", options=(*work, "--shm-size", "64m"))

    assert done.returncode == 1
    assert done.stderr.startswith("rhapsody: Dragon needs 1024 MiB of shared memory, /dev/shm has 64 MiB free;")


def test_exit_code_is_that_of_the_command(image: str) -> None:
    assert podman(image, "sh", "-c", "exit 7").returncode == 7
    assert podman(image, "sh", "-c", "kill -KILL $$").returncode == 137
    assert podman(image, "no-such-command").returncode == 127


def test_init_is_process_1_and_home_can_be_written_to(image: str) -> None:
    done = podman(image, "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline; echo; echo $HOME", options=("--user", "12345"))

    assert done.stdout.startswith("/usr/bin/catatonit -- /opt/rhapsody/libexec/entrypoint sh -c")
    assert done.stdout.endswith("\n/tmp\n")


async def test_signals_reach_the_command(image: str) -> None:
    name = "rhapsody-tests-signals"
    script = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    command = ["podman", "run", "--rm", "--name", name, *HARMLESS, image, "sh", "-c", script]
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"ready\n"

        run("podman", "kill", "--signal", "TERM", name)
        rest = await process.stdout.read()

    assert rest == b"got it\n"
    assert await process.wait() == 9


def test_mpi_of_the_machine_can_take_the_place_of_the_images(image: str) -> None:
    host = "/tmp/host"  # noqa: S108 - in the container
    look = "import mpi4py.MPI; print({l.split()[-1] for l in open('/proc/self/maps') if 'libmpi.so.12' in l})"
    other = f"mkdir {host} && cp -a /opt/rhapsody/lib/libmpi.so* /opt/rhapsody/lib/mpich {host}"

    own = podman(image, "python", "-c", look)
    replaced = podman(image, "sh", "-c", f'{other} && LD_LIBRARY_PATH={host} exec python -c "$0"', look)

    assert "/opt/rhapsody/lib/libmpi.so.12" in own.stdout, own.stderr
    assert f"{host}/libmpi.so.12" in replaced.stdout, replaced.stderr
    assert "/opt/rhapsody" not in replaced.stdout
