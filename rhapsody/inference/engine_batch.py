"""The sequences of a stand-in engine that decode: all get a token at a time, so what they have is counted together."""

from __future__ import annotations

import heapq
from dataclasses import dataclass


@dataclass(slots=True)
class Sequence:
    """A request inside the engine.

    Attributes:
        uid: The request's id.
        prompt_tokens: Length of the prompt.
        output_tokens: Length of the answer.
        done: Tokens of the answer that exist; while it decodes, those before it did.
        cached: Tokens of prompt and answer that the cache holds; while it decodes, those before it did.
        joined: Which entry of a batch it is; 0 while it is in none.
        since: Ticks of the batch when it joined.
    """

    uid: str
    prompt_tokens: int
    output_tokens: int
    done: int = 0
    cached: int = 0
    joined: int = 0
    since: int = 0

    @property
    def unread(self) -> int:
        """Tokens that must go into the cache before the next token of the answer can be made."""
        return self.prompt_tokens + self.done - self.cached


class DecodeBatch:
    """Sequences that get one token with each tick. What a tick costs does not depend on how many they are.

    Args:
        block_tokens: Tokens in a block of the cache.

    Attributes:
        context: Tokens that all have in the cache.
    """

    def __init__(self, block_tokens: int) -> None:
        self.context = 0
        self._block_tokens = block_tokens
        self._ticks = 0
        self._joined = 0
        self._sequences: dict[str, Sequence] = {}
        self._phases = [0] * block_tokens
        """How many begin a new block at the ticks that leave this remainder."""
        self._ends: list[tuple[int, int, Sequence]] = []
        """A heap: tick of the last token, entry, sequence. Entries of those that left early stay."""

    def __len__(self) -> int:
        return len(self._sequences)

    def __contains__(self, uid: str) -> bool:
        return uid in self._sequences

    @property
    def uids(self) -> list[str]:
        """Who is in it, the oldest first."""
        return list(self._sequences)

    @property
    def newest(self) -> Sequence:
        """The one that joined last."""
        return next(reversed(self._sequences.values()))

    @property
    def blocks_needed(self) -> int:
        """Blocks that the next tick takes."""
        return self._phases[self._ticks % self._block_tokens]

    def ticks_left(self) -> int:
        """Return after how many ticks the first of them has all its tokens; there is at least one sequence."""
        ends = self._ends
        while ends[0][2].joined != ends[0][1]:
            heapq.heappop(ends)
        return ends[0][0] - self._ticks

    def join(self, sequence: Sequence) -> None:
        """Take a sequence that has all but its last token in the cache, and wants more."""
        self._joined += 1
        sequence.joined, sequence.since = self._joined, self._ticks
        self._sequences[sequence.uid] = sequence
        self._phases[self._phase(sequence)] += 1
        self.context += sequence.cached
        end = self._ticks + sequence.output_tokens - sequence.done
        heapq.heappush(self._ends, (end, sequence.joined, sequence))

    def leave(self, sequence: Sequence) -> None:
        """Let a sequence go; it knows what it has from now on."""
        del self._sequences[sequence.uid]
        self._phases[self._phase(sequence)] -= 1
        ticks = self._ticks - sequence.since
        sequence.joined = 0
        sequence.done += ticks
        sequence.cached += ticks
        self.context -= sequence.cached

    def tick(self) -> int:
        """Give each a token; return how many blocks that took."""
        blocks = self.blocks_needed
        self._ticks += 1
        self.context += len(self._sequences)
        return blocks

    def pop_complete(self) -> list[Sequence]:
        """Let those go that have all their tokens, and return them, the oldest first."""
        complete = []
        ends = self._ends
        while ends and ends[0][0] <= self._ticks:
            _, joined, sequence = heapq.heappop(ends)
            if sequence.joined == joined:
                self.leave(sequence)
                complete.append(sequence)
        return complete

    def _phase(self, sequence: Sequence) -> int:
        return (sequence.since - sequence.cached) % self._block_tokens
