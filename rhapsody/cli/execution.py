"""A campaign from file to exit code: load it, call it with a session, say how it ended."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from rhapsody.cli import summary
from rhapsody.cli.campaign import load_campaign
from rhapsody.cli.faults import OTHER_ERROR, OUT_OF_TIME, exit_code_of, explain
from rhapsody.cli.order import Order, RunOptions, order_for
from rhapsody.cli.progress import progress_for
from rhapsody.errors import RhapsodyError, SessionClosedError, TaskCanceled
from rhapsody.model.policy import Policy
from rhapsody.session.session import Session
from rhapsody.session.signals import Interrupts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rhapsody.cli.campaign import Campaign
    from rhapsody.cli.progress import Progress

_DRAINED = (SessionClosedError, TaskCanceled)
"""What a campaign raises because nothing new starts."""
_INTERRUPTED = (*_DRAINED, asyncio.CancelledError, KeyboardInterrupt)
"""What it raises because of that, or because it was stopped."""


@dataclass
class Outcome:
    """How a campaign ended.

    Attributes:
        session: Closed by now.
        opened: Whether the session came up, so that there is a run folder.
        error: What left the campaign; None if it returned, and for what only follows from an interruption.
        interrupted: Whether Ctrl-C or SIGTERM was heard.
        cut_short: Whether the campaign ended because time ran out.
        wall_s: Seconds from before the session opened until it was closed.
    """

    session: Session
    opened: bool = False
    error: BaseException | None = None
    interrupted: bool = False
    cut_short: bool = False
    wall_s: float = 0.0

    @property
    def exit_code(self) -> int:
        """Exit code of the command; one that the campaign gave to `sys.exit` stands."""
        if isinstance(self.error, SystemExit):
            code = self.error.code
            return code if isinstance(code, int) else OTHER_ERROR
        if self.error is not None:
            return exit_code_of(self.error)
        if self.not_finished:
            return OUT_OF_TIME
        return OTHER_ERROR if self.interrupted or self.session.unseen_failures else 0

    @property
    def not_finished(self) -> bool:
        """Whether something was left undone because time ran out, and for no other reason."""
        return self.error is None and not self.interrupted and (self.cut_short or self.session.left_undone > 0)


def run_campaign(path: Path | None, args: Sequence[str], options: RunOptions) -> int:
    """Run a campaign file, tell the user how it goes and ended, and return the command's exit code.

    Args:
        path: The file; None for that of the run which is resumed.
        args: Passed to the campaign.
        options: Of the command.
    """
    campaign_prints_to = redirect_stdout(sys.stderr) if options.as_json else nullcontext()
    file = path
    try:
        order = order_for(path, args, options)
        file = order.file.resolve()
        with campaign_prints_to, progress_for(file.name, quiet=options.quiet) as progress:
            campaign = load_campaign(order.file)
            session = _session_for(order, progress)
            outcome = asyncio.run(execute(campaign, order.args, session, progress))
    except RhapsodyError as exc:
        click.echo(f"Error: {explain(exc, file)}", err=True)
        return exit_code_of(exc)
    _tell(outcome, file, options)
    return outcome.exit_code


def _session_for(order: Order, progress: Progress) -> Session:
    options = order.options
    return Session(
        backend=options.backend,
        cores=options.cores,
        gpus=options.gpus,
        policy=Policy(placement=options.placement),
        name=options.name or order.file.stem,
        runs=options.runs,
        journal=not options.no_journal,
        notify=progress.say,
        walltime_s=options.walltime,
        drain_s=options.drain,
        resume=order.run_dir,
        run_dir=options.run_dir,
        rerun_unknown=options.rerun_unknown,
        facts={"campaign": str(order.file.absolute()), "args": list(order.args), "options": options.kept()},
    )


def _tell(outcome: Outcome, file: Path, options: RunOptions) -> None:
    error = summary.error_text(outcome, file)
    if error:
        click.echo(f"Error: {error}\n", err=True)
    if outcome.opened and options.as_json:
        click.echo(summary.as_json(outcome, error))
    elif outcome.opened and not options.quiet:
        click.echo(summary.table(outcome), err=True)
    if verdict := summary.verdict(outcome):
        click.echo(verdict if outcome.not_finished else f"Error: {verdict}", err=True)


async def execute(campaign: Campaign, args: Sequence[str], session: Session, progress: Progress) -> Outcome:
    """Open the session, call the campaign, wait for its tasks and close the session; what is raised is in the outcome.

    Args:
        campaign: The coroutine function of the campaign file.
        args: Passed on to it.
        session: Not open yet.
        progress: Shows how far it is.
    """
    outcome = Outcome(session)
    caller = asyncio.current_task()
    began = time.monotonic()

    def interrupted() -> None:
        outcome.interrupted = True
        if not outcome.opened and caller is not None:
            caller.cancel()  # an open session hears the signal itself

    def ran_out() -> None:
        if not outcome.opened and caller is not None:
            outcome.cut_short = True
            caller.cancel()

    def last_words(error: BaseException | None) -> dict[str, object]:
        _judge(outcome, error)
        return {"exit_code": outcome.exit_code, "interrupted": outcome.interrupted}

    session.last_words = last_words
    try:
        with Interrupts(interrupted, interrupted, ran_out), progress.watching(session):
            async with session:
                outcome.opened = True
                progress.remark(_opening_line(session))
                await _call(campaign, args, outcome)
    except BaseException as exc:  # noqa: BLE001 - a campaign may raise anything; the command says it and ends
        _judge(outcome, exc)
    outcome.wall_s = time.monotonic() - began
    return outcome


def _judge(outcome: Outcome, error: BaseException | None) -> None:
    """Take what left the campaign or the session; what only follows from an interruption is no error."""
    outcome.interrupted |= outcome.session.interrupted
    if error is None:
        return
    outcome.interrupted |= isinstance(error, KeyboardInterrupt)  # it broke into a blocked loop
    follows = _is_nothing_but(_INTERRUPTED, error)
    outcome.cut_short |= outcome.session.out_of_time and follows
    if not (_is_clean_exit(error) or ((outcome.interrupted or outcome.cut_short) and follows)):
        outcome.error = error


async def _call(campaign: Campaign, args: Sequence[str], outcome: Outcome) -> None:
    """Call the campaign; return normally where only the draining made it fail, so that running tasks may end."""
    try:
        await campaign(outcome.session, list(args))
    except Exception as exc:  # a campaign may raise anything; only what follows from draining is taken
        outcome.interrupted |= outcome.session.interrupted
        if not ((outcome.interrupted or outcome.session.out_of_time) and _is_nothing_but(_DRAINED, exc)):
            raise
        outcome.cut_short = outcome.session.out_of_time


def _opening_line(session: Session) -> str:
    allocation = session.allocation
    nodes = f"nodes: {len(allocation.nodes)}, " if len(allocation.nodes) > 1 else ""
    cores, gpus = allocation.usable_cores, allocation.gpus
    return f"{session.backend_name} backend, {nodes}cores: {cores}, GPUs: {gpus}, run folder {session.run_dir}"


def _is_clean_exit(error: BaseException) -> bool:
    return isinstance(error, SystemExit) and error.code in (None, 0)


def _is_nothing_but(kinds: tuple[type[BaseException], ...], error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(kinds)[1] is None
    return isinstance(error, kinds)
