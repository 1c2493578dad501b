"""The image as a file of Apptainer."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.containers.engine import CAMPAIGN, LIMIT_S, rhapsody_image, run

if TYPE_CHECKING:
    from collections.abc import Iterator

SOMEBODY = "games"
"""A user that Debian has, and that may do nothing."""


@pytest.mark.parametrize("backend", ["local", "dragon"])
def test_campaign_runs_where_it_lies(sif: Path, tmp_path: Path, backend: str) -> None:
    (tmp_path / "campaign.py").write_text(CAMPAIGN)
    command = ["rhapsody", "run", "campaign.py", "--backend", backend, "--cores", "2", "--quiet"]

    done = run("apptainer", "-q", "exec", "--pwd", str(tmp_path), "--bind", str(tmp_path), str(sif), *command)

    assert done.returncode == 0, done.stderr
    assert f"seen 285 [2, 2] {os.getuid()}\n" in done.stdout
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_trial_passes_by_both_commands(sif: Path) -> None:
    own = run("apptainer", "-q", "test", str(sif))
    code, said = rhapsody_image("test", str(sif))

    assert own.returncode == 0, own.stdout + own.stderr
    assert own.stdout.count("ok   ") == 5
    assert (code, said.count("ok   ")) == (0, 5)


def test_exit_code_is_that_of_the_command(sif: Path) -> None:
    assert run("apptainer", "-q", "run", str(sif), "sh", "-c", "exit 7").returncode == 7


def test_file_says_what_it_is(sif: Path) -> None:
    code, said = rhapsody_image("inspect", str(sif))

    assert code == 0
    assert "rhapsody: 0.1.0\n" in said
    assert "architecture: amd64\n" in said or "architecture: arm64\n" in said


@pytest.fixture
def someones(sif: Path) -> Iterator[Path]:
    """Yield a folder of another user's with the file and a campaign in it."""
    folder = Path(tempfile.mkdtemp(prefix="rhapsody-tests-", dir="/var/tmp"))
    (folder / "campaign.py").write_text(CAMPAIGN)
    shutil.copy(sif, folder / "rhapsody.sif")
    shutil.chown(folder, SOMEBODY)
    folder.chmod(0o755)

    yield folder

    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user; run the tests as root")
def test_campaign_runs_as_an_ordinary_user(someones: Path) -> None:
    user, here = pwd.getpwnam(SOMEBODY), str(someones)
    command = ["rhapsody", "run", "campaign.py", "--cores", "2", "--quiet"]

    done = subprocess.run(
        # Unpacked, since not every machine lets users mount it (/dev/fuse).
        [
            *("apptainer", "-q", "exec", "--unsquash", "--no-home", "--bind", here, "--pwd", here, "rhapsody.sif"),
            *command,
        ],
        cwd=someones,
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(someones), "TMPDIR": str(someones)},
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert f"seen 285 [2, 2] {user.pw_uid}\n" in done.stdout
