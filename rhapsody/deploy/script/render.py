"""From a `ScriptRequest` to the text of a batch script."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, TemplateNotFound
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rhapsody.deploy.assets import asset_folder
from rhapsody.deploy.script.quoting import Expanding, check, finalize, shell
from rhapsody.errors import RhapsodyError, SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.deploy.script.request import ContainerRequest, ScriptRequest

PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
TEMPLATE = "job.sh.j2"
_LETS_IN = (
    "for job_name in $(compgen -e); do case $job_name in {})"
    ' export "APPTAINERENV_$job_name=${{!job_name}}";; esac; done; exec "$@"'
)
"""Script for bash, with patterns of names: Apptainer with --cleanenv lets in what is named so on the node itself."""
LAUNCHERS = ("SLURM_*", "SLURMD_NODENAME", "PMI_*", "PMIX_*", "PALS_*", "OMPI_*", "PBS_*")
"""What tells an agent in a container which node it is on, and a session which job it is in."""
MOST_HOSTS_NAMED = 512
"""Up to so many nodes are named in no_proxy: one variable holds 128 KiB at most."""


def render_script(request: ScriptRequest, templates: Path | None = None) -> str:
    """Return the batch script of a request: the same text for the same request.

    Args:
        request: All that goes into it.
        templates: Folder of templates; those that are shipped, unless given.

    Raises:
        SpecError: A value cannot go into a script, or the templates are faulty.
    """
    folder = templates or asset_folder("batch-templates")
    try:
        return _environment(folder).get_template(f"{request.scheduler}/{TEMPLATE}").render(_context(request))
    except RhapsodyError:
        raise
    except TemplateNotFound as exc:
        raise SpecError(f"there is no template {exc} in {folder}") from exc
    except TemplateError as exc:
        raise SpecError(f"the template of {request.scheduler} is faulty: {exc}") from exc


@cache
def _environment(folder: Path) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        finalize=finalize,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["field"] = _field
    environment.filters["sh"] = shell
    return environment


def _field(value: object, name: str) -> str:
    return check(name, value)


def _context(request: ScriptRequest) -> dict[str, Any]:
    announced = request.walltime_s is None or (request.scheduler == "slurm" and request.signal)
    no_proxy = request.proxy.no_proxy if request.proxy else ()
    staging = request.container.staging if request.container else None
    context = {name: getattr(request, name) for name in type(request).model_fields}
    return context | {
        "constraint": request.all_constraints,
        "walltime": clock(request.walltime_s or 0),
        "output": f"{request.run_dir}/deploy/{'' if request.scheduler == 'pbs' else 'job-%j.out'}",
        "binds_cpus": any(option.startswith("--cpu-bind") for option in request.launcher_options),
        "timer_s": 0 if announced else (request.walltime_s or 0) - request.signal_lead_s,
        "select_chunk": tuple(request.select.items()),
        "site_environment": [(name, Expanding(value)) for name, value in request.environment.items()],
        "user_environment": list(request.user_environment.items()),
        "module_paths": [Expanding(path) for path in request.modules.use],
        "name_hosts": request.nodes <= MOST_HOSTS_NAMED,
        "no_proxy": ",".join(dict.fromkeys(("localhost", "127.0.0.1", *no_proxy))),
        "records": f"{request.run_dir}/deploy/jobs",
        "journal": f"{request.run_dir}/journal",
        "staging_method": staging.method if staging else "",
        "resume": request.resume_command or request.command,
        "engine": _engine(request, request.container) if request.container else None,
    }


def clock(seconds: int) -> str:
    """Return a duration as batch systems write it: hours:minutes:seconds."""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _engine(request: ScriptRequest, container: ContainerRequest) -> dict[str, Any]:
    own = dict.fromkeys((request.work_dir, request.run_dir, *container.folders))
    binds = [*(bind for bind in container.binds if bind not in own), *own]
    staging = container.staging
    passes = _passed(request, container)
    return {
        "name": container.engine,
        "image": container.image,
        "flags": [Expanding(flag) for flag in container.flags],
        "binds": [_mount(bind, container.engine, literal=bind in own) for bind in binds],
        "environment": [(name, Expanding(value)) for name, value in container.environment.items()],
        "passes": passes if container.engine != "apptainer" else [],
        "lets_in": _LETS_IN.format("|".join(passes)) if passes and container.engine == "apptainer" else "",
        "is_file": container.image.startswith("/"),
        "staged": bool(staging),
        "folder": Expanding(staging.folder) if staging else "",
    }


def _mount(bind: str, engine: str, *, literal: bool) -> str:
    """Return a bind as its engine wants it: only Apptainer takes a path alone for the same path inside."""
    text = bind if engine == "apptainer" or ":" in bind else f"{bind}:{bind}"
    return text if literal else Expanding(text)


def _passed(request: ScriptRequest, container: ContainerRequest) -> list[str]:
    if container.passes is None:
        return []
    proxies = PROXY_VARIABLES if request.proxy else ()
    local = ("TMPDIR",) if container.engine == "apptainer" else ()  # the others' containers have a /tmp of their own
    named = (
        *container.passes,
        *LAUNCHERS,
        "RHAPSODY_*",
        *local,
        *proxies,
        *request.environment,
        *request.user_environment,
    )
    return list(dict.fromkeys(named))
