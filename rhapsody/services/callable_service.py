"""Runs a service that is a Python function: `python -m rhapsody.services.callable_service FILE`.

The function gets what it was given, and `host` and `port` where it has parameters of these names. One with `async def`
runs on a loop of its own. That it returns is the end of the service.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import sys
from pathlib import Path

from rhapsody.backends.campaign_module import know_campaign


def main() -> None:
    """Load the function and call it."""
    head, body = pickle.loads(Path(sys.argv[1]).read_bytes())  # noqa: S301 - 0600, of the run folder
    sys.path[:] = head["sys_path"]
    know_campaign(head["campaign_file"])
    function, args, kwargs = pickle.loads(body)  # noqa: S301 - likewise
    own = {"host": os.environ["RHAPSODY_SERVICE_HOST"], "port": int(os.environ["RHAPSODY_SERVICE_PORT"])}
    known = inspect.signature(function).parameters
    kwargs |= {name: value for name, value in own.items() if name in known and name not in kwargs}
    found = function(*args, **kwargs)
    if inspect.iscoroutine(found):
        asyncio.run(found)


if __name__ == "__main__":
    main()
