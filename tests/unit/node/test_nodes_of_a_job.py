"""A session below an agent finds the job's nodes, and itself among them, by the names that the job has for them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.hosts.job import Job

FIND = (
    f"{sys.executable} -c 'from rhapsody.backends.discover import find_allocation;"
    " from rhapsody.backends.node_pools import own_rank; nodes = find_allocation().nodes;"
    " print([node.name for node in nodes], own_rank(nodes))'"
)


async def test_each_node_knows_which_one_it_is_though_the_machine_is_called_otherwise(job: Job) -> None:
    job.start(f'{FIND}; ssh beta "{FIND}"')

    assert await job.ended() == 0
    assert job.agents[0].said.splitlines() == ["['alpha', 'beta'] 0", "['alpha', 'beta'] 1"]
