"""Two processes for each agent, so that whichever is killed, the other ends all that was started and clears up.

The first one, which the launcher knows, starts the agent as its child, hands it signals and returns its exit code. The
agent notices when the first is gone; the first adopts what a killed agent leaves.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from rhapsody.errors import RhapsodyError, SpecError
from rhapsody.node.agent import HEARD, Agent
from rhapsody.node.private_folder import PrivateFolder
from rhapsody.node.processes import adopt_orphans, describe_exit, end_children
from rhapsody.node.traces import files_in, note_new, watched_folders

if TYPE_CHECKING:
    from rhapsody.node.plan import Plan


def keep(plan: Plan) -> int:
    """Run an agent to its end; return its exit code.

    Raises:
        SpecError: There is no place for its folder.
    """
    adopt_orphans()
    before = files_in(watched_folders()).keys()
    folder = PrivateFolder.make()
    signal.pthread_sigmask(signal.SIG_BLOCK, {*HEARD, signal.SIGCHLD})
    keeper = os.getpid()
    agent = os.fork()
    if agent == 0:
        _be_agent(plan, folder, keeper)
    try:
        code, was_killed = _wait(agent)
        if was_killed:
            note_new(folder.traces, watched_folders(), before)
        return code
    finally:
        end_children()
        folder.clear()


def _wait(agent: int) -> tuple[int, bool]:
    """Hand signals to the agent until it has ended; return its exit code, and whether a signal has ended it."""
    while True:
        got = signal.sigwaitinfo({*HEARD, signal.SIGCHLD})
        if got.si_signo != signal.SIGCHLD:
            os.kill(agent, got.si_signo)
            continue
        pid, status = os.waitpid(agent, os.WNOHANG)
        if pid == agent:
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                sys.stderr.write(f"rhapsody-node: the agent {describe_exit(code)}; ending what it has started\n")
            return (code, False) if code >= 0 else (128 - code, True)


def _be_agent(plan: Plan, folder: PrivateFolder, keeper: int) -> NoReturn:
    code = 1
    try:
        os.setsid()  # what a terminal sends comes through the keeper, once
        adopt_orphans()
        code = asyncio.run(_run_agent(plan, folder, keeper))
        if os.getppid() != keeper:  # nobody else is left to do it
            folder.clear()
    except RhapsodyError as exc:
        sys.stderr.write(f"rhapsody-node: {exc}\n")
        code = 2 if isinstance(exc, SpecError) else 1
    except BaseException:  # noqa: BLE001 - the last frame of a forked process: nothing may return into the keeper
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


async def _run_agent(plan: Plan, folder: PrivateFolder, keeper: int) -> int:
    return await Agent(plan, folder, keeper).run()
