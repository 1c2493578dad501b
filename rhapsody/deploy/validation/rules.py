"""A request against the rules of a site, before anything is submitted.

`resolve` returns what a legal request becomes, or raises with the nearest legal requests. Limits that the profile does
not know refuse nothing: they are warned of.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

from rhapsody.deploy.sites.block import Confidence
from rhapsody.deploy.sites.values import format_duration
from rhapsody.deploy.validation.accounts import account_warning, expected_kinds, kind_of_account
from rhapsody.deploy.validation.offers import Offer, offers_of, refused_account, refused_chain, suggestions
from rhapsody.deploy.validation.request import Request, Resolved
from rhapsody.errors import SpecError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody.deploy.sites.nodes import NodeKind
    from rhapsody.deploy.sites.profile import SiteProfile
    from rhapsody.deploy.sites.queues import Queue

_NODE_HOURS = "node-hours"
_MOST_SUGGESTIONS = 4
_HOW_TO_GIVE = {
    "account": "an account: -A ACCOUNT",
    "queue": "a queue: -q QUEUE",
    "walltime": "a walltime: -t 1h",
    "node_kind": "a kind of nodes: --node-kind KIND",
}


def resolve(profile: SiteProfile, request: Request) -> Resolved:
    """Return what a request becomes at a site.

    Raises:
        SpecError: Something required is missing, a name does not exist, or the site does not take such a job. The text
            names the nearest requests that it takes.
    """
    kind_of_account(profile, request)
    _require_node_kind(profile, request)
    _require_given(profile, request)
    queue_name = request.queue
    if not profile.queue_entries:
        return _without_queue(profile, request)
    if queue_name is not None and not _knows(profile, queue_name):
        return _without_queue(profile, request)
    queues = queues_meant(profile, queue_name)
    for offer in offers_of(profile, request, queues):
        if offer.takes(request):
            return _resolved(profile, request, offer)
    raise _refusal(profile, request, queues)


def held(profile: SiteProfile, request: Request) -> Resolved:
    """Return a request for nodes of a job that is there already: no rule of the site is asked any more.

    Raises:
        SpecError: The site has no such kind of nodes.
    """
    named = profile.kind(request.node_kind) if request.node_kind is not None else None
    kind = profile.kinds[0] if named is None and len(profile.kinds) == 1 else named
    return _made(profile, request, None, kind, [])


def queues_meant(profile: SiteProfile, name: str | None) -> tuple[Queue, ...]:
    """Return the queue of a name; without one those that may be chosen, the site's default first.

    Raises:
        SpecError: The site has no such queue, or it is reached through another one only.
    """
    if name is None:
        default = profile.queues.default if profile.queues else None
        entries = [queue for queue in profile.queue_entries if queue.automatic or queue.name == default]
        return tuple(sorted(entries, key=lambda queue: queue.name != default))
    for queue in profile.queue_entries:
        if name in {each.name for each in queue.bins}:
            raise SpecError(
                f"the queue {name} of {profile.name} is reached through {queue.name} only: give -q {queue.name};"
                " nodes and walltime decide"
            )
    return (profile.queue(name),)


def nearest(profile: SiteProfile, request: Request) -> tuple[Request, ...]:
    """Return the legal requests nearest to one that is not: in its queue, then in those that may be chosen.

    Raises:
        SpecError: The site has no such queue.
    """
    here = suggestions(profile, request, queues_meant(profile, request.queue))
    elsewhere = suggestions(profile, request, queues_meant(profile, None)) if request.queue else ()
    return tuple(dict.fromkeys([*here, *elsewhere]))[:_MOST_SUGGESTIONS]


def describe(request: Request) -> str:
    """Return a request's size in words: `92 nodes for 6h`."""
    nodes = f"{request.nodes} node{'' if request.nodes == 1 else 's'}"
    return nodes if request.walltime_s is None else f"{nodes} for {_time(request.walltime_s)}"


def profile_warnings(profile: SiteProfile) -> tuple[str, ...]:
    """Return a sentence for each block that nobody vouches for."""
    return tuple(
        f"{name}: not known of {profile.name}: {'; '.join(block.unknown) or 'everything'}"
        for name, block in profile.blocks.items()
        if block.confidence is Confidence.UNKNOWN
    )


def _time(seconds: float) -> str:
    return format_duration(timedelta(seconds=seconds))


