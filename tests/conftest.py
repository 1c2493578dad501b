"""What holds for all tests.

Async tests need no mark (`asyncio_mode = "auto"`); each has an event loop of its own.
"""

from __future__ import annotations

import os
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from tests import leftovers, requirements

if TYPE_CHECKING:
    from collections.abc import Iterator

GRACE_S = 5.0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs what is not installed; with CI=true fail it."""
    requirements.skip_or_fail(item)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Fail the run if a process, or an entry in /dev/shm or the temporary folder, outlives it."""
    mark = os.environ.setdefault(leftovers.MARK_VARIABLE, uuid.uuid4().hex)  # the gate has its own
    before = leftovers.entries()

    yield

    deadline = time.monotonic() + GRACE_S
    while True:
        left = [*leftovers.left_running(mark), *sorted(leftovers.entries() - before)]
        if not left:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    lines = "\n".join(f"  {thing}" for thing in left)
    pytest.fail(f"the tests left behind, {GRACE_S:g} s after the last one:\n{lines}", pytrace=False)
