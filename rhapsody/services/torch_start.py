"""Starts PyTorch's launcher on one node, and says in a line what went wrong.

`PYTHON torch_start.py MODULES ARGUMENT…`: a script, for an interpreter that has torch and need not have RHAPSODY; so it
imports nothing of it. MODULES, with commas between, are those without which nothing is started. The arguments are those
of `torchrun`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

CHECKPOINTS = "RHAPSODY_CHECKPOINTS"
"""Names the folder in which a training saves what it has learnt, and from which it goes on."""
_SIGNAL_BASE = 128


def main() -> None:
    """Check, make the folder of checkpoints, and lead the processes of this node to their end."""
    modules, *arguments = sys.argv[1:]
    _forget_own_folder()
    _require(modules.split(","))
    os.makedirs(os.environ[CHECKPOINTS], mode=0o700, exist_ok=True)  # noqa: PTH103 - only what is loaded anyway
    _run(arguments)


def _forget_own_folder() -> None:
    """Look for no module beside this script: there lie some of ours that are called as others are, `vllm` for one."""
    own = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - as above
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != own]  # noqa: PTH100


def _require(modules: list[str]) -> None:
    import importlib.util  # noqa: PLC0415 - from the right place only by now

    for module in modules:
        if importlib.util.find_spec(module) is None:
            sys.exit(
                f"rhapsody: {sys.executable} has no module {module}; install it there, or name the interpreter of an"
                " environment that has it by python=…"
            )


def _run(arguments: list[str]) -> None:
    from torch.distributed import run  # noqa: PLC0415 - it was not known to be there
    from torch.distributed.elastic.multiprocessing.api import SignalException  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415

    try:
        run.run(run.parse_args(arguments))
    except ChildFailedError as exc:
        sys.exit(f"rhapsody: {_first(exc.failures)}")
    except SignalException as exc:
        sys.exit(_SIGNAL_BASE + exc.sigval)


def _first(failures: dict[int, Any]) -> str:
    """Return what the process did that failed first; those that were ended because of it come last."""
    rank = min(failures, key=lambda rank: (failures[rank].exitcode == -15, failures[rank].timestamp))
    code = failures[rank].exitcode
    how = f"was ended by signal {failures[rank].signal_name()}" if code < 0 else f"exited with code {code}"
    return f"process {rank} of the training {how} on {os.uname().nodename}; what it wrote stands above"


if __name__ == "__main__":
    main()
