"""Starting ranks on one node through `mpiexec`, each bound to its slot.

Open MPI and MPICH's Hydra are told apart by what `mpiexec --version` prints. Neither may bind by itself: a small script
(`rank.py`) binds each rank to the cores of its slot before it becomes the program.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from rhapsody.errors import SpecError

_RANK_SCRIPT = str(Path(__file__).with_name("rank.py"))


class Launcher(NamedTuple):
    """An MPI launcher that was found.

    Attributes:
        path: Of `mpiexec`.
        flavor: `openmpi` or `hydra`.
        version: First line of what it says of itself.
    """

    path: str
    flavor: str
    version: str


@lru_cache(maxsize=8)
def find_launcher(search_path: str) -> Launcher:
    """Return the MPI launcher on a search path.

    Raises:
        SpecError: There is none, or it is of a kind that is not known.
    """
    path = shutil.which("mpiexec", path=search_path)
    if path is None:
        raise SpecError(
            "the task asks for MPI (ranks above 1), but no mpiexec is on PATH; install MPI"
            " (Debian: apt-get install openmpi-bin) or load your site's MPI module"
        )
    try:
        said = subprocess.run(  # noqa: S603 - the launcher that PATH names
            [path, "--version"], capture_output=True, text=True, timeout=30, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise SpecError(f"{path} --version failed: {exc}") from exc
    version = said.strip().partition("\n")[0]
    if "Open MPI" in said or "OpenRTE" in said or "PRRTE" in said:
        return Launcher(path, "openmpi", version)
    if "HYDRA" in said or "Intel" in said:
        return Launcher(path, "hydra", version)
    raise SpecError(f"{path} is neither Open MPI's nor MPICH's launcher: it says {version!r}")


def launcher() -> Launcher:
    """Return the MPI launcher on this process's PATH; see `find_launcher`."""
    return find_launcher(os.environ.get("PATH", os.defpath))


def command(found: Launcher, program: list[str], slots: list[tuple[list[int], str]], gpu_variable: str) -> list[str]:
    """Return the command line that starts one rank per slot on this node.

    Args:
        found: The launcher.
        program: What each rank becomes.
        slots: For each rank its CPU numbers, and the value of the GPU variable.
        gpu_variable: Variable that makes GPUs visible; empty leaves them as they are.
    """
    binding = ";".join(f"{','.join(map(str, cpus))}:{gpus}" for cpus, gpus in slots)
    rank = [sys.executable, "-I", "-S", _RANK_SCRIPT, binding, gpu_variable, *program]
    return [found.path, "-n", str(len(slots)), *_flags(found, len(slots)), *rank]


def _flags(found: Launcher, ranks: int) -> list[str]:
    # Source: mpiexec(1) of Open MPI 4.1 and 5.0, `mpiexec -help` of MPICH 4.0; checked 2026-11.
    if found.flavor == "hydra":
        return ["-launcher", "fork", "-hosts", f"localhost:{ranks}", "-bind-to", "none"]
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return ["--host", f"localhost:{ranks}", "--oversubscribe", "--bind-to", "none", *root]


def environment(found: Launcher, folder: Path, *, yielding: bool) -> dict[str, str]:
    """Return variables for the launcher.

    Args:
        found: The launcher.
        folder: Gets the launcher's own files; of this run alone. Launchers of Open MPI 4 that share one now and then
            fail with "orte_session_dir failed". Source: open-mpi/ompi issue 3818, idaholab/moose issue 24459; 2026-11.
        yielding: Ranks that wait give their CPU to others: they share it.
    """
    if found.flavor == "hydra":
        return {}
    return {
        "OMPI_MCA_mpi_yield_when_idle": "1" if yielding else "0",
        "OMPI_MCA_orte_tmpdir_base": str(folder),
        "PRTE_MCA_prte_tmpdir_base": str(folder),
        "OMPI_MCA_btl_vader_backing_directory": str(folder),
        "OMPI_MCA_btl_sm_backing_directory": str(folder),
    }
