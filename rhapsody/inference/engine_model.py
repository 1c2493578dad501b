"""What the stand-in engine assumes of the time and the memory that a model server needs."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from rhapsody.model.allocation import FrozenModel


class EngineModel(FrozenModel):
    """The stated timing model of a stand-in for a model server.

    All numbers are assumptions. None was measured on any machine, and the defaults only have the order of magnitude
    of a small language model on one GPU. What comes out of the stand-in says how a router or a campaign behaves *if*
    a server were like this; it says nothing about a real server. Fit the numbers to a server of yours to ask what
    more of the same would do, and go on calling the result simulated.

    Time passes in steps, as in servers with continuous batching. A step gives one token to each sequence that
    decodes, and fills the rest of its budget with chunks of prompts. It takes

        base_s + prefill tokens * s_per_prefill_token + decoding sequences * s_per_decode_seq
               + context tokens * s_per_context_token

    where context tokens are those that the sequences of the step have in the cache at its end. There are no faults of
    a real server in it: no warm-up, no prefix cache, no speculation, no jitter.

    Attributes:
        max_num_batched_tokens: Budget of a step: decoding sequences and tokens of prompts together.
        max_num_seqs: Sequences that run at a time; others wait.
        max_model_len: Prompt and answer of one sequence together; longer ones are refused.
        kv_tokens: Tokens that fit into the cache of keys and values, rounded down to whole blocks.
        block_tokens: The cache is given out in blocks of so many tokens.
        base_s: What a step takes however little it does.
        s_per_prefill_token: Added for each token of a prompt.
        s_per_decode_seq: Added for each sequence that decodes.
        s_per_context_token: Added for each token in the cache of the sequences in the step.
    """

    max_num_batched_tokens: int = Field(default=2048, ge=1)
    max_num_seqs: int = Field(default=256, ge=1)
    max_model_len: int = Field(default=8192, ge=2)
    kv_tokens: int = Field(default=131_072, ge=1)
    block_tokens: int = Field(default=16, ge=1)
    base_s: float = Field(default=0.006, gt=0, allow_inf_nan=False)
    s_per_prefill_token: float = Field(default=2e-5, ge=0, allow_inf_nan=False)
    s_per_decode_seq: float = Field(default=2e-5, ge=0, allow_inf_nan=False)
    s_per_context_token: float = Field(default=2e-8, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _can_run(self) -> Self:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens={self.max_num_batched_tokens} is less than max_num_seqs={self.max_num_seqs}:"
                " each running sequence needs one token of a step"
            )
        if self.kv_tokens < self.block_tokens:
            raise ValueError(f"kv_tokens={self.kv_tokens} is less than one block of {self.block_tokens} tokens")
        return self

    @property
    def kv_blocks(self) -> int:
        """Blocks of the cache."""
        return self.kv_tokens // self.block_tokens

    def blocks_for(self, tokens: int) -> int:
        """Return how many blocks hold so many tokens."""
        return -(-tokens // self.block_tokens)

    def step_s(self, prefill_tokens: int, decoding: int, context_tokens: int) -> float:
        """Return how long a step takes, in seconds."""
        return (
            self.base_s
            + prefill_tokens * self.s_per_prefill_token
            + decoding * self.s_per_decode_seq
            + context_tokens * self.s_per_context_token
        )

    def refusal(self, prompt_tokens: int, output_tokens: int) -> str:
        """Return why a sequence can never run; empty when it can."""
        asked = f"{prompt_tokens} tokens of prompt and {output_tokens} of answer"
        if prompt_tokens < 1 or output_tokens < 1:
            return f"{asked} were asked for; both must be at least 1"
        if prompt_tokens + output_tokens > self.max_model_len:
            return (
                f"{asked} are more than the context of {self.max_model_len} tokens; shorten the prompt or lower"
                " max_tokens"
            )
        held = prompt_tokens + output_tokens - 1  # the last token is never read again
        if self.blocks_for(held) > self.kv_blocks:
            return (
                f"{asked} need {self.blocks_for(held)} blocks of the cache, which has {self.kv_blocks} of"
                f" {self.block_tokens} tokens; shorten the prompt or lower max_tokens"
            )
        return ""
