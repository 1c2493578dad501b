"""Rendered scripts under the real bash, with stand-ins for the batch system: what they start, and how they end."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.deploy.script.render import render_script
from rhapsody.deploy.script.request import script_request
from tests.batch_job import SIGNALS_STEP, WAITS, BatchJob, end_of
from tests.eventually import eventually
from tests.golden.requests import EVERYTHING, EVERYTHING_PBS, KINDS, PLAIN

if TYPE_CHECKING:
    from pathlib import Path

PBS = PLAIN | {"scheduler": "pbs", "site": "pbs"}


@pytest.fixture
def job(tmp_path: Path) -> BatchJob:
    (tmp_path / "work").mkdir()
    (tmp_path / "image.sif").write_text("an image")
    return BatchJob(tmp_path)


def script_of(job: BatchJob, base: dict[str, Any], **more: Any) -> str:  # noqa: ANN401
    """Return the script of a request whose folders are the job's."""
    here = {
        "run_dir": str(job.run_dir),
        "work_dir": str(job.folder / "work"),
        "script_path": str(job.folder / "job.sh"),
    }
    values = base | here | more
    if values.get("container") and values["container"]["engine"] == "apptainer":
        values["container"] = values["container"] | {"image": str(job.folder / "image.sif")}
    return render_script(script_request(values))


@pytest.mark.parametrize(("base", "launcher"), [(PLAIN, "srun"), (PBS, "mpiexec")], ids=["slurm", "pbs"])
@pytest.mark.parametrize("code", [0, 1, 2, 75, 137])
async def test_the_exit_code_of_the_launch_is_that_of_the_job(
    job: BatchJob, base: dict[str, Any], launcher: str, code: int
) -> None:
    job.does(launcher, f"exit {code}")

    ended, _ = await job.run(script_of(job, base))

    assert ended == code
    assert len(job.calls(launcher)) == 1, "one launch for a job"
    assert job.events == ["started", "ended"]


async def test_under_slurm_one_agent_is_started_on_each_node_with_the_campaign_behind_it(job: BatchJob) -> None:
    await job.run(script_of(job, PLAIN, cores_per_node=56))

    (launch,) = job.calls("srun")
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--export=ALL"} < set(launch.args)
    agent = launch.args.index("rhapsody-node")
    assert launch.args[agent:] == ["rhapsody-node", "--run-dir", str(job.run_dir), "--", *PLAIN["command"]]
    assert launch.env["SRUN_CPUS_PER_TASK"] == "56"
    assert launch.cwd == str(job.folder / "work")
    assert launch.env["RHAPSODY_SITE"] == "slurm"


async def test_under_pbs_one_agent_is_started_on_each_node_with_the_campaign_behind_it(job: BatchJob) -> None:
    await job.run(script_of(job, PBS, launcher_options=("--cpu-bind=none",)))

    (launch,) = job.calls("mpiexec")
    agent = ["rhapsody-node", "--run-dir", str(job.run_dir), "--", *PLAIN["command"]]
    assert launch.args == ["-n", "2", "--ppn", "1", "--cpu-bind=none", *agent]


async def test_the_deadline_is_the_walltime_after_the_start(job: BatchJob) -> None:
    await job.run(script_of(job, PLAIN))

    (launch,) = job.calls("srun")
    began = next(job.folder.glob("calls/srun.*.args")).stat().st_mtime
    assert 7190 <= float(launch.env["RHAPSODY_DEADLINE"]) - began <= 7201


async def test_a_run_that_has_a_journal_is_resumed(job: BatchJob) -> None:
    (job.run_dir / "journal").mkdir()

    await job.run(script_of(job, PLAIN))

    (launch,) = job.calls("srun")
    assert launch.args[-4:] == list(PLAIN["resume_command"])


async def test_modules_are_loaded_although_their_function_uses_unset_variables(job: BatchJob) -> None:
    code, output = await job.run(script_of(job, PLAIN, modules=EVERYTHING["modules"]))

    assert (code, output) == (0, "")
    assert job.modules == ["use", "/soft/modulefiles", "unload", "xalt", "load", "rocm/7.0", "load", "apptainer"]


