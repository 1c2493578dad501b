"""How a user reaches a service of a run from another machine: by a tunnel that the site's profile knows.

Nothing is opened from here: sites want two factors for each login, so the user runs the command.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from rhapsody.deploy.login_node import this_host
from rhapsody.deploy.sites.profile import SchedulerKind
from rhapsody.errors import SpecError
from rhapsody.node.files import write_whole
from rhapsody.services.endpoints import NODE

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.deploy.sites.profile import SiteProfile
    from rhapsody.services.endpoints import Endpoint

_THIS_MACHINE = frozenset({"localhost", "127.0.0.1"})
_NODE = re.compile(NODE.removesuffix("$"), re.ASCII)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_LOCAL_PORT = re.compile(r"(?<=\s)\{port\}(?=:)")
"""In `-L {port}:{node}:{port}` and `service/x {port}:{port}`: the end of the tunnel on the user's own machine."""


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach a service.

    Attributes:
        tunnel: Command that the user runs on the own machine, and leaves running; None when none is needed or known.
        local_url: The service's URL: behind the tunnel, or its own where there is none.
        notes: What else to know, in whole sentences without a full stop.
    """

    tunnel: str | None
    local_url: str
    notes: tuple[str, ...] = ()


def way_to(profile: SiteProfile | None, endpoint: Endpoint, user: str, local_port: int | None = None) -> Way:
    """Return how to reach a service.

    Args:
        profile: Of the site where the run was deployed; None for a run that was not.
        endpoint: Of the service.
        user: Login name at the site.
        local_port: Port of the tunnel on the user's own machine; the service's own when None.

    Raises:
        SpecError: A value could be more than one word of a command line, or the port is none.
    """
    values = _checked(endpoint, user)
    port = endpoint.port if local_port is None else _port(local_port)
    token = f"clients must show the token that is in {endpoint.key_file} at the site"
    about = (token,) if endpoint.key_file else ()
    if _is_here(endpoint.node, profile):
        return Way(None, endpoint.url, (f"{endpoint.node} is this machine: no tunnel is needed here", *about))
    template = None if profile is None else _template(profile)
    if template is None:
        return Way(None, endpoint.url, (_unknown(profile, endpoint), *about))
    tunnel, url = _filled(template, values, port), _behind(endpoint.url, port)
    notes = list(about)
    if open_ends := sorted(set(_PLACEHOLDER.findall(tunnel))):
        notes.append(f"fill in yourself: {', '.join(open_ends)}")
    if f"{port}:" not in tunnel:
        notes.append(f"the tunnel of the profile does not say that it ends at port {port} of your own machine; make it")
    if url.startswith("https:"):
        notes.append(
            f"the certificate of the service names {endpoint.node}, not 127.0.0.1: tell your client to expect it"
        )
    return Way(tunnel, url, tuple(notes))


def write_endpoint_file(path: Path, endpoint: Endpoint, way: Way) -> None:
    """Write what a client needs to know, as JSON that only its owner may read; never the token itself.

    Raises:
        SpecError: It cannot be written.
    """
    content = {
        "schema": 1,
        "name": endpoint.name,
        "url": way.local_url,
        "models": list(endpoint.models),
        "key_file": endpoint.key_file,
    }
    try:
        write_whole(path, f"{json.dumps(content, indent=2)}\n".encode())
    except OSError as exc:
        raise SpecError(f"cannot write {path}: {exc.strerror}; name another file with --out") from exc


def _checked(endpoint: Endpoint, user: str) -> dict[str, str]:
    """Return what is filled into a command that a user will paste into a shell: words without any special character."""
    for name, value, grammar in (("node", endpoint.node, _NODE), ("user", user, _USER)):
        if not grammar.fullmatch(value):
            raise SpecError(
                f"the {name} {value!r} cannot go into a command: letters, digits and `.`, `_`, `-` may, the first no"
                " `.` or `-`"
            )
    service = endpoint.node.partition(".")[0]
    return {"port": str(_port(endpoint.port)), "node": endpoint.node, "user": user, "service": service}


def _port(port: int) -> int:
    if type(port) is not int or not 1 <= port <= 65535:
        raise SpecError(f"{port!r} is no port; give a number from 1 to 65535")
    return port


def _template(profile: SiteProfile) -> str | None:
    if profile.scheduler.kind is SchedulerKind.KUBERNETES and profile.kubernetes is not None:
        return profile.kubernetes.connect
    return profile.services.tunnel if profile.services else None


def _filled(template: str, values: dict[str, str], port: int) -> str:
    """Return a command with its values; placeholders that nobody knows stay."""
    command = _LOCAL_PORT.sub(str(port), template, count=1)
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), command)


def _behind(url: str, port: int) -> str:
    """Return a URL as it is on the user's own machine, at the end of a tunnel."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, f"127.0.0.1:{port}", parts.path, "", ""))


def _is_here(node: str, profile: SiteProfile | None) -> bool:
    """Return whether a node is this host; `localhost` is only where the run was not sent to another machine."""
    node, own = node.lower(), this_host().lower()
    if node in _THIS_MACHINE:
        return profile is None or profile.scheduler.kind is SchedulerKind.LOCAL
    if "." in node and "." in own:
        return node == own
    return node.partition(".")[0] == own.partition(".")[0]


def _unknown(profile: SiteProfile | None, endpoint: Endpoint) -> str:
    where = f"port {endpoint.port} of {endpoint.node}"
    if profile is None or profile.scheduler.kind is SchedulerKind.LOCAL:
        return f"the service listens on {where}; from a machine that does not reach it you need a tunnel of your own"
    address = profile.login_node.address if profile.login_node else None
    through = f"`ssh -L`, through {address}" if address else "`ssh -L`, through which host"
    return (
        f"the profile {profile.name} knows no tunnel; ask the facility how {where} is reached from outside (is"
        f" {through}, allowed?), then add services.tunnel to a profile of your own"
    )
