"""Loads a campaign file: from a path on the command line to the coroutine function in it."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from typing import TYPE_CHECKING, Any

from rhapsody.backends.campaign_module import FILE_VARIABLE
from rhapsody.cli.faults import trimmed_traceback
from rhapsody.errors import SpecError
from rhapsody.model.campaign import CAMPAIGN_MODULE
from rhapsody.session.campaign_file import SIGNATURE, existing_campaign

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path
    from types import ModuleType

    from rhapsody.session.session import Session

    Campaign = Callable[[Session, list[str]], Coroutine[Any, Any, object]]

_NAMES_SHOWN = 5


def load_campaign(path: Path) -> Campaign:
    """Import a campaign file and return its `campaign`.

    Afterwards the file is the module `rhapsody_campaign`, its folder is the first on `sys.path`, as for a script, and
    `RHAPSODY_CAMPAIGN_FILE` tells workers where to import the module from.

    Raises:
        SpecError: There is no such file, it does not import, or it has no coroutine function `campaign` of two
            arguments.
    """
    file = existing_campaign(path).resolve()
    return _campaign_of(_import(file), file)


def _import(file: Path) -> ModuleType:
    os.environ[FILE_VARIABLE] = str(file)
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(CAMPAIGN_MODULE, file)
    if spec is None or spec.loader is None:
        raise SpecError(f"campaign file {file} cannot be imported by this Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[CAMPAIGN_MODULE] = module
    try:
        spec.loader.exec_module(module)
    except SpecError:
        raise
    except (Exception, SystemExit) as exc:
        raise SpecError(f"campaign file {file} does not import:\n{trimmed_traceback(exc)}") from exc
    return module


def _campaign_of(module: ModuleType, file: Path) -> Campaign:
    campaign = getattr(module, "campaign", None)
    if campaign is None:
        raise SpecError(f"campaign file {file} has no `campaign`{_coroutines_in(module)}; write `{SIGNATURE}` in it")
    if not inspect.iscoroutinefunction(campaign):
        raise SpecError(f"{_where(campaign, file)}: `campaign` {_what_is(campaign)}; write `{SIGNATURE}`")
    try:
        inspect.signature(campaign).bind(None, [])
    except TypeError as exc:
        found = f"campaign{inspect.signature(campaign)}"
        raise SpecError(
            f"{_where(campaign, file)}: `{found}` cannot be called with (session, args): {exc}; write `{SIGNATURE}`"
        ) from exc
    return campaign  # type: ignore[no-any-return]  # what it returns is not looked at


def _where(campaign: object, file: Path) -> str:
    code = getattr(inspect.unwrap(campaign) if callable(campaign) else campaign, "__code__", None)
    return f"{file}:{code.co_firstlineno}" if code is not None else str(file)


def _what_is(campaign: object) -> str:
    if inspect.isasyncgenfunction(campaign):
        return "has a `yield` in it, which makes it a generator"
    if inspect.isfunction(campaign):
        return "is a plain `def`, it must be `async def`"
    return f"is a {type(campaign).__name__}, it must be a function made by `async def`"


def _coroutines_in(module: ModuleType) -> str:
    names = [
        f"`async def {name}`"
        for name, value in vars(module).items()
        if inspect.iscoroutinefunction(value) and value.__module__ == CAMPAIGN_MODULE
    ]
    return f", but {', '.join(names[:_NAMES_SHOWN])}" if names else ""
