"""The `ssh` of a job, from one node to another: what it passes on, and how it ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest

from tests.hosts.job import Here, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Run = Callable[[str], str]


@pytest.fixture(scope="module")
def on_alpha(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Return what runs a shell script as the session on node `alpha` does, and returns its output."""
    folder = tmp_path_factory.mktemp("ssh")
    job = Job(Here("alpha", "beta"), folder / "job")
    (folder / "tmp").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "tmp"))
        job.start('echo "$PATH"; echo "$TMPDIR"; echo up; exec sleep 1000')
        asyncio.run(job.says("up"))
    path, temporary, _ = job.agents[0].said.splitlines()

    def run(script: str) -> str:
        with tempfile.TemporaryDirectory(dir=temporary) as own:
            env = os.environ | {"PATH": path, "TMPDIR": own}
            command = ["/bin/bash", "-c", script]
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
        return done.stdout

    yield run

    job.reap()


@pytest.mark.parametrize(
    ("command", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)]
)
def test_ssh_ends_as_the_command_does(command: str, code: int, on_alpha: Run) -> None:
    assert on_alpha(f"ssh beta '{command}'; echo $?") == f"{code}\n"


def test_both_outputs_come_back_apart(on_alpha: Run) -> None:
    assert on_alpha("ssh beta 'echo out; echo err >&2' 2>/dev/null") == "out\n"
    assert on_alpha("ssh beta 'echo out; echo err >&2' 2>&1 >/dev/null") == "err\n"


def test_a_command_sees_the_end_of_its_input(on_alpha: Run) -> None:
    assert on_alpha("echo one | ssh beta 'cat; echo end'") == "one\nend\n"


def test_small_pieces_go_both_ways_for_as_long_as_they_come(on_alpha: Run) -> None:
    count = 20_000  # of 30 bytes: more than may be under way unread
    echo = "while read -r line; do echo $line; done"
    script = f"yes twenty-nine-bytes-and-an-end | head -n {count} | ssh beta '{echo}' | sort | uniq -c"

    assert on_alpha(script).split() == [str(count), "twenty-nine-bytes-and-an-end"]


def test_output_that_is_read_in_small_pieces_comes_whole(on_alpha: Run) -> None:
    script = "ssh beta 'head -c 3000000 /dev/zero; echo end' | dd bs=512 2>/dev/null | tr '\\0' 0"

    assert on_alpha(script) == "0" * 3_000_000 + "end\n"


def test_output_goes_to_a_file_too(on_alpha: Run) -> None:
    assert on_alpha("ssh beta 'head -c 300000 /dev/zero' > $TMPDIR/out; wc -c < $TMPDIR/out") == "300000\n"


def test_input_is_left_alone_when_ssh_is_told_so(on_alpha: Run) -> None:
    script = "printf '1\\n2\\n' | while read line; do ssh -n beta \"cat; echo $line\"; done"

    assert on_alpha(script) == "1\n2\n"


def test_who_writes_to_a_command_that_reads_no_more_feels_it(on_alpha: Run) -> None:
    script = "set -o pipefail; yes | ssh beta 'exec 0<&-; sleep 0.5; echo done'; echo ${PIPESTATUS[0]}"

    assert on_alpha(script) == "done\n141\n"


def test_a_command_whose_output_nobody_reads_feels_it(on_alpha: Run) -> None:
    assert on_alpha("ssh beta 'yes; echo $? > $TMPDIR/code; cat $TMPDIR/code >&2' 2>&1 | head -n 1") == "y\n"


def test_signals_reach_a_command_that_does_not_read_its_input(on_alpha: Run) -> None:
    # More than the command's pipe holds, so that the rest waits in the agent; and less than all holds together.
    feed = "{ head -c 300000 /dev/zero; touch $TMPDIR/fed; exec sleep 600; }"
    trap = 'trap "echo caught; exit 5" USR1; echo ready; while :; do sleep 0.05; done'
    script = (
        f"mkfifo $TMPDIR/in; {feed} > $TMPDIR/in & feeder=$!;"
        f" ssh beta '{trap}' < $TMPDIR/in > $TMPDIR/out & pid=$!;"
        " until [ -e $TMPDIR/fed ] && grep -q ready $TMPDIR/out; do sleep 0.02; done;"
        " kill -USR1 $pid; wait $pid; echo $?; cat $TMPDIR/out; kill $feeder"
    )

    assert on_alpha(script) == "5\nready\ncaught\n"


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
def test_ssh_passes_signals_on_and_waits_for_the_end(name: str, on_alpha: Run) -> None:
    trap = f'trap "echo got {name}; exit 9" {name}; echo ready; while :; do sleep 0.05; done'
    script = (
        f"set -m; env --default-signal={name} ssh -n beta '{trap}' > $TMPDIR/out & pid=$!;"
        f" until grep -q ready $TMPDIR/out; do sleep 0.02; done; kill -{name} $pid; wait $pid; echo $?; cat $TMPDIR/out"
    )

    assert on_alpha(script) == f"9\nready\ngot {name}\n"


