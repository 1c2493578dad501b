"""Keeps one service: so many replicas, one address for all, and everybody who waits for it told how it is."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from typing_extensions import override

from rhapsody.errors import ServiceError, SpecError
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.services.endpoints import Endpoint, publish, withdraw
from rhapsody.services.ground import Nowhere
from rhapsody.services.kit import Kit
from rhapsody.services.record import ReplicaRecord, ServiceRecord, write_record
from rhapsody.services.replica import Replica
from rhapsody.services.states import ReplicaState, ServiceState, Supervision

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rhapsody.services.ground import Ground, Outlet
    from rhapsody.services.service import ServiceTask
    from rhapsody.services.states import ReplicaView

_OVER = frozenset({ReplicaState.STOPPED, ReplicaState.DONE, ReplicaState.FAILED})
_ENDED = frozenset({ReplicaState.DONE, ReplicaState.FAILED})
"""By itself."""
_WELL = frozenset({ReplicaState.READY, ReplicaState.DONE})
_WRITE_AFTER_S = 0.2


class Supervisor(Supervision):
    """Keeps one service.

    Args:
        service: Which.
        ground: The session.
        outlet: Where its clients go; None where it does not listen.

    Raises:
        SpecError: Its function cannot be sent to another process.
    """

    def __init__(self, service: ServiceTask, ground: Ground, outlet: Outlet | None) -> None:
        self._service, self._ground = service, ground
        self._outlet = outlet
        self._kit = Kit(service, ground)
        self._replicas: list[Replica] = []
        self._numbers = 0
        self._group: asyncio.TaskGroup | None = None
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._stopping = False
        self._state = ServiceState.STARTING
        self._timer: asyncio.TimerHandle | None = None

    # Keeping

    async def begin(self) -> None:
        """Begin to listen, and submit the first start of every replica.

        Raises:
            RhapsodyError: They are not accepted; nothing of the service is left.
        """
        self._service.kept_by(self)
        try:
            if self._outlet is not None:
                await self._outlet.open()
            fresh = [self._new_replica() for _ in range(self._service.replicas)]
            await self._ground.submit([replica.prepare() for replica in fresh])
        except BaseException:  # cancellation too
            self._state = ServiceState.FAILED
            await self._clear_away()
            raise
        self._replicas = fresh
        self._write()

    async def run(self) -> None:
        """Keep it until it is stopped, or its last replica was given up or is done."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for replica in self._replicas:
                    group.create_task(replica.keep())
                while not self._stopping and not self._has_ended():
                    await self._wait(None)
                self._group = None
        finally:
            await self._close()

    def _new_replica(self) -> Replica:
        number, self._numbers = self._numbers, self._numbers + 1
        outlet = self._outlet if self._outlet is not None else Nowhere()
        return Replica(self._service, number, self._kit, self._ground, outlet, self._look)

    def _has_ended(self) -> bool:
        return bool(self._replicas) and all(replica.state in _ENDED for replica in self._replicas)

    def _left(self) -> list[Replica]:
        return [replica for replica in self._replicas if replica.state not in _OVER]

    async def _close(self) -> None:
        await self._clear_away()
        if self._stopping:
            self._state = ServiceState.STOPPED
            failure = Failure(Cause.CANCELED, "the service was stopped")
            self._turn(State.CANCELED, failure)
        elif self._has_ended() and not self._has_failed():
            self._state = ServiceState.DONE
            self._turn(State.DONE)
        else:
            self._state = ServiceState.FAILED
            self._turn(State.FAILED, Failure(Cause.LAUNCH, self._whole_reason()))
            self._ground.tell(f"service {self._service.name} failed: {self.reason}")
        self._write()
        self._ended.set()
        self._news.set()

    async def _clear_away(self) -> None:
        if self._outlet is not None:
            await self._outlet.aclose()
            with suppress(SpecError):
                withdraw(self._ground.run_dir, self._service.name)
        self._kit.close()

    # Telling

    def _look(self) -> None:
        """Take note that something about a replica is other than before."""
        is_ready = any(replica.state is ReplicaState.READY for replica in self._replicas)
        if not self._stopping:
            self._state = self._state_by_replicas(is_ready=is_ready)
        gate = self._service.gate
        if self._service.ends:
            pass  # its gate opens at its end
        elif is_ready and gate.state is State.WAITING:
            self._publish()
            self._turn(State.DONE)
        elif not is_ready and gate.state is State.DONE:
            self._turn(State.WAITING)
        self._news.set()
        if self._timer is None:  # many may change at once
            self._timer = asyncio.get_running_loop().call_later(_WRITE_AFTER_S, self._write)

    def _state_by_replicas(self, *, is_ready: bool) -> ServiceState:
        if is_ready:
            return ServiceState.READY
        if not self._has_ended():
            return ServiceState.STARTING
        return ServiceState.FAILED if self._has_failed() else ServiceState.DONE

    def _turn(self, state: State, failure: Failure | None = None) -> None:
        gate = self._service.gate
        if state is State.DONE and self._outlet is not None:
            gate.variables = {self._service.variable: self._outlet.url, **self._outlet.variables}
        self._ground.turn(gate, state, failure)

    def _publish(self) -> None:
        outlet = self._outlet
        if outlet is None:
            return
        key_file = outlet.key_file
        endpoint = Endpoint(
            name=self._service.name,
            url=outlet.url,
            node=self._ground.node_name,
            port=outlet.port,
            models=tuple(self._service.models),
            key_file=None if key_file is None else str(key_file),
        )
        try:
            publish(self._ground.run_dir, endpoint)
        except SpecError as exc:
            self._ground.tell(f"service {self._service.name} is ready, but others are not told: {exc}")

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        record = ServiceRecord(
            name=self._service.name,
            state=self._state,
            reason=self.reason,
            url=self.url,
            models=tuple(self._service.models),
            replicas=tuple(map(_record_of, self.replicas)),
            changed_ns=time.time_ns(),
        )
        try:
            write_record(self._ground.run_dir, record)
        except OSError as exc:
            self._ground.tell(f"how service {self._service.name} is cannot be written: {exc.strerror}")

    # What users ask for

    @property
    @override
    def state(self) -> ServiceState:
        return self._state

    @property
    @override
    def reason(self) -> str:
        if self._state in {ServiceState.READY, ServiceState.STOPPED}:
            return ""
        texts = [f"replica {view.number}: {view.reason}" for view in self.replicas if view.reason]
        return texts[-1] if texts else ""

    @property
    @override
    def replicas(self) -> Sequence[ReplicaView]:
        return [replica.view for replica in self._replicas]

    @property
    @override
    def url(self) -> str:
        return "" if self._outlet is None or not self._service.gate.variables else self._outlet.url

    @property
    @override
    def state_dir(self) -> Path:
        return self._kit.state_folder

    @override
    async def done(self, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError as exc:
            text = f"has not ended after {timeout_s:g} s: {self._whole_reason()}"
            raise ServiceError(f"service {self._service.name} {text}") from exc
        if self._state is not ServiceState.DONE:
            raise ServiceError(f"service {self._service.name} did not end well: {self._whole_reason()}")

    @override
    async def ready(self, replicas: int | None, timeout_s: float | None) -> None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            ready = sum(replica.state in _WELL for replica in self._replicas)
            shall = sum(replica.is_wanted() for replica in self._replicas) if replicas is None else replicas
            if ready >= shall and self._state not in {ServiceState.STOPPED, ServiceState.FAILED}:
                return
            if self._state.is_over or (shall > len(self._left()) and self._has_failed()):
                raise ServiceError(f"service {self._service.name} will not be ready: {self._whole_reason()}")
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                text = f"{ready} of {shall} replicas are ready after {timeout_s:g} s; {self._whole_reason()}"
                raise ServiceError(f"service {self._service.name} is not ready: {text}")
            await self._wait(left_s)

    def _has_failed(self) -> bool:
        return any(replica.state is ReplicaState.FAILED for replica in self._replicas)

    def _whole_reason(self) -> str:
        """Return what is known of why it is not ready, with the last lines of a log."""
        if self._stopping:
            return "it was stopped"
        reason = self.reason or ", ".join(f"replica {view.number} is {view.state}" for view in self.replicas)
        words = next((replica.last_words for replica in reversed(self._replicas) if replica.last_words), "")
        return f"{reason}\n{words}" if words else reason

    async def _wait(self, limit_s: float | None) -> None:
        """Return when something has changed, or after so long."""
        news = self._news
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await news.wait()
        if news.is_set() and self._news is news:
            self._news = asyncio.Event()  # others that wait have the old one

    @override
    async def scale(self, replicas: int) -> None:
        if self._group is None:
            raise ServiceError(f"service {self._service.name} is {self._state}; a new one can be started")
        wanted = [
            replica for replica in self._replicas if replica.is_wanted() and replica.state is not ReplicaState.FAILED
        ]
        fresh = [self._new_replica() for _ in range(replicas - len(wanted))]
        if fresh:
            await self._ground.submit([replica.prepare() for replica in fresh])
            self._replicas += fresh
            for replica in fresh:
                self._group.create_task(replica.keep())
            self._look()
            return
        least_first = sorted(wanted, key=lambda replica: (replica.state is ReplicaState.READY, -replica.view.number))
        await self._retire(least_first[: len(wanted) - replicas])

    async def _retire(self, replicas: Sequence[Replica]) -> None:
        for replica in replicas:
            replica.retire(drain=True)
        while any(replica.state not in _OVER for replica in replicas):
            await self._wait(None)
        self._replicas = [replica for replica in self._replicas if replica not in replicas]
        self._look()

    @override
    async def stop(self) -> None:
        self.end(drain=True)
        await self._ended.wait()

    def end(self, *, drain: bool) -> None:
        """Have it end; `run` returns then."""
        if not self._state.is_over:
            self._stopping = True
            self._state = ServiceState.STOPPING
        for replica in self._replicas:
            replica.retire(drain=drain)
        self._news.set()


def _record_of(view: ReplicaView) -> ReplicaRecord:
    node, url = (view.address.node, view.address.url) if view.address is not None else ("", "")
    return ReplicaRecord(
        number=view.number, state=view.state, node=node, url=url, restarts=view.restarts, reason=view.reason
    )
