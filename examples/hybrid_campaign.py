"""Which guest binds best to a host? A campaign that learns from its simulations where to look next.

    rhapsody run examples/hybrid_campaign.py --cores 8

Every candidate gets serial simulations; as soon as one looks promising it gets a longer simulation over MPI, and an
executable looks at the poses of that. When all candidates of a round are known, an ensemble of surrogates learns from
them and proposes the round after the next one. The next one runs meanwhile, and so do the longer simulations, so that
the machine never waits for a round to end.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import surrogate
from binding import Guest, Observation, anneal, estimate, pull

from rhapsody import ComputeTask, Policy, Resources
from rhapsody.telemetry.metrics import measure

if TYPE_CHECKING:
    from rhapsody import Session, Task

ROUNDS = 8
CANDIDATES = 8
"""Guests in each round."""
PULLS = 7
"""Serial simulations of each guest."""
RANKS = (6, 4, 3, 2, 1)
"""MPI ranks of the longer simulation for each of a round's first guests."""
PROMISING = 1.5
"""A free energy within so many kT of the best one deserves a longer simulation."""
LOOK_AT_POSES = Path(__file__).with_name("look_at_poses.py")


class Search:
    """What is known, and the tasks that find out more.

    Attributes:
        known: Tasks whose values are the observations to learn from.
        looks: For each longer simulation's observation, the executable that looks at its poses.
        has_mpi: Whether functions can run over MPI here.
    """

    def __init__(self, session: Session) -> None:
        self.known: list[Task] = []
        self.looks: dict[Task, Task] = {}
        self.has_mpi = shutil.which("mpiexec") is not None and find_spec("mpi4py") is not None
        self.types: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self._session = session
        self._ranks = [ranks for ranks in RANKS if ranks <= session.allocation.usable_cores]
        self._promising_below = float("inf")

    async def simulate(self, number: int, guests: list[Guest]) -> list[Task]:
        """Start a round's serial simulations; return the tasks whose values will be the guests' observations."""
        tasks: list[ComputeTask] = []
        observations: list[Task] = []
        for place, guest in enumerate(guests):
            pulls = [ComputeTask(pull, args=(guest, [number, place, copy])) for copy in range(PULLS)]
            observation = ComputeTask(estimate, args=(guest, pulls))  # it will get the values of the pulls
            tasks += [*pulls, observation]
            observations.append(observation)
        await self._submit(tasks)
        return observations

    async def refine(self, number: int, observations: list[Task]) -> list[Task]:
        """As a round's observations arrive, start longer simulations; return the tasks with their observations."""
        longer: dict[Task, Task] = {}
        async for observation in self._session.as_completed(observations):
            await observation  # raises if it failed
            place = observations.index(observation)
            seen = observation.return_value
            if place < len(self._ranks) and seen.free_energy < self._promising_below:
                longer[observation] = await self._simulate_longer(seen.guest, self._ranks[place], [number, place])
        return [longer[observation] for observation in observations if observation in longer]

    async def _simulate_longer(self, guest: Guest, ranks: int, seed: list[int]) -> Task:
        """Start a longer simulation and what follows it; return the task whose value will be the observation."""
        poses = self._session.run_dir / "results" / f"poses-{seed[0]}-{seed[1]}.npy"
        simulation = ComputeTask(
            anneal,
            args=(guest, seed, str(poses)),
            resources=Resources(ranks=ranks, mpi=True) if self.has_mpi else Resources(),
            # Ranks wait for each other at every stage: a few of them may share their cores with other tasks …
            policy=Policy(oversubscribe=ranks <= 4),
            # … and leave the core to those while they wait. Source: Open MPI FAQ, "oversubscribing nodes"
            env={"OMPI_MCA_mpi_yield_when_idle": "1"},
            priority=1,
        )
        tables = simulation if self.has_mpi else [simulation]  # the value of an MPI function is a list by rank
        observation = ComputeTask(estimate, args=(guest, tables), priority=1)
        look = ComputeTask(executable=sys.executable, arguments=[LOOK_AT_POSES, poses], after=[simulation])
        await self._submit([simulation, observation, look])
        self.looks[observation] = look
        return observation

    async def learn(self, truth: Task) -> surrogate.Lesson:
        """Train the surrogates on what is known, and return what they teach.

        Observations that are still to come are waited for by the tasks that depend on them, not here.
        """
        known = list(self.known)  # arguments are read when a task starts: they must not change until then
        members = [ComputeTask(surrogate.train, args=(known, each), priority=2) for each in surrogate.LENGTHS]
        conclusion = ComputeTask(surrogate.conclude, args=(members, truth, CANDIDATES), priority=2)
        await self._submit([*members, conclusion])
        await conclusion
        lesson: surrogate.Lesson = conclusion.return_value
        self._promising_below = lesson.best.free_energy + PROMISING
        return lesson

    async def _submit(self, tasks: list[ComputeTask]) -> None:
        await self._session.submit(tasks)
        self.types.update(task.resources.task_type for task in tasks)
        self.kinds.update(kind_of(task) for task in tasks)


