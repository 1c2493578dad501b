from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.deploy.sites.loading import load_site
from rhapsody.deploy.validation.request import Request, Resolved
from rhapsody.deploy.validation.rules import describe, nearest, profile_warnings, resolve
from rhapsody.errors import SpecError
from rhapsody.session.deadline import parse_walltime

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.deploy.sites.profile import SiteProfile


@pytest.fixture(autouse=True)
def _home_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def site(name: str) -> SiteProfile:
    return load_site(name, {})


def job(nodes: int, walltime: str | None = None, **more: str | int | None) -> Request:
    walltime_s = parse_walltime(walltime) if walltime else None
    fields: dict[str, Any] = {"account": "abc", **more}
    return Request(nodes=nodes, walltime_s=walltime_s, **fields)


def resolved(name: str, nodes: int, walltime: str | None = None, **more: str | int | None) -> Resolved:
    return resolve(site(name), job(nodes, walltime, **more))


def refusal(name: str, nodes: int, walltime: str | None = None, **more: str | int | None) -> str:
    with pytest.raises(SpecError) as refused:
        resolve(site(name), job(nodes, walltime, **more))
    return str(refused.value)


# Frontier


def test_a_job_for_frontier_gets_the_batch_queue_and_its_price() -> None:
    found = resolved("frontier", 16, "2h")

    assert (found.queue_name, found.gpus_per_node, found.charge, found.unit) == ("batch", 8, 32.0, "node-hours")
    assert found.kind is not None
    assert found.kind.name == "compute"


def test_frontiers_bins_give_both_neighbours() -> None:
    assert refusal("frontier", 91, "6h") == (
        "no queue of frontier takes 91 nodes for 6h; nearest: 91 nodes for 2h in batch, 64 nodes for 6h in extended,"
        " or 92 nodes for 6h in batch"
    )


def test_a_long_job_of_few_nodes_gets_the_extended_queue() -> None:
    assert resolved("frontier", 64, "24h").queue_name == "extended"


def test_frontier_prohibits_chains_in_its_debug_qos() -> None:
    text = refusal("frontier", 2, "1h", queue="debug", links=2)

    assert "chains of jobs are prohibited in debug; nearest: 2 nodes for 1h in batch" in text


def test_a_single_job_in_frontiers_debug_qos_is_warned_of_what_is_unknown() -> None:
    found = resolved("frontier", 2, "1h", queue="debug")

    assert found.queue is not None
    assert (found.queue.partition, found.queue.qos) == ("batch", "debug")
    assert "debug: One job in any state; not for production." in found.warnings


def test_more_nodes_than_the_machine_has_are_refused() -> None:
    assert "nearest: 9472 nodes for 2h in batch" in refusal("frontier", 10_000, "2h")


def test_an_account_that_the_site_asks_for_must_be_given() -> None:
    assert refusal("frontier", 1, "1h", account=None) == "frontier asks for an account: -A ACCOUNT"


def test_an_unknown_queue_lists_the_valid_ones() -> None:
    assert refusal("frontier", 1, "1h", queue="bath") == (
        "unknown queue of frontier 'bath'; valid: batch, debug, extended"
    )


# ALCF


def test_where_no_queue_of_aurora_fits_it_says_so_and_gives_the_neighbours() -> None:
    assert refusal("aurora", 100, "2h") == (
        "no queue of aurora takes 100 nodes for 2h; nearest: 100 nodes for 1h in debug-scaling, 16 nodes for 2h in"
        " capacity, or 256 nodes for 2h in prod"
    )


@pytest.mark.parametrize("nodes", [17, 100, 255])
def test_no_queue_of_aurora_takes_a_middling_job_beyond_an_hour(nodes: int) -> None:
    assert "no queue of aurora takes" in refusal("aurora", nodes, "61m")
    assert resolved("aurora", nodes, "1h").queue_name == "debug-scaling"


@pytest.mark.parametrize(("nodes", "behind"), [(256, "small"), (1024, "small"), (1025, "medium"), (2000, "large")])
def test_auroras_routing_queue_is_asked_for_and_the_one_behind_is_known(nodes: int, behind: str) -> None:
    found = resolved("aurora", nodes, "12h")

    assert found.queue_name == "prod"
    assert found.bin is not None
    assert found.bin.name == behind


def test_a_queue_behind_a_routing_queue_cannot_be_named() -> None:
    assert "is reached through prod only: give -q prod" in refusal("aurora", 300, "2h", queue="small")


def test_a_job_shorter_than_the_site_takes_is_refused() -> None:
    assert "nearest: 2 nodes for 5m in debug" in refusal("aurora", 2, "1m")


def test_a_queue_that_may_kill_is_named_and_never_chosen() -> None:
    assert refusal("polaris", 7, "3h").endswith("; as it is in preemptable, where jobs may be killed without a warning")
    assert (
        "jobs in preemptable may be killed without a warning"
        in resolved("polaris", 7, "3h", queue="preemptable").warnings
    )


# Anvil, Delta, Perlmutter: accounts


