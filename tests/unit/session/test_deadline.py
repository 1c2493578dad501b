"""When the allocation ends: texts of durations, and what batch systems say."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import SpecError
from rhapsody.session import deadline
from rhapsody.session.deadline import Deadline, find_deadline, parse_walltime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Install = Callable[[str, str], dict[str, str]]

NOW = 1_800_000_000.0
"""2027-01-15 08:00:00 UTC."""


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Return a function that puts a command on a PATH of its own, and returns the environment that has it."""

    def install(name: str, script: str) -> dict[str, str]:
        command = tmp_path / name
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o700)
        return {"PATH": str(tmp_path)}  # a real batch system may be installed here, too

    return install


async def found_in(environ: dict[str, str], walltime_s: float | None = None) -> tuple[Deadline | None, str]:
    return await find_deadline(walltime_s, NOW, environ)


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("2h", 7_200),
            ("90m", 5_400),
            ("1h30m", 5_400),
            ("45s", 45),
            ("2d1s", 172_801),
            ("1:30:00", 5_400),
            ("30:00", 1_800),
            ("90:30", 5_430),
            ("1-12:00:00", 129_600),
            (" 2h ", 7_200),
        ],
    )
    def test_duration_is_read_as_people_and_slurm_write_it(self, text: str, seconds: float) -> None:
        assert parse_walltime(text) == seconds

    @pytest.mark.parametrize(
        "text", ["", "30", "h", "1.5h", "-2h", "1h 3m", "30m1h", "1:90:00", "1:2", "1-12", "0s", "00:00", "2 hours"]
    )
    def test_text_that_is_no_duration_is_refused_with_examples(self, text: str) -> None:
        with pytest.raises(SpecError, match="is no duration; write it like 2h, 90m, 1h30m, 45s, 1:30:00"):
            parse_walltime(text)


class TestSources:
    async def test_without_a_batch_system_no_end_is_known(self) -> None:
        assert await found_in({}) == (None, "")

    async def test_walltime_counts_from_the_opening(self) -> None:
        assert await found_in({}, walltime_s=60) == (Deadline(NOW + 60, "walltime"), "")

    async def test_the_earliest_of_several_counts(self) -> None:
        environ = {"RHAPSODY_DEADLINE": f"{NOW + 500.5}", "SLURM_JOB_END_TIME": f"{NOW + 600:.0f}"}

        by_variable, _ = await found_in(environ, walltime_s=700)
        by_slurm, _ = await found_in(environ | {"RHAPSODY_DEADLINE": f"{NOW + 650}"}, walltime_s=700)
        by_user, _ = await found_in(environ, walltime_s=400)

        assert by_variable == Deadline(NOW + 500.5, "RHAPSODY_DEADLINE")
        assert by_slurm == Deadline(NOW + 600, "SLURM_JOB_END_TIME")
        assert by_user == Deadline(NOW + 400, "walltime")

    async def test_slurm_is_asked_where_it_leaves_out_the_variable(self, install: Install) -> None:
        script = '[ "$*" = "-h -j 42 -o %e" ] && [ "$TZ" = UTC ] && echo 2027-01-15T10:00:00'

        found, _ = await found_in(install("squeue", script) | {"SLURM_JOB_ID": "42"})

        assert found == Deadline(NOW + 7_200, "squeue")

    async def test_slurm_job_without_a_limit_has_no_end(self, install: Install) -> None:
        assert await found_in(install("squeue", "echo N/A") | {"SLURM_JOB_ID": "42"}) == (None, "")

    @pytest.mark.parametrize("stime", ["Fri Jan 15 07:00:00 2027", NOW - 3_600])
    async def test_pbs_says_start_and_walltime(self, install: Install, stime: object) -> None:
        said = json.dumps({"Jobs": {"42.head": {"stime": stime, "Resource_List": {"walltime": "02:00:00"}}}})

        found, _ = await found_in(install("qstat", f"/bin/cat <<'END'\n{said}\nEND") | {"PBS_JOBID": "42.head"})

        assert found == Deadline(NOW + 3_600, "qstat")

    async def test_torque_says_the_walltime_in_a_variable(self) -> None:
        now = time.time()

        found, _ = await find_deadline(None, now, {"PBS_JOBID": "42", "PBS_WALLTIME": "99000000"})

        assert found is not None
        assert found.source == "PBS_WALLTIME"
        assert found.at_s <= now + 99_000_000  # counted from where the job's first process began

    async def test_cobalt_says_it_in_a_variable(self) -> None:
        found, _ = await found_in({"COBALT_ENDTIME": f"{NOW + 60:.0f}"})

        assert found == Deadline(NOW + 60, "COBALT_ENDTIME")

    async def test_flux_says_the_seconds_that_are_left(self, install: Install) -> None:
        opened_s = time.time()

        environ = install("flux", '[ "$*" = "job timeleft" ] && echo 3600') | {"FLUX_URI": "local:///run/flux"}
        found, _ = await find_deadline(None, opened_s, environ)

        assert found is not None
        assert opened_s + 3_600 <= found.at_s < opened_s + 3_660

    async def test_flux_without_a_limit_has_no_end(self, install: Install) -> None:
        assert await found_in(install("flux", "echo infinity") | {"FLUX_JOB_ID": "f1"}) == (None, "")

    @pytest.mark.parametrize(("said", "left_s"), [("1:59 L", 7_140), ("1:59 E", None), ("-", None)])
    async def test_lsf_says_hours_and_minutes_of_a_hard_limit(
        self, install: Install, said: str, left_s: float | None
    ) -> None:
        opened_s = time.time()
        script = f"""[ "$*" = "-noheader -o time_left 42[3]" ] && echo '{said}'"""

        environ = install("bjobs", script) | {"LSB_JOBID": "42", "LSB_JOBINDEX": "3"}
        found, remark = await find_deadline(None, opened_s, environ)

        assert (None if found is None else round((found.at_s - opened_s) / 60) * 60) == left_s
        assert remark == ""


