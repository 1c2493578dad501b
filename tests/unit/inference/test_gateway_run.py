"""A gateway with a key of its own, as sessions and the command open it; and the look at servers before."""

from __future__ import annotations

import socket
import stat
from typing import TYPE_CHECKING

import openai
import pytest

from rhapsody.errors import SpecError
from rhapsody.inference.gateway_run import EVERYWHERE, gateway_on, key_in
from rhapsody.inference.look import answers, trouble_with
from rhapsody.inference.router import Router
from tests.unit.inference.model_server import MODEL, ModelServer, nonce

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_gateway_is_used_with_the_key_in_its_file_which_goes_with_it(tmp_path: Path) -> None:
    file = tmp_path / "gateway.key"
    async with Router() as router, ModelServer() as server:
        router.add(server.replica())
        async with gateway_on(router, file) as opened:
            mode, key = stat.S_IMODE(file.stat().st_mode), file.read_text().strip()
            async with openai.AsyncOpenAI(base_url=opened.url, api_key=key, max_retries=0) as client:
                answer = await client.completions.create(model=MODEL, prompt="hello")

    assert answer.choices[0].text == nonce("hello")
    assert (mode, opened.key_file, opened.node, opened.models) == (0o600, file, "127.0.0.1", (MODEL,))
    assert not file.exists()


async def test_a_gateway_for_other_machines_is_known_by_the_name_of_this_one(tmp_path: Path) -> None:
    async with Router() as router, gateway_on(router, tmp_path / "key", host=EVERYWHERE) as opened:
        assert opened.node == socket.gethostname()
        assert opened.url == f"http://{socket.gethostname()}:{opened.port}/v1"


def test_a_key_that_is_there_already_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text("mine\n")

    with key_in(file) as (_, key):
        assert key == "mine"

    assert file.read_text() == "mine\n"


def test_no_two_keys_are_alike(tmp_path: Path) -> None:
    with key_in(tmp_path / "a") as (_, first), key_in(tmp_path / "b") as (_, second):
        assert first != second
        assert len(first) >= 32


async def test_a_gateway_without_a_place_for_its_key_is_refused(tmp_path: Path) -> None:
    async with Router() as router:
        with pytest.raises(SpecError, match=r"cannot write the gateway's key to .*; name another file"):
            async with gateway_on(router, tmp_path / "no" / "key"):
                pass


async def test_a_look_tells_servers_that_answer_from_those_that_do_not() -> None:
    async with ModelServer() as server:
        here = server.replica()
        fine = await trouble_with(here)
        found = await answers(here.url)

    assert (fine, found) == ("", True)  # this server does not list its models
    assert "does not answer: Cannot connect" in await trouble_with(here)
    assert not await answers(here.url)


async def test_a_look_at_a_server_that_hangs_ends(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with ModelServer() as server:
            replica = server.replica()
        replica.url = f"http://127.0.0.1:{silent.getsockname()[1]}"

        assert await trouble_with(replica, 0.1) == "does not answer within 0.1 s"
        assert not await answers(replica.url, 0.1)