async def test_a_module_that_cannot_be_loaded_ends_the_job_and_is_named(job: BatchJob) -> None:
    code, output = await job.run(script_of(job, PLAIN, modules={"load": ("broken/1",)}))

    assert code == 1
    assert "the module broken/1 cannot be loaded" in output
    assert job.calls("srun") == []
    assert job.events == ["started", "failed"]


async def test_a_working_folder_that_is_gone_ends_the_job_and_is_named(job: BatchJob) -> None:
    script = script_of(job, PLAIN)
    (job.folder / "work").rmdir()

    code, output = await job.run(script)

    assert code == 1
    assert f"the working folder {job.folder}/work is not there" in output
    assert job.calls("srun") == []


# Images


async def test_the_image_is_sent_to_the_nodes_used_there_and_removed_at_the_end(job: BatchJob) -> None:
    await job.run(script_of(job, EVERYTHING))

    staged = "/mnt/bb/someone/rhapsody-77-1.sif"
    (sent,) = job.calls("sbcast")
    assert sent.args == ["-pf", str(job.folder / "image.sif"), staged]
    launch, removal = job.calls("srun")
    assert launch.args[launch.args.index("rhapsody-node") - 1] == staged
    assert removal.args[-4:] == ["rm", "-f", "--", staged]


async def test_an_image_that_cannot_be_sent_ends_the_job_is_said_and_what_is_there_of_it_removed(job: BatchJob) -> None:
    job.does("sbcast", "exit 3")

    code, output = await job.run(script_of(job, EVERYTHING))

    assert code == 1
    assert "the image could not be copied to /mnt/bb/someone/rhapsody-77-1.sif on the nodes (exit code 3)" in output
    (removal,) = job.calls("srun")
    assert removal.args[-4:-1] == ["rm", "-f", "--"]


async def test_an_image_that_is_not_there_ends_the_job_and_is_named(job: BatchJob) -> None:
    (job.folder / "image.sif").unlink()

    code, output = await job.run(script_of(job, EVERYTHING))

    assert code == 1
    assert f"the image {job.folder}/image.sif cannot be read" in output


async def test_under_pbs_each_node_copies_the_image(job: BatchJob) -> None:
    await job.run(script_of(job, EVERYTHING_PBS))

    copy, launch, removal = job.calls("mpiexec")
    staged = "/local/scratch/rhapsody-77-1.sif"
    assert copy.args[-5:] == ["cp", "-f", "--", str(job.folder / "image.sif"), staged]
    assert staged in launch.args
    assert removal.args[-4:] == ["rm", "-f", "--", staged]


async def test_apptainer_gets_flags_folders_and_variables(job: BatchJob) -> None:
    await job.run(script_of(job, EVERYTHING), CRAY_LD_LIBRARY_PATH="/cray")

    launch = job.calls("srun")[0]
    engine = launch.args[launch.args.index("apptainer") : launch.args.index("rhapsody-node")]
    work, copy = str(job.folder / "work"), "/mnt/bb/someone/rhapsody-77-1.sif"
    binds = [f"--bind={folder}" for folder in ("/opt/cray", work, work, str(job.run_dir), "/mnt/bb/someone")]
    start = [copy, "sh", "-c", 'rm -f -- "$0"; exec "$@"', copy]
    assert engine == ["apptainer", "-q", "exec", f"--pwd={work}", *binds, "--rocm", *start]
    assert launch.env["APPTAINERENV_MPICH_GPU_SUPPORT_ENABLED"] == "1"
    assert launch.env["LD_LIBRARY_PATH"] == "/cray:"


async def test_podman_hpc_gets_each_variable_by_name_and_the_folders(job: BatchJob) -> None:
    await job.run(script_of(job, KINDS["slurm-podman-hpc"]))

    (launch,) = job.calls("srun")
    assert {"--env=RHAPSODY_*", "--env=DRAGON_*", "--env=NCCL_DEBUG"} < set(launch.args)
    assert {"--volume=/opt:/opt", f"--volume={job.run_dir}:{job.run_dir}"} < set(launch.args)
    assert launch.args[launch.args.index("rhapsody-node") - 1] == "registry.example.org/rhapsody:1"
    assert launch.env["NCCL_DEBUG"] == "INFO"


