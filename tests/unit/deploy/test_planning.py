"""From what a user asks for to a script: what is refused, and what becomes of the rest."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rhapsody.deploy.image.engine import own_architecture
from rhapsody.deploy.planning import Order, nodes_held, plan, require_campaign
from rhapsody.deploy.records import How
from rhapsody.deploy.sites.loading import load_site
from rhapsody.deploy.validation.request import Request
from rhapsody.errors import SpecError

CAMPAIGN = "async def campaign(session, args):\n    pass\n"


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Order:
    """A campaign of sixteen nodes in this folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.py").write_text(CAMPAIGN)
    return Order(
        campaign=Path("study.py"), args=["a", "-b"], request=Request(nodes=16, walltime_s=7200, account="abc123")
    )


def test_a_plan_writes_nothing(order: Order, tmp_path: Path) -> None:
    made = plan(load_site("frontier", {}), order)

    assert made.how is How.BATCH
    assert made.run_dir.parent == tmp_path / "runs"
    assert [path.name for path in tmp_path.iterdir()] == ["study.py"]


def test_the_job_runs_this_installation_on_the_absolute_file_in_this_folder(order: Order, tmp_path: Path) -> None:
    script = plan(load_site("frontier", {}), order).script

    programs = Path(sys.executable).parent
    assert script.agent == (str(programs / "rhapsody-node"),)
    assert script.command[:2] == (str(programs / "rhapsody"), "run")
    assert script.command[-4:] == (str(tmp_path / "study.py"), "--", "a", "-b")
    assert script.work_dir == str(tmp_path)


def test_in_an_image_its_own_commands_are_run(order: Order) -> None:
    script = plan(load_site("perlmutter", {}), replace(order, **PERLMUTTER)).script

    assert script.agent == ("rhapsody-node",)
    assert script.command[:2] == ("rhapsody", "run")


PERLMUTTER: dict[str, Any] = {
    "image": "registry.example.org/rhapsody:1",
    "request": Request(nodes=2, walltime_s=3600, account="m1234_g", queue="regular", node_kind="gpu"),
}


def test_in_an_image_the_folder_of_a_campaign_from_elsewhere_is_mounted(order: Order, tmp_path: Path) -> None:
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "study.py").write_text(CAMPAIGN)
    site = load_site("perlmutter", {})

    own, other = (
        plan(site, replace(order, campaign=campaign, **PERLMUTTER)).script.container
        for campaign in (order.campaign, elsewhere / "study.py")
    )

    assert (own and own.folders, other and other.folders) == ((), (str(elsewhere),))


@pytest.mark.parametrize(
    ("magic", "says"), [(b"SIF_MAGIC\0", ""), (b"something!", "is no image of Apptainer; make one")]
)
def test_an_image_for_other_machines_is_doubted_and_what_is_no_image_refused(
    order: Order, tmp_path: Path, magic: bytes, says: str
) -> None:
    here = own_architecture()
    other, code = ("arm64", b"04") if here != "arm64" else ("amd64", b"02")
    (tmp_path / "rhapsody.sif").write_bytes(bytes(32) + magic + b"01\0" + code + bytes(20))
    asked = replace(order, image="rhapsody.sif")

    if says:
        with pytest.raises(SpecError, match=says):
            plan(load_site("frontier", {}), asked)
        return
    made = plan(load_site("frontier", {}), asked)

    assert any(f"is for {other}, and this machine is {here}" in warning for warning in made.resolved.warnings)


def test_an_unpacked_image_may_be_named_by_its_folder(order: Order, tmp_path: Path) -> None:
    (tmp_path / "unpacked" / ".singularity.d").mkdir(parents=True)
    (tmp_path / "other").mkdir()

    made = plan(load_site("frontier", {}), replace(order, image="./unpacked"))

    assert made.script.container is not None
    assert (made.script.container.image, made.script.container.staging) == (str(tmp_path / "unpacked"), None)
    assert made.record().image_digest is None
    with pytest.raises(SpecError, match="is no unpacked image; unpack one: apptainer build --sandbox"):
        plan(load_site("frontier", {}), replace(order, image="./other"))


def test_an_engine_that_no_profile_knows_shares_network_and_memory_with_the_node(order: Order) -> None:
    asked = replace(order, image="localhost/rhapsody", engine="podman", request=Request(nodes=2, walltime_s=60))

    text = plan(load_site("slurm", {}), asked).text

    for option in ("--network=host", "--ipc=host", "--env='SLURM_*'"):
        assert option in text


