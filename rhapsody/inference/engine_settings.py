"""What a stand-in server is told, and its key."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, SecretStr

from rhapsody.errors import SpecError
from rhapsody.inference.engine_faults import Faults
from rhapsody.inference.engine_model import EngineModel
from rhapsody.model.allocation import FrozenModel

if TYPE_CHECKING:
    from pathlib import Path

MARK = "stand-in"
KEY_VARIABLE = "RHAPSODY_STANDIN_API_KEY"


class StandInSettings(FrozenModel):
    """What a stand-in server is told.

    Attributes:
        model: Name of the model that it stands for. It calls itself `stand-in/NAME`, and answers to both names.
        key: What clients must show as `Authorization: Bearer`; None lets everybody in.
        speed: Virtual seconds that pass in a real one.
        engine: The timing model.
        faults: How it fails on purpose.
        max_body_bytes: Longer requests are refused.
        host: Where it listens; elsewhere than on this machine it wants a key.
        port: The port; 0 takes a free one.
    """

    model: Annotated[str, Field(pattern=r"^[^\x00-\x20\x7f]{1,200}$")] = MARK
    key: SecretStr | None = None
    speed: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    engine: EngineModel = EngineModel()
    faults: Faults = Faults()
    max_body_bytes: int = Field(default=4 * 2**20, ge=1)
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)

    @property
    def shown_model(self) -> str:
        """The name by which it calls itself."""
        return self.model if MARK in self.model else f"{MARK}/{self.model}"


def read_key(file: Path | None) -> str | None:
    """Return the key from a file, else from the environment; None when there is none.

    Raises:
        SpecError: The file cannot be read, others may read it, or it is empty.
    """
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        with file.open(encoding="utf-8") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            key = opened.read(4096).strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SpecError(f"cannot read the key in {file}: {exc}; name a file of text that you may read") from exc
    if mode & 0o077:
        raise SpecError(f"{file} holds a key, but others may read it (mode {mode:o}); run: chmod 600 {file}")
    if not key:
        raise SpecError(f"{file} is empty; write the key into it")
    return key
