"""From a site's profile and a validated request to what a script is made from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rhapsody.deploy.assets import asset_folder
from rhapsody.deploy.script.from_site import CollectivesUse, Deployment, script_for
from rhapsody.deploy.script.render import render_script
from rhapsody.deploy.script.request import NextLink, ScriptRequest
from rhapsody.deploy.sites.loading import load_site_file
from rhapsody.deploy.validation.request import Request
from rhapsody.deploy.validation.rules import held, resolve
from rhapsody.errors import SpecError
from tests.golden.cases import DEPLOYMENT

FRONTIER = Request(nodes=2, walltime_s=7200, account="abc123")
POLARIS = Request(nodes=10, walltime_s=7200, account="abc123", queue="prod")
ANVIL = Request(nodes=2, walltime_s=7200, account="abc123", queue="wholenode")


def request_for(site: str, asked: Request, **more: Any) -> ScriptRequest:  # noqa: ANN401
    profile = load_site_file(asset_folder("site-profiles") / f"{site}.yaml", {})
    return script_for(resolve(profile, asked), replace(DEPLOYMENT, **more))


def test_the_image_goes_to_the_nodes_disks_where_the_site_has_a_way() -> None:
    container = request_for("frontier", FRONTIER).container

    assert container is not None
    assert container.staging is not None
    assert (container.staging.method, container.staging.folder) == ("sbcast", "/mnt/bb/$USER")


def test_the_image_stays_where_it_is_when_the_user_says_so() -> None:
    container = request_for("frontier", FRONTIER, stage_image=False).container

    assert container is not None
    assert container.staging is None


def test_an_image_that_is_no_file_cannot_be_told_to_go_to_the_nodes() -> None:
    with pytest.raises(SpecError, match="cannot be put on the nodes' disks"):
        request_for("frontier", FRONTIER, image="docker://x", stage_image=True)


def test_without_an_image_there_is_no_container_and_no_module_of_one() -> None:
    request = request_for("frontier", FRONTIER, image=None)

    assert request.container is None
    assert "olcf-container-tools" not in request.modules.load


def test_an_engine_that_the_site_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(SpecError, match=r"unknown container engine of frontier 'podman'; valid: apptainer"):
        request_for("frontier", FRONTIER, engine="podman")


def test_an_image_at_a_site_of_unknown_engine_is_refused() -> None:
    with pytest.raises(SpecError, match="which container engine slurm has is not known"):
        request_for("slurm", Request(nodes=1, walltime_s=60, queue="normal"))


def test_rccl_is_set_up_only_when_asked_for_and_by_the_number_of_nodes() -> None:
    off = request_for("frontier", FRONTIER)
    many = request_for("frontier", FRONTIER, collectives=CollectivesUse.ON)
    one = request_for("frontier", replace(FRONTIER, nodes=1), collectives=CollectivesUse.ON)

    assert "NCCL_NET" not in off.environment
    assert (many.environment["NCCL_NET"], one.environment["NCCL_NET"]) == ("OFI", "Socket")
    assert "network" not in many.options, "it may slow MPI"


def test_a_job_that_mostly_uses_rccl_gets_the_option_and_the_variable_that_belongs_to_it() -> None:
    request = request_for("frontier", FRONTIER, collectives=CollectivesUse.DOMINANT)

    assert request.options["network"] == "disable_rdzv_get"
    assert request.environment["FI_CXI_RDZV_PROTO"] == "alt_read"


def test_collectives_that_a_profile_does_not_know_are_refused() -> None:
    with pytest.raises(SpecError, match="knows nothing of RCCL or NCCL"):
        request_for("anvil", ANVIL, collectives=CollectivesUse.ON)


def test_a_chain_is_submitted_link_by_link_where_requeue_is_unknown() -> None:
    assert request_for("frontier", FRONTIER).next_link is NextLink.NONE
    assert request_for("frontier", replace(FRONTIER, links=3)).next_link is NextLink.SUBMIT


def test_pbs_gets_the_sites_resources_and_those_of_fakeroot_only_with_it() -> None:
    plain = request_for("polaris", POLARIS, image=None)
    fakeroot = request_for("polaris", POLARIS)

    assert plain.resources == {"filesystems": "home:eagle", "place": "scatter"}
    assert fakeroot.resources["singularity_fakeroot"] == "true"
    assert (plain.select, plain.options, plain.queue) == ({"system": "polaris"}, {"k": "doe"}, "prod")


def test_slurm_is_asked_for_whole_nodes_or_for_their_cores_so_that_the_agent_has_them() -> None:
    anvil = request_for("anvil", ANVIL, image=None)
    unknown = request_for("slurm", Request(nodes=1, walltime_s=60, queue="normal"), image=None)

    assert (anvil.cores_per_node, anvil.exclusive) == (128, False)
    assert (unknown.cores_per_node, unknown.exclusive) == (None, True)


def test_a_user_may_say_how_many_cpus_the_agent_gets() -> None:
    assert request_for("frontier", FRONTIER, options={"cpus-per-task": "56"}).cores_per_node == 56
    with pytest.raises(SpecError, match="cpus-per-task='many' is no number"):
        request_for("frontier", FRONTIER, options={"cpus-per-task": "many"})


def test_an_option_that_the_site_forbids_is_refused() -> None:
    with pytest.raises(SpecError, match="frontier forbids the option stepmgr"):
        request_for("frontier", FRONTIER, options={"stepmgr": ""})


def test_the_end_is_announced_five_minutes_before_or_a_fifth_of_a_short_job() -> None:
    assert request_for("frontier", FRONTIER).signal_lead_s == 300
    assert request_for("frontier", replace(FRONTIER, walltime_s=600)).signal_lead_s == 120


@pytest.mark.parametrize("field", ["run_dir", "work_dir", "script_path", "job_name", "reservation", "mail", "after"])
def test_what_a_user_gives_is_refused_by_name_when_it_cannot_go_into_a_script(field: str) -> None:
    with pytest.raises(SpecError, match=field):
        request_for("frontier", FRONTIER, **{field: "a\nb"})


@pytest.mark.parametrize(("site", "asked"), [("frontier", FRONTIER), ("polaris", POLARIS)])
def test_an_account_or_constraint_that_is_none_is_refused_by_name(site: str, asked: Request) -> None:
    with pytest.raises(SpecError, match="account"):
        request_for(site, replace(asked, account="a;b"))
    with pytest.raises(SpecError, match="constraint"):
        request_for(site, asked, constraint="$(id)")


def test_a_site_without_a_batch_system_has_no_script() -> None:
    with pytest.raises(SpecError, match="kubernetes has no batch system"):
        request_for("kubernetes", Request(nodes=1, walltime_s=60), image=None)


def test_a_run_on_this_machine_asks_nobody_for_anything() -> None:
    request = request_for("local", Request(nodes=1), image=None)

    assert (request.scheduler, request.walltime_s, request.options) == ("local", None, {})


def test_a_run_inside_of_a_job_asks_for_nothing_but_keeps_what_the_site_sets() -> None:
    profile = load_site_file(asset_folder("site-profiles") / "frontier.yaml", {})
    request = script_for(held(profile, Request(nodes=4)), replace(DEPLOYMENT, here=True))

    assert (request.here, request.walltime_s, request.cores_per_node, request.options) == (True, None, None, {})
    assert request.proxy is not None, "frontier's"
    assert "#SBATCH" not in render_script(request)


def test_a_container_engine_that_nobody_knows_of_a_site_can_be_named() -> None:
    request = request_for("slurm", Request(nodes=1, walltime_s=60, queue="normal"), engine="apptainer")

    assert request.container is not None
    assert request.container.engine == "apptainer"


def test_a_deployment_needs_a_command() -> None:
    with pytest.raises(SpecError, match="command"):
        request_for("frontier", FRONTIER, command=())
    assert isinstance(DEPLOYMENT, Deployment)