@pytest.mark.parametrize("engine", ["podman", "podman-hpc"])
async def test_agents_in_containers_of_podman_are_told_which_node_they_are_on(job: BatchJob, engine: str) -> None:
    container = {"engine": engine, "image": "localhost/rhapsody", "passes": ()}

    await job.run(script_of(job, PLAIN, container=container))

    (launch,) = job.calls("srun")
    assert {"--env=SLURM_*", "--env=SLURMD_NODENAME", "--env=PMI_*", "--env=PALS_*"} < set(launch.args)


async def test_apptainer_that_lets_nothing_in_is_told_each_variable_on_the_node(job: BatchJob) -> None:
    job.does("srun", 'while [[ $1 == -* ]]; do shift; done; SLURM_PROCID=1 "$@"')
    container = {"engine": "apptainer", "flags": ("--cleanenv",), "passes": ()}

    await job.run(script_of(job, PLAIN, container=container, user_environment={"OMP_NUM_THREADS": "4 or 5"}))

    (launch,) = job.calls("apptainer")
    assert launch.env["APPTAINERENV_SLURM_PROCID"] == "1"
    assert launch.env["APPTAINERENV_OMP_NUM_THREADS"] == "4 or 5"
    assert launch.env["APPTAINERENV_RHAPSODY_SITE"] == "slurm"
    assert "APPTAINERENV_PATH" not in launch.env


async def test_folder_with_the_campaign_is_mounted_where_it_is(job: BatchJob) -> None:
    container = {"engine": "apptainer", "folders": ("/else where/$HOME",)}

    await job.run(script_of(job, PLAIN, container=container))

    (launch,) = job.calls("srun")
    assert "--bind=/else where/$HOME" in launch.args


@pytest.mark.parametrize(
    ("code", "begun", "event"), [(255, False, "failed"), (255, True, "ended"), (1, False, "ended")]
)
async def test_container_that_does_not_start_is_told_from_a_campaign_that_fails(
    job: BatchJob, *, code: int, begun: bool, event: str
) -> None:
    if begun:
        (job.run_dir / "journal").mkdir()
    job.does("srun", f"exit {code}")

    ended, output = await job.run(script_of(job, PLAIN, container={"engine": "apptainer"}))

    assert ended == (1 if event == "failed" else code)
    assert job.events == ["started", event]
    assert ("the container did not start; what apptainer says of it is above" in output) == (event == "failed")


async def test_node_without_the_engine_ends_the_job_and_is_said(job: BatchJob) -> None:
    container = {"engine": "podman-hpc", "image": "localhost/rhapsody"}
    (job.folder / "bin" / "podman-hpc").unlink()

    code, output = await job.run(script_of(job, PLAIN, container=container))

    assert (code, job.events) == (1, ["started", "failed"])
    assert "there is no podman-hpc on this node; if a module has it, add --set 'modules.load=[NAME]'" in output


async def test_shifter_gets_its_image_as_an_option(job: BatchJob) -> None:
    await job.run(script_of(job, KINDS["slurm-shifter"]))

    (launch,) = job.calls("srun")
    engine = launch.args[launch.args.index("shifter") : launch.args.index("rhapsody-node")]
    assert engine[:2] == ["shifter", "--image=registry.example.org/rhapsody:1"]
    assert {"--volume=/opt:/opt:ro", "--env=A=1", "--module=gpu"} < set(engine)


# Proxies


@pytest.mark.parametrize(("base", "launcher"), [(PLAIN, "srun"), (PBS, "mpiexec")], ids=["slurm", "pbs"])
async def test_the_proxy_is_for_the_campaign_and_not_for_the_nodes_of_the_job(
    job: BatchJob, base: dict[str, Any], launcher: str
) -> None:
    await job.run(script_of(job, base, proxy=EVERYTHING["proxy"]), all_proxy="socks://x:1", HOSTNAME="n1")

    (launch,) = job.calls(launcher)
    assert launch.env["http_proxy"] == launch.env["HTTP_PROXY"] == "http://proxy.example.org:3128/"
    assert launch.env["https_proxy"] == "http://proxy.example.org:3129/"
    no_proxy = launch.env["no_proxy"].split(",")
    assert {"localhost", "127.0.0.1", "*.example.org", "n1", "n2"} <= set(no_proxy)
    assert launch.env["NO_PROXY"] == launch.env["no_proxy"]
    assert "all_proxy" not in launch.env