def _knows(profile: SiteProfile, queue_name: str) -> bool:
    """Return whether the profile has a queue; raise where it would have to."""
    names = {queue.name for queue in profile.queue_entries}
    behind = {each.name for queue in profile.queue_entries for each in queue.bins}
    if queue_name in names | behind:
        return True
    if profile.queues is not None and profile.queues.open:
        return False
    raise unknown_name(f"queue of {profile.name}", queue_name, names)


def _require_node_kind(profile: SiteProfile, request: Request) -> None:
    if request.node_kind is not None:
        profile.kind(request.node_kind)


def _require_given(profile: SiteProfile, request: Request) -> None:
    given = {
        "account": request.account,
        "queue": request.queue,
        "walltime": request.walltime_s,
        "node_kind": request.node_kind,
    }
    missing = [name for name in profile.required if not given[name]]
    if not missing:
        return
    text = f"{profile.name} asks for {' and for '.join(_HOW_TO_GIVE[name] for name in missing)}"
    if "queue" in missing:
        offers = offers_of(profile, request, profile.queue_entries)
        fitting = dict.fromkeys(offer.queue.name for offer in offers if offer.takes(request))
        if not fitting:
            text += f"; no queue takes {describe(request)}{_possible(nearest(profile, request))}"
        else:
            text += f"; {describe(request)} fit in {', '.join(fitting)}"
    if "node_kind" in missing:
        text += f"; kinds: {', '.join(kind.name for kind in profile.kinds)}"
    raise SpecError(text)


def _refusal(profile: SiteProfile, request: Request, queues: Sequence[Queue]) -> SpecError:
    """Return the error that says why no queue takes a request, and what would be taken."""
    where = f"the queue {queues[0].name} of {profile.name}" if request.queue else f"no queue of {profile.name}"
    takes = "does not take" if request.queue else "takes"
    reasons = list(dict.fromkeys(reason for queue in queues for reason in _reasons(profile, request, queue)))
    text = f"{where} {takes} {describe(request)}"
    if reasons:
        text += f": {'; '.join(reasons)}"
    return SpecError(text + _possible(nearest(profile, request)) + _if_killed(profile, request))


def _if_killed(profile: SiteProfile, request: Request) -> str:
    """Name the queues that would take a request, but may kill it: they are used for those only who name them."""
    queues = [queue for queue in profile.queue_entries if queue.interruptible and not queue.automatic]
    names = dict.fromkeys(offer.queue.name for offer in offers_of(profile, request, queues) if offer.takes(request))
    return f"; as it is in {' or '.join(names)}, where jobs may be killed without a warning" if names else ""


def _reasons(profile: SiteProfile, request: Request, queue: Queue) -> list[str]:
    """Return what, apart from its size, keeps a request out of a queue; with a queue named also what that takes."""
    kinds = profile.kinds_of(queue)
    reasons = []
    if refused_chain(queue, request):
        reasons.append(f"chains of jobs are prohibited in {queue.name}")
    if kinds and all(refused_account(profile, request, queue, kind) for kind in kinds):
        wanted = " or ".join(expected_kinds(queue, kinds[0]))
        named = f"the account {request.account}" if request.account else "the account"
        reasons.append(
            f"{queue.name} charges accounts for {wanted}, {named} is for {kind_of_account(profile, request)}"
        )
    fitting = [kind for kind in kinds if request.node_kind in {None, kind.name}]
    if kinds and not fitting:
        reasons.append(f"{queue.name} has no nodes of the kind {request.node_kind}")
    elif fitting and all((request.gpus_per_node or 0) > kind.gpu_count for kind in fitting):
        most = max(kind.gpu_count for kind in fitting)
        reasons.append(f"nodes of {queue.name} have {most} GPUs, not {request.gpus_per_node}")
    if request.queue and not reasons:
        reasons.append(f"it takes {limits(queue, fitting)}")
    return reasons


def limits(queue: Queue, kinds: Sequence[NodeKind] = ()) -> str:
    """Return what a queue takes, in words: `1 to 91 nodes for 2h, 92 to 183 nodes for 6h`."""
    parts = []
    counts = [kind.count for kind in kinds if kind.count is not None]
    for each in queue.ranges:
        most = each.max_nodes or (max(counts) if counts and len(counts) == len(kinds) else None)
        nodes = f"{each.min_nodes} to {most} nodes" if most else f"{each.min_nodes} nodes or more"
        if most == each.min_nodes:
            nodes = f"{most} node{'' if most == 1 else 's'}"
        time = f" for {format_duration(each.max_walltime)}" if each.max_walltime else ""
        parts.append(nodes + time)
    text = ", ".join(parts)
    if queue.min_walltime:
        text += f", at least {format_duration(queue.min_walltime)}"
    return text + (f", at most {queue.max_gpus} GPUs" if queue.max_gpus else "")


