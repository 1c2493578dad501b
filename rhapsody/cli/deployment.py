"""What `rhapsody deploy` does: check, show, submit, follow."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from rhapsody.cli.faults import exit_code_of, explain
from rhapsody.cli.target import find_job, find_run
from rhapsody.deploy.planning import Order, nodes_held, plan, with_nodes
from rhapsody.deploy.records import How, read_record
from rhapsody.deploy.schedulers.choice import batch_system
from rhapsody.deploy.script.from_site import CollectivesUse
from rhapsody.deploy.sites.loading import load_site
from rhapsody.deploy.sites.profile import SchedulerKind
from rhapsody.deploy.submission import refuse_on_login_node, require_commands, run_here, submit, submit_again
from rhapsody.deploy.validation.account_check import check_account
from rhapsody.deploy.validation.accounts import Verdict
from rhapsody.deploy.validation.request import Request
from rhapsody.deploy.validation.rules import describe
from rhapsody.errors import RhapsodyError, SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rhapsody.deploy.planning import Plan
    from rhapsody.deploy.sites.profile import SiteProfile


@dataclass(frozen=True)
class DeployOptions:
    """The options of `rhapsody deploy`, named as click passes them; None where not given."""

    site: str | None
    account: str | None
    nodes: int | None
    walltime: float | None
    queue: str | None
    node_kind: str | None
    account_kind: str | None
    gpus_per_node: int | None
    image: str | None
    engine: str | None
    stage_image: bool | None
    host_mpi: bool
    collectives: str
    environment: dict[str, str]
    changes: tuple[str, ...]
    links: int
    after: str | None
    mail: str | None
    reservation: str | None
    constraint: str | None
    name: str | None
    runs: Path | None
    backend: str | None
    cores: int | None
    gpus: int | None
    resume: str | None
    dry_run: bool
    test_only: bool
    interactive: bool
    here: bool
    on_login_node: bool
    wait: bool
    quiet: bool
    as_json: bool

    def order(self, campaign: Path, args: Sequence[str]) -> Order:
        """Return what they ask for."""
        passed = {"--backend": self.backend, "--cores": self.cores, "--gpus": self.gpus}
        return Order(
            campaign=campaign,
            args=args,
            request=Request(
                nodes=self.nodes or 1,
                walltime_s=self.walltime,
                account=self.account,
                queue=self.queue,
                node_kind=self.node_kind,
                account_kind=self.account_kind,
                links=self.links,
                gpus_per_node=self.gpus_per_node,
            ),
            here=self.here,
            name=self.name,
            runs=self.runs,
            run_options=[word for name, value in passed.items() if value is not None for word in (name, str(value))],
            image=self.image,
            engine=self.engine,
            stage_image=self.stage_image,
            host_mpi=self.host_mpi,
            collectives=CollectivesUse(self.collectives),
            environment=self.environment,
            reservation=self.reservation,
            mail=self.mail,
            after=find_job(self.after, self.runs) if self.after is not None else None,
            constraint=self.constraint,
        )


def deploy_campaign(campaign: Path | None, args: Sequence[str], options: DeployOptions) -> int:
    """Do what the command line asks for, tell the user, and return the command's exit code.

    Args:
        campaign: The file; None where a run is submitted again.
        args: Passed to the campaign.
        options: Of the command.
    """
    try:
        _refuse_contradictions(options)
        if options.resume is not None:
            return _again(campaign, options)
        if campaign is None:
            raise SpecError("give a campaign file")
        return _deploy(campaign, args, options)
    except RhapsodyError as exc:
        click.echo(f"Error: {explain(exc)}", err=True)
        return exit_code_of(exc)


def _refuse_contradictions(options: DeployOptions) -> None:
    chosen = {
        "--dry-run": options.dry_run,
        "--test-only": options.test_only,
        "--interactive": options.interactive,
        "--here": options.here,
    }
    given = [name for name, value in chosen.items() if value]
    if len(given) > 1 and given != ["--dry-run", "--here"]:
        raise SpecError(f"{' and '.join(given)} exclude each other; give one")


def _deploy(campaign: Path, args: Sequence[str], options: DeployOptions) -> int:
    profile = load_site(options.site or "", changes=options.changes)
    kind = profile.scheduler.kind
    if kind is SchedulerKind.KUBERNETES:
        raise SpecError(
            f"{profile.name} has no batch system; campaigns get there by the Helm chart, not by this command"
        )
    if kind is SchedulerKind.LOCAL and not options.dry_run:
        refuse_on_login_node(insisted=options.on_login_node)
    order = options.order(campaign, args)
    if options.here:
        order = with_nodes(order, nodes_held(profile, options.nodes))
    made = plan(profile, order)
    if options.dry_run:
        return _show_script(made, options)
    if made.how is not How.BATCH:
        _tell(made, options)
        return run_here(made)
    system = batch_system(kind)
    if options.interactive:
        return _show_interactive(made, system.interactive(made.text), options)
    require_commands(profile, system, shlex.join(["rhapsody", *sys.argv[1:]]))
    _check_account(profile, order.request)
    if options.test_only:
        _tell(made, options)
        click.echo(system.test(made.text))
        return 0
    _tell(made, options)
    return _submitted(made.run_dir, submit(made, system), options, made)


def _check_account(profile: SiteProfile, request: Request) -> None:
    if request.account is None:
        return
    answer = check_account(profile, request.account, request.queue)
    if answer.verdict is Verdict.WRONG:
        raise SpecError(answer.text)


def _again(campaign: Path | None, options: DeployOptions) -> int:
    """Submit the script of a run once more: it goes on where the run ended."""
    from rhapsody.cli.job import job_watcher  # noqa: PLC0415 - not needed for other ways

    if campaign is not None:
        raise SpecError("--resume submits the job of a run as it was: leave out the campaign file")
    run_dir = find_run(options.resume, options.runs)
    record = read_record(run_dir)
    watcher = job_watcher(run_dir)
    if record is None or watcher is None or record.how is not How.BATCH:
        raise SpecError(f"{run_dir.name} was not submitted as a job; go on with it: rhapsody run --resume {run_dir}")
    job = watcher.look()
    if not job.is_over:
        raise SpecError(
            f"the job {job.job_id} of {run_dir.name} is {job.phase}; end it first: rhapsody cancel {job.job_id}"
        )
    system = batch_system(record.profile.scheduler.kind)
    require_commands(record.profile, system, shlex.join(["rhapsody", *sys.argv[1:]]))
    return _submitted(run_dir, submit_again(run_dir, system), options, None)


# What is said


def _size(made: Plan) -> str:
    resolved = made.resolved
    request = Request(nodes=resolved.request.nodes, walltime_s=resolved.walltime_s)
    links = f", up to {resolved.request.links} times" if resolved.request.links > 1 else ""
    queue = f", queue {resolved.queue_name}" if resolved.queue_name else ""
    account = f", account {resolved.request.account}" if resolved.request.account else ""
    return f"{describe(request)}{links} at {resolved.profile.name}{queue}{account}"


def _tell(made: Plan, options: DeployOptions) -> None:
    """Say on standard error what it costs, and what the user should know."""
    if not (options.quiet or options.as_json):
        cost = f": {made.cost.amount:,.4g} {made.cost.unit} at most" if made.cost else ""
        click.echo(f"{_size(made)}{cost}", err=True)
    for text in made.resolved.warnings:
        click.echo(f"Warning: {text}", err=True)


def _show_script(made: Plan, options: DeployOptions) -> int:
    _tell(made, options)
    click.echo(json.dumps(_as_dict(made) | {"script": made.text}) if options.as_json else made.text, nl=options.as_json)
    return 0


def _show_interactive(made: Plan, words: Sequence[str], options: DeployOptions) -> int:
    _tell(made, options)
    command = shlex.join(words)
    if options.as_json:
        click.echo(json.dumps(_as_dict(made) | {"command": list(words)}))
        return 0
    click.echo(command)
    notes = made.resolved.profile.scheduler.notes
    click.echo("\n".join(["", *(f"note: {note}" for note in notes), "then, in its shell:"]), err=True)
    inside = ["rhapsody", "deploy", "--site", made.resolved.profile.name, "--here"]
    inside += ["--image", options.image] if options.image else []
    click.echo(f"  {shlex.join([*inside, str(made.order.campaign), *made.order.args])}", err=True)
    return 0


def _submitted(run_dir: Path, job_id: str, options: DeployOptions, made: Plan | None) -> int:
    if options.as_json:
        about = _as_dict(made) if made else {"schema": 1}
        click.echo(json.dumps(about | {"run_dir": str(run_dir), "job_id": job_id}))
    else:
        click.echo(f"job {job_id} is submitted; run folder {run_dir}")
    if not options.wait:
        if not (options.quiet or options.as_json):
            click.echo(f"follow it: rhapsody attach {job_id}", err=True)
        return 0
    from rhapsody.cli.following import follow  # noqa: PLC0415 - only here

    return follow(run_dir, quiet=options.quiet or options.as_json)


def _as_dict(made: Plan) -> dict[str, Any]:
    resolved = made.resolved
    return {
        "schema": 1,
        "site": resolved.profile.name,
        "how": str(made.how),
        "run_dir": str(made.run_dir),
        "nodes": resolved.request.nodes,
        "walltime_s": resolved.walltime_s,
        "links": resolved.request.links,
        "account": resolved.request.account,
        "queue": resolved.queue_name,
        "cost": made.cost.model_dump() if made.cost else None,
        "warnings": list(resolved.warnings),
    }
