"""`rhapsody gateway`: one URL in front of model servers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rhapsody.cli.target import errors_told, target_argument
from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from types import ModuleType

_EPILOG = """\b
Examples:
  rhapsody gateway                           the model servers of the newest run
  rhapsody gateway study-20261121 --port 8000
  rhapsody gateway --replica meta/llama=http://node7:8000 \\
      --replica meta/llama=http://node8:8000 --replica-key-file llama.key
  curl -H "Authorization: Bearer $(cat gateway.key)" $OPENAI_BASE_URL/models

\b
Exit codes: 0 it was ended by Ctrl-C or SIGTERM; 2 the input is wrong, such as
no model server, a port that is taken, or a key that others may read.
"""


@click.command(epilog=_EPILOG)
@target_argument
@click.option(
    "--replica",
    "replicas",
    metavar="MODEL=URL",
    multiple=True,
    help="A model server with OpenAI's API, and what it calls the model; may be given again, for this model or others.",
)
@click.option(
    "--replica-key-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the key that all of --replica want to see; only you may read it.",
)
@click.option(
    "--host",
    metavar="ADDRESS",
    help="Where to listen: 127.0.0.1, unless given; of a run that was deployed, on all addresses of this node.",
)
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", default=0, help="A free one, unless given.")
@click.option(
    "--key-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the key that clients must show; made where there is none, for the time that the gateway is there.",
)
@click.option("--policy", metavar="NAME", default="least_tokens", show_default=True, help="Which replica is asked.")
@click.pass_context
def gateway(context: click.Context, /, target: str | None, runs: Path | None, **options: Any) -> None:  # noqa: ANN401
    """Stand in front of model servers: one URL with OpenAI's API for all models and replicas, until Ctrl-C.

    TARGET is a run folder, a run's uid, or the beginning of one; the newest run, if no --replica is given either. Model
    servers that the run tells of are used as they come and go. A replica that fails gets no more requests until it
    works again, and what it had goes to another.
    """
    with errors_told():
        serving = _serving()
        context.exit(serving.serve(serving.order_from(target, runs, serving.Options(**options))))


def _serving() -> ModuleType:
    """Import what serves, which is no part of every installation.

    Raises:
        SpecError: A package is missing.
    """
    try:
        from rhapsody.cli import gateway_serving  # noqa: PLC0415 - keeps `--help` quick
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] == "rhapsody":
            raise
        raise SpecError(f"the gateway needs the package {exc.name}; pip install 'rhapsody-hpc[vllm]'") from exc
    return gateway_serving
