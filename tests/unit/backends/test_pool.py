"""The worker pool of a node, with real workers."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from rhapsody.backends.member import Chunk, Lane
from rhapsody.backends.packing import dump_function
from rhapsody.backends.pool import Pool
from rhapsody.backends.pool_settings import PoolSettings
from rhapsody.backends.starter import GuardianStarter
from rhapsody.model.event import State

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.abc import Report


async def test_function_forgotten_before_its_worker_connects_is_run_all_the_same(tmp_path: Path) -> None:
    reports: list[Report] = []
    heard = asyncio.Event()

    def hear(batch: list[Report]) -> None:
        reports.extend(batch)
        heard.set()

    settings = PoolSettings("here", tmp_path / "log", 0, {}, str(tmp_path), tuple(sys.path), "")
    pool = Pool(GuardianStarter(), settings, hear, lambda _reason: None)
    await pool.start()
    pool.define(1, dump_function(lambda: 42))
    pool.feed(Lane("core-0"), Chunk.of([7], [1], [1], [()]))

    pool.forget(1)
    await asyncio.wait_for(heard.wait(), 20)
    await pool.aclose()

    assert [(report.number, report.state, report.value) for report in reports] == [(7, State.DONE, 42)]
