"""Starting ranks on one node through `mpiexec`, each bound to its slot.

Open MPI and MPICH's Hydra are told apart by what `mpiexec --version` prints. Neither may bind by itself: a small script
(`rank.py`) binds each rank to the cores of its slot before it becomes the program.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.backends.rank import LOCAL_BASE, PASSED
from rhapsody.errors import SpecError
from rhapsody.node.private_folder import SAME_ON_ALL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_RANK_SCRIPT = str(Path(__file__).with_name("rank.py"))
_AS_ROOT = ["--allow-run-as-root"] if os.geteuid() == 0 else []


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


class RankSlot(NamedTuple):
    """Where one rank runs.

    Attributes:
        host: Name of its node; all empty, or all equal, for the node on which the launcher is started.
        cpus: Numbers of its CPUs there.
        gpus: Value of the variable that makes GPUs visible.
    """

    host: str
    cpus: Sequence[int]
    gpus: str


def spans(slots: Sequence[RankSlot]) -> bool:
    """Return whether ranks are placed on more than one node."""
    return any(slot.host != slots[0].host for slot in slots)


def command(found: Launcher, program: Sequence[str], slots: Sequence[RankSlot], gpu_variable: str) -> list[str]:
    """Return the command line that starts one rank per slot; it is for the node of rank 0.

    Args:
        found: The launcher.
        program: What each rank becomes.
        slots: One per rank, in their order.
        gpu_variable: Variable that makes GPUs visible; empty leaves them as they are.
    """
    rank = [sys.executable, "-I", "-S", _RANK_SCRIPT, _binding(slots), gpu_variable, *program]
    flags = _flags_of_several(found, slots) if spans(slots) else _flags(found, len(slots))
    return [found.path, "-n", str(len(slots)), *flags, *rank]


def _binding(slots: Sequence[RankSlot]) -> str:
    """Return what `rank.py` reads; nodes that are alike are written once: one argument has 128 KiB at most."""
    nodes = (
        ";".join(f"{','.join(map(str, slot.cpus))}:{slot.gpus}" for slot in ranks)
        for _, ranks in groupby(slots, key=attrgetter("host"))
    )
    return "/".join(f"{sum(1 for _ in alike)}*{node}" for node, alike in groupby(nodes))


def _flags(found: Launcher, ranks: int) -> list[str]:
    # Source: mpiexec(1) of Open MPI 4.1 and 5.0, `mpiexec -help` of MPICH 4.0; checked 2026-11.
    if found.flavor == "hydra":
        return ["-launcher", "fork", "-hosts", f"localhost:{ranks}", "-bind-to", "none"]
    return ["--host", f"localhost:{ranks}", "--oversubscribe", "--bind-to", "none", *_AS_ROOT]


def _flags_of_several(found: Launcher, slots: Sequence[RankSlot]) -> list[str]:
    # Source: as above; tried with Open MPI 4.1.4 and 5.0.11, MPICH 4.0.2 and 5.0.2.
    runs = [(host, sum(1 for _ in ranks)) for host, ranks in groupby(slot.host for slot in slots)]
    hosts = ",".join(f"{host}:{count}" for host, count in runs)
    if found.flavor == "hydra":  # its own environment is not for other nodes: $TMPDIR, for one, is not there
        return ["-launcher", "ssh", "-hosts", hosts, "-bind-to", "none", "-genvnone"]
    order = "slot"
    if len({host for host, _ in runs}) < len(runs):  # a node comes twice: only this mapper takes hosts as they come
        order, hosts = "seq", ",".join(slot.host for slot in slots)
    return ["--host", hosts, "--map-by", f"{order}:oversubscribe", "--bind-to", "none", *_AS_ROOT]


def environment(
    found: Launcher, folder: Path, *, yielding: bool, ssh: str = "", task: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return variables for the launcher.

    Args:
        found: The launcher.
        folder: Gets the launcher's own files; of this run alone, on this node. Launchers of Open MPI 4 that share one
            now and then fail with "orte_session_dir failed". Source: open-mpi/ompi issue 3818, idaholab/moose issue
            24459; 2026-11.
        yielding: Ranks that wait give their CPU to others: they share it.
        ssh: For ranks on several nodes: what `ssh_of_job` returns.
        task: For ranks on several nodes: the task's own variables, which other nodes would not have. `rank.py` gives
            them their names back: of what launchers pass on, either the values can be seen or, with MPICH 4, some are
            forgotten.
    """
    own = {} if found.flavor == "hydra" else {"OMPI_MCA_mpi_yield_when_idle": "1" if yielding else "0"}
    if ssh:
        return own | _over_ssh(found, str(folder), ssh) | {PASSED + name: value for name, value in (task or {}).items()}
    if found.flavor == "hydra":
        return own
    return own | {
        "OMPI_MCA_orte_tmpdir_base": str(folder),
        "PRTE_MCA_prte_tmpdir_base": str(folder),
        "OMPI_MCA_btl_vader_backing_directory": str(folder),
        "OMPI_MCA_btl_sm_backing_directory": str(folder),
    }


def _over_ssh(found: Launcher, folder: str, ssh: str) -> dict[str, str]:
    """Return variables by which a launcher reaches other nodes by `ssh`, and asks no batch system."""
    if found.flavor == "hydra":
        return {"HYDRA_RMK": "user", "HYDRA_LAUNCHER_EXEC": ssh}
    # Source: `ompi_info --all` of 4.1.4, `prte_info --all` of 5.0.11; checked 2026-11.
    batch_systems = "^slurm,tm,pbs,lsf,gridengine,alps,flux"
    return {
        LOCAL_BASE: folder,
        "PRTE_MCA_prte_local_tmpdir_base": folder,
        # It would die of the SIGHUP that follows when its `ssh` is killed, before it has ended its ranks.
        "OMPI_MCA_orte_launch_agent": "nohup orted",
        "OMPI_MCA_plm": "rsh",
        "PRTE_MCA_plm": "ssh",
        "OMPI_MCA_plm_rsh_agent": ssh,
        "PRTE_MCA_plm_ssh_agent": ssh,
        "OMPI_MCA_plm_rsh_disable_qrsh": "1",
        "PRTE_MCA_plm_ssh_disable_qrsh": "1",
        "OMPI_MCA_ras": batch_systems,
        "PRTE_MCA_ras": batch_systems,
    }


def ssh_of_job(search_path: str) -> str:
    """Return the `ssh` to the agents of other nodes, by a path that is right on each of them.

    By its name alone another may be found: a task may set PATH, and launchers put their own folder first on it.

    Args:
        search_path: The PATH on which the agent of this node has put it; without an agent, `ssh` is all that is known.
    """
    for folder in search_path.split(os.pathsep):
        path = Path(folder, "ssh")
        with suppress(OSError, UnicodeDecodeError):  # it is not there, or a program
            if path.stat().st_size == len(SAME_ON_ALL) and path.read_text() == SAME_ON_ALL:
                return str(path)
    return "ssh"
