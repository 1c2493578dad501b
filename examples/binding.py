"""How strongly does a guest molecule bind to a host? Two simulations, and the exact answer to compare with.

The guest is a dumbbell: two beads of a given size on a spring of a given length. The host is a rigid cage of eighteen
atoms with a narrow waist. Energies are in units of kT, lengths in units of the model. The binding free energy compares
a guest that feels the host with one that does not; a wall keeps both near the cage.

Both simulations switch the host on, step by step, and return the table of mean Boltzmann factors by stage and block of
walkers, from which `estimate` makes a free energy with its error.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a task has one core; NumPy reads this when it is imported

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DEPTH = 0.7
"""How attractive each atom of the host is."""
SPRING = 10.0
"""Of the guest, and of the wall that starts at `WALL`."""
WALL = 1.8
PULLED = 24
"""Walkers, which are copies of the guest, that one call of `pull` moves."""
POPULATION = 80
"""Walkers that each rank of `anneal` moves."""


class Guest(NamedTuple):
    """What is designed: the two numbers that the campaign searches.

    Attributes:
        size: Diameter of the beads.
        bond: Length of the spring between them.
    """

    size: float
    bond: float


class Observation(NamedTuple):
    """What the simulations say of a guest: its binding free energy and the standard error."""

    guest: Guest
    free_energy: float
    error: float


def _ring(atoms: int, radius: float, height: float, turn: float = 0.0) -> Array:
    angles = 2 * np.pi * (np.arange(atoms) + turn) / atoms
    return np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(atoms, height)], axis=1)


HOST = np.concatenate(
    [_ring(4, 1.0, 0.0, 0.5), _ring(6, 1.5, -1.0), _ring(6, 1.5, 1.0), _ring(1, 0.0, -2.5), _ring(1, 0.0, 2.5)]
)
"""Position of each atom: a waist, two wide rings, two caps."""


def pull(guest: Guest, seed: list[int]) -> Array:
    """Switch the host on quickly, for each walker alone.

    The mean Boltzmann factor of the work is the free energy's. Source: Jarzynski, Phys. Rev. Lett. 78, 2690 (1997)

    Returns:
        A table with one stage and one block.
    """
    random = np.random.default_rng(seed)
    walkers = _start(guest, PULLED, random)
    work = np.zeros(PULLED)
    for before, strength in pairwise(np.linspace(0, 1, 81)):
        work += (strength - before) * _energy(walkers, guest)
        _move(walkers, guest, strength, 10, random)
    return np.array([[np.exp(-work).mean()]])


def anneal(guest: Guest, seed: list[int], poses: str) -> Array:
    """Switch the host on slowly, for a population of walkers that is spread over the ranks of an MPI task.

    At every stage all ranks exchange their walkers, and those with low energy are copied over those with high energy.
    Source: Hukushima and Iba, AIP Conf. Proc. 690, 200 (2003)

    Args:
        guest: What to simulate.
        seed: Of the random numbers; each rank draws its own from it.
        poses: File that gets the positions at the end, as `(walker, bead, axis)`.

    Returns:
        This rank's table: 20 stages, 8 blocks of its walkers.
    """
    rank, ranks = int(os.environ.get("RHAPSODY_RANK", "0")), int(os.environ.get("RHAPSODY_RANKS", "1"))
    shared, own = np.random.default_rng(seed), np.random.default_rng([*seed, rank])
    walkers = _start(guest, POPULATION, own)
    mine = slice(rank * POPULATION, (rank + 1) * POPULATION)
    table = []
    for before, strength in pairwise(np.linspace(0, 1, 21)):
        everybody = _gather(walkers, ranks)
        factors = np.exp((before - strength) * _energy(everybody, guest))
        table.append(factors[mine].reshape(8, -1).mean(axis=1))
        walkers = everybody[_choose(factors, shared)[mine]]  # every rank chooses the same, and goes on with its share
        _move(walkers, guest, strength, 50, own)
    everybody = _gather(walkers, ranks)
    if rank == 0:
        np.save(poses, everybody[:, 0])
    return np.array(table)


def estimate(guest: Guest, tables: list[Array]) -> Observation:
    """Turn tables of mean Boltzmann factors, stage by block, into a free energy with its jackknife error."""
    factors = np.concatenate(tables, axis=1)
    blocks = factors.shape[1]
    left_out = [-np.log(np.delete(factors, block, axis=1).mean(axis=1)).sum() for block in range(blocks)]
    error = np.sqrt((blocks - 1) * np.var(left_out))
    return Observation(guest, float(-np.log(factors.mean(axis=1)).sum()), float(error))


def exact(size: float, bonds: Array) -> Array:
    """Return the free energies of guests of one size and several bonds, by sums over all positions on a grid."""
    axis = (np.arange(36) - 18) * 0.23
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid, axis=-1)
    free = np.exp(-SPRING / 2 * np.maximum(distance - WALL, 0) ** 2)
    bound = free * np.exp(-_host(grid[..., None, :], size)[0])

    def pairs(density: Array, bond: float) -> float:
        spring = np.fft.rfftn(np.fft.ifftshift(np.exp(-SPRING / 2 * (distance - bond) ** 2)))
        return float((density * np.fft.irfftn(np.fft.rfftn(density) * spring, density.shape)).sum())

    return np.array([-np.log(pairs(bound, bond) / pairs(free, bond)) for bond in bonds])


def _choose(weights: Array, random: np.random.Generator) -> NDArray[np.intp]:
    """Return as many indices as there are weights, each index as often as its weight says."""
    levels = (np.arange(len(weights)) + random.random()) / len(weights) * weights.sum()
    chosen: NDArray[np.intp] = np.searchsorted(np.cumsum(weights[:-1]), levels)
    return chosen


def _gather(mine: Array, ranks: int) -> Array:
    """Return the rows of all ranks, in their order."""
    if ranks == 1:
        return mine
    from mpi4py import MPI  # noqa: PLC0415 - only what runs under MPI needs it

    everybody = np.empty((ranks, *mine.shape))
    MPI.COMM_WORLD.Allgather(np.ascontiguousarray(mine), everybody)
    return everybody.reshape(-1, *mine.shape[1:])


def _start(guest: Guest, count: int, random: np.random.Generator) -> Array:
    """Return walkers near the centre, as `(walker, position or velocity, bead, axis)`, settled without the host."""
    walkers = random.standard_normal((count, 2, 2, 3))
    walkers[:, 0] *= 0.7
    _move(walkers, guest, 0.0, 100, random)
    return walkers


def _energy(walkers: Array, guest: Guest) -> Array:
    return _host(walkers[:, 0], guest.size)[0]


def _move(walkers: Array, guest: Guest, strength: float, steps: int, random: np.random.Generator) -> None:
    """Move walkers by Langevin dynamics in a host of a strength between 0 and 1."""
    step, kept = 0.06, np.exp(-0.06)
    kicked = np.sqrt(1 - kept**2)
    beads, velocities = walkers[:, 0], walkers[:, 1]
    force = _force(beads, guest, strength)
    for _ in range(steps):  # the BAOAB scheme. Source: Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34
        velocities += step / 2 * force
        beads += step / 2 * velocities
        velocities *= kept
        velocities += kicked * random.standard_normal(velocities.shape)
        beads += step / 2 * velocities
        force = _force(beads, guest, strength)
        velocities += step / 2 * force


def _force(beads: Array, guest: Guest, strength: float) -> Array:
    apart = beads[:, 0] - beads[:, 1]
    length = np.linalg.norm(apart, axis=-1, keepdims=True)
    spring = SPRING * (guest.bond / length - 1) * apart
    distance = np.linalg.norm(beads, axis=-1, keepdims=True)
    wall = SPRING * np.minimum(WALL / distance - 1, 0) * beads
    force: Array = wall + np.stack([spring, -spring], axis=1) + strength * _host(beads, guest.size)[1]
    return force


def _host(beads: Array, size: float) -> tuple[Array, Array]:
    """Return the energy per guest and the force per bead: Lennard-Jones, softened so that it may be switched on."""
    apart = beads[..., None, :] - HOST
    distance2 = np.einsum("...i,...i", apart, apart) / size**2
    power4 = distance2**2
    core = 1 / (0.5 + power4 * distance2)
    slope = (24 * DEPTH / size**2) * (2 * core - 1) * core**2 * power4
    energy: Array = 4 * DEPTH * (core**2 - core).sum(axis=(-1, -2))
    return energy, np.einsum("...h,...hi->...i", slope, apart)
