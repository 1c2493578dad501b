"""The model servers of a run, as a gateway beside it sees them: in the run folder, where they come and go."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.errors import SpecError
from rhapsody.inference.replica import Replica, key_in_file
from rhapsody.services.endpoints import read_endpoints

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rhapsody.inference.router import Router
    from rhapsody.services.endpoints import Endpoint


class _Place(NamedTuple):
    """One model of a server."""

    service: str
    model: str
    url: str
    key_file: str | None

    def __str__(self) -> str:
        return f"{self.service} ({self.model}) at {self.url}"


class Members:
    """Keeps a router's replicas like what a run tells of.

    Args:
        router: Gets them. Replicas that it has already are left alone.
        run_dir: The run; None: there is none, and nothing to do.
        but: Name of the record that is the gateway's own.
    """

    def __init__(self, router: Router, run_dir: Path | None, but: str) -> None:
        self._router = router
        self._run_dir = run_dir
        self._but = but
        self._given = {(member.replica.url, member.replica.model) for member in router.replicas.values()}
        self._uids: dict[_Place, str] = {}
        self._leaving: set[str] = set()
        self._count = 0
        self._complaint = ""

    async def look(self) -> list[str]:
        """Add those that are new; send those that were withdrawn nothing more, and remove them once they are empty.

        Returns:
            What has changed, and what is wrong, if it was not before: each a sentence without a full stop.
        """
        if self._run_dir is None:
            return []
        try:
            places = self._places(await asyncio.to_thread(read_endpoints, self._run_dir))
        except SpecError as exc:
            return self._new_only(str(exc))
        gone = [self._withdraw(place) for place in [*self._uids] if place not in places]
        self._remove_empty()
        here: list[str] = []
        wrong: list[str] = []
        for place in places:
            if place not in self._uids:
                (wrong if (trouble := self._add(place)) else here).append(trouble or f"{place} is there")
        return [*gone, *here, *self._new_only("; ".join(wrong))]

    def _new_only(self, complaint: str) -> list[str]:
        """Return a complaint, unless it is the one of last time."""
        is_new = complaint not in ("", self._complaint)
        self._complaint = complaint
        return [complaint] if is_new else []

    def _places(self, endpoints: Iterable[Endpoint]) -> list[_Place]:
        """Return each model of each address once."""
        found: dict[tuple[str, str], _Place] = {}
        for each in endpoints:
            for model in each.models if each.name != self._but else ():
                at = (each.url.rstrip("/").removesuffix("/v1"), model)
                if at not in self._given:
                    found.setdefault(at, _Place(each.name, model, each.url, each.key_file))
        return list(found.values())

    def _add(self, place: _Place) -> str:
        """Add a replica; return why it cannot be, such as a key that only comes a moment later."""
        uid = f"{place.service}-{self._count + 1}"
        key = key_in_file(Path(place.key_file)) if place.key_file else None
        try:
            self._router.add(Replica(uid, place.url, place.model, key))
        except SpecError as exc:
            return str(exc)
        self._count += 1
        self._uids[place] = uid
        return ""

    def _withdraw(self, place: _Place) -> str:
        uid = self._uids.pop(place)
        self._router.retire(uid)
        self._leaving.add(uid)
        return f"{place} has gone"

    def _remove_empty(self) -> None:
        replicas = self._router.replicas
        for uid in [uid for uid in self._leaving if not replicas[uid].seats]:
            self._router.remove(uid)
            self._leaving.discard(uid)
