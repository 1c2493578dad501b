"""Over any profile: what is legal is never refused, what is not is, and every suggestion is itself legal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsody.deploy.sites.profile import SiteProfile
from rhapsody.deploy.validation.request import Request
from rhapsody.deploy.validation.rules import nearest, resolve
from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from rhapsody.deploy.sites.queues import Queue

ABOUT: dict[str, Any] = {"source": "a test", "checked": "2026-11-21", "confidence": "H"}
COUNTS = st.integers(1, 40)
MINUTES = st.integers(1, 200)


def minutes(number: int | None) -> str | None:
    return None if number is None else f"{number}m"


@st.composite
def ranges(draw: st.DrawFn) -> dict[str, Any]:
    least = draw(COUNTS)
    most = draw(st.none() | st.integers(least, 60))
    return {"min_nodes": least, "max_nodes": most, "max_walltime": minutes(draw(st.none() | MINUTES))}


@st.composite
def queues(draw: st.DrawFn, name: str) -> dict[str, Any]:
    queue: dict[str, Any] = {
        "name": name,
        "node_kinds": draw(st.lists(st.sampled_from(["cpu", "gpu"]), unique=True)),
        "account_kinds": draw(st.lists(st.sampled_from(["cpu", "gpu"]), unique=True)),
        "chaining": draw(st.booleans()),
        "automatic": draw(st.booleans()),
        "max_gpus": draw(st.none() | COUNTS),
    }
    if draw(st.booleans()):
        return {**queue, "bins": draw(st.lists(ranges(), min_size=1, max_size=3))}
    least = draw(st.sampled_from([1, 5]))
    limits = draw(ranges())
    longest = limits["max_walltime"]
    if longest is None or int(longest[:-1]) >= least:
        limits["min_walltime"] = minutes(least)
    return {**queue, **limits}


@st.composite
def profiles(draw: st.DrawFn) -> SiteProfile:
    kinds = [
        {"name": "cpu", "count": draw(st.none() | COUNTS)},
        {"name": "gpu", "count": draw(st.none() | COUNTS), "gpus": {"count": 4, "vendor": "amd"}},
    ]
    entries = [draw(queues(name)) for name in ("one", "two", "three")[: draw(st.integers(1, 3))]]
    return SiteProfile.model_validate(
        {
            "schema": 1,
            "name": "any",
            "title": "Any",
            "scheduler": {**ABOUT, "kind": "slurm"},
            "nodes": {**ABOUT, "kinds": kinds},
            "queues": {**ABOUT, "entries": entries, "default": draw(st.sampled_from([None, "one"]))},
            "accounts": {
                **ABOUT,
                "kinds": ["cpu", "gpu"],
                "suffixes": {"gpu": "_g"},
                "mismatch": draw(st.sampled_from(["refuse", "warn"])),
            },
        }
    )


REQUESTS = st.builds(
    Request,
    nodes=st.integers(1, 70),
    walltime_s=st.none() | MINUTES.map(lambda number: number * 60.0) | st.floats(1, 20_000),
    account=st.sampled_from([None, "abc", "abc_g"]),
    account_kind=st.sampled_from([None, "cpu", "gpu"]),
    node_kind=st.sampled_from([None, "cpu", "gpu"]),
    links=st.integers(1, 2),
    gpus_per_node=st.none() | st.integers(0, 5),
)


def takes(profile: SiteProfile, queue: Queue, request: Request) -> bool:
    """Say whether a queue's rules allow a request: written apart from the code, from the rules themselves."""
    account = request.account_kind or ("gpu" if (request.account or "").endswith("_g") else None)
    assert profile.accounts is not None
    if queue.account_kinds and account not in {None, *queue.account_kinds} and profile.accounts.mismatch == "refuse":
        return False
    if request.links > 1 and not queue.chaining:
        return False
    return any(
        has_room(queue, request, kind.count, kind.gpu_count)
        for kind in profile.kinds
        if kind.name in (queue.node_kinds or ("cpu", "gpu")) and request.node_kind in {None, kind.name}
    )


def has_room(queue: Queue, request: Request, node_count: int | None, gpu_count: int) -> bool:
    wanted = request.gpus_per_node
    if (wanted or 0) > gpu_count or (node_count is not None and request.nodes > node_count):
        return False
    least_gpus = 1 if wanted is None else wanted
    if queue.max_gpus is not None and gpu_count and request.nodes * least_gpus > queue.max_gpus:
        return False
    return any(
        each.min_nodes <= request.nodes
        and (each.max_nodes is None or request.nodes <= each.max_nodes)
        and (
            request.walltime_s is None
            or (
                queue.min_walltime.total_seconds() <= request.walltime_s
                and (each.max_walltime is None or request.walltime_s <= each.max_walltime.total_seconds())
            )
        )
        for each in queue.ranges
    )


def is_taken(profile: SiteProfile, request: Request) -> bool:
    try:
        resolve(profile, request)
    except SpecError:
        return False
    return True


@settings(deadline=None)
@given(profiles(), REQUESTS, st.sampled_from([None, "one"]))
def test_exactly_what_the_rules_allow_is_taken(profile: SiteProfile, request: Request, queue: str | None) -> None:
    assert profile.queues is not None
    named = Request(**{**fields(request), "queue": queue})
    meant = [
        each
        for each in profile.queue_entries
        if (each.name == queue if queue else each.automatic or each.name == profile.queues.default)
    ]

    assert is_taken(profile, named) == any(takes(profile, each, request) for each in meant)


@settings(deadline=None)
@given(profiles(), REQUESTS, st.sampled_from([None, "one"]))
def test_every_suggestion_is_itself_legal(profile: SiteProfile, request: Request, queue: str | None) -> None:
    asked = Request(**{**fields(request), "queue": queue})

    for each in nearest(profile, asked):
        found = resolve(profile, each)

        assert found.queue_name == each.queue
        assert found.gpus_per_node is not None
        assert takes(profile, profile.queue(found.queue_name or ""), each)


def fields(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in Request.__dataclass_fields__}
