"""A stand-in for a model server such as vLLM, where there is no GPU.

    python -m rhapsody.inference.engine_sim --port 0 --port-file FILE --model NAME --api-key-file FILE

It speaks OpenAI's interface and answers at the pace of a stated timing model, with texts that no model has made.
Nothing that it shows is measured; see `rhapsody.inference.engine_model` for what is assumed.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from rhapsody.errors import RhapsodyError, SpecError
from rhapsody.inference.engine_model import EngineModel
from rhapsody.inference.engine_settings import KEY_VARIABLE, StandInSettings, read_key
from rhapsody.node.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

DRAIN_S = 30.0


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C, and return the exit code: 2 for wrong input, 1 if answers were cut off."""
    options = _options().parse_args(argv)
    try:
        return asyncio.run(_serve(_settings(options), options.port_file, options.drain_s))
    except RhapsodyError as exc:
        sys.stderr.write(f"stand-in: {exc}\n")
        return 2 if isinstance(exc, SpecError) else 1


async def _serve(settings: StandInSettings, port_file: Path | None, drain_s: float) -> int:
    try:
        from rhapsody.inference.engine_http import serving  # noqa: PLC0415 - needs aiohttp
    except ImportError as exc:
        raise SpecError(f"{exc}; install what it needs: pip install 'rhapsody-hpc[vllm]'") from exc
    told_to_end, at_once = asyncio.Event(), asyncio.Event()

    def hear() -> None:
        (at_once if told_to_end.is_set() else told_to_end).set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, hear)
    async with serving(settings) as stand_in:
        if port_file is not None:
            _tell_port(port_file, stand_in.port)
        sys.stderr.write(f"stand-in: {settings.shown_model} at {stand_in.url}; its answers and times are no model's\n")
        await told_to_end.wait()
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(at_once.wait())
            drain = group.create_task(stand_in.drain(drain_s))
            await asyncio.wait({watch, drain}, return_when=asyncio.FIRST_COMPLETED)
            watch.cancel()
            drain.cancel()
        left = stand_in.active
        if left:
            sys.stderr.write(f"stand-in: requests cut off: {left}\n")
    return 1 if left else 0


def _tell_port(file: Path, port: int) -> None:
    try:
        write_whole(file, f"{port}\n".encode())
    except OSError as exc:
        raise SpecError(f"cannot write the port to {file}: {exc.strerror}; name a file in a folder of yours") from exc


def _settings(options: argparse.Namespace) -> StandInSettings:
    given = {name: value for name, value in vars(options).items() if value is not None}
    fields = {name: given[name] for name in ("model", "speed", "max_body_bytes", "host", "port") if name in given}
    faults = {name: given[name] for name in ("fail_after", "hang_after", "delay_s", "reorder") if name in given}
    engine = {name: given[name] for name in EngineModel.model_fields if name in given}
    key = read_key(options.api_key_file)
    try:
        return StandInSettings.model_validate({**fields, "faults": faults, "engine": engine, "key": key})
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        raise SpecError(f"{' '.join(map(str, first['loc']))}: {first['msg']}; see --help") from exc


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError
    return seconds


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rhapsody.inference.engine_sim",
        description="A stand-in for a model server: OpenAI's interface, stated times, texts that no model has made.",
    )
    add = parser.add_argument
    add("--model", metavar="NAME", help="what it stands for; it calls itself stand-in/NAME")
    add("--host", help="where it listens (127.0.0.1); elsewhere a key must be given")
    add("--port", type=int, help="0, the default, takes a free one")
    add("--port-file", type=Path, metavar="FILE", help="gets the port once it listens")
    add("--api-key-file", type=Path, metavar="FILE", help=f"key of its clients, mode 600; else ${KEY_VARIABLE}")
    add("--speed", type=float, metavar="X", help="virtual seconds in a real one (1)")
    add(
        "--drain-s",
        type=float,
        default=DRAIN_S,
        metavar="S",
        help=f"after SIGTERM answers may take so long ({DRAIN_S:g})",
    )
    add("--max-body-bytes", type=int, metavar="N", help="longer requests are refused (4 MiB)")
    model = parser.add_argument_group("timing model", "assumptions, see rhapsody/inference/engine_model.py")
    for name, about in EngineModel.model_fields.items():
        kind = float if name.endswith("_s") or name.startswith("s_per_") else int
        model.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="X", help=f"default {about.default}")
    faults = parser.add_argument_group("faults", "for tests only").add_mutually_exclusive_group()
    faults.add_argument("--fail-after", type=int, metavar="N", help="for tests: status 500 after N requests")
    faults.add_argument("--hang-after", type=int, metavar="N", help="for tests: no answer after N requests")
    add("--delay-s", type=float, metavar="S", help="for tests: each request waits so long")
    add("--reorder", action="store_true", default=None, help="for tests: answers go out in another order")
    return parser


if __name__ == "__main__":
    sys.exit(main())
