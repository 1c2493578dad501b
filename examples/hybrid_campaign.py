"""Which guest binds best to a host? A campaign that learns from its simulations where to look next.

    rhapsody run examples/hybrid_campaign.py --cores 8

Rounds of candidates overlap. Each candidate gets serial simulations; what looks promising also gets a longer one over MPI,
and an executable that looks at its poses. Once a round is known, an ensemble of surrogates is trained on all that is there,
and proposes the round after the next: the next one runs meanwhile, so nothing ever stands still.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import surrogate
from binding import Array, Guest, Observation, anneal, estimate, exact, pull

from rhapsody import ComputeTask, Policy, Resources, State
from rhapsody.telemetry.reader import read_events, read_tasks

if TYPE_CHECKING:
    from rhapsody import Session, Task

ROUNDS = 8
CANDIDATES = 8
"""Guests in each round."""
PULLS = 7
"""Serial simulations of each guest."""
RANKS = (6, 4, 3, 2, 1)
"""MPI ranks for the longer simulation of a round's first guests, the most promising first."""
PROMISING = 1.5
"""A free energy within so many kT of the best one deserves the longer simulation."""
LOOK_AT_POSES = Path(__file__).with_name("look_at_poses.py")


class Search:
    """The state of the search, and what it submits.

    Attributes:
        known: Tasks whose values are observations: what the surrogates learn from.
        best: The guest that is expected to bind best, after the last round that was learnt from.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.known: list[Task] = []
        self.best: Observation | None = None
        self.looks: dict[Task, Task] = {}
        """For each longer simulation's observation, the executable that looks at its poses."""
        self.kinds: Counter[str] = Counter()
        self.types: Counter[str] = Counter()
        self.has_mpi = shutil.which("mpiexec") is not None and find_spec("mpi4py") is not None
        self.ranks = [ranks for ranks in RANKS if ranks <= session.allocation.usable_cores]

    async def submit(self, tasks: list[ComputeTask]) -> None:
        """Submit tasks, and count them."""
        await self.session.submit(tasks)
        self.kinds.update(kind_of(task) for task in tasks)
        self.types.update(task.resources.task_type for task in tasks)

    async def simulate(self, number: int, guests: list[Guest]) -> list[Task]:
        """Start a round's serial simulations; return the tasks whose values will be the guests' observations."""
        tasks: list[Task] = []
        observations: list[Task] = []
        for place, guest in enumerate(guests):
            pulls = [ComputeTask(pull, args=(guest, [number, place, copy])) for copy in range(PULLS)]
            observation = ComputeTask(estimate, args=(guest, pulls))  # gets the values of the pulls
            tasks += [*pulls, observation]
            observations.append(observation)
        await self.submit(tasks)
        return observations

    async def refine(self, number: int, observations: list[Task]) -> list[Task]:
        """As a round's observations arrive, start longer simulations of promising guests; return their observations."""
        places = {observation: place for place, observation in enumerate(observations)}
        longer: dict[int, Task] = {}
        async for observation in self.session.as_completed(observations):
            place, seen = places[observation], (await observation).return_value
            if place < len(self.ranks) and (self.best is None or seen.free_energy < self.best.free_energy + PROMISING):
                longer[place] = await self.simulate_longer(seen.guest, self.ranks[place], [number, place])
        return [longer[place] for place in sorted(longer)]  # in the same order in every run

    async def simulate_longer(self, guest: Guest, ranks: int, seed: list[int]) -> Task:
        """Start a simulation over MPI and what follows it; return the task whose value will be the observation."""
        poses = self.session.run_dir / "results" / f"poses-{seed[0]}-{seed[1]}.npy"
        simulation = ComputeTask(
            anneal,
            args=(guest, seed, str(poses)),
            resources=Resources(ranks=ranks, mpi=True) if self.has_mpi else Resources(),
            # Ranks wait for each other at every stage: a few may share their cores with serial tasks.
            policy=Policy(oversubscribe=ranks <= 4),
            env={"OMPI_MCA_mpi_yield_when_idle": "1"},  # and while they wait they leave the core to others
            priority=1,
        )
        tables = simulation if self.has_mpi else [simulation]  # the value of an MPI function is a list by rank
        observation = ComputeTask(estimate, args=(guest, tables), priority=1)
        look = ComputeTask(executable=sys.executable, arguments=[LOOK_AT_POSES, poses], after=[simulation])
        await self.submit([simulation, observation, look])
        self.looks[observation] = look
        return observation

    async def learn(self, truth: Task) -> tuple[list[Guest], float]:
        """Train the surrogates on all that is known; return the guests to look at next, and how wrong they are by now.

        What still runs is waited for by the training tasks, which depend on it, not by the campaign.
        """
        members = [
            ComputeTask(surrogate.train, args=(self.known, lengths), priority=2) for lengths in surrogate.LENGTHS
        ]
        belief = ComputeTask(surrogate.combine, args=(members,), priority=2)
        best = ComputeTask(surrogate.best, args=(belief,), priority=2)
        error = ComputeTask(surrogate.error, args=(belief, truth), priority=2)
        proposal = ComputeTask(surrogate.propose, args=(belief, CANDIDATES), priority=2)
        await self.submit([*members, belief, best, error, proposal])
        self.best = (await best).return_value
        return (await proposal).return_value, (await error).return_value


