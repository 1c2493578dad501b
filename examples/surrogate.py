"""What the campaign believes so far: an ensemble of Gaussian processes over guests, and where to look next."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from binding import Array, Guest, Observation, exact

LOWEST, HIGHEST = Guest(0.9, 1.0), Guest(1.8, 3.0)
"""The guests that are searched lie between these."""
SIZES = np.linspace(LOWEST.size, HIGHEST.size, 31)
BONDS = np.linspace(LOWEST.bond, HIGHEST.bond, 31)
GRID = [Guest(float(size), float(bond)) for size, bond in product(SIZES, BONDS)]
"""Every guest that may be proposed."""
LENGTHS = tuple(product((0.15, 0.25, 0.4), (0.2, 0.4)))
"""Over which distance in size and bond, as shares of their ranges, the free energy changes: a member for each."""


class Belief(NamedTuple):
    """The free energy that is expected for every guest of the grid, by one Gaussian process or all together.

    Attributes:
        mean: Expected free energies.
        deviation: How far off they may be: one standard deviation.
        evidence: Logarithm of how probable the observations are under it.
    """

    mean: Array
    deviation: Array
    evidence: float


class Lesson(NamedTuple):
    """What was learnt from all observations so far.

    Attributes:
        best: The guest that is expected to bind best.
        error: Root mean square error of the expected free energies.
        proposal: Guests to look at next.
    """

    best: Observation
    error: float
    proposal: list[Guest]


def truth(size: float) -> Array:
    """Return the exact free energies of the grid's guests of one size."""
    return exact(size, BONDS)


def first_guests(count: int, skipped: int) -> list[Guest]:
    """Return guests that fill the space evenly, together with the `skipped` ones before them."""
    steps = np.arange(skipped + 1, skipped + count + 1)[:, None]
    shares = steps * (0.7548776662, 0.5698402910) % 1  # the R2 sequence. Source: Roberts, extremelearning.com.au, 2018
    return [Guest(*map(float, np.array(LOWEST) + share * np.subtract(HIGHEST, LOWEST))) for share in shares]


def train(observations: list[Observation], lengths: tuple[float, float]) -> Belief:
    """Condition one Gaussian process on what was observed, each observation with its own error."""
    guests = [observation.guest for observation in observations]
    values = np.array([observation.free_energy for observation in observations])
    noise = np.square([observation.error for observation in observations]) + 0.1**2
    mean, variance = values.mean(), 2 * values.var()
    among = variance * _kernel(guests, guests, lengths) + np.diag(noise)
    across = variance * _kernel(GRID, guests, lengths)
    gain = np.linalg.solve(among, across.T).T
    evidence = -(values - mean) @ np.linalg.solve(among, values - mean) / 2 - np.linalg.slogdet(among)[1] / 2
    left = np.maximum(variance - np.einsum("go,go->g", gain, across), 0)
    return Belief(mean + gain @ (values - mean), np.sqrt(left), float(evidence))


def combine(members: list[Belief]) -> Belief:
    """Return the members' mixture: those that explain the observations better count more."""
    evidence = np.array([member.evidence for member in members])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    means = np.array([member.mean for member in members])
    squares = np.square(means) + np.square([member.deviation for member in members])
    mean = weights @ means
    return Belief(mean, np.sqrt(np.maximum(weights @ squares - mean**2, 0)), float(evidence.max()))


def propose(belief: Belief, count: int) -> list[Guest]:
    """Return the guests to look at next: the first ones should bind well, the last ones are less known."""
    deviation = belief.deviation.copy()
    chosen: list[Guest] = []
    for place in range(count):
        chosen.append(GRID[int(np.argmin(belief.mean - (1 + place) * deviation))])
        deviation *= np.sqrt(
            1 - 0.98 * _kernel(GRID, chosen[-1:], (0.1, 0.1))[:, 0] ** 2
        )  # little is left to learn near it
    return chosen


def conclude(members: list[Belief], exact_by_size: list[Array], count: int) -> Lesson:
    """Return what the members teach together; their error is taken where binding is strong."""
    belief = combine(members)
    values = np.concatenate(exact_by_size)
    strong = values < values.min() + 2
    error = float(np.sqrt(np.square(belief.mean - values)[strong].mean()))
    index = int(np.argmin(belief.mean))
    best = Observation(GRID[index], float(belief.mean[index]), float(belief.deviation[index]))
    return Lesson(best, error, propose(belief, count))


def _kernel(some: list[Guest], others: list[Guest], lengths: tuple[float, float]) -> Array:
    scale = np.subtract(HIGHEST, LOWEST) * lengths
    apart = (np.array(some)[:, None] - np.array(others)[None]) / scale
    kernel: Array = np.exp(-np.square(apart).sum(axis=-1) / 2)
    return kernel
