"""What `--set` makes of a profile."""

from __future__ import annotations

import pytest

from rhapsody.deploy.sites.loading import load_site
from rhapsody.errors import SpecError


def test_a_value_is_changed_and_all_else_stays() -> None:
    before, after = load_site("frontier", {}), load_site("frontier", {}, ["scheduler.requeue=true"])

    assert (before.scheduler.requeue, after.scheduler.requeue) == (None, True)
    assert after.queues == before.queues


@pytest.mark.parametrize(
    ("change", "block", "key", "value"),
    [
        ("environment.variables.OMP_NUM_THREADS=4", "environment", "variables", {"OMP_NUM_THREADS": "4"}),
        ("login_node.max_processes=16", "login_node", "max_processes", 16),
        ("scheduler.launcher_options=[--mem, 0]", "scheduler", "launcher_options", ("--mem", "0")),
        ("container.staging=null", "container", "staging", None),
        ("modules.load=[rocm/7.0]", "modules", "load", ("rocm/7.0",)),
        ("directives.options.network=a=b", "directives", "options", {
            "cpus-per-task": "56", "ntasks-per-node": "1", "network": "a=b",
        }),
    ],
)  # fmt: skip
def test_a_value_is_what_the_model_takes_it_for(change: str, block: str, key: str, value: object) -> None:
    profile = load_site("frontier", {}, [change])

    assert getattr(getattr(profile, block), key) == value


def test_a_block_that_the_profile_lacks_says_that_the_user_said_so() -> None:
    assert load_site("frontier", {}).environment is None

    block = load_site("frontier", {}, ["environment.variables.A=b"]).environment

    assert block is not None
    assert (block.source, str(block.confidence)) == ("given with --set", "L")


def test_of_two_changes_of_the_same_value_the_last_one_counts() -> None:
    profile = load_site("frontier", {}, ["login_node.max_processes=3", "login_node.max_processes=4"])

    assert profile.login_node is not None
    assert profile.login_node.max_processes == 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("requeue", "'requeue' changes nothing; --set wants block.key=value"),
        ("=true", "changes nothing"),
        ("scheduler=slurm", "changes nothing"),
        ("scheduler..requeue=true", "changes nothing"),
        ("scheduler.reqeue=true", "--set scheduler.reqeue: scheduler.reqeue: there is no such key"),
        ("sheduler.requeue=true", "--set sheduler.requeue: sheduler: there is no such key"),
        ("scheduler.requeue=perhaps", "--set scheduler.requeue: scheduler.requeue: input should be a valid boolean"),
        ("queues.entries.batch=1", "--set queues.entries.batch: queues.entries has no keys"),
        ("scheduler.launcher_options=[--mem", "--set scheduler.launcher_options: is no value in YAML"),
        ("scheduler.version=&a 3", "has an anchor"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_named(change: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_site("frontier", {}, [change])

    assert says in str(caught.value)
