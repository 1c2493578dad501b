"""Ending a run from outside: what `rhapsody cancel` does."""

from __future__ import annotations

import math
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from rhapsody.cli.faults import OTHER_ERROR
from rhapsody.cli.progress import line_of
from rhapsody.cli.status_view import look_of
from rhapsody.cli.target import list_runs, runs_folder
from rhapsody.errors import SpecError
from rhapsody.node.processes import started_at
from rhapsody.session.lease import request_stop
from rhapsody.session.status import Condition, RunWatcher, glance

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rhapsody.model.event import State
    from rhapsody.session.lease import Holder
    from rhapsody.session.status import RunStatus

LOOK_EVERY_S = 0.2
LINE_EVERY_S = 2.0
PRESS_AFTER_S = 10.0
"""A process on this host that still runs the campaign then gets SIGTERM, too."""
_SHOWN = 5


def end_run(folder: Path, *, drain: bool, limit_s: float | None) -> int:
    """Ask a run to end, and wait until it has; return the exit code.

    Args:
        folder: The run folder.
        drain: What runs may end.
        limit_s: Wait no longer; None: do not wait.

    Raises:
        SpecError: The run cannot be asked from here.
    """
    watcher = RunWatcher(folder)
    found = watcher.look()
    if found.is_over or found.holder is None:
        click.echo(f"{found.uid} has {'crashed' if found.condition is Condition.CRASHED else 'ended'} already")
        return 0
    _ask(found, found.holder, drain=drain)
    if limit_s is None:
        return 0
    try:
        return _verdict(_follow(watcher, limit_s, press=not drain), limit_s)
    except KeyboardInterrupt:
        click.echo(f"not waiting any longer; {folder.name} ends without this command", err=True)
        return OTHER_ERROR


def only_running(runs: Path | None) -> Path:
    """Return the run that must be meant when none is named.

    Raises:
        SpecError: None is running, or more than one.
    """
    running = []
    for folder in list_runs(runs):
        with suppress(SpecError):  # what cannot be read is not guessed to be meant
            if not (found := glance(folder)).is_over:
                running.append(found)
    if len(running) == 1:
        return running[0].run_dir
    if not running:
        raise SpecError(f"no run in {runs_folder(runs)} is running; `rhapsody list` shows how they are")
    names = "".join(f"\n  {found.uid}" for found in running[:_SHOWN])
    more = f"\n  and {len(running) - _SHOWN} more" if len(running) > _SHOWN else ""
    raise SpecError(f"{len(running)} runs in {runs_folder(runs)} are running; say which is to end:{names}{more}")


def _ask(found: RunStatus, holder: Holder, *, drain: bool) -> None:
    """Leave the request in the run folder, where its session looks; one without a lease gets a signal instead.

    Never both: a session takes two requests to drain for one to stop, as it does Ctrl-C.
    """
    if holder.number:
        request_stop(found.run_dir, holder, drain=drain)
    elif not (holder.alive and _signal(holder, signal.SIGINT if drain else signal.SIGTERM)):
        raise SpecError(f"{found.uid} takes no requests through its folder; {found.why or 'it is just beginning'}")
    verb = "drain" if drain else "stop"
    click.echo(f"asked process {holder.pid} on {holder.host} to {verb} {found.uid}", err=True)


def _signal(holder: Holder, signum: signal.Signals) -> bool:
    """Send a signal to the holder's process and to none that has its pid by now; return whether it was there."""
    if started_at(holder.pid) != holder.started:
        return False
    try:
        os.kill(holder.pid, signum)
    except ProcessLookupError:
        return False
    except PermissionError as exc:
        raise SpecError(f"process {holder.pid} is not yours to end; ask whoever runs it") from exc
    return True


def _follow(watcher: RunWatcher, limit_s: float, *, press: bool) -> RunStatus:
    """Show what is left until the run has ended, or the time is over; return the last look."""
    began = time.monotonic()
    press_at_s = PRESS_AFTER_S if press else math.inf
    said: Mapping[State, int] = {}
    next_line_s = LINE_EVERY_S
    while True:
        found = watcher.look()
        waited_s = time.monotonic() - began
        if found.is_over or waited_s >= limit_s:
            return found
        if waited_s >= press_at_s and found.holder is not None and found.holder.alive:
            press_at_s = math.inf
            _signal(found.holder, signal.SIGTERM)
        if waited_s >= next_line_s and found.counts != said:
            said, next_line_s = found.counts, waited_s + LINE_EVERY_S
            click.echo(line_of(look_of(found), time.strftime("%H:%M:%S")), err=True)
        time.sleep(LOOK_EVERY_S)


def _verdict(found: RunStatus, limit_s: float) -> int:
    """Say how it came out; return the exit code."""
    if found.condition is Condition.CRASHED:
        click.echo(f"{found.uid} runs no more: {found.why}")
        return 0
    if found.is_over:
        states = ", ".join(f"{count} {state}" for state, count in found.counts.items()) or "no tasks"
        click.echo(f"{found.uid} has ended: {states}")
        return 0
    what = f"{sum(kind.tasks for kind in found.running)} tasks still run" if found.running else "it still runs"
    if found.condition is Condition.UNREACHABLE:
        what = found.why
    click.echo(f"Error: {found.uid} has not ended within {limit_s:g} s: {what};", err=True)
    click.echo(f"look at it: rhapsody status {found.run_dir}", err=True)
    return OTHER_ERROR