class TestTrouble:
    @pytest.mark.parametrize(
        ("name", "script", "job", "why"),
        [
            ("squeue", "echo no such job >&2; exit 1", {"SLURM_JOB_ID": "42"}, "failed: no such job"),
            ("squeue", "exit 3", {"SLURM_JOB_ID": "42"}, "failed: exit code 3"),
            ("squeue", "echo soon", {"SLURM_JOB_ID": "42"}, "said 'soon'"),
            ("other", "", {"SLURM_JOB_ID": "42"}, "`squeue -h -j 42 -o %e`: No such file or directory"),
            ("qstat", "echo '{}'", {"PBS_JOBID": "42"}, "did not say when the job began"),
            ("qstat", "echo broken", {"PBS_JOBID": "42"}, "did not say when the job began"),
            ("flux", "echo never", {"FLUX_URI": "x"}, "said 'never'"),
            ("other", "", {"SLURM_JOB_END_TIME": f"{NOW - 120:.0f}"}, "SLURM_JOB_END_TIME it ended 2 min 00 s ago"),
        ],
    )
    async def test_batch_system_without_a_useful_answer_is_an_end_unknown_with_the_reason(
        self, install: Install, name: str, script: str, job: dict[str, str], why: str
    ) -> None:
        found, remark = await found_in(install(name, script) | job)

        assert found is None
        assert remark.startswith("when the allocation ends is not known: ")
        assert why in remark

    async def test_walltime_counts_all_the_same(self, install: Install) -> None:
        found, remark = await found_in(install("squeue", "exit 1") | {"SLURM_JOB_ID": "42"}, walltime_s=60)

        assert found == Deadline(NOW + 60, "walltime")
        assert "squeue" in remark

    async def test_nobody_is_told_where_the_script_of_the_job_has_said_it(self, install: Install) -> None:
        at_s = int(NOW) + 60
        job = {"SLURM_JOB_ID": "42", "RHAPSODY_DEADLINE": str(at_s)}

        found, remark = await found_in(install("squeue", "exit 127") | job)

        assert (found, remark) == (Deadline(at_s, "RHAPSODY_DEADLINE"), "")

    async def test_command_that_hangs_is_given_up(self, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(deadline, "COMMAND_LIMIT_S", 0.1)

        found, remark = await found_in(install("squeue", "exec /bin/sleep 60") | {"SLURM_JOB_ID": "42"})

        assert found is None
        assert "`squeue -h -j 42 -o %e` did not answer within 0.1 s" in remark

    @pytest.mark.parametrize("variable", ["SLURM_JOB_END_TIME", "PBS_WALLTIME", "COBALT_ENDTIME"])
    async def test_variable_that_is_no_number_is_refused_by_name(self, variable: str) -> None:
        with pytest.raises(SpecError, match=f"{variable}='1h' is no whole number of seconds"):
            await found_in({variable: "1h"})

    @pytest.mark.parametrize("text", ["soon", "nan", "inf"])
    async def test_deadline_that_is_no_moment_is_refused(self, text: str) -> None:
        with pytest.raises(SpecError, match=f"RHAPSODY_DEADLINE='{text}' is no moment in seconds since the epoch"):
            await found_in({"RHAPSODY_DEADLINE": text})

    async def test_deadline_of_the_past_is_refused(self) -> None:
        with pytest.raises(SpecError, match=r"RHAPSODY_DEADLINE='1799996400' was 1 h 00 min ago; unset it"):
            await found_in({"RHAPSODY_DEADLINE": "1799996400"})
