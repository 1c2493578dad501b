"""The gateway of a run over real servers, and what tests ask of it."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

import openai

from rhapsody.inference.client import REQUEST_ID
from tests.vllm.serving import MODEL

if TYPE_CHECKING:
    from openai.types import Completion

    from tests.vllm.serving import Serving


class Setting:
    """A gateway over servers, and a client of it."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.client = self.openai(serving.token)

    def openai(self, token: str) -> openai.AsyncOpenAI:
        """Return a client that tries nothing again."""
        return openai.AsyncOpenAI(base_url=self.serving.url, api_key=token, max_retries=0, timeout=240)

    async def complete(self, prompt: str, tokens: int) -> Completion:
        """Return a completion of so many tokens, which begins with its own prompt; the request's id is made of it."""
        return await self.client.completions.create(
            model=MODEL, prompt=prompt, max_tokens=tokens, echo=True, extra_body={"ignore_eos": True},
            extra_headers={REQUEST_ID: prompt.replace(" ", "-")},
        )  # fmt: skip

    def metric(self, url: str, name: str) -> float:
        """Return what a replica tells Prometheus, over all labels; 0 where it does not answer."""
        request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {self.serving.key}"})  # noqa: S310 - our own server
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - likewise
                return summed(answer.read().decode(), name)
        except OSError:
            return 0.0

    def total(self, name: str) -> float:
        """Return the same over all replicas."""
        return sum(self.metric(url, name) for url in self.serving.ready())

    def of_gateway(self, name: str) -> float:
        """Return what the gateway tells Prometheus, over all labels."""
        root = self.serving.url.removesuffix("/v1")
        request = urllib.request.Request(f"{root}/metrics", headers={"Authorization": f"Bearer {self.serving.token}"})  # noqa: S310 - our own server
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - likewise
            return summed(answer.read().decode(), name)


def summed(text: str, name: str) -> float:
    """Return a metric over all labels."""
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def require_own_answer(answer: Completion, prompt: str, tokens: int) -> None:
    """Fail unless this is the whole answer to this prompt, and to no other."""
    assert answer._request_id == prompt.replace(" ", "-")
    assert answer.choices[0].text.startswith(prompt)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt)  # a byte is a token
    assert answer.usage.completion_tokens == tokens
    assert answer.choices[0].finish_reason == "length"
