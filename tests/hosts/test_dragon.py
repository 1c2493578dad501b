"""Dragon over several hosts: one runtime, whose objects all of them share, and whose parts die together."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.requirements import needs_command, needs_module

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hosts.over import Campaign

pytestmark = [
    needs_command("ip", package="iproute2"),
    needs_command("nsenter", package="util-linux"),
    needs_module("dragon", install="rhapsody-hpc[dragon]"),
    pytest.mark.dragon,
    pytest.mark.timeout(180),
]
FRONT_END = b"from dragon.launcher.launch_selector import main"


async def test_functions_on_all_hosts_meet_in_a_dictionary_of_dragons(over: Callable[[int], Campaign]) -> None:
    campaign = over(2)

    campaign.start("meets", "dragon")
    found = await campaign.found()

    first, second = found["met"]
    assert first == second
    assert sorted(first) == ["node0", "node1"]
    await campaign.nothing_is_left()


@pytest.mark.parametrize("victim", [FRONT_END, b"\0rhapsody-head\0"])
async def test_when_dragons_front_end_or_head_is_killed_all_nodes_are_lost_and_clean(
    victim: bytes, over: Callable[[int], Campaign]
) -> None:
    campaign = over(2)
    campaign.start("loses", "dragon", cores=2)
    hosts = await campaign.staying(4)

    os.kill(campaign.pid_of(victim), signal.SIGKILL)
    found = await campaign.found(within_s=60)

    assert len(set(hosts.values())) == 2
    assert sorted(state for _, state, _, _ in found["tasks"]) == ["FAILED", "FAILED", "UNKNOWN", "UNKNOWN"]
    assert "all its nodes are lost (Dragon is gone" in campaign.job.agents[0].said
    await campaign.nothing_is_left()
