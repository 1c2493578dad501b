"""AI workers as a service: processes that hold a loaded model and are fed in batches.

What runs is `rhapsody.inference.worker`, in whatever interpreter has the model's libraries.
"""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.errors import SpecError
from rhapsody.model.loader_file import render_loader
from rhapsody.services.model_server import model_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KEY = "RHAPSODY_WORKER_API_KEY"
_KEY_BYTES = 32
_LOADER = "loader.pickle"


def describe(  # noqa: PLR0913 - one per thing that users choose, all but the first two by keyword
    model: str,
    loader: Callable[..., object] | str,
    *,
    name: str | None = None,
    loader_options: Mapping[str, Any] | None = None,
    python: str | Path | None = None,
    max_batch: int = 32,
    max_wait_ms: float = 5.0,
    hang_s: float = 600.0,
    embeds: bool = False,
    env: Mapping[str, str] | None = None,
    drain_s: float = 30.0,
    **service: Any,  # noqa: ANN401 - what any ServiceTask takes
) -> dict[str, Any]:
    """Return the fields of the `ServiceTask`; `ServiceTask.ai_worker` documents the arguments.

    Raises:
        SpecError: A value is wrong.
    """
    files: dict[str, bytes | Path] = {"rhapsody": Path(__file__).parents[1]}
    if callable(loader):
        files[_LOADER] = render_loader(loader)
        where = f"{{files}}/{_LOADER}"
    elif isinstance(loader, str) and ":" in loader:
        where = loader
    else:
        raise SpecError(f"ServiceTask.ai_worker: loader={loader!r} is neither a function nor MODULE:FUNCTION")
    try:
        options = json.dumps(dict(loader_options or {}))
    except (TypeError, ValueError) as exc:
        raise SpecError(f"ServiceTask.ai_worker: loader_options={loader_options!r} cannot be JSON: {exc}") from exc
    arguments = ["-m", "rhapsody.inference.worker", "--model", model, "--loader", where, "--loader-options", options]
    arguments += ["--host", "{host}", "--port", "{port}", "--drain-s", f"{drain_s:g}", "--hang-s", f"{hang_s:g}"]
    arguments += ["--max-batch", str(max_batch), "--max-wait-ms", f"{max_wait_ms:g}"]
    return {
        **model_fields(model, name, KEY, secrets.token_hex(_KEY_BYTES), embeds=embeds),
        "executable": str(python or sys.executable),
        "arguments": arguments,
        "files": files,
        "env": {"PYTHONPATH": f"{{files}}:{Path.cwd()}"} | dict(env or {}),
        "ready_within_s": 1800.0,
        "drain_s": drain_s,
        **service,
    }
