"""What is in flight on each replica, exactly: counted in when a request is sent, out when its attempt has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Load:
    """What one replica has in flight.

    Attributes:
        requests: How many.
        tokens_in: Of their prompts.
        tokens_out: That their answers are expected to have.
    """

    __slots__ = ("requests", "tokens_in", "tokens_out")

    def __init__(self) -> None:
        self.requests = 0
        self.tokens_in = 0
        self.tokens_out = 0

    @property
    def tokens(self) -> int:
        """Tokens in and out together."""
        return self.tokens_in + self.tokens_out


class Entry:
    """One attempt in the ledger; a handle for `leave`."""

    __slots__ = ("_load", "_tokens_in", "_tokens_out", "replica")

    def __init__(self, replica: str, load: Load, tokens_in: int, tokens_out: int) -> None:
        self.replica = replica
        self._load: Load | None = load
        self._tokens_in = tokens_in
        self._tokens_out = tokens_out

    def _close(self) -> Load:
        load, self._load = self._load, None
        if load is None:
            raise RuntimeError(f"an attempt on {self.replica} has left the ledger twice")  # a defect of the caller
        load.requests -= 1
        load.tokens_in -= self._tokens_in
        load.tokens_out -= self._tokens_out
        return load


class Ledger:
    """All replicas' loads."""

    def __init__(self) -> None:
        self._loads: dict[str, Load] = {}
        self._retired: set[str] = set()

    @property
    def loads(self) -> Mapping[str, Load]:
        """By replica; read them only. One that was closed stays until its last attempt has left."""
        return self._loads

    @property
    def in_flight(self) -> int:
        """Attempts on all replicas."""
        return sum(load.requests for load in self._loads.values())

    def open(self, replica: str) -> Load:
        """Begin to count for a replica; return its load, which changes as attempts enter and leave."""
        if replica in self._loads:
            raise RuntimeError(f"the ledger counts for {replica} already")  # a defect of the caller
        load = self._loads[replica] = Load()
        return load

    def close(self, replica: str) -> None:
        """Count for a replica until what it has in flight has left."""
        self._retired.add(replica)
        self._forget(replica)

    def enter(self, replica: str, tokens_in: int, tokens_out: int) -> Entry:
        """Count an attempt in."""
        load = self._loads[replica]
        load.requests += 1
        load.tokens_in += tokens_in
        load.tokens_out += tokens_out
        return Entry(replica, load, tokens_in, tokens_out)

    def leave(self, entry: Entry) -> None:
        """Count an attempt out."""
        load = entry._close()  # noqa: SLF001 - an entry is the ledger's own
        if not load.requests and self._retired:
            self._forget(entry.replica)

    def _forget(self, replica: str) -> None:
        load = self._loads.get(replica)
        if replica in self._retired and (load is None or not load.requests):
            self._retired.discard(replica)
            self._loads.pop(replica, None)
