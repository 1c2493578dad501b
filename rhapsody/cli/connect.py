"""`rhapsody connect`: how to reach a service of a run from one's own machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rhapsody.cli.target import errors_told, find_run, runs_option

if TYPE_CHECKING:
    from rhapsody.deploy.connect import Way
    from rhapsody.services.endpoints import Endpoint

_EPILOG = """\b
Examples:
  rhapsody connect llm                     the service llm of the newest run
  rhapsody connect study-20261121 llm --port 9000
  rhapsody connect llm --out llm.json

\b
Exit codes: 0 it is told; 2 there is no such run or service.
"""


@click.command(epilog=_EPILOG)
@click.argument("words", nargs=-1, required=True, metavar="[TARGET] NAME")
@runs_option
@click.option("--user", metavar="NAME", help="Your login name at the site; the one you have here, unless given.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="N",
    help="Port on your own machine; the service's own, unless given.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write it for clients.")
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
def connect(
    words: tuple[str, ...], runs: Path | None, user: str | None, port: int | None, out: Path | None, as_json: bool
) -> None:
    """Say how to reach the service NAME of a run from your own machine.

    TARGET is a run folder, a run's uid, or the beginning of one; the newest run, unless given. Nothing is opened: the
    command for the tunnel is printed, and you run it on your own machine.
    """
    from rhapsody.deploy.connect import way_to, write_endpoint_file  # noqa: PLC0415
    from rhapsody.deploy.records import read_record  # noqa: PLC0415
    from rhapsody.deploy.validation.account_check import user_name  # noqa: PLC0415 - keeps `--help` quick
    from rhapsody.services.endpoints import find_endpoint  # noqa: PLC0415

    if len(words) > 2:
        raise click.UsageError(f"{len(words)} words are given; give TARGET and NAME, or NAME alone")
    *target, name = words
    with errors_told():
        run_dir = find_run(target[0] if target else None, runs)
        endpoint = find_endpoint(run_dir, name)
        record = read_record(run_dir)
        way = way_to(record.profile if record else None, endpoint, user or user_name(), port)
        if out is not None:
            write_endpoint_file(out, endpoint, way)
    if as_json:
        click.echo(json.dumps(_as_dict(endpoint, way)))
        return
    click.echo(_rendered(endpoint, way))
    if out is not None:
        click.echo(f"wrote {out}")


def _as_dict(endpoint: Endpoint, way: Way) -> dict[str, object]:
    return {
        "schema": 1,
        "name": endpoint.name,
        "url": way.local_url,
        "url_inside": endpoint.url,
        "node": endpoint.node,
        "port": endpoint.port,
        "models": list(endpoint.models),
        "key_file": endpoint.key_file,
        "tunnel": way.tunnel,
        "notes": list(way.notes),
    }


def _rendered(endpoint: Endpoint, way: Way) -> str:
    rows = [("service", f"{endpoint.name} on {endpoint.node}, port {endpoint.port}")]
    if endpoint.models:
        rows.append(("models", ", ".join(endpoint.models)))
    if way.tunnel is not None:
        rows.append(("tunnel", f"{way.tunnel}    # on your own machine; leave it running"))
    rows.append(("url", way.local_url))
    rows += [("note", note) for note in way.notes]
    return "\n".join(f"{label:<8}  {text}" for label, text in rows)
