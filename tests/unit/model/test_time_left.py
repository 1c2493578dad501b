"""What a task is told of the time that it has."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import pytest

from rhapsody import time_left
from rhapsody.errors import SpecError


def test_without_a_deadline_there_is_time_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RHAPSODY_DEADLINE", raising=False)

    assert time_left() == math.inf


def test_time_until_the_deadline_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHAPSODY_DEADLINE", f"{time.time() + 100:.3f}")

    assert 90 < time_left() <= 100.001


def test_time_left_is_never_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHAPSODY_DEADLINE", "1000")

    assert time_left() == 0


def test_deadline_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHAPSODY_DEADLINE", "tonight")

    with pytest.raises(SpecError, match="RHAPSODY_DEADLINE='tonight'"):
        time_left()


def test_it_comes_without_the_rest_of_the_package() -> None:
    code = "import sys, rhapsody; rhapsody.time_left(); print(*(n for n in sys.modules if n.startswith('rhapsody')))"

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert set(said.split()) == {"rhapsody", "rhapsody.errors", "rhapsody.model", "rhapsody.model.time_left"}