@pytest.mark.parametrize("name", ["hosts", "code", "HOSTNAME", "http_proxy", "LD_LIBRARY_PATH", "RHAPSODY_LINK"])
async def test_a_variable_of_the_user_arrives_whatever_its_name_is(job: BatchJob, name: str) -> None:
    await job.run(script_of(job, EVERYTHING, user_environment={name: "the user's own"}))

    assert job.calls("srun")[0].env[name] == "the user's own"


async def test_commands_of_the_script_itself_see_neither_the_proxy_nor_the_users_variables(job: BatchJob) -> None:
    await job.run(script_of(job, EVERYTHING, user_environment={"LD_PRELOAD_X": "mine"}))

    (sent,) = job.calls("sbcast")
    assert "http_proxy" not in sent.env
    assert "LD_PRELOAD_X" not in sent.env
    assert job.calls("srun")[0].env["LD_PRELOAD_X"] == "mine"


# Signals


@pytest.mark.parametrize(("base", "launcher"), [(PLAIN, "srun"), (PBS, "mpiexec")], ids=["slurm", "pbs"])
@pytest.mark.parametrize(("sent", "heard", "code"), [("USR1", "USR1", 75), ("TERM", "TERM", 143), ("INT", "TERM", 143)])
async def test_a_signal_reaches_the_launch_whose_exit_code_stays_the_jobs(
    job: BatchJob, base: dict[str, Any], launcher: str, sent: str, heard: str, code: int
) -> None:
    job.does(launcher, WAITS)
    job.does("scancel", SIGNALS_STEP)
    process = await job.start(script_of(job, base))
    await eventually(job.waiting, what="the launch waits")

    process.send_signal(signal.Signals[f"SIG{sent}"])
    ended, output = await end_of(process)

    assert (ended, job.heard()) == (code, [heard])
    assert f"got SIG{sent}" in output
    assert job.events == ["started", "ended"]


async def test_sigterm_goes_to_the_step_since_srun_would_kill_it(job: BatchJob) -> None:
    job.does("srun", WAITS)
    job.does("scancel", SIGNALS_STEP)
    process = await job.start(script_of(job, PLAIN))
    await eventually(job.waiting, what="the launch waits")

    process.send_signal(signal.SIGTERM)
    await end_of(process)

    assert [call.args for call in job.calls("scancel")] == [["--signal=TERM", "77"]]


async def test_sigterm_goes_to_srun_where_scancel_fails(job: BatchJob) -> None:
    job.does("srun", WAITS)
    job.does("scancel", "exit 1")
    process = await job.start(script_of(job, PLAIN))
    await eventually(job.waiting, what="the launch waits")

    process.send_signal(signal.SIGTERM)

    assert (await end_of(process))[0] == 143
    assert job.heard() == ["TERM"]


async def test_a_signal_while_the_job_ends_changes_nothing(job: BatchJob) -> None:
    job.does("srun", "exit 75")
    job.does("sbatch", "kill -s TERM $PPID")

    code, output = await job.run(script_of(job, PLAIN, next_link="submit", links=2))

    assert code == 75
    assert "SIGTERM" not in output
    assert "the next link is in the queue" in output


async def test_a_campaign_that_goes_on_after_a_signal_is_waited_for(job: BatchJob) -> None:
    goes_on = "sleep 60 & touch $STAND_INS/goes_on; wait $!; exit 6"
    job.does("srun", WAITS.replace("exit 75", goes_on).replace("%1", "%%"))
    job.does("scancel", SIGNALS_STEP)
    process = await job.start(script_of(job, PLAIN))
    await eventually(job.waiting, what="the launch waits")

    process.send_signal(signal.SIGUSR1)
    await eventually((job.folder / "goes_on").exists, what="it goes on")
    running = process.returncode is None
    process.send_signal(signal.SIGTERM)
    ended, _ = await end_of(process)

    assert running
    assert job.heard() == ["USR1", "TERM"]
    assert ended == 143


@pytest.mark.parametrize("base", [PLAIN | {"signal": False}, PBS], ids=["slurm", "pbs"])
async def test_where_nobody_announces_the_end_a_timer_does(job: BatchJob, base: dict[str, Any]) -> None:
    job.does("srun", WAITS)
    job.does("mpiexec", WAITS)

    code, output = await job.run(script_of(job, base, walltime_s=61, signal_lead_s=60))

    assert (code, job.heard()) == (75, ["USR1"])
    assert "got SIGUSR1" in output


