"""Commands of batch systems that answer as recorded."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

RECORDED = Path(__file__).parent / "recorded"


class Call(NamedTuple):
    """How a command was called."""

    words: list[str]
    stdin: str
    environ: dict[str, str]
    cwd: str


class Machine:
    """A folder of commands that is the whole PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def answers(self, command: str, stdout: str = "", *, stderr: str = "", code: int = 0) -> None:
        """Put a command on PATH that gives one answer, and records how it is called."""
        (self.folder / f"{command}.out").write_text(stdout)
        (self.folder / f"{command}.err").write_text(stderr)
        self.runs(
            command, f"/bin/cat {self.folder}/{command}.out; /bin/cat {self.folder}/{command}.err >&2; exit {code}"
        )

    def runs(self, command: str, script: str) -> None:
        """Put a command on PATH that runs a script, after it has recorded how it is called."""
        record = f"{self.folder}/{command}.calls"
        lines = [
            "#!/bin/sh",
            "n=1; while [ -e " + record + ".$n.words ]; do n=$((n + 1)); done",
            f'/usr/bin/printf "%s\\0" "$@" > {record}.$n.words; pwd > {record}.$n.cwd',
            f"/usr/bin/env -0 > {record}.$n.environ; /bin/cat > {record}.$n.stdin",
            script,
        ]
        path = self.folder / command
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o755)

    def calls(self, command: str) -> list[Call]:
        """Return how a command was called, in order."""
        found: list[Call] = []
        while (words := self.folder / f"{command}.calls.{len(found) + 1}.words").exists():
            stem = str(words).removesuffix("words")
            environ = dict(each.split("=", 1) for each in Path(stem + "environ").read_text().split("\0") if each)
            cwd = Path(stem + "cwd").read_text().strip()
            found.append(Call(words.read_text().split("\0")[:-1], Path(stem + "stdin").read_text(), environ, cwd))
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return Machine(folder)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "job.sh"
    path.write_text("#!/bin/bash\n")
    return path
