"""Requests and the scripts they render to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.deploy.assets import asset_folder
from rhapsody.deploy.script.render import clock, render_script
from rhapsody.deploy.script.request import ScriptRequest, script_request
from rhapsody.errors import SpecError
from tests.batch_job import complaints
from tests.golden.requests import EVERYTHING, EVERYTHING_PBS, KINDS, PLAIN, SUBMITTED

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATES = sorted(asset_folder("batch-templates").rglob("*.j2"))


def rendered(values: dict[str, Any], **more: Any) -> str:  # noqa: ANN401
    return render_script(script_request(values | more))


def directives(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith(("#SBATCH", "#PBS"))]


@pytest.mark.parametrize("kind", SUBMITTED)
def test_all_directives_stand_before_the_first_command(kind: str) -> None:
    lines = rendered(KINDS[kind]).splitlines()

    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    last = max(number for number, line in enumerate(lines) if line.startswith(("#SBATCH", "#PBS")))
    assert lines[0] == "#!/bin/bash -l"
    assert last < commands[0]
    assert lines[1 : last + 1] == directives("\n".join(lines)), "nothing stands between them"


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_renders_the_same_script_after_it_was_written_down_and_read(kind: str) -> None:
    request = script_request(KINDS[kind])

    again = ScriptRequest.model_validate_json(request.model_dump_json())

    assert again == request
    assert render_script(again) == render_script(request)


def test_the_requests_of_the_tests_set_every_field() -> None:
    optional = {"queue", "resources", "select"}

    assert set(EVERYTHING) | optional == set(ScriptRequest.model_fields)
    assert optional <= set(EVERYTHING_PBS)


def test_slurm_is_told_everything_that_was_asked_for() -> None:
    assert directives(rendered(EVERYTHING)) == [
        "#SBATCH --job-name=dock",
        "#SBATCH --account=abc123",
        "#SBATCH --partition=gpu",
        "#SBATCH --qos=regular",
        "#SBATCH --reservation=hack_day",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --cpus-per-task=64",
        "#SBATCH --gres=gpu:h100-80:4",
        "#SBATCH --exclusive",
        "#SBATCH --constraint=gpu&hbm80g&nvme",
        "#SBATCH --time=02:00:00",
        "#SBATCH --network=disable_rdzv_get",
        "#SBATCH --overcommit",
        "#SBATCH --dependency=afterany:4711",
        "#SBATCH --mail-user=someone@example.org",
        "#SBATCH --mail-type=BEGIN,END,FAIL,REQUEUE,TIME_LIMIT",
        "#SBATCH --output=/lustre/project/runs/dock-20261121-120000-1a2b/deploy/job-%j.out",
        "#SBATCH --open-mode=append",
        "#SBATCH --signal=B:USR1@120",
        "#SBATCH --requeue",
        "#SBATCH --no-kill",
    ]


def test_pbs_is_told_everything_that_was_asked_for() -> None:
    assert directives(rendered(EVERYTHING_PBS)) == [
        "#PBS -N dock",
        "#PBS -A abc123",
        "#PBS -q normal",
        "#PBS -l select=2:system=polaris",
        "#PBS -l walltime=02:00:00",
        "#PBS -l filesystems=home:flare",
        "#PBS -l place=scatter",
        "#PBS -k doe",
        "#PBS -r y",
        "#PBS -W depend=afterany:4711.server",
        "#PBS -M someone@example.org",
        "#PBS -m abe",
        "#PBS -j oe",
        "#PBS -o /lustre/project/runs/dock-20261121-120000-1a2b/deploy/",
    ]


def test_gpus_are_asked_for_on_the_job_and_not_on_the_launch() -> None:
    script = rendered(PLAIN, gpus_per_node=8)

    assert script.count("gpus") == 1
    assert "#SBATCH --gpus-per-node=8" in directives(script)


@pytest.mark.parametrize(
    ("constraint", "all_of_them"),
    [(None, "nvme"), ("nvme", "nvme"), ("gpu&nvme", "gpu&nvme"), ("gpu", "gpu&nvme"), ("a|b", "(a|b)&nvme")],
)
def test_the_disk_that_staging_needs_is_asked_for_by_itself(constraint: str | None, all_of_them: str) -> None:
    assert f"#SBATCH --constraint={all_of_them}" in directives(rendered(EVERYTHING, constraint=constraint))


def test_srun_binds_nothing_unless_the_site_says_how() -> None:
    assert "--cpu-bind=none" in rendered(PLAIN)
    assert "--cpu-bind=none" not in rendered(PLAIN, launcher_options=("--cpu-bind=cores",))


def test_many_nodes_are_not_named_one_by_one_in_no_proxy() -> None:
    assert "job_hosts" in rendered(PLAIN, proxy=EVERYTHING["proxy"], nodes=512)
    assert "job_hosts" not in rendered(PLAIN, proxy=EVERYTHING["proxy"], nodes=513)


@pytest.mark.parametrize(("seconds", "text"), [(59, "00:00:59"), (7200, "02:00:00"), (604_800, "168:00:00")])
def test_a_walltime_is_written_in_hours_minutes_and_seconds(seconds: int, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"nodes": 0}, "nodes"),
        ({"nodes": "2"}, "nodes"),
        ({"walltime_s": 100, "signal_lead_s": 100}, "signal_lead_s=100 leaves nothing of walltime_s=100"),
        ({"options": {"wrap": "x"}}, "options holds 'wrap', which the script sets by itself"),
        ({"scheduler": "pbs", "resources": {"select": "9"}}, "resources holds 'select'"),
        ({"scheduler": "pbs", "options": {"l": "x"}}, "options holds 'l'"),
        ({"scheduler": "pbs", "options": {"lx": "x"}}, "options holds 'lx'; those of qsub have one letter"),
        ({"scheduler": "pbs", "next_link": "requeue"}, "next_link=requeue is Slurm's"),
        ({"scheduler": "lsf"}, "scheduler"),
        ({"colour": "red"}, "colour"),
        ({"user_environment": {"HF_TOKEN": "x"}}, "HF_TOKEN looks like a secret"),
        ({"environment": {"db_password": "x"}}, "db_password looks like a secret"),
        ({"proxy": {"http": "http://me:pw@p:1/", "https": "http://p:1/"}}, r"proxy\.http: url"),
        ({"command": ()}, "command"),
        ({"launcher_options": ("sh",)}, "launcher_options begins with 'sh', which is no option"),
        ({"command": ("-x",)}, "command: word='-x'"),
        ({"run_dir": "/a b"}, r"run_dir: output='/a b' .* no spaces"),
        ({"container": {"engine": "docker", "image": "x"}}, r"container\.engine"),
    ],
)
def test_a_wrong_request_is_refused_with_the_fields_name(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        script_request(PLAIN | wrong)


@pytest.mark.parametrize(
    ("image", "engine"), [("/a.sif", "podman-hpc"), ("docker://x", "apptainer"), ("x.sif", "apptainer")]
)
def test_only_an_image_file_of_apptainer_can_be_staged(image: str, engine: str) -> None:
    container = {"engine": engine, "image": image, "staging": {"method": "sbcast", "folder": "/tmp"}}  # noqa: S108

    with pytest.raises(SpecError, match="cannot be copied to the nodes"):
        script_request(PLAIN | {"container": container})


def test_sbcast_is_refused_under_pbs() -> None:
    with pytest.raises(SpecError, match="sbcast is Slurm's; under PBS take copy"):
        script_request(EVERYTHING_PBS | {"container": EVERYTHING["container"]})


@pytest.mark.parametrize("kind", KINDS)
def test_scripts_pass_bash_and_shellcheck(kind: str, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(rendered(KINDS[kind]))

    assert complaints(script) == ""


# The templates themselves


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_a_template_prints_ends_in_a_filter_that_fits_its_place(template: Path) -> None:
    numbers = {"nodes", "cores_per_node", "gpus_per_node", "signal_lead_s", "walltime_s", "timer_s", "links"}
    for line in template.read_text().splitlines():
        for printed in re.findall(r"\{\{ (.*?) \}\}", line):
            if printed in numbers:
                continue
            if line.startswith("#"):
                assert re.search(r'\|field\("\w+"\)$', printed), line
            else:
                assert re.search(r'\|sh$|^name\|field\("(variable|module)"\)$', printed), line


@pytest.mark.parametrize("printed", ["{{ account }}", "{{ account ~ account }}", "{{ [account]|join }}", "{{ 'x' }}"])
def test_a_template_that_prints_a_value_as_it_is_fails(printed: str, tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "job.sh.j2").write_text(printed)

    with pytest.raises(SpecError, match=r"put `\| sh` behind it"):
        render_script(script_request(EVERYTHING), tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ nothing_of_that_name|sh }}", "nothing_of_that_name"),
        ("{{ nothing_of_that_name }}", "nothing_of_that_name"),
        ("{{ site.__class__.__mro__|sh }}", "unsafe|mro"),
        ("{% if %}", "faulty"),
        ("{% include 'gone.j2' %}", "gone.j2"),
    ],
)
def test_a_faulty_template_is_refused_and_the_fault_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "job.sh.j2").write_text(text)

    with pytest.raises(SpecError, match=said):
        render_script(script_request(PLAIN), tmp_path)


def test_a_folder_without_templates_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=str(tmp_path)):
        render_script(script_request(PLAIN), tmp_path)