async def test_the_timer_ends_with_the_job(job: BatchJob) -> None:
    process = await job.start(script_of(job, PBS))

    code, _ = await end_of(process)

    assert code == 0
    with pytest.raises(ProcessLookupError):
        await eventually(lambda: os.killpg(process.pid, 0), what="nothing of the job is left")


async def test_a_signal_while_the_image_is_sent_ends_the_job_before_the_campaign(job: BatchJob) -> None:
    job.does("sbcast", "kill -s TERM $PPID")

    code, output = await job.run(script_of(job, EVERYTHING))

    assert code == 143
    assert "got SIGTERM before the campaign has begun" in output
    assert [call.args[-4] for call in job.calls("srun")] == ["rm"]


# What follows


async def test_a_campaign_out_of_time_is_queued_again_where_the_site_requeues(job: BatchJob) -> None:
    job.does("srun", "[[ $* != *rhapsody-node* ]] || exit 75")

    code, output = await job.run(script_of(job, EVERYTHING))

    assert code == 75
    assert ["requeue", "77"] in [call.args for call in job.calls("scontrol")]
    assert job.events == ["started", "ended", "continued"]
    assert "the next link is in the queue" in output


@pytest.mark.parametrize(("base", "command"), [(PLAIN, "sbatch"), (PBS, "qsub")], ids=["slurm", "pbs"])
async def test_a_campaign_out_of_time_is_followed_by_the_next_link(
    job: BatchJob, base: dict[str, Any], command: str
) -> None:
    job.does("srun", "exit 75")
    job.does("mpiexec", "exit 75")

    code, _ = await job.run(script_of(job, base, next_link="submit", links=3), RHAPSODY_LINK="2")

    assert code == 75
    (next_link,) = job.calls(command)
    assert next_link.args[-1] == str(job.folder / "job.sh")
    assert any(f"afterany:{job.environment()['SLURM_JOB_ID']}" in word for word in next_link.args)
    assert "RHAPSODY_LINK=3" in next_link.args or next_link.env.get("RHAPSODY_LINK") == "3"


@pytest.mark.parametrize(
    "more",
    [
        {"next_link": "submit", "links": 2, "RHAPSODY_LINK": "2"},
        {"next_link": "requeue", "links": 2, "SLURM_RESTART_COUNT": "1"},
    ],
    ids=["chain", "requeue"],
)
async def test_the_last_link_is_followed_by_none_and_says_so(job: BatchJob, more: dict[str, Any]) -> None:
    job.does("srun", "exit 75")
    env = {name: more.pop(name) for name in list(more) if name.isupper()}

    code, output = await job.run(script_of(job, PLAIN, **more), **env)

    assert code == 75
    assert "this was the last of 2 links" in output
    assert job.calls("sbatch") == job.calls("scontrol") == []


async def test_a_link_that_cannot_be_queued_is_said_and_the_exit_code_kept(job: BatchJob) -> None:
    job.does("srun", "exit 75")
    job.does("sbatch", "exit 1")

    code, output = await job.run(script_of(job, PLAIN, next_link="submit", links=2))

    assert code == 75
    assert "the next link could not be queued" in output


@pytest.mark.parametrize("code", [0, 1, 143])
async def test_nothing_follows_a_campaign_that_ended_otherwise(job: BatchJob, code: int) -> None:
    job.does("srun", f"exit {code}")

    ended, _ = await job.run(script_of(job, PLAIN, next_link="submit", links=5))

    assert ended == code
    assert job.calls("sbatch") == []


@pytest.mark.parametrize("link", ["a[$(touch canary)]", "0x1", "-1", "99999999", "1; touch canary"])
async def test_a_link_number_that_is_none_counts_as_the_first(job: BatchJob, link: str) -> None:
    job.does("srun", "exit 75")

    await job.run(script_of(job, PLAIN, next_link="submit", links=2), RHAPSODY_LINK=link, SLURM_RESTART_COUNT=link)

    assert [call.env["RHAPSODY_LINK"] for call in job.calls("sbatch")] == ["2"]
    assert not list(job.folder.rglob("canary"))
