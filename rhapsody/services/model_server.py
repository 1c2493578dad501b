"""What services that serve a model by OpenAI's API have in common."""

from __future__ import annotations

import re
from typing import Any

from rhapsody.services.probes import HttpProbe


def model_fields(model: str, name: str | None, key: str, secret: str, *, embeds: bool) -> dict[str, Any]:
    """Return fields of a `ServiceTask`: what it serves, what its clients show, and what shows that it is ready.

    Args:
        model: The name by which requests ask for it.
        name: Of the service; after the model if None.
        key: Variable in which the server finds what its clients must show.
        secret: What they must show.
        embeds: It gives vectors, not text.
    """
    probe = {"model": model, "input": "ready?"} if embeds else {"model": model, "prompt": "ready?", "max_tokens": 1}
    return {
        "name": name or _name_of(model),
        "models": [model],
        "secrets": {key: secret},
        "key": key,
        "embeds": embeds,
        "readiness": HttpProbe("/v1/embeddings" if embeds else "/v1/completions", body=probe, key=key),
        "health": HttpProbe("/health"),
    }


def _name_of(model: str) -> str:
    """Return what the service of a model is called, unless users say it."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", model.rstrip("/").rpartition("/")[2]).strip("-._")
    return plain[:64] or "model"
