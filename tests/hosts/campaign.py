"""The campaign that tests over several hosts run; its first argument says what, its last line is what came of it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody import ComputeTask, Policy, Resources, Restart, ServiceTask, State
from tests.contract.services import serve

if TYPE_CHECKING:
    from rhapsody import Session

SPREAD = Policy(placement="spread")


def where(_item: object = None) -> tuple[str, list[int]]:
    """Return the host, and the CPUs that this may run on."""
    return socket.gethostname(), sorted(os.sched_getaffinity(0))


def rank() -> tuple[int, int, str, list[int]]:
    """Return this rank, the sum over all ranks, the host and the CPUs that it may run on."""
    from mpi4py import MPI  # noqa: PLC0415 - importing it starts MPI

    world = MPI.COMM_WORLD
    return world.Get_rank(), world.allreduce(world.Get_rank()), *where()


def stay(folder: str) -> str:
    """Write down where this runs; return the host once told to, or at once where somebody was told before."""
    name = socket.gethostname()
    path = Path(folder) / f"{os.environ['RHAPSODY_TASK_UID']}.{os.environ['RHAPSODY_ATTEMPT']}"
    part = path.with_suffix(".part")
    part.write_text(name)
    part.rename(path)
    deadline = time.monotonic() + 60
    while not (Path(folder) / "go").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody said go")
        time.sleep(0.02)
    return name


async def _places(session: Session, _folder: str) -> object:
    """Run something of each kind on every core."""
    cores = session.allocation.usable_cores
    wide = Resources(ranks=cores)
    functions = [ComputeTask(where) for _ in range(2 * cores)]
    programs = [ComputeTask(executable="hostname", policy=SPREAD) for _ in range(cores)]
    functions_of_mpi = [ComputeTask(rank, resources=wide, policy=SPREAD) for _ in range(2)]
    programs_of_mpi = ComputeTask(executable="hostname", resources=wide, policy=SPREAD)
    await session.submit([*functions, *programs, *functions_of_mpi, programs_of_mpi])
    items = await session.map(where, range(50 * cores))
    await session.wait()
    return {
        "functions": {task.uid: task.return_value for task in functions},
        "programs": {task.uid: task.stdout.strip() for task in programs},
        "ranks": {task.uid: task.return_value for task in functions_of_mpi},
        "programs of mpi": sorted(programs_of_mpi.stdout.split()),
        "items": sorted({name for name, _ in items.return_value}),
    }


async def _loses(session: Session, folder: str) -> object:
    """Have tasks stay on every core until told; say how each ended."""
    cores = session.allocation.usable_cores
    tasks = [ComputeTask(stay, args=(folder,), idempotent=bool(number % 2)) for number in range(cores)]
    wide = ComputeTask(executable="hostname", resources=Resources(ranks=cores), after=tasks[:1])
    await session.submit([*tasks, wide])
    array = await session.map(len, [[]] * 10, after=tasks[:1])
    await session.wait()
    return {
        "tasks": [
            (task.uid, task.state, task.attempt, task.return_value if task.state is State.DONE else str(task.exception))
            for task in tasks
        ],
        "array": (array.state, str(array.exception)),
        "wide": (wide.state, str(wide.exception)),
    }


_kept: list[object] = []
"""What Dragon would destroy when nobody refers to it."""


def make_dictionary(hosts: int) -> str:
    """Return a name of a dictionary of Dragon's over so many hosts."""
    from dragon.data.ddict import DDict

    made = DDict(1, hosts, hosts * (128 << 20))
    _kept.append(made)
    return str(made.serialize())


def meet(dictionary: str, number: int, count: int) -> list[str]:
    """Return where so many of these run; each learns it from the dictionary."""
    from dragon.data.ddict import DDict

    met = DDict.attach(dictionary)
    met[f"host {number}"] = socket.gethostname()
    deadline = time.monotonic() + 60
    while not all(f"host {other}" in met for other in range(count)):
        if time.monotonic() > deadline:
            raise TimeoutError("the others did not come")
        time.sleep(0.05)
    return [str(met[f"host {other}"]) for other in range(count)]


async def _meets(session: Session, _folder: str) -> object:
    """Have functions on all hosts meet in a dictionary of Dragon's."""
    count = len(session.allocation.nodes)
    dictionary = ComputeTask(make_dictionary, args=(count,))
    meeting = [ComputeTask(meet, args=(dictionary, number, count)) for number in range(count)]
    await session.submit([dictionary, *meeting])
    await session.wait()
    return {"met": [task.return_value if task.state is State.DONE else str(task.exception) for task in meeting]}


def ask(url: str) -> tuple[str, str]:
    """Return the host on which this runs, and the host of the replica that answers at the URL."""
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - of our own service
        return socket.gethostname(), json.load(answer)["host"]


def ask_all(urls: list[str]) -> list[tuple[str, str]]:
    """Likewise of each of some URLs."""
    return [ask(url) for url in urls]


def ask_needed() -> tuple[str, str]:
    """Likewise, at the URL of the service that this task needs."""
    return ask(os.environ["RHAPSODY_SERVICE_WEB_URL"])


async def _serves(session: Session, folder: str) -> object:
    """Have a replica of a service on each host, and functions on each that ask it; then one replica's host is lost."""
    count = len(session.allocation.nodes)
    service = await session.start(
        ServiceTask("web", function=serve, replicas=count, readiness="/", policy=SPREAD, restart=Restart(delay_s=0.1))
    )
    await service.ready(timeout_s=60)
    tasks = [ComputeTask(ask_needed, needs=[service]) for _ in range(4 * count)]
    on_each = Resources(ranks=count, ranks_per_node=1)
    direct = ComputeTask(ask_all, args=([address.url for address in service.endpoints],), resources=on_each)
    await session.submit([*tasks, direct])
    await session.wait()
    url, nodes = service.url, sorted(address.node for address in service.endpoints)
    Path(folder, "up").touch()
    while not Path(folder, "go").exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.05)
    await _until_one_less(service, count)
    after = ComputeTask(ask_needed, needs=[service])
    await session.submit(after)
    return {
        "asked": [task.return_value for task in tasks],
        "directly": [pair for pairs in direct.return_value for pair in pairs],
        "nodes": nodes,
        "after": (await after).return_value,
        "same url": service.url == url,
    }


async def _until_one_less(service: ServiceTask, count: int) -> None:
    async with asyncio.timeout(60):
        while len(service.endpoints) == count:  # noqa: ASYNC110 - that is what is tested
            await asyncio.sleep(0.05)


WHAT = {"places": _places, "loses": _loses, "meets": _meets, "serves": _serves}


async def campaign(session: Session, args: list[str]) -> None:
    """Do what the first argument says, in the folder that the second one names."""
    what, folder = args
    sys.stdout.write("started\n")
    sys.stdout.flush()
    found = await WHAT[what](session, folder)
    sys.stdout.write(f"found {json.dumps(found)}\n")
