"""Run folders that were deployed, without a batch system."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from rhapsody.deploy.records import How, Record, write_record
from rhapsody.deploy.script.request import script_request
from rhapsody.deploy.sites.loading import load_site
from rhapsody.session.run_folder import make_run_folder, write_description
from tests.golden.requests import PLAIN

if TYPE_CHECKING:
    from pathlib import Path


def deployed(folder: Path, site: str = "slurm", how: How = How.BATCH, **request: Any) -> Record:  # noqa: ANN401
    """Make a run folder as `rhapsody deploy` does, and return its record."""
    make_run_folder(folder)
    record = Record(
        version="0",
        submitted_s=time.time(),
        how=how,
        campaign="/home/someone/campaign.py",
        script=script_request(PLAIN | request),
        profile=load_site(site, {}),
    )
    write_record(folder, record, "#!/bin/bash -l\n")
    write_description(folder, {"schema": 1, "uid": folder.name, "submitted_ns": time.time_ns()})
    return record


def note(folder: Path, *events: dict[str, Any] | str) -> None:
    """Write lines into `jobs`, as the script does; texts as they are."""
    with (folder / "deploy" / "jobs").open("a") as file:
        for event in events:
            whole = (
                event if isinstance(event, str) else json.dumps({"time_s": int(time.time()), "job_id": "77"} | event)
            )
            file.write(f"{whole}\n")
