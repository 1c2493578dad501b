"""Where an AI worker finds its loader, and what it does not take for one."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import SpecError
from rhapsody.inference.worker_loader import load_model, write_loader
from tests.unit.inference.worker_models import Echo, held_load

if TYPE_CHECKING:
    from pathlib import Path


def test_a_loader_of_a_module_gets_its_options_by_name() -> None:
    found = load_model("builtins:dict", {"size": 3})

    assert found == {"size": 3}


def test_a_function_with_what_it_holds_survives_in_a_file_for_its_owner_only(tmp_path: Path) -> None:
    file, weights = tmp_path / "loader", [1, 2]

    write_loader(file, lambda: weights)

    assert load_model(str(file), {}) == weights
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_loader_with_its_arguments_bound_may_be_written(tmp_path: Path) -> None:
    file, weights = tmp_path / "loader", tmp_path / "weights"
    weights.write_text("")
    write_loader(file, partial(held_load, str(weights)))

    assert isinstance(load_model(str(file), {}), Echo)


@pytest.mark.parametrize("mode", [0o640, 0o602])
def test_a_file_that_others_could_have_written_or_read_is_not_run(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "loader"
    write_loader(file, dict)
    file.chmod(mode)

    with pytest.raises(SpecError, match="would be run as code, so nobody else may own, read or write it; chmod 600"):
        load_model(str(file), {})


@pytest.mark.skipif(os.geteuid() != 0, reason="run as root: only root can give a file away")
def test_a_file_of_somebody_else_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "loader"
    write_loader(file, dict)
    os.chown(file, 65534, -1)

    with pytest.raises(SpecError, match="nobody else may own"):
        load_model(str(file), {})


def test_a_loader_of_another_python_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "loader"
    write_loader(file, dict)
    _, _, rest = file.read_bytes().partition(b"\n")
    file.write_bytes(b"rhapsody loader, Python 3.9\n" + rest)

    with pytest.raises(SpecError, match=r"was written by Python 3\.9, and this is 3\.1\d; use the same"):
        load_model(str(file), {})


def test_what_cannot_be_pickled_is_said_when_it_is_written(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file, pytest.raises(SpecError, match=r"cannot be pickled.*MODULE:FUNCTION"):
        write_loader(tmp_path / "loader", lambda: file)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("echo", "neither MODULE:FUNCTION nor a file"),
        ("no_such_module_here:load", "No module named 'no_such_module_here'; look at PYTHONPATH"),
        ("builtins:no_such", "builtins has no no_such"),
        ("string:digits", "--loader string:digits is str, which cannot be called"),
        ("/nowhere/loader", "cannot read the loader in /nowhere/loader: No such file"),
    ],
)
def test_a_loader_that_is_not_there_is_refused(where: str, reason: str) -> None:
    with pytest.raises(SpecError) as refused:
        load_model(where, {})

    assert reason in str(refused.value)


def test_a_file_without_a_loader_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "loader"
    file.write_bytes(b"anything")
    file.chmod(0o600)

    with pytest.raises(SpecError, match="holds no loader; write it with"):
        load_model(str(file), {})


def test_a_loader_that_cannot_be_read_back_says_why(tmp_path: Path) -> None:
    file = tmp_path / "loader"
    write_loader(file, dict)
    file.write_bytes(file.read_bytes()[:-4])

    with pytest.raises(SpecError, match="cannot be read: "):
        load_model(str(file), {})
