"""From what a user asks for to a script that could be submitted: everything that can be refused is refused here."""

from __future__ import annotations

import ast
import os
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import rhapsody
from rhapsody.deploy.image.facts import architecture_doubt
from rhapsody.deploy.image.named import digest_of, image_for
from rhapsody.deploy.records import SCRIPT, Cost, How, Record
from rhapsody.deploy.schedulers.choice import held_job
from rhapsody.deploy.script.from_site import Deployment, JobOptions, script_for
from rhapsody.deploy.script.render import render_script
from rhapsody.deploy.sites.profile import SchedulerKind
from rhapsody.deploy.validation.rules import held, resolve
from rhapsody.errors import SpecError
from rhapsody.session.campaign_file import SIGNATURE, existing_campaign
from rhapsody.session.run_folder import name_run_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rhapsody.deploy.script.request import ScriptRequest
    from rhapsody.deploy.sites.profile import SiteProfile
    from rhapsody.deploy.validation.request import Request, Resolved


@dataclass(frozen=True, kw_only=True)
class Order(JobOptions):
    """What a user wants to run, and how. An image that is a file may be named by any path.

    Attributes:
        campaign: The file.
        args: Passed to it.
        request: Nodes, time, account and queue.
        name: First part of the run folder's name, and the job's; the file's name when None.
        runs: Folder of all runs.
        run_options: For `rhapsody run`, such as `--backend dragon`.
    """

    campaign: Path
    args: Sequence[str]
    request: Request
    name: str | None = None
    runs: Path | None = None
    run_options: Sequence[str] = ()


@dataclass(frozen=True)
class Plan:
    """What would be done.

    Attributes:
        resolved: Nodes, time, account and queue, as the site allows them.
        how: What is to become of the script.
        run_dir: Not made yet.
        script: What the text is made from.
        text: The batch script.
        order: What was asked for.
    """

    resolved: Resolved
    how: How
    run_dir: Path
    script: ScriptRequest
    text: str
    order: Order

    @property
    def cost(self) -> Cost | None:
        """What it costs at most; None where that is not known, or nothing is charged."""
        charge = self.resolved.charge
        return None if charge is None or self.how is not How.BATCH else Cost(amount=charge, unit=self.resolved.unit)

    def record(self) -> Record:
        """Return what the run folder keeps of it. An image is read, to know its digest."""
        image = self.script.container.image if self.script.container else None
        return Record(
            version=rhapsody.__version__,
            submitted_s=time.time(),
            how=self.how,
            campaign=str(self.order.campaign.absolute()),
            args=tuple(self.order.args),
            queue=self.resolved.queue_name,
            cost=self.cost,
            image_digest=digest_of(image) if image else None,
            script=self.script,
            profile=self.resolved.profile,
        )


def plan(profile: SiteProfile, order: Order) -> Plan:
    """Return what an order becomes at a site. Nothing is written.

    Raises:
        SpecError: It cannot be run like this; the text says what would be.
    """
    require_campaign(order.campaign)
    how = _how(profile, order)
    if how is How.BATCH:
        resolved = resolve(profile, order.request)
    else:
        _refuse_what_needs_a_queue(order)
        resolved = held(profile, order.request)
    name = order.name or order.campaign.stem
    run_dir = name_run_folder(name, order.runs)
    script = script_for(resolved, _deployment(order, run_dir, resolved))
    if script.container and (doubt := architecture_doubt(script.container.image)):
        resolved = replace(resolved, warnings=(*resolved.warnings, doubt))
    return Plan(resolved, how, run_dir, script, render_script(script), order)


def _how(profile: SiteProfile, order: Order) -> How:
    if profile.scheduler.kind is SchedulerKind.LOCAL:
        return How.LOCAL
    return How.HERE if order.here else How.BATCH


def _refuse_what_needs_a_queue(order: Order) -> None:
    given = {
        "--chain": order.request.links > 1,
        "--after": order.after,
        "--mail": order.mail,
        "--reservation": order.reservation,
        "--constraint": order.constraint,
    }
    if wrong := [name for name, value in given.items() if value]:
        raise SpecError(f"{wrong[0]} is for jobs that are submitted, and this one is run here, now; leave it out")


def _deployment(order: Order, run_dir: Path, resolved: Resolved) -> Deployment:
    image = image_for(order.image) if order.image else None
    program, agent = _programs(in_image=image is not None)
    campaign, work_dir = order.campaign.absolute(), Path.cwd()
    options = {each.name: getattr(order, each.name) for each in fields(JobOptions)}
    here = order.here and resolved.profile.scheduler.kind is not SchedulerKind.LOCAL
    return Deployment(
        **options | {"image": image, "here": here, "stage_image": _staged(image, wanted=order.stage_image)},
        run_dir=str(run_dir),
        work_dir=str(work_dir),
        script_path=str(run_dir / "deploy" / SCRIPT),
        command=(program, "run", "--run-dir", str(run_dir), *order.run_options, str(campaign), "--", *order.args),
        resume_command=(program, "run", "--resume", str(run_dir)),
        job_name=_job_name(order.name or order.campaign.stem),
        agent=(agent,),
        folders=() if campaign.is_relative_to(work_dir) else (str(campaign.parent),),
    )


