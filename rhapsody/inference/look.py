"""A look at model servers, before anything depends on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import msgspec
from aiohttp import hdrs

from rhapsody.inference.client import words_of

if TYPE_CHECKING:
    from rhapsody.inference.replica import Replica

LOOK_S = 3.0
_MOST_NAMES = 10


async def answers(url: str, within_s: float = LOOK_S) -> bool:
    """Return whether anybody answers at a URL, whatever they say."""
    try:
        async with _session(within_s) as session, session.get(url, allow_redirects=False):
            return True
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


async def trouble_with(replica: Replica, within_s: float = LOOK_S) -> str:
    """Return what is wrong with a model server, as the end of a sentence that begins with it; empty: nothing is.

    It is asked for its models, which costs it nothing.

    Raises:
        SpecError: Its key cannot be found.
    """
    headers = {hdrs.AUTHORIZATION: f"Bearer {replica.key()}"} if replica.key is not None else {}
    try:
        async with (
            _session(within_s) as session,
            session.get(f"{replica.url}/v1/models", headers=headers, allow_redirects=False) as answer,
        ):
            return _trouble(replica.model, answer.status, await answer.read())
    except TimeoutError:
        return f"does not answer within {within_s:g} s"
    except (aiohttp.ClientError, OSError) as exc:
        return f"does not answer: {exc}"


def _trouble(model: str, status: int, body: bytes) -> str:
    if status in (404, 405):
        return ""  # it does not say which models it has
    if status >= 400:
        return f"answers with status {status}: {words_of(body)}"
    try:
        names = [each.id for each in _DECODER.decode(body).data]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "answers, but not as OpenAI's API does"
    if not names or model in names:
        return ""
    return f"does not name {model!r} among its models: {', '.join(names[:_MOST_NAMES])}"


def _session(within_s: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within_s), cookie_jar=aiohttp.DummyCookieJar())


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_DECODER = msgspec.json.Decoder(_Models)
