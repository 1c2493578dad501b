"""What Dragon needs of a node is looked at before it is started."""

from __future__ import annotations

import pytest

from rhapsody import BackendError
from rhapsody.backends.dragon import surroundings
from tests.requirements import needs_module

GIB = 1 << 30


def test_large_shared_memory_gives_dragon_its_own_defaults() -> None:
    found = surroundings.variables(64 * GIB, 64, {})

    assert found == {"DRAGON_DEFAULT_SEG_SZ": str(4 * GIB), "DRAGON_INF_SEG_SZ": str(GIB)}


def test_small_shared_memory_is_shared_out() -> None:
    found = surroundings.variables(GIB, 64, {})

    assert found == {"DRAGON_DEFAULT_SEG_SZ": str(GIB // 4), "DRAGON_INF_SEG_SZ": str(GIB // 8)}


def test_what_the_user_has_set_stays() -> None:
    chosen = {"DRAGON_DEFAULT_SEG_SZ": "1", "DRAGON_INF_SEG_SZ": "2", "DRAGON_USER_WAIT_MODE": "SPIN_WAIT"}

    assert surroundings.variables(8 * GIB, 2, chosen) == {}


def test_waits_do_not_spin_where_cpus_are_few() -> None:
    few, many = (surroundings.variables(8 * GIB, cpus, {}) for cpus in (2, 128))

    assert few["DRAGON_USER_WAIT_MODE"] == "IDLE_WAIT"
    assert "DRAGON_USER_WAIT_MODE" not in many


def test_too_little_shared_memory_is_refused_with_what_is_missing_and_the_fix() -> None:
    with pytest.raises(BackendError, match=r"needs 1024 MiB .* /dev/shm has 64 MiB free.*--shm-size"):
        surroundings.variables(64 << 20, 2, {})


def test_dragon_that_is_not_installed_is_named_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "find_spec", lambda _name: None)

    with pytest.raises(BackendError, match=r"pip install 'rhapsody-hpc\[dragon\]'"):
        surroundings.require_dragon({})


@needs_module("dragon", install="rhapsody-hpc[dragon]")
def test_session_inside_of_dragon_is_refused_with_the_fix() -> None:
    surroundings.require_dragon({})

    with pytest.raises(BackendError, match="outside of Dragon, or choose the local backend"):
        surroundings.require_dragon({"DRAGON_MY_PUID": "4294967296"})
