"""The stand-in engine as a state machine: steps in virtual time, with no clock and no I/O.

The same machine runs in virtual time, where thousands of replicas are stepped as quickly as they can be, and in real
time behind HTTP, where somebody waits as long as each step says.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rhapsody.errors import SpecError
from rhapsody.inference.engine_batch import DecodeBatch, Sequence

if TYPE_CHECKING:
    from rhapsody.inference.engine_model import EngineModel


@dataclass(slots=True)
class Step:
    """What happened in a step, or in several that were alike.

    Attributes:
        duration_s: Virtual seconds it took.
        decoded: Who got a further token of its answer with each step; before those that ended with it are gone.
        first: Who has read its prompt and got a token; after a preemption, not the first of its answer.
        finished: Who has all its tokens, and has left the engine.
        preempted: Who lost its place in the cache before the step, and begins again when there is room.
        prefill_tokens: Tokens of prompts that were read.
        count: Steps that this stands for.
    """

    duration_s: float = 0.0
    decoded: list[str] = field(default_factory=list)
    first: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    preempted: list[str] = field(default_factory=list)
    prefill_tokens: int = 0
    count: int = 1

    @property
    def tokens(self) -> list[tuple[str, int]]:
        """Who got tokens of its answer, and how many; they exist at the step's end."""
        return [*((uid, self.count) for uid in self.decoded), *((uid, 1) for uid in self.first)]