def _staged(image: str | None, *, wanted: bool | None) -> bool | None:
    """Return whether an image goes onto the nodes' disks; only a single file can."""
    if image is None or not Path(image).is_dir():
        return wanted
    if wanted:
        raise SpecError(
            f"the image {image} is a folder, and only a file can be put on the nodes' disks; leave out --stage"
        )
    return False


def _programs(*, in_image: bool) -> tuple[str, str]:
    """Return the commands `rhapsody` and `rhapsody-node`: those of this installation, where there is no image."""
    if in_image:
        return "rhapsody", "rhapsody-node"
    folder = Path(sys.executable).parent
    return str(folder / "rhapsody"), str(folder / "rhapsody-node")


def _job_name(name: str) -> str:
    """Return a name that every batch system takes, as near to this one as can be."""
    kept = "".join(each if each.isascii() and (each.isalnum() or each in "_.-") else "-" for each in name)
    return kept[:64] if kept[:1].isalpha() else f"run-{kept}"[:64]


def require_campaign(file: Path) -> None:
    """Refuse a file that cannot be a campaign, without importing it: that may take long, and needs what jobs have.

    Raises:
        SpecError: It is not there, no Python, or has no coroutine function `campaign` of two arguments.
    """
    try:
        tree = ast.parse(existing_campaign(file).read_bytes(), str(file))
    except OSError as exc:
        raise SpecError(f"campaign file {file} cannot be read: {exc.strerror}") from exc
    except (SyntaxError, ValueError) as exc:
        raise SpecError(f"campaign file {file} is no Python: {exc}") from exc
    named = [node for node in tree.body if getattr(node, "name", None) == "campaign"]
    if named and isinstance(named[-1], ast.FunctionDef):
        raise SpecError(f"{file}:{named[-1].lineno}: `campaign` is a plain `def`; write `{SIGNATURE}`")
    if not named and not _may_come_from_elsewhere(tree):
        raise SpecError(f"campaign file {file} has no `campaign`; write `{SIGNATURE}` in it")


def _may_come_from_elsewhere(tree: ast.Module) -> bool:
    """Return whether `campaign` may be imported, assigned, or defined below an `if`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(each.name in {"*", "campaign"} for each in node.names):
            return True
        if isinstance(node, ast.alias) and node.asname == "campaign":
            return True
        if isinstance(node, ast.Name | ast.AsyncFunctionDef) and "campaign" in {
            getattr(node, "id", None),
            getattr(node, "name", None),
        }:
            return True
    return False


def nodes_held(profile: SiteProfile, nodes: int | None, environ: Mapping[str, str] = os.environ) -> int:
    """Return how many nodes the job that this process is in gives: all, or as many as are asked for.

    Raises:
        SpecError: It is in no job of that batch system, or the job has fewer.
    """
    kind = profile.scheduler.kind
    found = held_job(environ)
    if found is None:
        raise SpecError(
            "--here is for a shell inside of a job, and this is none (neither SLURM_JOB_ID nor PBS_JOBID is set); get"
            " one with the command that --interactive prints"
        )
    if found[0] != kind:
        raise SpecError(f"this shell is in a job of {found[0]}, and {profile.name} has {kind}; give another --site")
    there = _slurm_nodes(environ) if kind is SchedulerKind.SLURM else _pbs_nodes(environ)
    if nodes is not None and nodes > there:
        raise SpecError(f"{nodes} nodes are asked for, and the job {found[1]} has {there}; give -N {there}")
    return nodes or there


def _slurm_nodes(environ: Mapping[str, str]) -> int:
    text = environ.get("SLURM_JOB_NUM_NODES", "1")
    return int(text) if text.isdecimal() else 1


def _pbs_nodes(environ: Mapping[str, str]) -> int:
    file = environ.get("PBS_NODEFILE")
    try:
        return len(set(Path(file).read_text().split())) or 1 if file else 1
    except OSError as exc:
        raise SpecError(
            f"PBS_NODEFILE={file} cannot be read: {exc.strerror}; how many nodes are there? give -N"
        ) from exc


def with_nodes(order: Order, nodes: int) -> Order:
    """Return an order for another number of nodes."""
    return replace(order, request=replace(order.request, nodes=nodes))
