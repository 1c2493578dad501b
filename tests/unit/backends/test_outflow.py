"""Bytes for a pipe come whole and in order, however slowly it is read; a pipe that nobody reads is noticed."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from rhapsody.backends.outflow import Outflow
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

MUCH = 1 << 20


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    """Both ends of a pipe, to read from and to write to; the latter does not block."""
    ends = list(os.pipe())
    os.set_blocking(ends[1], False)
    yield ends
    for descriptor in ends:
        os.close(descriptor)


async def test_more_than_fits_comes_whole_and_in_order(pipe: list[int]) -> None:
    os.set_blocking(pipe[0], False)
    outflow = Outflow(pipe[1], lambda: pytest.fail("it is broken"))
    sent = [bytes([number]) * MUCH for number in range(3)]
    for data in sent:
        outflow.send(data)
    got = bytearray()

    def read() -> bool:
        with contextlib.suppress(BlockingIOError):
            got.extend(os.read(pipe[0], MUCH))
        return len(got) == len(sent) * MUCH

    await eventually(read, within_s=20, what="all is read")
    assert got == b"".join(sent)


async def test_a_pipe_that_nobody_reads_any_more_is_told_once(pipe: list[int]) -> None:
    told: list[str] = []
    outflow = Outflow(pipe[1], lambda: told.append("broken"))
    os.close(pipe[0])
    pipe.pop(0)

    outflow.send(b"lost")

    assert told == ["broken"]
