"""A model beside tasks: functions find what to ask, AI tasks ask it, functions use the answers.

    rhapsody run examples/ask_models.py --cores 4                    # a toy model, in AI workers
    rhapsody run examples/ask_models.py --cores 4 PYTHON MODEL       # vLLM in the environment of PYTHON

The toy model knows which letters follow one another in what it has read, and goes on with any text.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING

from rhapsody import AITask, ComputeTask, ServiceTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody import Session
    from rhapsody.inference.worker_model import Generated, Prompt

READ = "the water binds to the waist of the host and the guest binds better when the waist is wide; "


class Letters:
    """A model of letters: each of the next ones is drawn from those that followed the last three."""

    def __init__(self, text: str) -> None:
        self._next = defaultdict(list)
        for at in range(len(text)):
            self._next[(text + text)[at : at + 3]].append((text + text)[at + 3])

    def generate(self, batch: Sequence[Prompt]) -> list[Generated]:
        """Go on with each text of a batch."""
        from rhapsody.inference.worker_model import Generated  # noqa: PLC0415 - where the model runs

        return [Generated(self._go_on(prompt.text)) for prompt in batch]

    def _go_on(self, text: str) -> str:
        draw = random.Random(text)  # noqa: S311 - the same answer each time
        said = text
        for _ in range(40):
            said += draw.choice(self._next.get(said[-3:]) or [" "])
        return said[len(text) :]


def load() -> Letters:
    """Return the model; called once in each worker."""
    return Letters(READ)


def find_question(number: int) -> str:
    """Return what to ask: stands for a simulation."""
    return random.Random(number).choice(["the guest ", "the host ", "the water ", "the waist "])  # noqa: S311


def count_words(texts: list[str]) -> dict[str, int]:
    """Return how often each word was said: stands for what uses the answers."""
    counts: dict[str, int] = defaultdict(int)
    for text in texts:
        for word in text.split():
            counts[word] += 1
    return dict(sorted(counts.items(), key=lambda each: -each[1])[:3])


def model_of(args: list[str]) -> ServiceTask:
    """Return what serves the model: vLLM, if its interpreter and a model are named."""
    if args:
        python, model = args
        return ServiceTask.vllm(model, python=python, replicas=2)
    return ServiceTask.ai_worker("letters", load, replicas=2)


async def campaign(session: Session, args: list[str]) -> None:
    """Ask forty questions, which flow from functions and into one."""
    model = await session.start(model_of(args))
    questions = [ComputeTask(find_question, args=(number,)) for number in range(40)]
    answers = [AITask(question, service=model, max_tokens=40, temperature=0.0) for question in questions]
    words = ComputeTask(count_words, args=(answers,))
    await session.submit([*questions, *answers, words])
    print("most said:", (await words).return_value)
    print(f"{len(answers)} questions were answered by {len(model.status)} replicas")
