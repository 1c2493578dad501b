"""Commands for interactive allocations, from the lines of scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rhapsody.deploy.schedulers.pbs import Pbs
from rhapsody.deploy.schedulers.slurm import Slurm
from rhapsody.errors import SpecError

SCRIPTS = sorted((Path(__file__).parents[3] / "golden/scripts").glob("*.sh"))
SLURM = """\
#!/bin/bash -l
#SBATCH --job-name=demo
#SBATCH --account=research
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --dependency=afterany:1
#SBATCH --mail-user=ada@example.org
#SBATCH --mail-type=END
#SBATCH --output=/runs/%j.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --no-kill

# Written by RHAPSODY
echo hello
#SBATCH --nodes=9
"""
PBS = """\
#!/bin/bash -l
#PBS -N demo
#PBS -A research
#PBS -l select=2:system=polaris
#PBS -l walltime=01:00:00
#PBS -k doe
#PBS -r y
#PBS -V
#PBS -W depend=afterany:1
#PBS -M ada@example.org
#PBS -m abe
#PBS -j oe
#PBS -o /runs

set -u
#PBS -l select=9
"""


def test_salloc_gets_what_makes_sense_at_a_prompt() -> None:
    words = Slurm().interactive(SLURM)

    assert words == ["salloc", "--job-name=demo", "--account=research", "--nodes=2", "--exclusive"]


def test_qsub_gets_what_makes_sense_at_a_prompt() -> None:
    words = Pbs().interactive(PBS)

    assert words[:6] == ["qsub", "-I", "-N", "demo", "-A", "research"]
    assert words[6:] == ["-l", "select=2:system=polaris", "-l", "walltime=01:00:00", "-V"]


@pytest.mark.parametrize("line", ["rm -rf x", "-N 2", "--"])
def test_a_line_without_long_option_is_no_word_for_salloc(line: str) -> None:
    with pytest.raises(SpecError, match="a long option is expected"):
        Slurm().interactive(f"#!/bin/bash\n#SBATCH {line}\n")


@pytest.mark.parametrize("line", ["rm -rf x", "--help", "- x"])
def test_a_line_without_option_is_no_word_for_qsub(line: str) -> None:
    with pytest.raises(SpecError, match="an option is expected"):
        Pbs().interactive(f"#!/bin/bash\n#PBS {line}\n")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_script_of_every_site_becomes_a_command(path: Path) -> None:
    text = path.read_text()

    words = Slurm().interactive(text) if "#SBATCH" in text else Pbs().interactive(text)

    assert any("walltime=" in word or word.startswith("--time=") for word in words)
    assert not [word for word in words if word.startswith(("--output", "--signal", "--no-requeue", "-o", "-j", "-k"))]