def test_a_command_whose_ssh_was_killed_is_ended(on_alpha: Run) -> None:
    script = (
        "ssh -n beta 'echo $$ > $TMPDIR/pid; echo ready; sleep 600' > $TMPDIR/out & pid=$!;"
        " until grep -q ready $TMPDIR/out; do sleep 0.02; done; kill -KILL $pid;"
        " while ssh beta 'kill -0 $(cat $TMPDIR/pid)' 2>/dev/null; do sleep 0.05; done; echo gone"
    )

    assert on_alpha(script) == "gone\n"


def test_a_process_in_the_background_goes_on_after_its_command(on_alpha: Run) -> None:
    script = (
        "ssh beta 'setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $! > $TMPDIR/pid';"
        " ssh beta 'kill -0 $(cat $TMPDIR/pid) && echo lives'"
    )

    assert on_alpha(script) == "lives\n"


def test_a_host_of_another_job_is_refused_with_the_right_ones_named(on_alpha: Run) -> None:
    text = on_alpha("ssh gamma hostname 2>&1; echo $?")

    assert text == "ssh: gamma is not a node of this job; its nodes are alpha, beta\n255\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [("", "no host was given"), ("beta", "no command for beta was given"), ("-x -p 22 beta", "no command for beta")],
)
def test_a_command_line_that_is_not_whole_is_refused(arguments: str, message: str, on_alpha: Run) -> None:
    text = on_alpha(f"ssh {arguments} 2>&1; echo $?")

    assert message in text
    assert text.endswith("255\n")


def test_a_command_of_a_megabyte_runs_and_a_longer_one_is_refused(on_alpha: Run) -> None:
    # One argument of a program can have 128 KiB: source: execve(2), MAX_ARG_STRLEN
    words = "$(printf ' %s' $(seq -f %0100000.f 1 {}))"

    text = on_alpha(f"ssh beta echo {words.format(10)} | wc -c; ssh beta : {words.format(11)} 2>&1; echo $?")

    assert text.splitlines()[0] == "1000010"
    assert "at most 1048576 can be" in text
    assert text.endswith("255\n")


def test_variables_of_rhapsody_are_passed_on_and_no_others(on_alpha: Run) -> None:
    script = "export RHAPSODY_TASK_UID=t1 SECRET=s; ssh beta 'echo $RHAPSODY_TASK_UID-$SECRET-$RHAPSODY_NODE_RANK'"

    assert on_alpha(script) == "t1--1\n"


def test_a_command_runs_in_the_folder_it_is_told(on_alpha: Run) -> None:
    text = on_alpha("ssh -oRhapsodyDirectory=/usr beta pwd; ssh -oRhapsodyDirectory=/no beta pwd 2>&1; true")

    assert text == "/usr\nssh: beta refuses: cannot start a shell in /no: No such file or directory\n"


def test_a_hundred_commands_leave_nothing_open_in_the_agent(on_alpha: Run) -> None:
    script = (
        "agent=$(ssh beta 'ps -o ppid= -p $$'); agent=${agent// }; ssh beta true;"
        " look() { ls /proc/$agent/fd | wc -l; cat /proc/$agent/task/*/children | wc -w; };"
        " look; for i in $(seq 100); do ssh -n beta true; done; look"
    )

    descriptors, children, descriptors_after, children_after = map(int, on_alpha(script).split())

    assert descriptors_after <= descriptors
    assert children_after <= children


async def test_more_commands_than_fit_are_refused(job: Job) -> None:
    script = (
        "ssh -n beta 'echo up; sleep 600' > $TMPDIR/out & until grep -q up $TMPDIR/out; do sleep 0.02; done;"
        " ssh beta true 2>&1; echo $?; ssh alpha echo elsewhere"
    )

    job.start(script, "--commands", "1")
    await job.ended()

    assert job.agents[0].said.splitlines()[-3:] == [
        "ssh: beta refuses: it runs 1 commands, which is its limit (--commands)",
        "255",
        "elsewhere",
    ]
