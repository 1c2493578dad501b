"""Is this host a login node that a profile knows?"""

from __future__ import annotations

import socket
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from rhapsody.deploy.sites.loading import find_sites, load_site
from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rhapsody.deploy.sites.profile import SiteProfile


def this_host() -> str:
    """Return the name of this host, with its domain where the machine knows it."""
    short = socket.gethostname()
    full = socket.getfqdn(short)
    return full if full.partition(".")[0] == short.partition(".")[0] else short


def known_login_node(hostname: str, profiles: Iterable[SiteProfile] | None = None) -> SiteProfile | None:
    """Return the site of which a host is a login node, by the patterns of `login_node.host_patterns`.

    Args:
        hostname: Full or short.
        profiles: To look in, the first one that fits wins; all that are found when None, those of one's own first.
    """
    where = _all() if profiles is None else profiles
    return next((profile for profile in where if is_login_node(profile, hostname)), None)


def is_login_node(profile: SiteProfile, hostname: str) -> bool:
    """Return whether a host is a login node that a profile knows, by its full or its short name."""
    patterns = profile.login_node.host_patterns if profile.login_node else ()
    full = hostname.lower().rstrip(".")
    names = (full, full.partition(".")[0])
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns for name in names)


def _all() -> Iterable[SiteProfile]:
    for file in sorted(find_sites(), key=lambda file: (file.shipped, file.name)):
        try:
            yield load_site(file.name)
        except SpecError:
            continue  # `rhapsody sites list` tells what is wrong with it
