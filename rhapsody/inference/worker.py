"""An AI worker: a process that holds a loaded model and answers requests in batches, by OpenAI's interface.

    python -m rhapsody.inference.worker --model NAME --loader FILE|MODULE:FUNCTION --host H --port P --api-key-file FILE

A session runs it as a replica of a service, on the cores and GPUs of its slot, in whatever interpreter has the model's
libraries: of RHAPSODY it needs the package's folder on PYTHONPATH, and beside it aiohttp, msgspec, and cloudpickle for
a loader that was written to a file. What a model is: `rhapsody.inference.worker_model.Model`.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.errors import RhapsodyError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from rhapsody.inference.worker_serving import Ended

_BODY_LIMIT = 32 * 1024 * 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code if it came to nothing: 2 for wrong input, else 1.

    Otherwise this ends the process, with 0, or 1 if the model broke or answers were cut off.
    """
    options = _options().parse_args(argv)
    try:
        ended = asyncio.run(_serving()(options))
    except RhapsodyError as exc:
        sys.stderr.write(f"worker: {exc}\n")
        return 2 if isinstance(exc, SpecError) else 1
    if not ended.at_once:
        atexit._run_exitfuncs()  # noqa: SLF001 - what follows leaves them out
    sys.stdout.flush()
    sys.stderr.flush()
    # To take apart an interpreter that has torch in it takes seconds, and one whose model hangs never ends.
    os._exit(ended.code)


def _serving() -> Callable[[argparse.Namespace], Coroutine[Any, Any, Ended]]:
    try:
        from rhapsody.inference.worker_serving import run  # noqa: PLC0415
    except ImportError as exc:
        raise SpecError(f"{exc}; run: {sys.executable} -m pip install aiohttp msgspec cloudpickle") from exc
    return run


def _positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def positive(text: str) -> Any:  # noqa: ANN401 - of the kind
        number = kind(text)
        if not 0 < number < float("inf"):
            raise ValueError
        return number

    return positive


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError
    return seconds


def _options_of_loader(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError  # noqa: TRY004 - what argparse turns into its message
    return found


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rhapsody.inference.worker", description="Answer requests with a model, by OpenAI's interface."
    )
    add = parser.add_argument
    add("--model", required=True, metavar="NAME", help="the name by which requests ask for it")
    add("--loader", required=True, metavar="FILE|MODULE:FUNCTION", help="returns the model; a file's name has a slash")
    add("--loader-options", type=_options_of_loader, default={}, metavar="JSON", help="for the loader, by name")
    add("--host", default="127.0.0.1", help="where it listens (127.0.0.1); elsewhere a key must be given")
    add("--port", type=int, default=0, help="0, the default, takes a free one")
    add("--port-file", type=Path, metavar="FILE", help="gets the port once the model is loaded")
    add("--api-key-file", type=Path, metavar="FILE", help="key of its clients, mode 600; else $RHAPSODY_WORKER_API_KEY")
    add("--max-batch", type=_positive(int), default=32, metavar="N", help="most prompts in a batch (32)")
    add("--max-wait-ms", type=_seconds, default=5.0, metavar="MS", help="a batch waits so long for more (5)")
    add("--drain-s", type=_seconds, default=30.0, metavar="S", help="after SIGTERM answers may take so long (30)")
    add("--hang-s", type=_positive(float), default=600.0, metavar="S", help="a call that takes longer hangs (600)")
    add("--max-body-bytes", type=_positive(int), default=_BODY_LIMIT, metavar="N", help="longer requests are refused")
    return parser


if __name__ == "__main__":
    sys.exit(main())
