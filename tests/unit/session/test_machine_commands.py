"""Commands of a machine, as they are asked: real ones."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from rhapsody.errors import BackendError
from rhapsody.session.machine_commands import (
    CommandError,
    CommandFailed,
    CommandLate,
    CommandMissing,
    ask,
    ask_both,
)
from tests.eventually import eventually


def test_a_command_answers_in_english_and_utc() -> None:
    assert ask(["sh", "-c", "echo $LC_ALL $TZ"]) == "C UTC\n"


def test_an_environment_of_the_callers_is_taken_as_it_is() -> None:
    assert ask(["env"], environ={"PATH": os.environ["PATH"], "X": "1"}).splitlines()[-1] == "X=1"


def test_both_of_its_outputs_can_be_had() -> None:
    assert ask_both(["sh", "-c", "echo out; echo err >&2"]) == ("out\n", "err\n")


def test_it_reads_a_text_and_else_nothing() -> None:
    assert ask(["cat"], stdin="a text") == "a text"
    assert ask(["cat"]) == ""


def test_it_runs_where_it_is_told_to(tmp_path: Path) -> None:
    assert Path(ask(["pwd"], cwd=tmp_path).strip()) == tmp_path


def test_a_text_that_is_no_utf8_is_no_error() -> None:
    assert ask(["printf", r"a\377b"]) == "a\ufffdb"


def test_a_command_that_is_not_there_is_told_apart() -> None:
    with pytest.raises(CommandMissing, match="`no-such-command -x`: No such file or directory"):
        ask(["no-such-command", "-x"])


def test_a_failure_has_code_and_texts() -> None:
    with pytest.raises(CommandFailed, match="failed: last line") as caught:
        ask(["sh", "-c", "echo some; echo first >&2; echo last line >&2; exit 3"])

    assert (caught.value.code, caught.value.stdout) == (3, "some\n")
    assert caught.value.stderr == "first\nlast line\n"


async def test_a_command_that_does_not_answer_is_ended_with_what_it_started(tmp_path: Path) -> None:
    noted = tmp_path / "pid"

    with pytest.raises(CommandLate, match=r"did not answer within 0\.5 s"):
        ask(["sh", "-c", f"sleep 60 & echo $! > {noted}; wait"], limit_s=0.5)

    pid = int(noted.read_text())
    await eventually(lambda: not _runs(pid), what="the command's own child has ended")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("kind", [CommandFailed, CommandLate, CommandMissing])
def test_an_error_of_a_command_survives_its_way_to_another_process(kind: type[CommandError]) -> None:
    back = pickle.loads(pickle.dumps(kind("what", "out", "err", 3)))  # noqa: S301 - made here

    assert type(back) is kind
    assert issubclass(kind, BackendError)
    assert (str(back), back.stdout, back.stderr, back.code) == ("what", "out", "err", 3)
