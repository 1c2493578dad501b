"""Where the services of a run can be reached: a file for each in the run folder, `endpoints/NAME.json`.

Whoever starts a service publishes it; tasks and people on other machines that see the folder find it there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from rhapsody.errors import SpecError, unknown_name
from rhapsody.model.allocation import FrozenModel
from rhapsody.node.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "endpoints"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""What a service may be called."""
NODE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$"
"""What a node may be called: its name, or an address of IPv4."""
_ENDING = ".json"
_NAME = re.compile(NAME.removesuffix("$"), re.ASCII)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[!-~]+", re.ASCII)
_LINE = r"^[^\x00-\x1f\x7f]+$"


class Endpoint(FrozenModel):
    """Where one service can be reached.

    Attributes:
        schema_version: In JSON `schema`; 1.
        name: Of the service: letters, digits and `.`, `_`, `-`.
        url: As the nodes of the job reach it. It holds no password and no token.
        node: The node that listens.
        port: The port it listens on.
        models: Names of the models that it serves; empty where it serves none.
        key_file: File with the token that its clients must show; None where none is wanted.
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # what was refused may be a secret

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: Annotated[str, StringConstraints(pattern=NAME)]
    url: str
    node: Annotated[str, StringConstraints(pattern=NODE)]
    port: int = Field(ge=1, le=65535, strict=True)
    models: tuple[Annotated[str, StringConstraints(pattern=_LINE)], ...] = ()
    key_file: Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f\x7f]*$")] | None = None

    @field_validator("url")
    @classmethod
    def _holds_no_secret(cls, url: str) -> str:
        """Refuse what is no address, and what may carry a secret; neither text repeats the URL."""
        if not _URL.fullmatch(url):
            raise ValueError("is no URL such as http://node7:8000/v1")
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise ValueError("holds a user or a password; leave them out, and put the secret into key_file")
        if "?" in url or "#" in url:
            raise ValueError("has a part behind ? or #, which may hold a token; put the token into key_file")
        return url

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        try:
            port = urlsplit(self.url).port
        except ValueError as exc:
            raise ValueError(f"the URL has a port that cannot be one: {exc}") from exc
        if port is not None and port != self.port:
            raise ValueError(f"the URL has the port {port}, but port is {self.port}")
        return self

    @property
    def variable(self) -> str:
        """The environment variable in which tasks find the URL."""
        return variable_of(self.name)


def variable_of(name: str) -> str:
    """Return the environment variable in which tasks find the URL of a service: `RHAPSODY_SERVICE_<NAME>_URL`.

    Raises:
        SpecError: No service can have this name.
    """
    _require_name(name)
    return f"RHAPSODY_SERVICE_{re.sub('[^A-Z0-9]', '_', name.upper())}_URL"


def publish(run_dir: Path, endpoint: Endpoint) -> Path:
    """Tell where a service can be reached; what was told of the same name before is replaced. Return the file.

    Raises:
        SpecError: Another service's name gives the same environment variable, or the file cannot be written.
    """
    folder = run_dir / FOLDER
    for other in _names(run_dir):
        if other != endpoint.name and variable_of(other) == endpoint.variable:
            raise SpecError(
                f"the services {other!r} and {endpoint.name!r} would both be {endpoint.variable} in the environment of"
                " tasks; call one of them otherwise"
            )
    file = folder / f"{endpoint.name}{_ENDING}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        write_whole(file, f"{endpoint.model_dump_json(by_alias=True, indent=2)}\n".encode())
    except OSError as exc:
        raise SpecError(f"cannot write the endpoint {file}: {exc.strerror}; the run folder must be writable") from exc
    return file


def withdraw(run_dir: Path, name: str) -> None:
    """Tell of a service no more; one that is not told of is no error.

    Raises:
        SpecError: No service can have this name, or the file cannot be removed.
    """
    _require_name(name)
    file = run_dir / FOLDER / f"{name}{_ENDING}"
    try:
        file.unlink(missing_ok=True)
    except OSError as exc:
        raise SpecError(f"cannot remove the endpoint {file}: {exc.strerror}; the run folder must be writable") from exc


def read_endpoints(run_dir: Path) -> list[Endpoint]:
    """Return the services of a run that are told of, by name.

    Raises:
        SpecError: A file cannot be read, or says something that no endpoint says.
    """
    found = (_read(run_dir, name) for name in _names(run_dir))
    return [endpoint for endpoint in found if endpoint is not None]


def find_endpoint(run_dir: Path, name: str) -> Endpoint:
    """Return one service of a run.

    Raises:
        SpecError: There is none of that name, or its file says something that no endpoint says.
    """
    names = _names(run_dir)
    found = _read(run_dir, name) if name in names else None
    if found is not None:
        return found
    if not names:
        raise SpecError(
            f"unknown service {name!r}: {run_dir.name} has none that can be reached; one is there from when it is"
            " ready until it or the run ends"
        )
    raise unknown_name("service", name, names)


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} cannot be the name of a service: letters, digits, `.`, `_` and `-`, the first a letter or digit,"
            " at most 64"
        )


def _names(run_dir: Path) -> list[str]:
    """Return the names that files have; a file of another name is nobody's endpoint."""
    folder = run_dir / FOLDER
    try:
        names = [path.name.removesuffix(_ENDING) for path in folder.iterdir() if path.name.endswith(_ENDING)]
    except FileNotFoundError:
        return []
    except NotADirectoryError as exc:
        raise SpecError(f"{folder} is no folder; move it away") from exc
    except OSError as exc:
        raise SpecError(f"cannot read {folder}: {exc.strerror}; ask the owner of the run for access") from exc
    return sorted(name for name in names if _NAME.fullmatch(name))


def _read(run_dir: Path, name: str) -> Endpoint | None:
    """Return what a file says; None when it has just been withdrawn."""
    file = run_dir / FOLDER / f"{name}{_ENDING}"
    try:
        found = Endpoint.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise SpecError(f"cannot read the endpoint {file}: {exc.strerror}; ask the run's owner for access") from exc
    except ValidationError as exc:
        # Not the whole text: it would repeat what the file holds.
        first = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise SpecError(f"{file} is no endpoint: {where}: {first['msg']}; start the service again") from exc
    if found.name != name:
        raise SpecError(f"{file} is no endpoint: it names the service {found.name!r}; start the service again")
    return found
