"""Which runtime a session uses, and what it says of that."""

from __future__ import annotations

import pytest

from rhapsody import Allocation, LocalBackend, Node, NodeShape, SpecError
from rhapsody.backends.dragon.backend import DragonBackend
from rhapsody.session import backend_choice
from rhapsody.session.backend_choice import choose_backend


def nodes(count: int) -> Allocation:
    shape = NodeShape(cores=2)
    return Allocation(nodes=tuple(Node(name=f"n{index}", shape=shape) for index in range(count)), source="declared")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RHAPSODY_BACKEND", raising=False)


def test_nothing_asked_for_gives_the_local_one_without_a_word() -> None:
    said: list[str] = []

    backend = choose_backend(None, nodes(1), said.append)

    assert isinstance(backend, LocalBackend)
    assert said == []


@pytest.mark.parametrize(
    ("count", "has_dragon", "name", "why"),
    [
        (1, True, "local", "the allocation is one node"),
        (2, True, "dragon", "the allocation has 2 nodes"),
        (2, False, "local", "dragonhpc is not installed"),
    ],
)
def test_auto_says_what_it_chose_and_why(
    count: int, *, has_dragon: bool, name: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_choice, "is_installed", lambda: has_dragon)
    said: list[str] = []

    backend = choose_backend("auto", nodes(count), said.append)

    assert backend.name == name
    assert [line.startswith(f"backend: {name}, since {why}") for line in said] == [True]


def test_variable_names_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHAPSODY_BACKEND", "dragon")

    assert isinstance(choose_backend(None, nodes(1), lambda _line: None), DragonBackend)


def test_backend_of_the_users_own_is_taken_as_it_is() -> None:
    own = LocalBackend()

    assert choose_backend(own, nodes(1), lambda _line: None) is own


def test_wrong_name_lists_the_valid_ones() -> None:
    with pytest.raises(SpecError, match="local") as caught:
        choose_backend("dragoon", nodes(1), lambda _line: None)

    assert "dragon" in str(caught.value)