def test_a_queue_that_must_be_named_is_asked_for_with_those_that_fit() -> None:
    assert refusal("anvil", 4, "24h") == "anvil asks for a queue: -q QUEUE; 4 nodes for 24h fit in wholenode, gpu, ai"


def test_anvils_credits_must_be_those_of_the_queue() -> None:
    text = refusal("anvil", 1, "1h", queue="gpu", account_kind="cpu")

    assert "gpu charges accounts for gpu, the account abc is for cpu; nearest: 1 node for 1h in shared" in text


def test_an_account_that_cannot_be_told_is_warned_of() -> None:
    warnings = resolved("anvil", 1, "1h", queue="gpu").warnings

    assert "whether the account abc pays for gpu cannot be told from its name" in warnings


def test_anvil_charges_all_cores_of_a_node() -> None:
    found = resolved("anvil", 2, "10h", queue="wholenode", account_kind="cpu")

    assert (found.node_hours, found.charge, found.unit) == (20.0, 2560.0, "core-hours")


def test_a_queue_for_fewer_gpus_than_a_node_has_gives_as_many_as_it_may() -> None:
    found = resolved("anvil", 1, "20m", queue="gpu-debug", account_kind="gpu")

    assert found.gpus_per_node == 2
    assert "gpu-debug allows 2 GPUs for a job: 2 of 4 on each node" in found.warnings


def test_more_gpus_than_a_queue_allows_are_refused() -> None:
    text = refusal("anvil", 4, "1h", queue="gpu", account_kind="gpu", gpus_per_node=4)

    assert "at most 12 GPUs; nearest: 3 nodes for 1h in gpu" in text
    assert "have 4 GPUs, not 5" in refusal("anvil", 1, "1h", queue="gpu", gpus_per_node=5)


def test_deltas_accounts_are_known_by_their_names() -> None:
    assert resolved("delta", 4, "1h", queue="gpuA100x4", account="x-delta-gpu").queue_name == "gpuA100x4"
    assert "gpuA100x4 charges accounts for gpu, the account x-delta-cpu is for cpu" in refusal(
        "delta", 4, "1h", queue="gpuA100x4", account="x-delta-cpu"
    )
    assert "such accounts end in -delta-gpu" in str(resolved("delta", 4, "1h", queue="gpuA100x4", account="x").warnings)


def test_perlmutters_accounts_are_warned_of_and_never_refused() -> None:
    found = resolved("perlmutter", 4, "1h", queue="regular", node_kind="cpu", account="m1_g")

    assert "the account m1_g looks like one for gpu, but these nodes want one for cpu" in found.warnings


def test_limits_that_nobody_knows_refuse_nothing_and_are_told() -> None:
    found = resolved("perlmutter", 1000, "90h", queue="regular", node_kind="gpu")

    assert "how long a job may take in regular is not known; the site may refuse it" in found.warnings


def test_a_queue_that_the_profile_does_not_know_is_taken_where_it_may_exist() -> None:
    found = resolved("perlmutter", 1, "1h", queue="new", node_kind="gpu")

    assert found.queue is None
    assert found.queue_name == "new"
    assert "does not know the queue new" in found.warnings[0]


def test_a_kind_of_account_that_the_site_lacks_is_refused() -> None:
    assert "valid: ai, cpu, gpu" in refusal("anvil", 1, "1h", queue="gpu", account_kind="gold")


def test_a_kind_of_nodes_that_the_queue_lacks_is_refused() -> None:
    assert "gpu has no nodes of the kind cpu" in refusal("anvil", 1, "1h", queue="gpu", node_kind="cpu")
    assert "unknown kind of nodes of anvil" in refusal("anvil", 1, "1h", queue="gpu", node_kind="qpu")


# Generic sites


def test_a_cluster_whose_queues_are_unknown_takes_what_is_asked_for() -> None:
    found = resolved("slurm", 3, "1h", account=None)

    assert found.queue_name is None
    assert found.node_hours == 3
    assert "does not know the site's own default queue" in found.warnings[0]


def test_a_machine_without_queues_warns_of_nothing() -> None:
    assert resolved("local", 1, account=None).warnings == ()


def test_a_walltime_that_nobody_names_is_the_queues_own() -> None:
    assert resolved("anvil", 1, queue="shared", account_kind="cpu").walltime_s == 1800


def test_blocks_that_nobody_vouches_for_are_told() -> None:
    assert profile_warnings(site("delta"))[0] == "container: not known of delta: container engine"


@pytest.mark.parametrize(
    "wrong", [{"nodes": 0}, {"nodes": True}, {"links": 0}, {"walltime_s": float("nan")}, {"gpus_per_node": -1}]
)
def test_a_request_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(wrong))):
        Request(**wrong)


def test_a_request_is_told_in_words() -> None:
    assert [describe(job(1)), describe(job(92, "6h")), describe(job(2, "90m"))] == [
        "1 node",
        "92 nodes for 6h",
        "2 nodes for 1h30m",
    ]


def test_nothing_is_suggested_where_nothing_can_be() -> None:
    assert nearest(site("delta"), job(1, "1h", gpus_per_node=9)) == ()
