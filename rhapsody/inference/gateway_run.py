"""A gateway with a key of its own: what `rhapsody gateway` and a session start.

Whoever opens one tells where it is, such as by an endpoint record; nothing of that happens here.
"""

from __future__ import annotations

import secrets
import socket
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.errors import SpecError
from rhapsody.inference.gateway import Gateway
from rhapsody.inference.replica import read_secret
from rhapsody.node.files import write_whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from rhapsody.inference.router import Router

LOCALHOST = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - only where somebody asks for it
_HERE = frozenset({LOCALHOST, "::1", "localhost"})


class OpenGateway(NamedTuple):
    """A gateway that listens.

    Attributes:
        gateway: The server.
        router: Where requests go.
        key_file: Holds what clients must show.
        node: Name of this machine, for those that look for it from elsewhere.
    """

    gateway: Gateway
    router: Router
    key_file: Path
    node: str

    @property
    def url(self) -> str:
        """What clients take as their base URL; it ends with `/v1`."""
        return self.gateway.url

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.gateway.port

    @property
    def models(self) -> tuple[str, ...]:
        """Names of models that have a replica now, ready or not."""
        return tuple(self.router.models)


@asynccontextmanager
async def gateway_on(
    router: Router, key_file: Path, *, host: str = LOCALHOST, port: int = 0, within_s: float | None = None
) -> AsyncIterator[OpenGateway]:
    """Keep a gateway open, within the router's block.

    Args:
        router: Where requests go.
        key_file: What is in it is what clients must show. One that is not there is made, and removed in the end.
        host: Address to listen on; `EVERYWHERE` lets other machines in.
        port: Port to listen on; 0 picks a free one.
        within_s: Each request fails when it takes longer; None: no limit.

    Raises:
        SpecError: It cannot listen there, or the file cannot be made, or others may read it.
    """
    with key_in(key_file) as (file, token):
        async with Gateway(router, host, port, token, within_s=within_s) as gateway:
            yield OpenGateway(gateway, router, file, LOCALHOST if host in _HERE else socket.gethostname())


@contextmanager
def key_in(file: Path) -> Iterator[tuple[Path, str]]:
    """Give a key and the absolute path of its file; one that is not there is made, and removed in the end.

    Raises:
        SpecError: The file cannot be made, or others may read it.
    """
    file = file.expanduser().absolute()
    is_new = not file.exists()
    if is_new:
        _write(file, make_token())
    try:
        yield file, read_secret(file)
    finally:
        if is_new:
            with suppress(OSError):
                file.unlink()


def make_token() -> str:
    """Return what nobody can guess."""
    return secrets.token_hex(32)


def _write(file: Path, token: str) -> None:
    try:
        write_whole(file, f"{token}\n".encode())
    except OSError as exc:
        raise SpecError(f"cannot write the gateway's key to {file}: {exc.strerror}; name another file") from exc
