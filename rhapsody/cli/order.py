"""What `rhapsody run` shall run: from the command line, and for a resumed run from what that was started with."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.cli.target import find_run
from rhapsody.errors import SpecError
from rhapsody.session.status import read_description

if TYPE_CHECKING:
    from collections.abc import Sequence

_KEPT = ("cores", "gpus", "backend", "placement")
"""Options that a resumed run takes over."""


@dataclass(frozen=True)
class RunOptions:
    """The options of `rhapsody run`, named as click passes them; None where not given."""

    cores: int | None
    gpus: int | None
    backend: str | None
    name: str | None
    placement: str | None
    runs: Path | None
    run_dir: Path | None
    walltime: float | None
    drain: float | None
    resume: str | None
    rerun_unknown: bool
    no_journal: bool
    quiet: bool
    as_json: bool

    def kept(self) -> dict[str, Any]:
        """Return what a resumed run takes over, of what was given."""
        return {name: value for name, value in asdict(self).items() if name in _KEPT and value is not None}


@dataclass(frozen=True)
class Order:
    """What to run.

    Attributes:
        file: The campaign.
        args: Passed to it.
        options: Of the command, completed.
        run_dir: The run to go on with, or None.
    """

    file: Path
    args: Sequence[str]
    options: RunOptions
    run_dir: Path | None = None


def order_for(file: Path | None, args: Sequence[str], options: RunOptions) -> Order:
    """Return what the command line asks for.

    Raises:
        SpecError: There is no such run, or it does not say what it ran.
    """
    if options.resume is None:
        if file is None or options.rerun_unknown:
            raise SpecError("--rerun-unknown belongs to --resume TARGET" if file else "give a campaign file")
        return Order(file, args, options)
    run_dir = find_run(options.resume, options.runs)
    earlier = read_description(run_dir)
    if file is None:
        if not isinstance(earlier.get("campaign"), str):
            raise SpecError(
                f"{run_dir} does not say which campaign it ran; give the file: rhapsody run --resume … FILE"
            )
        file, args = Path(earlier["campaign"]), args or earlier.get("args", [])
    taken = {name: value for name, value in earlier.get("options", {}).items() if name in _KEPT}
    missing = {name: value for name, value in taken.items() if getattr(options, name) is None}
    return Order(file, args, replace(options, **missing), run_dir)
