"""From a site's profile and a validated request to what a batch script is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rhapsody.deploy.script.request import NextLink, script_request
from rhapsody.deploy.sites.container import Engine, EngineName, Staging
from rhapsody.deploy.sites.nodes import Sharing
from rhapsody.deploy.sites.profile import SchedulerKind
from rhapsody.errors import SpecError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rhapsody.deploy.script.request import ScriptRequest
    from rhapsody.deploy.sites.container import Collectives
    from rhapsody.deploy.sites.profile import SiteProfile
    from rhapsody.deploy.validation.request import Resolved

LEAD_S = 300
"""So many seconds before its end a job is told, or a fifth of its time if that is less."""


SHARED_WITH_NODE = ("--network=host", "--ipc=host")
"""For podman, whose containers have a network and 64 MiB of shared memory of their own unless told otherwise."""
_CLOSED = frozenset({EngineName.PODMAN, EngineName.PODMAN_HPC})
_CLEAN = frozenset({"--cleanenv", "-e", "--containall", "-C", "--compat"})
"""Flags of Apptainer that keep variables out. Source: apptainer-exec(1) of 1.4."""


class CollectivesUse(StrEnum):
    """How far a campaign uses RCCL or NCCL: what they need may slow MPI."""

    OFF = "off"
    ON = "on"
    DOMINANT = "dominant"


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What a user may want of a job, apart from nodes, time, account and queue.

    Attributes:
        here: The script is run in a job that is there already.
        image: A file's absolute path or a name the engine knows; None runs without a container.
        engine: Which one; the site's first, unless given.
        stage_image: Whether the image goes onto the nodes' disks; None: where site and image allow.
        host_mpi: Whether ranks in containers use the host's MPI.
        collectives: Whether RCCL or NCCL is set up.
        environment: Variables of the user, literal.
        reservation: Name of one.
        mail: Whom to tell.
        after: Id of a job to wait for.
        constraint: Features of the nodes; those of the chosen kind, unless given.
    """

    here: bool = False
    image: str | None = None
    engine: str | None = None
    stage_image: bool | None = None
    host_mpi: bool = False
    collectives: CollectivesUse = CollectivesUse.OFF
    environment: Mapping[str, str] = field(default_factory=dict)
    reservation: str | None = None
    mail: str | None = None
    after: str | None = None
    constraint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Deployment(JobOptions):
    """What a job is to run, and how.

    Attributes:
        run_dir: The run folder, absolute.
        work_dir: Where the campaign runs, absolute.
        script_path: Where the script will lie, absolute.
        command: What rank 0's agent starts.
        resume_command: The same when the run folder has a journal; None for `command` again.
        job_name: As the queue shows it.
        agent: The command of the node agent.
        folders: Folders besides run and working folder that are needed in the image, absolute.
        options: More options of the submit command, without leading dashes.
    """

    run_dir: str
    work_dir: str
    script_path: str
    command: Sequence[str]
    resume_command: Sequence[str] | None = None
    job_name: str = "rhapsody"
    agent: Sequence[str] = ("rhapsody-node",)
    folders: Sequence[str] = ()
    options: Mapping[str, str] = field(default_factory=dict)


