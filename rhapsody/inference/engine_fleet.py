"""Many stand-in engines in virtual time: requests arrive, a rule picks a replica for each, and answers are noted.

What comes out is simulated: see `rhapsody.inference.engine_model`.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.errors import SpecError
from rhapsody.inference.engine_core import Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rhapsody.inference.engine_core import Step
    from rhapsody.inference.engine_model import EngineModel


class Arrival(NamedTuple):
    """A request of a simulated campaign.

    Attributes:
        at_s: Virtual time.
        prompt_tokens: Length of the prompt.
        output_tokens: Length of the answer.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass(slots=True)
class Served:
    """What became of an arrival, in virtual time.

    Attributes:
        arrival: The request.
        replica: Index of the engine that got it.
        first_s: Its first token.
        finished_s: Its last.
    """

    arrival: Arrival
    replica: int
    first_s: float = math.nan
    finished_s: float = math.nan


class Fleet:
    """Equal stand-in engines side by side.

    Args:
        model: Of each.
        replicas: How many.
        choose: Gets the engines as they are at the arrival, and the arrival; returns the index of the one to take it.
            A step that has begun is seen as if it were over.

    Attributes:
        engines: The engines; none has anything to do between two calls of `serve`.
        busy_s: For each, virtual seconds in which it did something.
        steps: Steps of all.
    """

    def __init__(self, model: EngineModel, replicas: int, choose: Callable[[Sequence[Engine], Arrival], int]) -> None:
        if replicas < 1:
            raise SpecError(f"replicas={replicas} must be at least 1")
        self.engines = [Engine(model) for _ in range(replicas)]
        self.busy_s = [0.0] * replicas
        self.steps = 0
        self._choose = choose
        self._due: list[tuple[float, int]] = []
        """A heap: when the next step of each busy engine begins, and its index."""
        self._served: list[Served] = []

    def serve(self, arrivals: Iterable[Arrival]) -> list[Served]:
        """Serve all, and return what became of each, in the order of arrival.

        Raises:
            SpecError: A request can never run, or arrives before the one ahead of it; this fleet is of no more use.
        """
        self._served = []
        last_s = -math.inf
        for number, arrival in enumerate(arrivals):
            if arrival.at_s < last_s:
                raise SpecError(f"arrival {number} is at {arrival.at_s:g} s, before the one ahead of it; sort them")
            last_s = arrival.at_s
            self._pass_until(arrival.at_s)
            self._take(number, arrival)
        self._pass_until(math.inf)
        return self._served

    def _take(self, number: int, arrival: Arrival) -> None:
        replica = self._choose(self.engines, arrival)
        engine = self.engines[replica]
        was_idle = engine.idle
        engine.add(str(number), arrival.prompt_tokens, arrival.output_tokens, arrival.at_s)
        self._served.append(Served(arrival, replica))
        if was_idle:
            heapq.heappush(self._due, (engine.now_s, replica))

    def _pass_until(self, until_s: float) -> None:
        """Do the steps that begin before a moment."""
        while self._due and self._due[0][0] < until_s:
            began_s, replica = self._due[0]
            engine = self.engines[replica]
            step = engine.leap(until_s)
            self._note(step, began_s, replica)
            if engine.idle:
                heapq.heappop(self._due)
            else:
                heapq.heapreplace(self._due, (engine.now_s, replica))

    def _note(self, step: Step, began_s: float, replica: int) -> None:
        now_s = self.engines[replica].now_s
        self.busy_s[replica] += now_s - began_s
        self.steps += step.count
        for uid in step.first:
            served = self._served[int(uid)]
            if math.isnan(served.first_s):  # else it was preempted, and has read its prompt again
                served.first_s = now_s
        for uid in step.finished:
            self._served[int(uid)].finished_s = now_s
