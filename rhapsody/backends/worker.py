"""A worker process: connects to its pool, runs one function after another, and writes down each result at once.

It never decides anything: the pool sends chunks, the worker runs their tasks in order. Each result goes into the outbox
of the shared page before the next task starts (see `wire`), so whatever kills this process takes one task with it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import marshal
import mmap
import os
import pickle
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import cloudpickle

from rhapsody.backends import executables, mpi_function, wire
from rhapsody.backends.campaign_module import know_campaign
from rhapsody.backends.notebook import Notebook
from rhapsody.backends.results import encode_failure, encode_value, pickle_value
from rhapsody.backends.tail import TailWriter
from rhapsody.node.processes import adopt_orphans

if TYPE_CHECKING:
    from collections.abc import Callable

    from rhapsody.backends.notebook import Descriptors

FLUSH_NS = 1_000_000
"""Results wait in the outbox at most so long while further tasks of the chunk run."""
COMMIT_NS = 100_000
"""Values of array items wait for the outbox at most so long: as much work can be lost when the worker dies."""

_Extra = dict[str, Any]
_RECORD, _HEAD, _OUTBOX, _COMMITTED = wire.RECORD, wire.RECORD.size, wire.OUTBOX, wire.COMMITTED
_pack_into = _RECORD.pack_into
_forked: list[bool] = []
"""Not empty in a child that a task forked off: such a one never is a worker."""


class Worker:
    """One connection to a pool, and the loop that runs what it sends.

    Args:
        connection: To the pool.
        page: Shared with it.
        buffers: Descriptors of a notebook, if whoever started the worker keeps one.
    """

    def __init__(self, connection: socket.socket, page: mmap.mmap, buffers: tuple[int, int] | None = None) -> None:
        self._connection = connection
        self._page = page
        self._words = wire.page_words(page)
        self._words[wire.ITEM] = wire.NONE_YET
        self._notebook = None if buffers is None else Notebook(buffers, self._words)
        self._end = wire.OUTBOX
        """Where the next record goes in the page."""
        self._flushed_ns = 0
        self._functions: dict[int, Callable[..., Any]] = {}
        self._blobs: dict[int, bytes] = {}
        self._out, self._err = TailWriter(1), TailWriter(2)
        self._clock_offset_ns = 0
        self._inbox = bytearray()

    def serve(self) -> None:
        """Run chunks until the pool says stop or goes away."""
        while (message := self.receive()) is not None:
            order = message[0]
            if order == "run":
                self._run_chunk(*message[1:])
            elif order == "define":
                self._blobs[message[1]] = message[2]
            elif order == "forget":
                self._functions.pop(message[1], None)
                self._blobs.pop(message[1], None)
            elif order == "welcome":
                self._settle_in(message[1])
            elif order == "stop":
                return

    def receive(self, *, wait: bool = True) -> tuple[Any, ...] | None:
        """Return the pool's next message; None when the pool is gone, or nothing is there and we may not wait.

        Raises:
            PoolGoneError: The pool is gone, while not waiting.
        """
        head = wire.FRAME.size
        inbox = self._inbox
        while True:
            if len(inbox) >= head:
                end = head + wire.FRAME.unpack_from(inbox)[0]
                if len(inbox) >= end:
                    message = marshal.loads(memoryview(inbox)[head:end])  # noqa: S302 - the pool gave the token
                    del inbox[:end]
                    return tuple(message)
            try:
                data = self._connection.recv(1 << 18, 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except ConnectionError:
                data = b""
            if not data:
                if wait:
                    return None
                raise wire.PoolGoneError("the pool is gone")
            inbox += data

    def _settle_in(self, welcome: _Extra) -> None:
        self._clock_offset_ns = welcome["clock_offset_ns"]
        os.environ.update(welcome["env"])
        with contextlib.suppress(OSError):  # the folder of the session may be gone; tasks with a cwd do not care
            os.chdir(welcome["cwd"])
        if welcome["cpus"]:
            os.sched_setaffinity(0, welcome["cpus"])
        know_campaign(welcome["campaign_file"])
        sys.stdout, sys.stderr = self._out.as_text(), self._err.as_text()

    def _run_chunk(
        self,
        first: int,
        settled: int,
        heads: bytes,
        body: bytes,
        extras: list[_Extra | None] | None,
    ) -> None:
        """Run a chunk's tasks in order; the hot path."""
        numbers, function_ids, payloads = wire.columns(heads, body)
        if self._notebook is not None:
            self._notebook.begin(first, len(numbers), heads, settled)
        words, functions, environ, forked = self._words, self._functions, os.environb, _forked
        now, offset, post, out, err = time.monotonic_ns, self._clock_offset_ns, self._post, self._out, self._err
        started_word, current_word, skip_from, skip_until = wire.STARTED, wire.CURRENT, wire.SKIP_FROM, wire.SKIP_UNTIL
        sequence = first - 1
        for number, function_id, payload in zip(numbers, function_ids, payloads, strict=True):
            sequence += 1
            extra = extras[sequence - first] if extras is not None else None
            started = now() + offset
            words[started_word] = started
            # Before the look at the skipped range: what the pool sees here, it counts as started.
            words[current_word] = sequence
            if words[skip_from] <= sequence < words[skip_until]:
                words[wire.SKIPPED] = sequence
                continue
            if extra is not None or function_id not in functions or type(payload) is not tuple:
                self._run_one(sequence, number, function_id, payload, extra)
                continue
            environ[b"RHAPSODY_TASK_UID"] = b"task.%06d" % number
            try:
                kind, data = encode_value(functions[function_id](*payload))
            except BaseException as exc:  # noqa: BLE001 - the user's function: whatever it raises is its result
                kind, data = encode_failure(exc)
            if forked:
                os._exit(0)  # the function forked, and this is the child coming back
            if out.printed or err.printed:
                kind, data = self._with_output(kind, data)
            post(sequence, started, now() + offset, kind, data)
        self._flush(now() + offset)

    def _run_one(
        self,
        sequence: int,
        number: int,
        function_id: int,
        payload: Any,  # noqa: ANN401 - a tuple of scalars or bytes
        extra: _Extra | None,
    ) -> None:
        """Run what needs more than a plain call: pickled arguments, options, executables, array items."""
        extra = extra or {}
        started = self._words[wire.STARTED]
        os.environ["RHAPSODY_TASK_UID"] = extra.get("uid") or f"task.{number:06d}"
        if "attempt" in extra:
            os.environ["RHAPSODY_ATTEMPT"] = str(extra["attempt"])
        try:
            kind, data = self._outcome_of(sequence, function_id, payload, extra)
        except wire.PoolGoneError:
            raise
        except BaseException as exc:  # noqa: BLE001 - the user's function and its surroundings
            kind, data = encode_failure(
                exc, cause="launch" if isinstance(exc, executables.LaunchError) else "exception"
            )
        ended = time.monotonic_ns() + self._clock_offset_ns
        if _forked:
            os._exit(0)
        if "capture" in extra and "argv" not in extra:
            kind, data = _with_text(kind, data, *executables.captured_tails(extra["capture"]))
        elif self._out.printed or self._err.printed:
            kind, data = self._with_output(kind, data)
        self._post(sequence, started, ended, kind, data)
        self._words[wire.ITEM] = wire.NONE_YET
        os.environ["RHAPSODY_ATTEMPT"] = "1"
        if ended - self._flushed_ns > FLUSH_NS:
            self._flush(ended)

    def _outcome_of(self, sequence: int, function_id: int, payload: Any, extra: _Extra) -> tuple[int, bytes]:  # noqa: ANN401
        if "argv" in extra:
            run_it = mpi_function.run if "ranks" in extra else executables.run
            with executables.private_folder(extra.get("folder")):
                return run_it(extra, self)
        function = self._functions.get(function_id)
        if function is None:
            function = self._functions[function_id] = cloudpickle.loads(self._blobs.pop(function_id))
        if "items" in extra:
            return self._run_items(sequence, function, payload, extra)
        args, kwargs = (payload, {}) if type(payload) is tuple else pickle.loads(payload)  # noqa: S301 - from our pool
        with executables.surroundings(extra):
            value = function(*args, **kwargs)
        return encode_value(value)

    def _run_items(
        self,
        sequence: int,
        function: Callable[..., Any],
        payload: Any,  # noqa: ANN401 - a range as a tuple, or bytes
        extra: _Extra,
    ) -> tuple[int, bytes]:
        """Run items of an array task; commit what has ended every tenth of a millisecond or after each longer item."""
        first, stop = extra["items"]
        items = range(*payload) if type(payload) is tuple else pickle.loads(payload)  # noqa: S301 - from our pool
        words, now, offset = self._words, time.monotonic_ns, self._clock_offset_ns
        began = words[wire.STARTED]
        values: list[Any] = []
        failed: dict[int, bytes] = {}
        posted, last_ns = first, now()
        with executables.surroundings(extra):
            for index, item in enumerate(items, first):
                words[wire.ITEM] = index
                try:
                    values.append(function(item))
                except BaseException as exc:  # noqa: BLE001 - the user's function
                    failed[index] = encode_failure(exc)[1]
                    values.append(None)
                if _forked:
                    os._exit(0)  # the function forked, and this is the child coming back
                stamp = now()
                words[wire.STARTED] = stamp + offset  # of the next item: time limits are for one
                if stamp - last_ns > COMMIT_NS and index + 1 < stop:
                    data = self._encode_items(posted, values, failed)
                    self._post(sequence, began, stamp + offset, wire.ITEMS, data)
                    if stamp + offset - self._flushed_ns > FLUSH_NS:
                        self._flush(stamp + offset)
                    if words[wire.GONE]:
                        raise wire.PoolGoneError("the pool is gone")
                    posted, last_ns = index + 1, stamp
                    values, failed = [], {}
        return wire.LAST_ITEMS, self._encode_items(posted, values, failed)

    @staticmethod
    def _encode_items(first: int, values: list[Any], failed: dict[int, bytes]) -> bytes:
        types = set(map(type, values))
        if types <= wire.SCALAR_TYPES:
            return marshal.dumps((first, len(values), True, values, failed))
        try:
            return marshal.dumps((first, len(values), False, pickle_value(values), failed))
        except BaseException:  # noqa: BLE001 - some value cannot be pickled: find out which
            kept: list[bytes | None] = []
            for index, value in enumerate(values, first):
                try:
                    kept.append(pickle_value(value))
                except BaseException as exc:  # noqa: BLE001 - the user's value
                    kept.append(None)
                    failed[index] = encode_failure(exc, cause="result")[1]
            return marshal.dumps((first, len(values), None, kept, failed))

    def _with_output(self, kind: int, data: bytes) -> tuple[int, bytes]:
        """Return a result with what the task printed; of array items that goes to the workers' log."""
        out, err = self._out.take(), self._err.take()
        if kind != wire.LAST_ITEMS:
            return _with_text(kind, data, out, err)
        for descriptor, text in ((1, out), (2, err)):
            with contextlib.suppress(OSError):  # a full disk must not fail the task
                os.write(descriptor, text.encode(errors="backslashreplace"))
        return kind, data

    def _post(self, sequence: int, started: int, ended: int, kind: int, data: bytes) -> None:
        """Write a record into the outbox; one that does not fit goes out by itself."""
        begin = self._end
        end = begin + _HEAD + len(data)
        if end > wire.PAGE_BYTES:
            self._flush(ended)
            begin = wire.OUTBOX
            end = begin + _HEAD + len(data)
            if end > wire.PAGE_BYTES:
                self._send(_RECORD.pack(sequence, started, ended, len(data), kind), data)
                return
        _pack_into(self._page, begin, sequence, started, ended, len(data), kind)
        if data:
            self._page[begin + _HEAD : end] = data
        self._end = end
        self._words[_COMMITTED] = end - _OUTBOX

    def _flush(self, now_ns: int) -> None:
        """Send the outbox; the pool ignores what it saw already, so a kill in between is harmless."""
        self._flushed_ns = now_ns
        if self._end == wire.OUTBOX:
            return
        with memoryview(self._page) as view, view[wire.OUTBOX : self._end] as records:
            self._send(records)
        self._words[wire.COMMITTED] = 0
        self._end = wire.OUTBOX

    def _send(self, *records: bytes | memoryview) -> None:
        """Note records and send them; when the pool is gone, nothing more is started."""
        if self._notebook is not None:
            self._notebook.add(*records)
        try:
            for record in records:
                self._connection.sendall(record)
        except ConnectionError:
            words = self._words
            words[wire.GONE] = 1
            words[wire.SKIP_UNTIL] = wire.NONE_YET
            words[wire.SKIP_FROM] = 0

    @property
    def connection(self) -> socket.socket:
        """The socket to the pool, to be watched while an executable runs."""
        return self._connection