async def campaign(session: Session, args: list[str]) -> None:
    """Search the guest that binds best; the first of `args` may be the number of rounds."""
    rounds = max(2, int(args[0])) if args else ROUNDS
    search = Search(session)
    if not search.has_mpi:
        print("No mpiexec or no mpi4py: the longer simulations are serial here, with fewer walkers.")
    truth = await session.map(surrogate.truth, surrogate.SIZES.tolist())
    running = [
        await search.simulate(number, surrogate.first_guests(CANDIDATES, skipped=number * CANDIDATES))
        for number in (0, 1)
    ]
    print("round  observations  error of the surrogate  best guest so far: size, bond, free energy")
    for number in range(rounds):
        longer = await search.refine(number, running[number])
        search.known += running[number]
        lesson = await search.learn(truth)
        if number + 2 < rounds:
            running.append(await search.simulate(number + 2, lesson.proposal))
        print(f"{number:5}  {len(search.known):12}  {lesson.error:19.2f} kT  {describe(lesson.best)}")
        search.known += longer  # they still run: the next round learns from them
    lesson = await search.learn(truth)
    print(f"  end  {len(search.known):12}  {lesson.error:19.2f} kT  {describe(lesson.best)}\n")
    await session.wait()
    report_science(search, lesson.best, truth)
    report_tasks(search, session.run_dir)


def describe(seen: Observation) -> str:
    """Return an observation as text."""
    return f"size {seen.guest.size:.2f}, bond {seen.guest.bond:.2f}, {seen.free_energy:.2f} ± {seen.error:.2f} kT"


def kind_of(task: ComputeTask) -> str:
    """Return what kind of thing a task runs."""
    if task.executable is not None:
        return "executables"
    return "MPI functions" if task.resources.is_mpi else "functions"


def report_science(search: Search, best: Observation, truth: Task) -> None:
    """Print what was found, and how that compares with the exact answer."""
    exact = dict(zip(surrogate.GRID, np.concatenate(truth.return_value).tolist(), strict=True))
    optimum = min(exact, key=exact.__getitem__)
    print(f"Found:  {describe(best)}; its exact free energy is {exact[best.guest]:.2f} kT")
    print(f"Exact:  {describe(Observation(optimum, exact[optimum], 0.0))}, the best of {len(exact)} guests")
    tightest = min(search.looks, key=lambda each: each.return_value.free_energy + each.return_value.error)
    poses = json.loads(search.looks[tightest].stdout)
    print(f"Poses:  in {poses['both_sides']:.0%} of {poses['walkers']} the host's waist is between the guest's beads")


def report_tasks(search: Search, run_dir: Path) -> None:
    """Print what was run."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in search.kinds.most_common())
    print(f"Tasks:  {search.kinds.total()} ({kinds}), and a map over {len(surrogate.SIZES)} items")
    types = ", ".join(f"{name}: {count}" for name, count in sorted(search.types.items()))
    print(f"Types:  {len(search.types)} ({types})")
    if (run_dir / "journal").exists() and (width := measure(run_dir).width) is not None:
        print(f"        up to {width.peak} of them were running at the same time")
