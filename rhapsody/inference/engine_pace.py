"""The stand-in engine in real time: each step is waited for as long as the model says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from rhapsody.inference.engine_core import Engine, Step

CATCH_UP_S = 0.05
"""Steps may be late by so much and are caught up with; what is more is lost time."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A request in the engine, for whoever waits for its tokens.

    Attributes:
        uid: Its id in the engine.
        prompt_tokens: Length of the prompt.
        output_tokens: Length of the answer.
        changed: Set whenever there are more tokens; several tickets may share it.
        tokens: How many there are.
        finished: Set once there are all.
    """

    uid: str
    prompt_tokens: int
    output_tokens: int
    changed: asyncio.Event
    tokens: int = 0
    finished: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Counts:
    """What the engine has done so far.

    Attributes:
        steps: Steps.
        busy_s: Real seconds that they were to take: time with at least one sequence in a step.
        late_s: Real seconds that they took longer since this machine was too slow for the speed that was asked for.
        prompt_tokens: Tokens of prompts that were read, those of preempted sequences more than once.
        generated_tokens: Tokens of answers.
        preemptions: Sequences that lost their place.
    """

    steps: int = 0
    busy_s: float = 0.0
    late_s: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0


class Pacer:
    """Steps an engine on the running event loop, and hands its tokens out at the end of each step.

    Args:
        engine: Used by nobody else from now on.
        speed: Virtual seconds that pass in a real one.

    Attributes:
        engine: As given.
        counts: What it has done.
    """

    def __init__(self, engine: Engine, speed: float = 1.0) -> None:
        if not 0 < speed < float("inf"):
            raise SpecError(f"speed={speed:g} must be more than 0: virtual seconds that pass in a real one")
        self.engine = engine
        self.counts = Counts()
        self._speed = speed
        self._loop = asyncio.get_running_loop()
        self._began_s = self._due_s = self._loop.time()
        self._handle: asyncio.Handle | None = None
        self._tickets: dict[str, Ticket] = {}
        self._number = 0

    def submit(self, prompt_tokens: int, output_tokens: int, changed: asyncio.Event) -> Ticket:
        """Put a request into the engine.

        Raises:
            SpecError: It can never run.
        """
        self._number += 1
        ticket = Ticket(str(self._number), prompt_tokens, output_tokens, changed)
        now_s = self._loop.time()
        self.engine.add(ticket.uid, prompt_tokens, output_tokens, (now_s - self._began_s) * self._speed)
        self._tickets[ticket.uid] = ticket
        if self._handle is None:
            self._due_s = now_s
            self._handle = self._loop.call_soon(self._begin)  # others of this moment are in the first step too
        return ticket

    def abandon(self, ticket: Ticket) -> None:
        """Take a request out of the engine, unless it has ended."""
        if self._tickets.pop(ticket.uid, None) is not None:
            self.engine.abort(ticket.uid)

    def close(self) -> None:
        """Do no more steps."""
        if self._handle is not None:
            self._handle.cancel()
        self._tickets.clear()

    def _begin(self) -> None:
        if self.engine.idle:
            self._handle = None
            return
        step = self.engine.step()
        late_s = self._loop.time() - CATCH_UP_S - self._due_s
        if late_s > 0:
            self.counts.late_s += late_s
            self._due_s += late_s
        self._due_s += step.duration_s / self._speed
        self._handle = self._loop.call_at(self._due_s, self._end, step)

    def _end(self, step: Step) -> None:
        counts = self.counts
        counts.steps += 1
        counts.busy_s += step.duration_s / self._speed
        counts.prompt_tokens += step.prefill_tokens
        counts.preemptions += len(step.preempted)
        for uid, tokens in step.tokens:
            counts.generated_tokens += tokens
            ticket = self._tickets.get(uid)
            if ticket is not None:  # else it was abandoned during the step
                ticket.tokens += tokens
                ticket.changed.set()
        for uid in step.finished:
            ticket = self._tickets.pop(uid, None)
            if ticket is not None:
                ticket.finished.set()
        self._begin()
