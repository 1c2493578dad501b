"""What `rhapsody gateway` makes of the endpoints that a run tells of, look by look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.cli.gateway_members import Members
from rhapsody.inference.replica import Replica
from rhapsody.inference.router import Router
from rhapsody.services.endpoints import Endpoint, publish, withdraw

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "meta/small"


def tell(run_dir: Path, name: str, port: int, *models: str, key_file: Path | None = None) -> None:
    url = f"http://127.0.0.1:{port}/v1"
    key = None if key_file is None else str(key_file)
    publish(run_dir, Endpoint(name=name, url=url, node="127.0.0.1", port=port, models=models, key_file=key))


def seen(router: Router) -> list[tuple[str, str]]:
    return [(member.replica.model, member.replica.url) for member in router.replicas.values()]


async def test_each_model_of_a_service_is_a_replica_and_services_without_models_are_none(tmp_path: Path) -> None:
    router = Router()
    tell(tmp_path, "llm", 8000, MODEL, "meta/other")
    tell(tmp_path, "store", 6379)

    told = await Members(router, tmp_path, "gateway").look()

    assert seen(router) == [(MODEL, "http://127.0.0.1:8000"), ("meta/other", "http://127.0.0.1:8000")]
    assert told == [f"llm ({model}) at http://127.0.0.1:8000/v1 is there" for model in (MODEL, "meta/other")]


async def test_the_gateways_own_record_and_an_address_that_is_known_are_no_further_replicas(tmp_path: Path) -> None:
    router = Router()
    router.add(Replica("given", "http://127.0.0.1:8000/v1", MODEL))
    tell(tmp_path, "gateway", 9000, MODEL)
    for name in ("a", "b"):
        tell(tmp_path, name, 8000, MODEL, "meta/other")

    await Members(router, tmp_path, "gateway").look()

    assert seen(router) == [(MODEL, "http://127.0.0.1:8000"), ("meta/other", "http://127.0.0.1:8000")]


async def test_a_service_that_moved_is_another_replica_and_one_that_is_gone_none(tmp_path: Path) -> None:
    router = Router()
    members = Members(router, tmp_path, "gateway")
    tell(tmp_path, "llm", 8000, MODEL)
    await members.look()
    tell(tmp_path, "llm", 8001, MODEL)

    moved = await members.look()
    after_moving = seen(router)
    withdraw(tmp_path, "llm")
    gone = await members.look()

    where = f"llm ({MODEL}) at http://127.0.0.1"
    assert moved == [f"{where}:8000/v1 has gone", f"{where}:8001/v1 is there"]
    assert after_moving == [(MODEL, "http://127.0.0.1:8001")]
    assert (gone, seen(router)) == ([f"{where}:8001/v1 has gone"], [])


async def test_a_key_that_is_not_there_yet_is_said_once_and_found_later(tmp_path: Path) -> None:
    router, key = Router(), tmp_path / "llm.key"
    members = Members(router, tmp_path, "gateway")
    tell(tmp_path, "llm", 8000, MODEL, key_file=key)

    first, again = await members.look(), await members.look()
    key.touch(0o600)
    key.write_text("key-of-the-server")
    later = await members.look()

    assert first == [f"cannot read the secret in {key}: No such file or directory"]
    assert again == []
    assert later == [f"llm ({MODEL}) at http://127.0.0.1:8000/v1 is there"]


async def test_a_damaged_record_is_said_once_and_changes_nothing(tmp_path: Path) -> None:
    router = Router()
    members = Members(router, tmp_path, "gateway")
    tell(tmp_path, "llm", 8000, MODEL)
    await members.look()
    (tmp_path / "endpoints" / "other.json").write_text("{")

    (complaint,), again = await members.look(), await members.look()

    assert "other.json is no endpoint" in complaint
    assert again == []
    assert seen(router) == [(MODEL, "http://127.0.0.1:8000")]


async def test_without_a_run_there_is_nothing_to_look_at() -> None:
    assert await Members(Router(), None, "gateway").look() == []
