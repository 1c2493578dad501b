"""What runs inside the image: the start of Dragon by its own command, and the trial."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from rhapsody.deploy.image import smoke as image_smoke
from rhapsody.errors import BackendError


def start(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start a command as the image's entry point starts Dragon."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DRAGON_")}
    return subprocess.run(
        [sys.executable, "-m", "rhapsody.deploy.image.entry", *command],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_dragon_is_told_how_much_shared_memory_to_take() -> None:
    done = start("printenv", "DRAGON_DEFAULT_SEG_SZ", "DRAGON_INF_SEG_SZ")

    assert [int(line) >= 1 << 27 for line in done.stdout.split()] == [True, True]


def test_dragon_keeps_what_the_user_has_set() -> None:
    done = start("printenv", "DRAGON_DEFAULT_SEG_SZ", DRAGON_DEFAULT_SEG_SZ="123456789")

    assert done.stdout == "123456789\n"


def test_exit_code_is_that_of_the_command() -> None:
    assert start("sh", "-c", "exit 7").returncode == 7
    assert start("sh", "-c", "kill -TERM $$").returncode == -15


def test_command_that_is_not_there_is_told_as_shells_do() -> None:
    done = start("no-such-command")

    assert done.returncode == 127
    assert done.stderr == "rhapsody: no-such-command cannot be started: No such file or directory\n"


def good() -> str:
    """Return as a step that went well."""
    return "fine"


def bad() -> str:
    """Raise as a step that went wrong."""
    raise BackendError("Dragon needs 1024 MiB")


def test_trial_takes_all_steps_and_fails_when_one_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(image_smoke, "STEPS", {"a": bad, "b": good})
    monkeypatch.setattr(sys, "argv", ["image_smoke"])

    with pytest.raises(SystemExit) as ended:
        image_smoke.main()

    assert ended.value.code == 1
    assert capsys.readouterr().out == f"{image_smoke.WRONG}  a: Dragon needs 1024 MiB (0.0 s)\nok     b: fine (0.0 s)\n"


def test_trial_tells_programs_in_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(image_smoke, "STEPS", {"a": bad, "b": good})
    monkeypatch.setattr(sys, "argv", ["image_smoke", "--json"])

    with pytest.raises(SystemExit):
        image_smoke.main()

    out = capsys.readouterr().out
    assert [(step["step"], step["good"]) for step in json.loads(out)] == [("a", False), ("b", True)]
    assert image_smoke.FALSE in out


def test_trial_tells_programs_of_a_batch_system_that_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_smoke, "_FORBIDDEN", ("sh", "no-such-command"))

    with pytest.raises(image_smoke.StepError, match="do not belong into the image: sh"):
        image_smoke.nothing_of_a_machine()


def test_campaign_of_the_trial_runs_here_too() -> None:
    hello = "async def campaign(session, args):\n    open(args[0], 'w').write('seen')\n"

    assert image_smoke.run_campaign("local", hello, "seen", "a hello") == "a hello"
    with pytest.raises(image_smoke.StepError, match="result seen, not something else"):
        image_smoke.run_campaign("local", hello, "something else", "a hello")
