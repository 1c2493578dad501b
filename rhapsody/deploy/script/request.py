"""What a batch script is made from: every fact that goes into it, checked.

A `ScriptRequest` is what the run folder keeps of a submission: the same request renders the same script.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from rhapsody.deploy.script.quoting import check
from rhapsody.errors import SpecError
from rhapsody.model.allocation import FrozenModel

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECRET = ("TOKEN", "PASSWORD", "PASSWD", "SECRET", "API_KEY", "ACCESS_KEY", "SECRET_KEY", "CREDENTIALS")


def _kept(field: str) -> AfterValidator:
    def keeps_grammar(value: str) -> str:
        check(field, value)
        return value

    return AfterValidator(keeps_grammar)


def _names_no_secret(name: str) -> str:
    if any(name == end or name.endswith(f"_{end}") for end in (*_SECRET, *map(str.lower, _SECRET))):
        raise SpecError(
            f"{name} looks like a secret, and scripts are kept and shown; put it into a file of mode 0600, name that"
        )
    return name


def _begins_with_a_word(command: tuple[str, ...]) -> tuple[str, ...]:
    check("word", command[0])
    return command


JobName = Annotated[str, _kept("job_name")]
Account = Annotated[str, _kept("account")]
Queue = Annotated[str, _kept("queue")]
Partition = Annotated[str, _kept("partition")]
Qos = Annotated[str, _kept("qos")]
Reservation = Annotated[str, _kept("reservation")]
Constraint = Annotated[str, _kept("constraint")]
After = Annotated[str, _kept("after")]
Mail = Annotated[str, _kept("mail")]
Gres = Annotated[str, _kept("gres")]
OutputPath = Annotated[str, _kept("output")]
Option = Annotated[str, _kept("option")]
OptionValue = Annotated[str, _kept("option_value")]
Resource = Annotated[str, _kept("resource")]
ResourceValue = Annotated[str, _kept("resource_value")]
SelectValue = Annotated[str, _kept("select_value")]
Text = Annotated[str, _kept("text")]
Line = Annotated[str, _kept("line")]
Word = Annotated[str, _kept("word")]
Path = Annotated[str, _kept("path")]
NodePath = Annotated[str, _kept("node_path")]
Bind = Annotated[str, _kept("bind")]
Flag = Annotated[str, _kept("flag")]
Module = Annotated[str, _kept("module")]
Variable = Annotated[str, _kept("variable"), AfterValidator(_names_no_secret)]
Passed = Annotated[str, _kept("passed")]
Url = Annotated[str, _kept("url")]
Host = Annotated[str, _kept("host")]
Command = Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(_begins_with_a_word)]


class NextLink(StrEnum):
    """What follows a campaign whose time is over before all is done (exit code 75)."""

    NONE = "none"
    REQUEUE = "requeue"
    """The job itself goes back to the queue: `scontrol requeue`."""
    SUBMIT = "submit"
    """The script submits itself again, as another job after this one."""


class ImageStaging(FrozenModel):
    """The image is put on the nodes' own disks first.

    Attributes:
        method: `sbcast` of Slurm, or a copy by each node.
        folder: On each node; there before the job, as `/mnt/bb/$USER`.
        constraint: The feature that gives a job that disk; None when it is always there.
    """

    method: Literal["sbcast", "copy"]
    folder: NodePath
    constraint: Constraint | None = None


class ContainerRequest(FrozenModel):
    """The image in which agents and campaign run.

    Attributes:
        engine: Also the command.
        image: A file, or a name that the engine knows.
        flags: For the engine.
        binds: `from[:to[:ro]]`; `$NAME` stands for variables of the job. Those of the run and working folder are added.
        folders: More folders that are mounted where they are, literal: the one with the campaign.
        environment: Set inside, `$NAME` is expanded.
        passes: Names of variables, or beginnings of them with `*`, that the engine must be told to let in; those that
            the request names are added. None for an engine that lets all in.
        staging: None when the image is read from where it is.
    """

    engine: Literal["apptainer", "podman-hpc", "podman", "shifter"]
    image: Word
    flags: tuple[Flag, ...] = ()
    binds: tuple[Bind, ...] = ()
    folders: tuple[Path, ...] = ()
    environment: dict[Variable, Line] = Field(default_factory=dict)
    passes: tuple[Passed, ...] | None = None
    staging: ImageStaging | None = None

    @model_validator(mode="after")
    def _staged_images_are_files(self) -> Self:
        if self.staging and not (self.engine == "apptainer" and self.image.startswith("/")):
            raise ValueError(
                f"{self.image!r} of {self.engine} cannot be copied to the nodes: it is no file given by path"
            )
        return self


class ProxyRequest(FrozenModel):
    """The way to the internet; set for the campaign only.

    Attributes:
        http: URL.
        https: URL.
        no_proxy: Reached directly; the job's nodes and this host are added.
    """

    http: Url
    https: Url
    no_proxy: tuple[Host, ...] = ()


class ModulesRequest(FrozenModel):
    """Environment modules: `use`, then `unload`, then `load`."""

    use: tuple[NodePath, ...] = ()
    unload: tuple[Module, ...] = ()
    load: tuple[Module, ...] = ()


class ScriptRequest(FrozenModel):
    """One batch job, whole.

    Attributes:
        scheduler: Which batch system; `local` for none.
        site: Name of the profile.
        job_name: As the queue shows it.
        nodes: How many.
        walltime_s: Of the job, in whole seconds; None for no limit that is known, where nothing is submitted.
        here: The script is run inside of a job that is there already; nothing is asked of the batch system.
        account: Whom it is charged to.
        queue: PBS: the queue.
        partition: Slurm: the partition.
        qos: Slurm: the QOS.
        constraint: Slurm: features of the nodes. That of the staging is added.
        reservation: Name of one.
        mail: Who is told of the job.
        after: Id of a job that must end first, however it does.
        gpus_per_node: 0 for none.
        gres: Slurm: asks for GPUs by `--gres=NAME:COUNT` instead of `--gpus-per-node`.
        cores_per_node: Slurm: what the agent gets of each node, so that it can give it on; None leaves it to the site.
        exclusive: Slurm: nobody else's jobs on the nodes.
        options: More options of the submit command, without leading dashes; an empty value for a flag.
        resources: PBS: `-l name=value`.
        select: PBS: what each chunk asks for besides: `{"system": "polaris"}`.
        signal: Slurm: it announces the end by `--signal`; else the script keeps a timer.
        signal_lead_s: Seconds between that announcement and the end.
        next_link: What follows exit code 75.
        links: Jobs or starts in all, the first included.
        run_dir: The run folder; the job's output goes into its `deploy`.
        work_dir: Where the campaign runs.
        script_path: Where this script lies.
        launcher_options: For `srun` or `mpiexec`, the first with leading dashes. `srun` binds nothing unless told to.
        modules: Environment modules.
        environment: Of the site: `$NAME` is expanded.
        user_environment: Of the user: literal.
        proxy: None when there is none.
        container: None runs on the machine itself.
        agent: The command of the node agent, up to its options.
        command: What rank 0's agent starts, such as `rhapsody run campaign.py`.
        resume_command: The same when the run folder has a journal already; None: `command` again.
    """

    scheduler: Literal["slurm", "pbs", "local"]
    site: JobName
    job_name: JobName
    nodes: int = Field(ge=1, le=1_000_000, strict=True)
    walltime_s: int | None = Field(default=None, ge=1, lt=360_000_000, strict=True)
    here: bool = False
    account: Account | None = None
    queue: Queue | None = None
    partition: Partition | None = None
    qos: Qos | None = None
    constraint: Constraint | None = None
    reservation: Reservation | None = None
    mail: Mail | None = None
    after: After | None = None
    gpus_per_node: int = Field(default=0, ge=0, le=1024, strict=True)
    gres: Gres | None = None
    cores_per_node: int | None = Field(default=None, ge=1, le=65_536, strict=True)
    exclusive: bool = False
    options: dict[Option, OptionValue] = Field(default_factory=dict)
    resources: dict[Resource, ResourceValue] = Field(default_factory=dict)
    select: dict[Resource, SelectValue] = Field(default_factory=dict)
    signal: bool = True
    signal_lead_s: int = Field(default=300, ge=1, strict=True)
    next_link: NextLink = NextLink.NONE
    links: int = Field(default=1, ge=1, le=10_000, strict=True)
    run_dir: Annotated[Path, _kept("output")]
    work_dir: Path
    script_path: Path
    launcher_options: tuple[Line, ...] = ()
    modules: ModulesRequest = ModulesRequest()
    environment: dict[Variable, Line] = Field(default_factory=dict)
    user_environment: dict[Variable, Text] = Field(default_factory=dict)
    proxy: ProxyRequest | None = None
    container: ContainerRequest | None = None
    agent: Command = ("rhapsody-node",)
    command: Command
    resume_command: Command | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._time_is_known()
        if self.walltime_s is not None and self.signal_lead_s >= self.walltime_s:
            raise ValueError(
                f"signal_lead_s={self.signal_lead_s} leaves nothing of walltime_s={self.walltime_s}; take a smaller one"
            )
        own = SLURM_OWN if self.scheduler == "slurm" else PBS_OWN
        if taken := sorted(own & set(self.options)):
            raise ValueError(f"options holds {taken[0]!r}, which the script sets by itself from another field")
        if self.scheduler == "pbs" and (wrong := [name for name in self.options if len(name) > 1]):
            raise ValueError(f"options holds {wrong[0]!r}; those of qsub have one letter")
        if taken := sorted({"select", "walltime"} & set(self.resources)):
            raise ValueError(f"resources holds {taken[0]!r}, which the script sets by itself from another field")
        if self.launcher_options and not self.launcher_options[0].startswith("-"):
            raise ValueError(f"launcher_options begins with {self.launcher_options[0]!r}, which is no option")
        if self.scheduler != "slurm" and self.next_link is NextLink.REQUEUE:
            raise ValueError("next_link=requeue is Slurm's; under PBS the script submits itself again: submit")
        self._staging_fits()
        return self

    def _time_is_known(self) -> None:
        if self.walltime_s is None and self.scheduler != "local" and not self.here:
            raise ValueError("walltime_s: a job that is submitted needs one")
        if self.next_link is not NextLink.NONE and (self.here or self.scheduler == "local"):
            raise ValueError("next_link: nothing is queued here, so that no other job can follow")

    def _staging_fits(self) -> None:
        staging = self.container.staging if self.container else None
        if staging and staging.method == "sbcast" and self.scheduler != "slurm":
            raise ValueError("container.staging.method=sbcast is Slurm's; under PBS take copy")
        check("constraint", self.all_constraints or "none")

    @property
    def all_constraints(self) -> str:
        """The constraint with that of the staging; empty for none."""
        staging = self.container.staging if self.container else None
        wanted = staging.constraint if staging else None
        if self.constraint is None or wanted is None:
            return self.constraint or wanted or ""
        if wanted in self.constraint.split("&"):
            return self.constraint
        base = f"({self.constraint})" if "|" in self.constraint else self.constraint
        return f"{base}&{wanted}"


SLURM_OWN = frozenset({
    "job-name", "account", "partition", "qos", "nodes", "ntasks", "ntasks-per-node", "cpus-per-task",
    "gpus-per-node", "gres", "time", "constraint", "reservation", "output", "error", "open-mode", "signal",
    "requeue", "no-requeue", "no-kill", "mail-user", "mail-type", "dependency", "exclusive", "wrap", "export",
    "array", "chdir",
})  # fmt: skip
"""Options of `sbatch` that the templates set, or that would make another job of it."""
PBS_OWN = frozenset({"N", "A", "q", "o", "e", "j", "M", "m", "W", "l", "J", "V", "v", "S", "C", "I"})
"""Options of `qsub`, likewise."""


def script_request(values: Mapping[str, Any]) -> ScriptRequest:
    """Return the request that has these values.

    Raises:
        SpecError: One is refused; the text names the field and what is allowed.
    """
    try:
        return ScriptRequest.model_validate(dict(values))
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the request"
        raise SpecError(f"{field}: {first['msg'].removeprefix('Value error, ')}") from exc
