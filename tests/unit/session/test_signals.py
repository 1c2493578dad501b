"""Ctrl-C, SIGTERM and SIGUSR1 as calls on the loop, with real signals to this process."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from rhapsody.session import signals
from rhapsody.session.signals import Interrupts
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def ctrl_c_is_not_ignored() -> Iterator[None]:
    """Give Ctrl-C its usual handler, which is missing where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Heard:
    """Keeps what it was called back with."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def interrupts(self) -> Interrupts:
        return Interrupts(on_drain=lambda: self.calls.append("drain"), on_stop=lambda: self.calls.append("stop"))


@pytest.fixture
def heard_of_time() -> list[str]:
    """Return how often it was said that time runs out."""
    return []


def send(*signums: signal.Signals) -> None:
    """Send signals to this process; the loop hears of them when it runs next."""
    for signum in signums:
        os.kill(os.getpid(), signum)


async def test_first_ctrl_c_drains() -> None:
    heard = Heard()

    with heard.interrupts():
        send(signal.SIGINT)
        await eventually(lambda: heard.calls)

    assert heard.calls == ["drain"]


async def test_second_ctrl_c_stops() -> None:
    heard = Heard()

    with heard.interrupts():
        send(signal.SIGINT, signal.SIGINT)
        await eventually(lambda: "stop" in heard.calls)

    assert heard.calls == ["drain", "stop"]


async def test_sigterm_stops_at_once() -> None:
    heard = Heard()

    with heard.interrupts():
        send(signal.SIGTERM)
        await eventually(lambda: heard.calls)

    assert heard.calls == ["stop"]


async def test_signals_after_the_stop_are_swallowed() -> None:
    heard, later = Heard(), Heard()

    with heard.interrupts():
        send(signal.SIGTERM)
        await eventually(lambda: heard.calls)
        with later.interrupts():
            send(signal.SIGINT, signal.SIGTERM)
            await eventually(lambda: later.calls == ["drain", "stop"])

    assert heard.calls == ["stop"]


async def test_ctrl_c_reaches_everyone_who_listens() -> None:
    outer, inner = Heard(), Heard()

    with outer.interrupts(), inner.interrupts():
        send(signal.SIGINT)
        await eventually(lambda: outer.calls and inner.calls)

    assert outer.calls == inner.calls == ["drain"]


async def test_ctrl_c_is_still_heard_after_the_first_of_two_has_left() -> None:
    first, second = Heard(), Heard()
    leaving = first.interrupts()
    leaving.__enter__()

    with second.interrupts():
        leaving.__exit__(None, None, None)
        send(signal.SIGINT)
        await eventually(lambda: second.calls)

    assert first.calls == []


async def test_sigusr1_says_that_time_runs_out_each_time(heard_of_time: list[str]) -> None:
    heard = Heard()

    with Interrupts(lambda: None, heard.calls.clear, lambda: heard_of_time.append("out of time")):
        send(signal.SIGUSR1)
        await eventually(lambda: len(heard_of_time) == 1)
        send(signal.SIGUSR1)
        await eventually(lambda: len(heard_of_time) == 2)


async def test_sigusr1_neither_drains_nor_stops_by_itself() -> None:
    heard = Heard()

    with heard.interrupts():
        send(signal.SIGUSR1, signal.SIGTERM)
        await eventually(lambda: heard.calls)

    assert heard.calls == ["stop"]


async def test_sigusr1_that_the_application_handles_is_left_alone(heard_of_time: list[str]) -> None:
    own: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda signum, _frame: own.append(signum))
    try:
        with Interrupts(lambda: None, lambda: None, lambda: heard_of_time.append("out of time")):
            send(signal.SIGUSR1)
            await eventually(lambda: own)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert heard_of_time == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
async def test_handlers_found_are_back_afterwards(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)

    with Heard().interrupts():
        during = signal.getsignal(signum)

    assert during is not before
    assert signal.getsignal(signum) is before


async def test_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Heard().interrupts():
            during = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)

    assert during is signal.SIG_IGN


async def test_handler_that_the_application_has_on_its_loop_is_left_alone() -> None:
    application: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, application.append, "own")
    heard = Heard()
    try:
        with heard.interrupts():
            send(signal.SIGTERM)
            await eventually(lambda: application)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)

    assert heard.calls == []


def test_nothing_is_installed_outside_of_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    async def look() -> None:
        with Heard().interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=lambda: asyncio.run(look()))
    thread.start()
    thread.join()

    assert seen == [before]


async def test_ctrl_c_breaks_into_a_loop_that_has_not_heard_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "BLOCKED_AFTER_S", 0.0)
    heard = Heard()

    with heard.interrupts(), pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT, signal.SIGINT)  # the loop cannot run in between

    assert heard.calls == []
