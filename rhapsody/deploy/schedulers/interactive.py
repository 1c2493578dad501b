"""What a rendered script asks for, as words for a command that gets an interactive allocation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

SLURM_DROPS = frozenset(
    {
        "array",
        "batch",
        "begin",
        "deadline",
        "dependency",
        "error",
        "export",
        "export-file",
        "ignore-pbs",
        "input",
        "kill-on-invalid-dep",
        "mail-type",
        "mail-user",
        "no-kill",
        "no-requeue",
        "open-mode",
        "output",
        "parsable",
        "propagate",
        "requeue",
        "signal",
        "test-only",
        "wait",
        "wrap",
    }
)
"""What makes no sense at a prompt, and what salloc does not know. Source: sbatch(1) and salloc(1) of Slurm 22.05."""

PBS_DROPS = frozenset("jJoeMmWkr")
"""Output, mail, dependencies and reruns. Source: qsub(1B) of OpenPBS 23.06."""


def slurm_words(script_text: str) -> list[str]:
    """Return the `#SBATCH` lines of a script as options of salloc.

    Raises:
        SpecError: A line has no long option.
    """
    words = []
    for line in _directives(script_text, "#SBATCH"):
        if not line.startswith("--") or len(line) < 3:
            raise SpecError(f"#SBATCH {line}: a long option is expected, such as --nodes=2; mend the script")
        if line[2:].partition("=")[0] not in SLURM_DROPS:
            words.append(line)
    return words


def pbs_words(script_text: str) -> list[str]:
    """Return the `#PBS` lines of a script as options of qsub.

    Raises:
        SpecError: A line has no option.
    """
    words = []
    for line in _directives(script_text, "#PBS"):
        if not line.startswith("-") or line[1:2] in {"", "-", " "}:
            raise SpecError(f"#PBS {line}: an option is expected, such as -l select=2; mend the script")
        option, _, value = line.partition(" ")
        if option[1] not in PBS_DROPS:
            words += [option, value.strip()] if value.strip() else [option]
    return words


def _directives(script_text: str, mark: str) -> Iterator[str]:
    """Yield what stands behind the mark, up to the first command: batch systems ignore what comes later."""
    for line in script_text.splitlines():
        if line.startswith(f"{mark} "):
            yield line.removeprefix(mark).strip()
        elif line.strip() and not line.startswith("#"):
            return