async def campaign(session: Session, args: list[str]) -> None:
    """Search the guest that binds best; `args` may name the number of rounds."""
    rounds = int(args[0]) if args else ROUNDS
    search = Search(session)
    if not search.has_mpi:
        print("No mpiexec or no mpi4py here: the simulations over MPI run as serial ones, with fewer walkers.")
    truth = await session.map(surrogate.truth, surrogate.SIZES.tolist())
    running = [
        await search.simulate(number, surrogate.first_guests(CANDIDATES, skipped=number * CANDIDATES))
        for number in range(min(rounds, 2))
    ]
    print("round  observations  error of the surrogate  best guest so far: size, bond, free energy")
    for number in range(rounds):
        longer = await search.refine(number, running[number])
        search.known += running[number]
        guests, error = await search.learn(truth)
        if number + 2 < rounds:
            running.append(await search.simulate(number + 2, guests))
        print(f"{number:5}  {len(search.known):12}  {error:19.2f} kT  {describe(search.best)}")
        search.known += longer  # they still run: the next round learns from them
    _, error = await search.learn(truth)
    print(f"  end  {len(search.known):12}  {error:19.2f} kT  {describe(search.best)}")
    await session.wait()
    report(search, (await truth).return_value)


def kind_of(task: ComputeTask) -> str:
    """Return what kind of thing a task runs."""
    if task.executable is not None:
        return "executables"
    return "MPI functions" if task.resources.is_mpi else "functions"


def describe(seen: Observation | None) -> str:
    """Return an observation as text."""
    if seen is None:
        return "none"
    return f"size {seen.guest.size:.2f}, bond {seen.guest.bond:.2f}, {seen.free_energy:.2f} ± {seen.error:.2f} kT"


def report(search: Search, truth: list[Array]) -> None:
    """Print what was found, what the exact answer is, and what was run for it."""
    exact = dict(zip(surrogate.GRID, np.concatenate(truth).tolist(), strict=True))
    optimum = min(exact, key=exact.__getitem__)
    print(f"\nFound:  {describe(search.best)}; exactly {exact[search.best.guest]:.2f} kT")
    print(f"Exact:  {describe(Observation(optimum, exact[optimum], 0.0))}, the best of {len(exact)} guests")
    tightest = min(search.looks, key=lambda observation: observation.return_value.free_energy)
    poses = json.loads(search.looks[tightest].stdout)
    print(f"Poses:  in {poses['both_sides']:.0%} of {poses['walkers']} the waist is between the beads")
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(search.kinds.items()))
    print(f"Tasks:  {search.kinds.total()} ({counted}), and a map of {len(truth)} items")
    types = ", ".join(f"{name} ({count})" for name, count in sorted(search.types.items()))
    print(f"Types:  {types}")
    if (search.session.run_dir / "journal").exists():
        print(f"        up to {most_types_at_once(search.session.run_dir)} of them running at the same time")


def most_types_at_once(run_dir: Path) -> int:
    """Return how many types of tasks were running at the same time, at most: a fold over the journal's events."""
    types = {task.uid: task.resources.task_type for task in read_tasks(run_dir)}
    steps = {State.RUNNING: 1, State.DONE: -1}
    events = sorted(
        (event.time_ns, steps[event.state], types[event.uid])
        for event in read_events(run_dir)
        if event.state in steps and event.items is None
    )
    running: Counter[str] = Counter()
    most = 0
    for _, step, name in events:
        running[name] += step
        most = max(most, len(+running))
    return most
