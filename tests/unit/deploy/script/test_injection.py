"""Attempts to get a command into a script, in every value that a request has.

Each is refused, with the field named, or does nothing: the script is run, and no canary appears.
"""

from __future__ import annotations

import copy
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhapsody.deploy.script.render import render_script
from rhapsody.deploy.script.request import script_request
from rhapsody.errors import SpecError
from tests.batch_job import BatchJob
from tests.golden.requests import EVERYTHING, EVERYTHING_PBS, KINDS, PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ATTACKS = (
    "\n touch CANARY\n",
    "\r\ntouch CANARY\r\n",
    ";touch CANARY;",
    "&touch CANARY&",
    "||touch CANARY||",
    "|touch CANARY",
    "$(touch CANARY)",
    "`touch CANARY`",
    "<(touch CANARY)",
    "';touch CANARY;'",
    '";touch CANARY;"',
    "\\';touch CANARY;\\'",
    "'\n#SBATCH --account=evil\n'",
    "\n#SBATCH --account=evil\n#PBS -A evil\n",
    "\n#PBS -A evil",
    "${x:-$(touch CANARY)}",
    "$((a[$(touch CANARY)]))",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{% endfor %}",
    ") && touch CANARY #",
    ")\ntouch CANARY\n(",
    "} ; touch CANARY ; {",
    "\x00touch CANARY",
    "\u2028touch CANARY\u2028",
    "\\",
    "'",
    '"',
    "#",
    "!!",
    "~",
    "*",
)
_NO_TEXT = {"scheduler", "engine", "method", "next_link"}
"""Chosen from a list."""
Place = tuple[str | int, ...]


def places(value: Any, where: Place = ()) -> Iterator[Place]:  # noqa: ANN401
    """Yield the way to every text of a request; that to a key ends in two of it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if where and where[-1] in {"options", "resources", "select", "environment", "user_environment"}:
                yield (*where, name, name)
            yield from places(inner, (*where, name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from places(inner, (*where, number))
    elif isinstance(value, str) and where[-1] not in _NO_TEXT:
        yield where


def replaced(base: dict[str, Any], place: Place, attack: str, *, behind: bool = False) -> dict[str, Any]:
    """Return a copy of a request with an attack in place of the text there, or behind it."""
    whole: dict[str, Any] = _lists(copy.deepcopy(base))
    inner: Any = whole
    is_key = len(place) > 2 and place[-1] == place[-2]
    *way, last = place[:-1] if is_key else place
    for step in way:
        inner = inner[step]
    if is_key:
        inner[str(last) + attack if behind else attack] = inner.pop(last)
    else:
        inner[last] = inner[last] + attack if behind else attack
    return whole


def _lists(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {name: _lists(inner) for name, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, list | tuple) else value


BASES = {name: KINDS[name] for name in ("slurm-everything", "pbs-everything", "slurm-podman-hpc", "slurm-shifter")}
PLACES = [(name, place) for name, base in BASES.items() for place in places(base)]


def test_every_text_of_a_request_is_attacked() -> None:
    attacked = {str(place[0]) for _, place in PLACES}

    numbers = {"nodes", "walltime_s", "gpus_per_node", "cores_per_node", "signal_lead_s", "links"}
    choices = {"scheduler", "next_link", "exclusive", "signal", "here"}
    assert attacked | numbers | choices == set(EVERYTHING) | set(EVERYTHING_PBS)


@pytest.mark.parametrize(("base", "place"), PLACES, ids=str)
def test_an_attack_is_refused_by_name_or_leaves_directives_and_syntax_as_they_were(base: str, place: Place) -> None:
    expected = directives(render_script(script_request(BASES[base])))
    for attack in ATTACKS:
        for values in (replaced(BASES[base], place, attack), replaced(BASES[base], place, attack, behind=True)):
            refusal, script = outcome(values)
            assert refusal is None or str(place[0]) in refusal
            if script is not None:
                changed = set(directives(script)) - set(expected)
                assert not any("evil" in line or "touch" in line for line in changed)
                assert len(directives(script)) == len(expected)
                assert "".join(script.split("\n")).isprintable()


def outcome(values: dict[str, Any]) -> tuple[str | None, str | None]:
    """Return why a request is refused, or the script that it renders to."""
    try:
        return None, render_script(script_request(values))
    except SpecError as refused:
        return str(refused), None


def directives(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.lstrip().startswith(("#SBATCH", "#PBS"))]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("attack", ATTACKS)
async def test_no_attack_that_is_let_in_runs_and_each_arrives_as_it_is(base: str, attack: str, tmp_path: Path) -> None:
    """All values that let the attack in hold it at once, and the script runs."""
    job = BatchJob(tmp_path)
    canary = tmp_path / "canary"
    attack = attack.replace("CANARY", str(canary))
    values = attacked_everywhere(BASES[base], attack, job)
    launcher = "mpiexec" if values["scheduler"] == "pbs" else "srun"
    job.does(launcher, "[[ $* != *rhapsody-node* ]] || exit 75")

    script = render_script(script_request(values))
    code, output = await job.run(script)

    assert not canary.exists(), output
    assert code == 75, output
    launch = next(call for call in job.calls(launcher) if "rhapsody-node" in " ".join(call.args))
    assert launch.args[-len(values["command"]) :] == list(values["command"])
    for name, value in values.get("user_environment", {}).items():
        assert launch.env[name] == value
    assert launch.cwd == values["work_dir"].rstrip("/")


def attacked_everywhere(base: dict[str, Any], attack: str, job: BatchJob) -> dict[str, Any]:
    """Return a request with the attack in all values that let it in, for folders of the job that exist."""
    values: dict[str, Any] = _lists(copy.deepcopy(base)) | {
        "run_dir": str(job.run_dir),
        "work_dir": str(job.folder / "work"),
        "script_path": str(job.folder / "job.sh"),
        "resume_command": None,
    }
    if "container" in values and values["container"]["engine"] == "apptainer":
        values["container"]["image"] = str(job.folder / "image.sif")
    for place in list(places(values)):
        tried = replaced(values, place, attack, behind=True)
        refusal, _ = outcome(tried)
        if refusal is None and place[0] != "run_dir":
            values = tried
    _make(values, job)
    return values


def _make(values: dict[str, Any], job: BatchJob) -> None:
    """Make folder and image of a request, whatever they are called."""
    (job.folder / "work").mkdir()
    type(job.folder)(values["work_dir"]).mkdir(parents=True, exist_ok=True)
    if values.get("container", {}).get("engine") == "apptainer":
        image = type(job.folder)(values["container"]["image"])
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_text("an image")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    args=st.lists(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=20),
    value=st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)
def test_arguments_and_variables_arrive_byte_for_byte_whatever_they_are(
    args: list[str], value: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job = BatchJob(tmp_path_factory.mktemp("job"))
    here = {"run_dir": str(job.run_dir), "work_dir": str(job.folder), "script_path": str(job.folder / "job.sh")}
    command = ("rhapsody", "run", "campaign.py", "--", *args)
    script = job.folder / "job.sh"
    script.write_text(
        render_script(script_request(PLAIN | here | {"command": command, "user_environment": {"VALUE": value}}))
    )

    subprocess.run(["bash", script], env=job.environment(), check=True, capture_output=True)  # noqa: S607

    (launch,) = job.calls("srun")
    assert launch.args[-len(command) :] == list(command)
    assert launch.env["VALUE"] == value
