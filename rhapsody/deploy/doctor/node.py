"""This host: is it a login node, what may one do there, has it the network and the shared memory that runs need?"""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.backends.dragon.surroundings import LEAST_FREE, MIB
from rhapsody.deploy.doctor.finding import BATCH, Finding, cannot_tell, ok, rounded, warning, wrong
from rhapsody.deploy.login_node import is_login_node, known_login_node
from rhapsody.deploy.sites.profile import SchedulerKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rhapsody.deploy.doctor.finding import Patient
    from rhapsody.deploy.sites.profile import SiteProfile

_IN_JOB = "run rhapsody doctor in a job to see"
_NEARLY = 0.8
_PLENTY = 5_000 * 10**6
"""Bytes of shared memory with which Dragon needs no smaller segments: see docs/dragon.md."""


class Use(NamedTuple):
    """What the processes of a user take.

    Attributes:
        processes: How many.
        threads: Of all of them; this is what the system counts.
        memory: Bytes in main memory.
    """

    processes: int
    threads: int
    memory: int


def node(profile: SiteProfile, patient: Patient) -> Iterator[Finding]:
    """Yield what is to be said of this host."""
    yield from host(profile, patient)
    yield from login_limits(profile, patient, resource.getrlimit(resource.RLIMIT_NPROC)[0])
    yield from network(profile, patient)
    yield shared_memory(profile, patient)


def host(profile: SiteProfile, patient: Patient) -> Iterator[Finding]:
    """Yield whether this is a host to run, or to submit, from."""
    name, kind = "host", profile.scheduler.kind
    if kind is SchedulerKind.LOCAL:
        site = None if patient.in_job else known_login_node(patient.host)
        if site is not None:
            yield wrong(name, f"{patient.host} is a login node of {site.title}", f"submit a job: --site {site.name}")
        else:
            yield ok(name, f"{patient.host} is no login node that a profile knows")
    elif kind in BATCH:
        yield _submits(profile, patient)


def _submits(profile: SiteProfile, patient: Patient) -> Finding:
    patterns = profile.login_node.host_patterns if profile.login_node else ()
    if patient.in_job:
        return ok("host", f"{patient.host} is a node of a job")
    if is_login_node(profile, patient.host):
        return ok("host", f"{patient.host} is a login node of {profile.name}")
    if patterns:
        return warning(
            "host",
            f"{patient.host} is no login node of {profile.name}: those are called {', '.join(patterns)}",
            "run this where you submit jobs, or name another --site",
        )
    return cannot_tell(
        "host",
        f"the profile {profile.name} does not know what its login nodes are called, so neither whether"
        f" {patient.host} is one",
        "make sure that you are on the machine that you mean; login_node.host_patterns of a profile may tell",
    )


def login_limits(profile: SiteProfile, patient: Patient, most_threads: int) -> Iterator[Finding]:
    """Yield how much of what a user may take on this host is taken.

    Args:
        profile: Of the site.
        patient: This host.
        most_threads: RLIMIT_NPROC: processes and threads that this user may have.
    """
    use = use_of(patient.root / "proc", os.getuid())
    login = None if patient.in_job else profile.login_node
    limits = [most_threads] if most_threads != resource.RLIM_INFINITY and os.geteuid() else []
    limits += [login.max_processes] if login and login.max_processes else []
    text = f"you have {use.processes} processes with {use.threads} threads on this host"
    fix = "end what you do not need, or work in a job"
    if limits:
        yield _measured("processes", use.threads, min(limits), f"{text}; {min(limits)} are allowed", fix)
    else:
        yield ok("processes", f"{text}; no limit is known")
    if login and login.max_memory:
        words = f"your processes take {rounded(use.memory)} of memory; {rounded(login.max_memory)} are allowed"
        yield _measured("memory", use.memory, login.max_memory, words, fix)


def use_of(proc: Path, uid: int) -> Use:
    """Return what a user's processes take.

    Args:
        proc: The folder /proc.
        uid: Of the user.
    """
    processes = threads = memory = 0
    for folder in proc.glob("[0-9]*"):
        try:
            fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
        except OSError:  # it has just ended
            continue
        if int(fields.get("Uid", "-1").split()[0]) == uid:
            processes += 1
            threads += int(fields.get("Threads", "1"))
            memory += int(fields.get("VmRSS", "0 kB").split()[0]) * 1024
    return Use(processes, threads, memory)


def _measured(name: str, used: int, most: int, text: str, fix: str) -> Finding:
    if used >= most:
        return wrong(name, text, fix)
    return warning(name, text, fix) if used > _NEARLY * most else ok(name, text)


def network(profile: SiteProfile, patient: Patient) -> Iterator[Finding]:
    """Yield whether the network interfaces of the profile are there."""
    wanted = profile.network.interfaces if profile.network else ()
    if not wanted:
        return
    name, folder = "network", patient.root / "sys/class/net"
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = [interface for interface in wanted if interface not in there]
    if not missing:
        yield ok(name, f"{', '.join(wanted)} are there")
    elif patient.in_job:
        yield wrong(
            name,
            f"the profile {profile.name} names {', '.join(missing)}, which this node lacks; it has"
            f" {', '.join(sorted(there)) or 'none'}",
            "correct network.interfaces in a profile of your own",
        )
    else:
        text = f"this host lacks {', '.join(missing)} of the profile {profile.name}; nodes of jobs may differ"
        yield cannot_tell(name, text, _IN_JOB)


def shared_memory(profile: SiteProfile, patient: Patient) -> Finding:
    """Return whether /dev/shm has what Dragon needs."""
    name, folder = "shared memory", patient.root / "dev/shm"
    try:
        status = os.statvfs(folder)
    except OSError as exc:
        return wrong(name, f"{folder} cannot be used: {exc.strerror}", "ask the facility for /dev/shm")
    free = status.f_bavail * status.f_frsize
    if not patient.is_where_jobs_run(profile):
        text = f"{folder} of this host has {rounded(free)} free; that of nodes of jobs is not known"
        return cannot_tell(name, text, _IN_JOB)
    return memory_for_dragon(free)


def memory_for_dragon(free: int) -> Finding:
    """Return whether so many free bytes of /dev/shm are enough."""
    name, text = "shared memory", f"{rounded(free)} of /dev/shm are free"
    fix = "free some, or enlarge it (mount -o remount,size=8g /dev/shm; for containers --shm-size 8g)"
    if free < LEAST_FREE:
        return wrong(name, f"{text}; Dragon needs {LEAST_FREE // MIB} MiB", fix)
    if free < _PLENTY:
        return warning(name, f"{text}; below {rounded(_PLENTY)} Dragon works with smaller segments", fix)
    return ok(name, text)