class Engine:
    """Chunked prefill and batched decode over a cache of limited size; deterministic.

    In a step all sequences whose prompts are read get a token each. The rest of the budget reads prompts, in the order
    of arrival; at most one sequence is partly read at a time, and it is the newest that runs. When the cache is full,
    the newest running sequence goes back to the head of those that wait, and loses what it had in the cache: its prompt
    and the tokens it has made are read again. Only a sequence that decodes takes room from others: prompts wait for it.

    Args:
        model: Its limits, and how long steps take.

    Attributes:
        model: As given.
        now_s: Virtual time at the end of the last step.
    """

    def __init__(self, model: EngineModel) -> None:
        self.model = model
        self.now_s = 0.0
        self._waiting: deque[Sequence] = deque()
        self._partly: Sequence | None = None
        self._batch = DecodeBatch(model.block_tokens)
        self._known: dict[str, Sequence] = {}
        self._free = model.kv_blocks

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._known

    @property
    def running(self) -> int:
        """Sequences that have a place in the cache."""
        return len(self._batch) + (self._partly is not None)

    @property
    def waiting(self) -> int:
        """Sequences that wait for one."""
        return len(self._waiting)

    @property
    def kv_used_tokens(self) -> int:
        """Tokens that the blocks in use could hold."""
        return (self.model.kv_blocks - self._free) * self.model.block_tokens

    @property
    def kv_usage(self) -> float:
        """Share of the cache in use, 0 to 1."""
        return 1 - self._free / self.model.kv_blocks

    def add(self, request_id: str, prompt_tokens: int, output_tokens: int, now_s: float) -> None:
        """Take a request; it waits for the next step.

        Args:
            request_id: No other request in the engine has it.
            prompt_tokens: Length of the prompt.
            output_tokens: Length of the answer; it gets exactly so many, unless it is aborted.
            now_s: Virtual time of the arrival. An idle engine's time goes on to it; a busy one's step has begun before.

        Raises:
            SpecError: It can never run, or its id is taken. The engine is as before.
        """
        if request_id in self._known:
            raise SpecError(f"the stand-in engine has a request {request_id!r} already; give each an id of its own")
        if reason := self.model.refusal(prompt_tokens, output_tokens):
            raise SpecError(reason)
        if self.idle:
            self.now_s = max(self.now_s, now_s)
        sequence = Sequence(request_id, prompt_tokens, output_tokens)
        self._known[request_id] = sequence
        self._waiting.append(sequence)

    def abort(self, request_id: str) -> bool:
        """Forget a request and free its blocks; return whether it was there."""
        sequence = self._known.pop(request_id, None)
        if sequence is None:
            return False
        if sequence is self._partly or sequence.joined:
            self._evict(sequence)
        else:
            self._waiting.remove(sequence)
        return True

    def step(self) -> Step:
        """Do one step.

        Raises:
            SpecError: The engine is idle.
        """
        if self.idle:
            raise SpecError("the stand-in engine is idle: add a request before the next step")
        step = Step(preempted=self._make_room(), decoded=self._batch.uids)
        chunks = self._read_prompts(len(step.decoded), admit=not step.preempted)
        step.prefill_tokens = sum(size for _, size in chunks)
        context = sum(sequence.cached for sequence, _ in chunks)
        self._free -= self._batch.tick()
        self._pass(step, self._batch.context + context)
        self._finish(step)
        for sequence, _ in chunks:
            if not sequence.unread:
                self._join(sequence, step)
        return step

    def leap(self, until_s: float = math.inf) -> Step:
        """Do as many steps as are alike, at least one; the engine is then as if each had been done by itself.

        Steps are alike as long as the same sequences decode, and nothing else happens.

        Args:
            until_s: No step begins at this virtual time or later, but the first.

        Raises:
            SpecError: The engine is idle.
        """
        limit = self._alike()
        if limit <= 1:
            return self.step()
        step = Step(decoded=self._batch.uids, count=0)
        while step.count < limit and (not step.count or self.now_s < until_s):
            step.count += 1
            self._free -= self._batch.tick()
            self._pass(step, self._batch.context)
        self._finish(step)
        return step

    def _alike(self) -> int:
        """Return how many steps from now on surely only decode, and surely fit; 0 when the next may not."""
        batch = self._batch
        if self._partly is not None or not batch:
            return 0
        if self._waiting and len(batch) < self.model.max_num_seqs:
            size = min(self.model.max_num_batched_tokens - len(batch), self._waiting[0].unread)
            if size and self._fits(self._waiting[0], size):
                return 0
        return min(batch.ticks_left(), self._free // len(batch) * self.model.block_tokens)

    def _make_room(self) -> list[str]:
        """Take the newest sequences out until each that decodes has room for one more token; return whom."""
        preempted = []
        while self._batch.blocks_needed > self._free:
            newest = self._partly or self._batch.newest
            self._evict(newest)
            self._waiting.appendleft(newest)
            preempted.append(newest.uid)
        return preempted

    def _read_prompts(self, decoding: int, *, admit: bool) -> list[tuple[Sequence, int]]:
        """Put prompts into the cache as far as budget and room allow; return of whom, and how many tokens."""
        budget = self.model.max_num_batched_tokens - decoding
        chunks: list[tuple[Sequence, int]] = []
        while budget > 0:
            sequence = self._partly
            if sequence is None and admit and decoding + len(chunks) < self.model.max_num_seqs:
                sequence = self._waiting[0] if self._waiting else None
            if sequence is None:
                break
            size = min(budget, sequence.unread)
            if not self._fits(sequence, size):
                break
            if sequence is not self._partly:
                self._waiting.popleft()
            self._free -= self._blocks_more(sequence, size)
            sequence.cached += size
            self._partly = sequence if sequence.unread else None
            chunks.append((sequence, size))
            budget -= size
        return chunks

    def _fits(self, sequence: Sequence, tokens: int) -> bool:
        """Return whether there is room for more of a prompt, beside what the next step's tokens take."""
        return self._blocks_more(sequence, tokens) <= self._free - self._batch.blocks_needed

    def _blocks_more(self, sequence: Sequence, tokens: int) -> int:
        blocks_for = self.model.blocks_for
        return blocks_for(sequence.cached + tokens) - blocks_for(sequence.cached)

    def _pass(self, step: Step, context: int) -> None:
        """Let the time of one step pass."""
        duration_s = self.model.step_s(step.prefill_tokens, len(step.decoded), context)
        step.duration_s += duration_s
        self.now_s += duration_s

    def _join(self, sequence: Sequence, step: Step) -> None:
        """Give a sequence the token that its prompt led to; if it wants more it decodes from now on."""
        sequence.done += 1
        step.first.append(sequence.uid)
        if sequence.done < sequence.output_tokens:
            self._batch.join(sequence)
        else:
            self._forget(sequence, step)

    def _finish(self, step: Step) -> None:
        for sequence in self._batch.pop_complete():
            self._forget(sequence, step)

    def _forget(self, sequence: Sequence, step: Step) -> None:
        """Let a sequence go that has all its tokens, and no place in the batch any more."""
        step.finished.append(sequence.uid)
        del self._known[sequence.uid]
        self._free += self.model.blocks_for(sequence.cached)

    def _evict(self, sequence: Sequence) -> None:
        """Take a running sequence's place and blocks away."""
        if sequence is self._partly:
            self._partly = None
        else:
            self._batch.leave(sequence)
        self._free += self.model.blocks_for(sequence.cached)
        sequence.cached = 0
