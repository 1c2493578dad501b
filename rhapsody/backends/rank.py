"""Started by `mpiexec` once per rank: binds this rank to its slot, then becomes the program.

Runs as a script, isolated (`python -I -S`): only `os` and `sys`, a few milliseconds. Its arguments are the slots of all
ranks, the variable that makes GPUs visible, then the program. Slots are `cpus:gpus` separated by `;` for a node, before
it how many such nodes follow one another and `*`, and nodes are separated by `/`: `2*0,1:0;2,3:1` are four ranks.
"""

import os
import sys

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
"""Where launchers tell the rank. Source: Open MPI 4.1 FAQ, MPICH Hydra wiki, srun(1); checked 2026-11."""
PASSED = "RHAPSODY_PASSED_"
"""How the variables of a task begin on their way to other nodes."""
LOCAL_BASE = "OMPI_MCA_orte_local_tmpdir_base"
"""Said to Open MPI 4's launcher, which hands it on to ranks beside what it has made of it; they refuse to have both."""

SESSIONS = "OMPI_MCA_orte_top_session_dir"
"""Folder of all of Open MPI 4's daemons on a node. Each removes it at its end if it is empty, perhaps while another
makes its own in it, which then fails: so it is kept until the agent of the node removes it."""


def main() -> None:
    """Bind and become the program."""
    slots, gpu_variable, *program = sys.argv[1:]
    os.environ.pop(LOCAL_BASE, None)
    if SESSIONS in os.environ:
        os.makedirs(os.path.join(os.environ[SESSIONS], "kept"), exist_ok=True)  # noqa: PTH103, PTH118 - only `os` here
    for name in [name for name in os.environ if name.startswith(PASSED)]:
        os.environ[name[len(PASSED) :]] = os.environ.pop(name)
    found = [os.environ[name] for name in RANK_VARIABLES if name in os.environ]
    if not found:
        sys.exit(f"none of {', '.join(RANK_VARIABLES)} is set: the MPI launcher did not say which rank this is")
    rank = int(found[0])
    parts: list[str] = []
    for nodes in slots.split("/"):
        count, _, node = nodes.partition("*")
        parts += node.split(";") * int(count)
    cpus, _, gpus = parts[rank].partition(":")
    os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    os.environ["RHAPSODY_RANK"] = str(rank)
    os.environ["RHAPSODY_RANKS"] = str(len(parts))
    if gpu_variable:
        os.environ[gpu_variable] = gpus
    try:
        os.execvp(program[0], program)  # noqa: S606 - becoming the user's program is the purpose
    except OSError as exc:
        sys.exit(f"{program[0]} did not start on rank {rank}: {exc.strerror}")


if __name__ == "__main__":
    main()