def _possible(requests: Sequence[Request]) -> str:
    if not requests:
        return ""
    texts = [f"{describe(each)} in {each.queue}" for each in requests]
    *first, last = texts
    return f"; nearest: {', '.join(first)}, or {last}" if first else f"; nearest: {last}"


def _without_queue(profile: SiteProfile, request: Request) -> Resolved:
    """Return a request at a site whose queues are not known: nothing can be checked, and that is said."""
    warnings = []
    if profile.queues is not None:
        named = f"the queue {request.queue}" if request.queue else "the site's own default queue"
        warnings.append(f"the profile {profile.name} does not know {named}: nodes and walltime are not checked")
    wanted = [kind for kind in profile.kinds if request.node_kind in {None, kind.name}]
    kind = next((kind for kind in wanted if kind.gpu_count >= (request.gpus_per_node or 0)), None)
    if wanted and kind is None:
        raise SpecError(f"no nodes of {profile.name} have {request.gpus_per_node} GPUs")
    return _made(profile, request, None, kind, warnings)


def _resolved(profile: SiteProfile, request: Request, offer: Offer) -> Resolved:
    return _made(profile, request, offer, offer.kind, _warnings(profile, request, offer))


def _made(
    profile: SiteProfile, request: Request, offer: Offer | None, kind: NodeKind | None, warnings: Sequence[str]
) -> Resolved:
    queue = offer.queue if offer else None
    walltime_s = request.walltime_s
    if walltime_s is None and queue is not None and queue.default_walltime is not None:
        walltime_s = queue.default_walltime.total_seconds()
    node_hours = None if walltime_s is None else request.nodes * request.links * walltime_s / 3600
    charge = queue.charge if queue else None
    account = account_warning(profile, request, expected_kinds(queue, kind))
    return Resolved(
        profile=profile,
        request=request,
        queue=queue,
        queue_name=queue.name if queue else request.queue,
        bin=offer.bin if offer else None,
        kind=kind,
        gpus_per_node=_gpus(request, queue, kind),
        walltime_s=walltime_s,
        node_hours=node_hours,
        charge=None if node_hours is None else node_hours * (charge.per_node_hour if charge else 1),
        unit=charge.unit if charge else _NODE_HOURS,
        warnings=(*warnings, *([account] if account else ()), *profile_warnings(profile)),
    )


def _gpus(request: Request, queue: Queue | None, kind: NodeKind | None) -> int | None:
    """Return the GPUs of each node: those asked for, else all that the queue allows."""
    if request.gpus_per_node is not None or kind is None:
        return request.gpus_per_node
    most = queue.max_gpus if queue else None
    return kind.gpu_count if most is None else min(kind.gpu_count, most // request.nodes)


def _warnings(profile: SiteProfile, request: Request, offer: Offer) -> list[str]:
    queue, found = offer.queue, []
    if math.isinf(offer.max_nodes):
        found.append(f"how many nodes a job may have in {queue.name} is not known; the site may refuse it")
    if request.walltime_s is not None and math.isinf(offer.max_s):
        found.append(f"how long a job may take in {queue.name} is not known; the site may refuse it")
    if request.walltime_s is None and queue.default_walltime is None:
        found.append("no walltime is named, so the site decides how long the job may take")
    if queue.interruptible:
        found.append(f"jobs in {queue.name} may be killed without a warning")
    if queue.max_submitted is not None and request.links > queue.max_submitted:
        whose = "a project" if queue.counted_for == "project" else "a user"
        found.append(f"{queue.name} takes {queue.max_submitted} jobs of {whose} at once; the chain has {request.links}")
    gpus = _gpus(request, queue, offer.kind)
    if offer.kind and request.gpus_per_node is None and gpus is not None and gpus < offer.kind.gpu_count:
        found.append(
            f"{queue.name} allows {queue.max_gpus} GPUs for a job: {gpus} of {offer.kind.gpu_count} on each node"
        )
    found += [f"{queue.name}: {note}" for note in queue.notes]
    if profile.queues is not None and profile.queues.confidence in {Confidence.LOW, Confidence.MEDIUM}:
        found.append(f"the limits of {profile.name} are not from the facility itself: {profile.queues.source}")
    return found