def test_an_image_file_that_is_not_there_is_refused(order: Order) -> None:
    with pytest.raises(SpecError, match=r"the image .*/x\.sif cannot be read: No such file"):
        plan(load_site("frontier", {}), replace(order, image="x.sif"))


def test_the_record_knows_the_image_by_its_digest(order: Order, tmp_path: Path) -> None:
    (tmp_path / "x.img").write_bytes(b"an image")

    record = plan(load_site("frontier", {}), replace(order, image="x.img")).record()

    assert record.image_digest == f"sha256:{hashlib.sha256(b'an image').hexdigest()}"


def test_the_cost_is_in_the_sites_unit(order: Order) -> None:
    request = Request(nodes=4, walltime_s=24 * 3600, account="cis1", queue="wholenode")

    cost = plan(load_site("anvil", {}), replace(order, request=request)).cost

    assert cost is not None
    assert (cost.amount, cost.unit) == (4 * 24 * 128, "core-hours")


@pytest.mark.parametrize("given", [{"after": "12"}, {"mail": "a@b.org"}, {"reservation": "r"}, {"constraint": "gpu"}])
def test_what_belongs_to_a_queue_is_refused_where_there_is_none(order: Order, given: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=rf"--{next(iter(given))} is for jobs that are submitted"):
        plan(load_site("local", {}), replace(order, request=Request(), **given))


def test_a_name_that_no_batch_system_takes_is_made_one(order: Order) -> None:
    script = plan(load_site("frontier", {}), replace(order, name="7 Studien über x")).script

    assert script.job_name == "run-7-Studien--ber-x"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("def campaign(session, args): pass", "is a plain `def`"),
        ("x = 1", "has no `campaign`"),
        ("async def campaign(", "is no Python"),
        ("async def Campaign(session, args): pass", "has no `campaign`"),
        ("\0", "is no Python"),
    ],
)
def test_a_file_that_cannot_be_a_campaign_is_refused_before_it_waits_in_a_queue(
    tmp_path: Path, content: str, says: str
) -> None:
    (tmp_path / "x.py").write_text(content)

    with pytest.raises(SpecError, match=says):
        require_campaign(tmp_path / "x.py")


@pytest.mark.parametrize(
    "content",
    [
        CAMPAIGN,
        "from elsewhere import campaign",
        "from elsewhere import *",
        "from elsewhere import study as campaign",
        "campaign = make()",
        "if True:\n    async def campaign(session, args): pass",
    ],
)
def test_a_campaign_may_come_from_wherever_python_lets_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.py").write_text(content)

    require_campaign(tmp_path / "x.py")


@pytest.mark.parametrize(("name", "says"), [("none.py", "does not exist"), ("x.txt", r"does not end in \.py")])
def test_a_campaign_file_that_is_none_is_named(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "x.txt").write_text(CAMPAIGN)

    with pytest.raises(SpecError, match=says):
        require_campaign(tmp_path / name)


SLURM = {"SLURM_JOB_ID": "12", "SLURM_JOB_NUM_NODES": "4"}


def test_the_nodes_of_the_job_around_are_used_unless_fewer_are_asked_for() -> None:
    profile = load_site("frontier", {})

    assert [nodes_held(profile, asked, SLURM) for asked in (None, 2, 4)] == [4, 2, 4]


def test_under_pbs_each_node_counts_once(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("n1\nn1\nn2\n")

    environ = {"PBS_JOBID": "12.server", "PBS_NODEFILE": str(tmp_path / "hosts")}
    assert nodes_held(load_site("aurora", {}), None, environ) == 2


@pytest.mark.parametrize(
    ("site", "environ", "nodes", "says"),
    [
        ("frontier", {}, None, "neither SLURM_JOB_ID nor PBS_JOBID is set"),
        ("frontier", SLURM, 5, "5 nodes are asked for, and the job 12 has 4"),
        ("aurora", SLURM, None, "this shell is in a job of slurm, and aurora has pbs"),
        ("aurora", {"PBS_JOBID": "1.s", "PBS_NODEFILE": "/none"}, None, "PBS_NODEFILE=/none cannot be read"),
    ],
)
def test_here_is_refused_where_there_is_no_such_job(
    site: str, environ: dict[str, str], nodes: int | None, says: str
) -> None:
    with pytest.raises(SpecError, match=says):
        nodes_held(load_site(site, {}), nodes, environ)