def _with_text(kind: int, data: bytes, out: str, err: str) -> tuple[int, bytes]:
    """Return a result with what was printed."""
    rich: _Extra = marshal.loads(data) if kind == wire.RICH else {"kind": kind, "value": data}  # noqa: S302 - our own
    rich["stdout"] = rich.get("stdout", "") + out
    rich["stderr"] = rich.get("stderr", "") + err
    return wire.RICH, marshal.dumps(rich)


def run(address: str, token: bytes, worker_id: int, memory: Descriptors | None = None) -> None:
    """Be a worker of the pool at an address until it says stop or goes away.

    Args:
        address: Path of the pool's Unix socket.
        token: Shown to the pool.
        worker_id: The pool's name for this worker.
        memory: Page and notebook that whoever started it keeps; without one it makes a page, and notes nothing.
    """
    adopt_orphans()
    os.register_at_fork(after_in_child=lambda: _forked.append(True))
    gc.freeze()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(address)
    if memory is None:
        descriptor = os.memfd_create("rhapsody-page", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, wire.PAGE_BYTES)
    else:
        descriptor = memory.page
    page = mmap.mmap(descriptor, wire.PAGE_BYTES)
    socket.send_fds(connection, [wire.HELLO.pack(token, os.getpid(), worker_id)], [descriptor])
    os.close(descriptor)
    with contextlib.suppress(ConnectionError):  # the pool is gone: so are we
        Worker(connection, page, None if memory is None else memory.buffers).serve()
    connection.close()
    atexit._run_exitfuncs()  # noqa: SLF001 - a forked process leaves by os._exit, which skips them
