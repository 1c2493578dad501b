"""What the stand-in engine reads and answers: texts that nobody takes for those of a model.

A token is a word between white space; a text has at least one. The first word of an answer carries a nonce, which is
the beginning of the SHA-256 of the prompt, and each further word the beginning of the nonce and its own number. So it
can be seen whether an answer belongs to its request, and whether it is whole.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import NamedTuple

from rhapsody.errors import SpecError

NONCE_DIGITS = 16
EMBEDDING_SIZE = 64
"""Numbers in an embedding where none are asked for."""


class Prompt(NamedTuple):
    """What is asked, and how long it is.

    Attributes:
        text: As the nonce is made of it; numbers of tokens stand in it as decimal words.
        tokens: Its length.
    """

    text: str
    tokens: int

    @classmethod
    def of(cls, given: str | list[int]) -> Prompt:
        """Return the prompt for a text, or for numbers of tokens."""
        text = given if isinstance(given, str) else " ".join(map(str, given))
        return cls(text, count_tokens(text))


def count_tokens(text: str) -> int:
    """Return how many tokens a text has: its words, at least one."""
    return max(1, len(text.split()))


def nonce_of(prompt: str) -> str:
    """Return what an answer to this prompt carries; of a chat, the texts of its messages joined by line ends."""
    return hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest()[:NONCE_DIGITS]


def answer_part(nonce: str, start: int, stop: int) -> str:
    """Return tokens of an answer, from `start` up to but not including `stop`; parts in a row make the whole."""
    words = [f"stand-in:{nonce}" if number == 0 else f"{nonce[:4]}:{number}" for number in range(start, stop)]
    return " " * (start > 0 and stop > start) + " ".join(words)


def embedding(text: str, size: int = EMBEDDING_SIZE) -> list[float]:
    """Return numbers between -1 and 1 that depend on the text, and mean nothing."""
    raw = hashlib.shake_256(text.encode(errors="surrogatepass")).digest(2 * size)
    return [number / 32768 for number in struct.unpack(f"<{size}h", raw)]


def packed(numbers: list[float]) -> str:
    """Return an embedding as clients ask for by `encoding_format: base64`."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def prompts_of(given: str | list[str] | list[int] | list[list[int]], where: str) -> list[Prompt]:
    """Return the prompts of a request: one text, several, or numbers of tokens of one or several.

    Raises:
        SpecError: There is none.
    """
    if isinstance(given, str):
        return [Prompt.of(given)]
    if not given or [] in given:
        raise SpecError(f"{where}: is empty; give a text")
    if isinstance(given[0], int):
        return [Prompt.of(given)]  # pydantic has checked that all are alike
    return [Prompt.of(each) for each in given]