def script_for(resolved: Resolved, deployment: Deployment) -> ScriptRequest:
    """Return what the batch script of a job is made from.

    Args:
        resolved: Nodes, time, account and queue, as the site allows them.
        deployment: Everything else.

    Raises:
        SpecError: Something is missing, does not go together or cannot go into a script.
    """
    profile, scheduler = resolved.profile, resolved.profile.scheduler
    if scheduler.kind is SchedulerKind.KUBERNETES:
        raise SpecError(f"{profile.name} has no batch system ({scheduler.kind}), so that there is no script for it")
    submitted = scheduler.kind is not SchedulerKind.LOCAL and not deployment.here
    if resolved.walltime_s is None and submitted:
        raise SpecError(f"how long the job may take at {profile.name} is not known; give --walltime, such as -t 2h")
    walltime_s = None if resolved.walltime_s is None else int(resolved.walltime_s)
    engine = _engine(profile, deployment)
    collectives = _collectives(profile, deployment)
    values: dict[str, Any] = {
        "scheduler": str(scheduler.kind),
        "site": profile.name if profile.name[0].isalpha() else f"site-{profile.name}",
        "nodes": resolved.request.nodes,
        "walltime_s": walltime_s,
        "account": resolved.request.account,
        "signal": scheduler.signal,
        "signal_lead_s": LEAD_S if walltime_s is None else min(LEAD_S, max(1, walltime_s // 5)),
        "here": deployment.here,
        "links": resolved.request.links,
        "next_link": _next_link(resolved),
        "launcher_options": scheduler.launcher_options,
        "gpus_per_node": resolved.gpus_per_node or 0,
        "modules": _modules(resolved, engine, collectives),
        "environment": _environment(resolved, collectives, deployment),
        "proxy": _proxy(profile),
        "container": _container(resolved, deployment, engine) if engine else None,
        "constraint": deployment.constraint or (resolved.kind.constraint if resolved.kind else None),
    }
    if submitted:
        values |= _directives(resolved, deployment, engine, collectives)
    return script_request(values | _taken_over(deployment))


def _taken_over(deployment: Deployment) -> dict[str, Any]:
    names = ("run_dir", "work_dir", "script_path", "job_name", "reservation", "mail", "after")
    resume = deployment.resume_command
    return {name: getattr(deployment, name) for name in names} | {
        "agent": tuple(deployment.agent),
        "command": tuple(deployment.command),
        "resume_command": None if resume is None else tuple(resume),
        "user_environment": dict(deployment.environment),
    }


def _next_link(resolved: Resolved) -> NextLink:
    if resolved.request.links == 1:
        return NextLink.NONE
    scheduler = resolved.profile.scheduler
    if scheduler.kind is SchedulerKind.SLURM and scheduler.requeue:
        return NextLink.REQUEUE
    return NextLink.SUBMIT


# Directives


def _directives(
    resolved: Resolved, deployment: Deployment, engine: Engine | None, collectives: Collectives | None
) -> dict[str, Any]:
    profile, queue = resolved.profile, resolved.queue
    known = profile.directives
    options = dict(known.options) if known else {}
    options |= dict(queue.options) if queue else {}
    if collectives and deployment.collectives is CollectivesUse.DOMINANT:
        options |= collectives.options
    options |= deployment.options
    _refuse_forbidden(profile, options)
    if profile.scheduler.kind is SchedulerKind.PBS:
        resources = dict(known.resources) if known else {}
        if known and engine and "--fakeroot" in _flags(resolved, engine, deployment):
            resources |= known.fakeroot_resources
        select = dict(known.select) if known else {}
        return {"options": options, "resources": resources, "select": select, "queue": resolved.queue_name}
    if options.get("ntasks-per-node") == "1":
        del options["ntasks-per-node"]  # the script says it by itself
    cores = _cores(resolved, options)
    exclusive = cores is None and (queue is None or queue.sharing is not Sharing.EXCLUSIVE)
    found = {"cores_per_node": cores, "exclusive": exclusive, **_partition(resolved)}
    if known and known.gres:
        found["gres"] = known.gres
    elif not (known and known.gpu_option):
        found["gpus_per_node"] = 0
    return {"options": options, **found}


def _refuse_forbidden(profile: SiteProfile, options: dict[str, str]) -> None:
    forbidden = profile.directives.forbidden if profile.directives else ()
    for name in options:
        if f"{'-' if len(name) == 1 else '--'}{name}" in forbidden:
            raise SpecError(f"{profile.name} forbids the option {name}; leave it out")


def _partition(resolved: Resolved) -> dict[str, str | None]:
    """Return partition and QOS: where the profile does not know the queue, what its other queues are."""
    if resolved.queue is not None:
        return {"partition": resolved.queue.partition, "qos": resolved.queue.qos}
    entries = resolved.profile.queue_entries
    only_qos = bool(entries) and all(entry.partition is None for entry in entries)
    return {"qos" if only_qos else "partition": resolved.queue_name}


def _cores(resolved: Resolved, options: dict[str, str]) -> int | None:
    """Take from the options, or from the kind of nodes, the CPUs of a node as Slurm counts them.

    With hardware threads it depends on the site whether they count; there only the profile's own number is taken, or,
    where nodes are shared, as many as there are cores for certain.
    """
    said = options.pop("cpus-per-task", None)
    if said is not None:
        if not (said.isascii() and said.isdecimal()):
            raise SpecError(f"options.cpus-per-task={said!r} is no number")
        return int(said)
    kind, queue = resolved.kind, resolved.queue
    if kind is None:
        return None
    shared = queue is not None and queue.sharing is Sharing.SHARED
    return kind.usable_cores if shared or kind.smt in {None, 1} else None


# Modules and variables


def _collectives(profile: SiteProfile, deployment: Deployment) -> Collectives | None:
    if deployment.collectives is CollectivesUse.OFF:
        return None
    found = profile.network.collectives if profile.network else None
    if found is None:
        raise SpecError(f"the profile of {profile.name} knows nothing of RCCL or NCCL; set their variables yourself")
    return found


def _modules(resolved: Resolved, engine: Engine | None, collectives: Collectives | None) -> dict[str, Any]:
    known, dragon = resolved.profile.modules, resolved.profile.dragon
    gpus = bool(resolved.gpus_per_node)
    use = [*(known.use if known else ()), *(engine.module_paths if engine else ())]
    unload = [*(known.unload if known else ()), *(dragon.unload if dragon else ())]
    load = [
        *(known.load if known else ()),
        *(known.load_gpu if known and gpus else ()),
        *(engine.modules if engine else ()),
        *(dragon.modules if dragon else ()),
        *(collectives.modules if collectives else ()),
    ]
    return {name: tuple(dict.fromkeys(these)) for name, these in (("use", use), ("unload", unload), ("load", load))}


def _environment(resolved: Resolved, collectives: Collectives | None, deployment: Deployment) -> dict[str, str]:
    profile = resolved.profile
    found: dict[str, str] = {}
    if profile.environment:
        found |= profile.environment.variables
        found |= profile.environment.gpu_variables if resolved.gpus_per_node else {}
    found |= profile.network.environment if profile.network else {}
    found |= profile.dragon.environment if profile.dragon else {}
    if collectives:
        found |= collectives.environment
        found |= collectives.many_nodes if resolved.request.nodes > 1 else collectives.one_node
        found |= collectives.with_options if deployment.collectives is CollectivesUse.DOMINANT else {}
    return found


def _proxy(profile: SiteProfile) -> dict[str, Any] | None:
    known = profile.proxy
    if known is None or not (known.http or known.https):
        return None
    http, https = known.http or known.https, known.https or known.http
    return {"http": http, "https": https, "no_proxy": known.no_proxy}


# The image


def _engine_name(name: str) -> EngineName:
    try:
        return EngineName(name)
    except ValueError as exc:
        raise unknown_name("container engine", name, map(str, EngineName)) from exc


def _engine(profile: SiteProfile, deployment: Deployment) -> Engine | None:
    if deployment.image is None:
        return None
    engines = profile.container.engines if profile.container else ()
    if deployment.engine is None:
        if not engines:
            raise SpecError(f"which container engine {profile.name} has is not known; give it: --engine apptainer")
        return engines[0]
    if not engines:  # nobody knows what flags it wants there, but the user knows that it is there
        name = _engine_name(deployment.engine)
        return Engine(name=name, flags=SHARED_WITH_NODE if name in _CLOSED else ())
    for engine in engines:
        if engine.name == deployment.engine:
            return engine
    raise unknown_name(f"container engine of {profile.name}", deployment.engine, (str(each.name) for each in engines))


def _flags(resolved: Resolved, engine: Engine, deployment: Deployment) -> tuple[str, ...]:
    return (
        *engine.flags,
        *(engine.gpu_flags if resolved.gpus_per_node else ()),
        *(engine.mpi_flags if deployment.host_mpi else ()),
    )


def _is_closed(engine: Engine, flags: Sequence[str]) -> bool:
    """Return whether no variable of the job reaches the inside unless it is named."""
    if engine.name is EngineName.APPTAINER:
        return not _CLEAN.isdisjoint(flags)
    return engine.passes is not None or engine.name in _CLOSED


def _container(resolved: Resolved, deployment: Deployment, engine: Engine) -> dict[str, Any]:
    flags = _flags(resolved, engine, deployment)
    return {
        "engine": str(engine.name),
        "image": deployment.image,
        "flags": flags,
        "binds": engine.binds,
        "folders": tuple(deployment.folders),
        "environment": engine.environment,
        "passes": () if _is_closed(engine, flags) else None,
        "staging": _staging(resolved, deployment, engine),
    }


def _staging(resolved: Resolved, deployment: Deployment, engine: Engine) -> dict[str, Any] | None:
    image = deployment.image or ""
    way = resolved.profile.container.staging if resolved.profile.container else None
    disk = resolved.kind.local_disk if resolved.kind else None
    possible = (
        way is not None
        and disk is not None
        and disk.path is not None
        and engine.name is EngineName.APPTAINER
        and image.startswith("/")
    )
    if deployment.stage_image and not possible:
        raise SpecError(
            f"the image {image!r} cannot be put on the nodes' disks: that needs a file given by its absolute path,"
            f" Apptainer, and a disk and a way to copy in the profile of {resolved.profile.name}"
        )
    if not possible or deployment.stage_image is False or way is None or disk is None:
        return None
    return {"method": "sbcast" if way is Staging.SBCAST else "copy", "folder": disk.path, "constraint": disk.constraint}
