"""What `rhapsody gateway` does once its options are read: serve, and keep up with the model servers of a run."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import click

from rhapsody.cli.gateway_members import Members
from rhapsody.cli.target import find_run
from rhapsody.deploy.records import read_record
from rhapsody.errors import SpecError
from rhapsody.inference.gateway_run import EVERYWHERE, LOCALHOST, OpenGateway, gateway_on
from rhapsody.inference.look import answers, trouble_with
from rhapsody.inference.replica import Replica, key_in_file
from rhapsody.inference.router import Router
from rhapsody.services.endpoints import FOLDER, publish, read_endpoints, withdraw
from rhapsody.session.models import GATEWAY, endpoint_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rhapsody.services.endpoints import Endpoint

LOOK_EVERY_S = 1.0


class Options(NamedTuple):
    """Options of the command, as they were given."""

    replicas: tuple[str, ...]
    replica_key_file: Path | None
    host: str | None
    port: int
    key_file: Path | None
    policy: str


class Order(NamedTuple):
    """What a gateway is told.

    Attributes:
        run_dir: The run whose model servers it follows; None: of no run.
        given: Model servers that the user names.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        key_file: Holds what clients must show; None: one is made.
        policy: Name of a routing policy.
    """

    run_dir: Path | None
    given: tuple[Replica, ...]
    host: str
    port: int
    key_file: Path | None
    policy: str


def order_from(target: str | None, runs: Path | None, options: Options) -> Order:
    """Return what the options of the command mean.

    Raises:
        SpecError: They mean nothing.
    """
    key = options.replica_key_file
    if key is not None and not options.replicas:
        raise SpecError("--replica-key-file is the key of what --replica names, which is not given")
    given = tuple(_replica(number, text, key) for number, text in enumerate(options.replicas, 1))
    run_dir = None if given and target is None else find_run(target, runs)
    was_deployed = run_dir is not None and read_record(run_dir) is not None
    host = options.host or (EVERYWHERE if was_deployed else LOCALHOST)
    return Order(run_dir, given, host, options.port, options.key_file, options.policy)


def serve(order: Order) -> int:
    """Serve until Ctrl-C or SIGTERM; return the exit code.

    Raises:
        SpecError: There is nothing to serve, or no place to do so.
    """
    return asyncio.run(_serve(order))


async def _serve(order: Order) -> int:
    router = Router(order.policy)
    async with router:
        for replica in order.given:
            router.add(replica)
        members = Members(router, order.run_dir, GATEWAY)
        seen: list[str] = []
        if order.run_dir is not None:
            await _require_no_other(order.run_dir)
            seen = await members.look()
        if not router.models:
            raise SpecError(_nothing_there(order, seen))
        with _key_file(order) as key_file:
            async with gateway_on(router, key_file, host=order.host, port=order.port) as opened:
                await _tell_trouble(router)
                with _published(opened, order.run_dir) as record:
                    _tell(opened, order.run_dir)
                    await _until_told_to_end(members, record)
    counted = router.counters
    click.echo(
        f"ended: {counted.answered} answered, {counted.refused} refused, {counted.failed} failed,"
        f" {counted.cancelled} given up by their clients"
    )
    return 0


async def _until_told_to_end(members: Members, record: _Record) -> None:
    """Keep up with the run until a signal comes."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, told.set)
    while not told.is_set():
        for sentence in await members.look():
            click.echo(f"rhapsody: {sentence}", err=True)
        record.update()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S):
                await told.wait()


class _Record:
    """What the run folder says of the gateway."""

    def __init__(self, opened: OpenGateway, run_dir: Path | None) -> None:
        self._opened = opened
        self._run_dir = run_dir
        self._told: Endpoint | None = None

    def update(self) -> None:
        """Tell of it, if what is told is not true any more."""
        opened = self._opened
        if self._run_dir is None or (self._told is not None and self._told.models == opened.models):
            return
        self._told = endpoint_of(opened)
        publish(self._run_dir, self._told)

    def remove(self) -> None:
        """Tell of it no more, unless another is told of by now."""
        if self._run_dir is None or self._told is None:
            return
        if any(found.name == GATEWAY and found.url == self._told.url for found in read_endpoints(self._run_dir)):
            withdraw(self._run_dir, GATEWAY)


@contextmanager
def _published(opened: OpenGateway, run_dir: Path | None) -> Iterator[_Record]:
    record = _Record(opened, run_dir)
    record.update()
    try:
        yield record
    finally:
        record.remove()


@contextmanager
def _key_file(order: Order) -> Iterator[Path]:
    """Give the file for the key: the one that was named, else in the run folder, else in a folder of its own."""
    if order.key_file is not None:
        yield order.key_file
    elif order.run_dir is not None:
        folder = order.run_dir / FOLDER
        file = folder / f"{GATEWAY}.key"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            file.unlink(missing_ok=True)  # of one that was killed
        except OSError as exc:
            raise SpecError(f"cannot write {file}: {exc.strerror}; name another one with --key-file") from exc
        yield file
    else:
        with TemporaryDirectory(prefix="rhapsody-gateway-") as folder_of_its_own:
            yield Path(folder_of_its_own) / f"{GATEWAY}.key"


def _replica(number: int, text: str, key_file: Path | None) -> Replica:
    model, equals, url = text.partition("=")
    if not (model and equals and url):
        raise SpecError(f"--replica {text!r} is no MODEL=URL, such as meta/llama=http://node7:8000")
    return Replica(f"replica-{number}", url, model, key_in_file(key_file) if key_file else None)


async def _require_no_other(run_dir: Path) -> None:
    """Refuse to be a second gateway of a run."""
    for found in await asyncio.to_thread(read_endpoints, run_dir):
        if found.name == GATEWAY and await answers(found.url.removesuffix("/v1") + "/health"):
            raise SpecError(
                f"the run {run_dir.name} has a gateway, at {found.url}; how to use it: rhapsody connect"
                f" {run_dir.name} {GATEWAY}"
            )


def _nothing_there(order: Order, seen: Sequence[str]) -> str:
    run = order.run_dir.name if order.run_dir else ""
    why = f": {'; '.join(seen)}" if seen else ""
    return (
        f"the run {run} has no model server that can be reached{why}; one is there from when it is ready until it or"
        " the run ends (rhapsody status); or name servers: --replica MODEL=URL"
    )


async def _tell_trouble(router: Router) -> None:
    """Say which replicas do not look well; they may be on their way."""
    replicas = [member.replica for member in router.replicas.values()]
    async with asyncio.TaskGroup() as group:
        looking = [group.create_task(trouble_with(replica)) for replica in replicas]
    for replica, task in zip(replicas, looking, strict=True):
        if trouble := task.result():
            click.echo(f"rhapsody: {replica.uid} ({replica.model}) at {replica.url} {trouble}", err=True)


def _tell(opened: OpenGateway, run_dir: Path | None) -> None:
    counts = dict.fromkeys(opened.models, 0)
    for member in opened.router.replicas.values():
        counts[member.replica.model] += 1
    models = ", ".join(name if count == 1 else f"{name} ({count} replicas)" for name, count in counts.items())
    rows = [("url", opened.url), ("models", models), ("key", f"{opened.key_file}")]
    rows.append(("use it", f'export OPENAI_BASE_URL={opened.url} OPENAI_API_KEY="$(cat {opened.key_file})"'))
    if run_dir is not None:
        rows.append(("elsewhere", f"rhapsody connect {run_dir.name} {GATEWAY}"))
    rows.append(("end it", "Ctrl-C"))
    click.echo("\n".join(f"{label:<9}  {text}" for label, text in rows))
