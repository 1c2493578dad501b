"""How Dragon is started: the quick `dragon-config`, and what is shown of a run that did not come up."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rhapsody.backends.dragon.frontend import FrontEnd, write_config_program
from rhapsody.backends.dragon.plan import Plan
from tests.requirements import needs_module

if TYPE_CHECKING:
    from pathlib import Path

REAL = [sys.executable, "-c", "from dragon.infrastructure.config import main; main()"]


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@needs_module("dragon", install="rhapsody-hpc[dragon]")
@pytest.mark.parametrize("question", ["--get=cuda_runtime_lib", "--get=ofi_runtime_lib", "--base-directory"])
def test_quick_config_program_says_what_dragons_own_says(tmp_path: Path, question: str) -> None:
    write_config_program(tmp_path)

    assert said(str(tmp_path / "dragon-config"), question) == said(*REAL, question)


def test_quick_config_program_knows_what_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "dragon" / ".hsta-config" / "dragon-config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"hip_runtime_lib": "/opt/it's here"}))
    (tmp_path / "dragon" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "dragon", raising=False)

    write_config_program(tmp_path / "bin")

    assert said(str(tmp_path / "bin" / "dragon-config"), "--get=hip_runtime_lib") == "/opt/it's here\n"
    assert said(str(tmp_path / "bin" / "dragon-config"), "--get=hip_runtime_libname") == "\n"


def test_last_words_are_those_of_this_run_and_short(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [*(f"line {number}" for number in range(40)), "", "x" * 1000]
    log.write_text("\n".join(lines))

    words = FrontEnd(tmp_path, Plan(str(log), {})).last_words().splitlines()

    assert str(log) in words[0]
    assert words[1] == "  line 29"
    assert words[-1] == f"  {'x' * 200}"


def test_silence_is_said(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()

    assert FrontEnd(tmp_path, Plan(str(log), {})).last_words() == f"it wrote nothing ({log})"
