"""Loading a campaign file: what is found, and what is said when it cannot be used."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import pytest

from rhapsody.cli.campaign import load_campaign
from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Write = Callable[..., Path]

GOOD = "async def campaign(session, args):\n    return args\n"


@pytest.fixture(autouse=True)
def untouched_interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what loading leaves in the interpreter."""
    monkeypatch.setenv("RHAPSODY_CAMPAIGN_FILE", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("rhapsody_campaign", None)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a file and returns its path."""

    def write(text: str, name: str = "study.py") -> Path:
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


def refusal(path: Path) -> str:
    """Return what is said when this cannot be loaded."""
    with pytest.raises(SpecError) as caught:
        load_campaign(path)
    return str(caught.value)


def test_campaign_gets_its_arguments_when_called(write: Write) -> None:
    campaign = load_campaign(write(GOOD))

    returned = asyncio.run(campaign(None, ["-x", "1"]))  # type: ignore[arg-type]  # it does not look at the session

    assert returned == ["-x", "1"]


def test_campaign_file_is_registered_so_that_workers_can_import_it(write: Write) -> None:
    file = write(GOOD)

    campaign = load_campaign(file)

    assert sys.modules["rhapsody_campaign"].campaign is campaign
    assert os.environ["RHAPSODY_CAMPAIGN_FILE"] == str(file)
    assert sys.path[0] == str(file.parent)


def test_campaign_imports_a_module_that_lies_beside_it(write: Write) -> None:
    write("NUMBER = 7\n", "beside_the_campaign.py")
    file = write(f"from beside_the_campaign import NUMBER\n{GOOD}")

    load_campaign(file)

    assert sys.modules.pop("beside_the_campaign").NUMBER == 7


def test_campaign_given_by_a_relative_path_is_known_by_its_absolute_one(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(GOOD)
    monkeypatch.chdir(file.parent)

    load_campaign(type(file)("study.py"))

    assert os.environ["RHAPSODY_CAMPAIGN_FILE"] == str(file)


def test_missing_file_is_refused_with_the_campaigns_of_its_folder_the_most_similar_first(write: Write) -> None:
    alike, other = write(GOOD, "screening.py"), write(GOOD, "md.py")
    write("def campaign(): ...\n", "library.py")

    text = refusal(alike.with_name("screning.py"))

    assert "screning.py does not exist" in text
    assert text.endswith(f"{alike}, {other}")


def test_missing_file_in_a_folder_without_campaigns_says_what_one_looks_like(tmp_path: Path) -> None:
    text = refusal(tmp_path / "study.py")

    assert f"no *.py in {tmp_path} has `async def campaign(session, args)`" in text


def test_missing_folder_is_named_with_the_one_you_are_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    text = refusal(tmp_path / "nowhere" / "study.py")

    assert text.endswith(f"nor does its folder; you are in {tmp_path}")


def test_folder_is_refused_with_the_campaigns_in_it(write: Write) -> None:
    file = write(GOOD)

    text = refusal(file.parent)

    assert "is a folder" in text
    assert str(file) in text


def test_file_that_does_not_end_in_py_is_refused(write: Write) -> None:
    assert "does not end in .py" in refusal(write(GOOD, "study.txt"))


def test_file_that_does_not_import_is_refused_with_the_users_lines_only(write: Write) -> None:
    file = write("def load():\n    return {}['grid']\n\nload()\n")

    text = refusal(file)

    assert f"campaign file {file} does not import" in text
    assert f'File "{file}", line 4, in <module>' in text
    assert f'File "{file}", line 2, in load' in text
    assert text.endswith("KeyError: 'grid'")
    assert "importlib" not in text
    assert "rhapsody/cli" not in text


def test_file_with_a_syntax_error_is_refused_with_its_line(write: Write) -> None:
    text = refusal(write("import os\nasync def campaign(session, args)\n"))

    assert "line 2" in text
    assert text.endswith("SyntaxError: expected ':'")
    assert "rhapsody/cli" not in text


def test_file_that_leaves_the_interpreter_while_imported_is_refused(write: Write) -> None:
    assert refusal(write("raise SystemExit('no GPU')\n")).endswith("SystemExit: no GPU")


def test_wrong_resources_at_import_are_refused_in_their_own_words(write: Write) -> None:
    text = refusal(write("from rhapsody import Resources\nbig = Resources(ranks=0)\n"))

    assert text == "Resources.ranks=0 must be at least 1"


def test_file_without_campaign_is_refused_with_its_coroutine_functions(write: Write) -> None:
    text = refusal(write("from asyncio import sleep\nasync def main(session, args): ...\nasync def other(): ...\n"))

    assert "has no `campaign`, but `async def main`, `async def other`; write" in text


def test_plain_function_is_refused_with_its_line(write: Write) -> None:
    file = write("X = 1\n\ndef campaign(session, args): ...\n")

    text = refusal(file)

    assert text.startswith(f"{file}:3: `campaign` is a plain `def`")
    assert text.endswith("write `async def campaign(session, args)`")


def test_generator_is_refused(write: Write) -> None:
    assert "has a `yield` in it" in refusal(write("async def campaign(session, args):\n    yield 1\n"))


def test_campaign_that_is_no_function_is_refused(write: Write) -> None:
    assert "`campaign` is a dict" in refusal(write("campaign = {}\n"))


@pytest.mark.parametrize("parameters", ["session", "session, args, more", "session, *, args", ""])
def test_wrong_number_of_parameters_is_refused_with_what_was_found(write: Write, parameters: str) -> None:
    file = write(f"async def campaign({parameters}): ...\n")

    text = refusal(file)

    assert text.startswith(f"{file}:1: `campaign({parameters})` cannot be called with (session, args)")


@pytest.mark.parametrize("parameters", ["session, args, seed=0", "*everything", "s, a, **more"])
def test_parameters_that_take_session_and_arguments_are_accepted(write: Write, parameters: str) -> None:
    assert callable(load_campaign(write(f"async def campaign({parameters}): ...\n")))
