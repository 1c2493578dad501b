"""What goes through a command's pipe arrives, whoever is slower."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from rhapsody.node.pipes import Pipe

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for end in (read, write):
        with suppress(OSError):
            os.close(end)


async def test_what_comes_in_pieces_is_read_as_it_comes_then_the_end(ends: tuple[int, int]) -> None:
    pipe = Pipe(ends[0])
    loop = asyncio.get_running_loop()
    found = []

    for piece in (b"one", b"two", b"three"):
        loop.call_soon(os.write, ends[1], piece)
        found.append(await pipe.read_some(100))
    loop.call_soon(os.close, ends[1])
    found.append(await pipe.read_some(100))
    pipe.close()

    assert found == [b"one", b"two", b"three", b""]


async def test_what_is_more_than_asked_for_is_left(ends: tuple[int, int]) -> None:
    pipe = Pipe(ends[0])
    os.write(ends[1], b"abcdefg")

    found = [await pipe.read_some(3) for _ in range(3)]
    pipe.close()

    assert found == [b"abc", b"def", b"g"]


async def test_what_comes_while_nobody_reads_is_there_later_and_wakes_the_loop_once(ends: tuple[int, int]) -> None:
    pipe = Pipe(ends[0])
    loop = asyncio.get_running_loop()
    loop.call_soon(os.write, ends[1], b"first")
    await pipe.read_some(100)
    os.write(ends[1], b"later")
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    is_watched = loop.remove_reader(ends[0])
    found = await pipe.read_some(100) if not is_watched else b""
    pipe.close()

    assert (is_watched, found) == (False, b"later")


async def test_a_reader_that_is_canceled_loses_nothing(ends: tuple[int, int]) -> None:
    pipe = Pipe(ends[0])
    reading = asyncio.get_running_loop().create_task(pipe.read_some(100))
    await asyncio.sleep(0)
    os.write(ends[1], b"kept")
    reading.cancel()
    await asyncio.wait({reading})

    found = await pipe.read_some(100)
    pipe.close()

    assert found == b"kept"


async def test_only_what_there_is_room_for_is_written_now(ends: tuple[int, int]) -> None:
    pipe = Pipe(ends[1])

    written = pipe.write_now(bytes(1 << 20))
    more = pipe.write_now(b"more")
    os.close(ends[0])
    to_nobody = pipe.write_now(b"more")
    pipe.close()
    to_closed = pipe.write_now(b"more")

    assert 0 < written < 1 << 20
    assert (more, to_nobody, to_closed) == (0, 0, 0)
