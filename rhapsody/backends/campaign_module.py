"""The campaign file as a module that workers can import.

`rhapsody run` loads the file under a fixed module name, so that its functions and classes travel by reference.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody.model.campaign import CAMPAIGN_MODULE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

FILE_VARIABLE = "RHAPSODY_CAMPAIGN_FILE"


class CampaignFinder(MetaPathFinder):
    """Finds the campaign's module in its file."""

    def __init__(self, file: str) -> None:
        self._file = file

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of the campaign's module, None for any other name."""
        del path, target
        if fullname != CAMPAIGN_MODULE:
            return None
        return importlib.util.spec_from_file_location(CAMPAIGN_MODULE, self._file)


def import_path() -> tuple[str, ...]:
    """Return the import path, so that it holds in another folder too."""
    return tuple(str(Path(entry or ".").resolve()) for entry in sys.path)


def know_campaign(file: str) -> None:
    """Let this process import the campaign's module from its file; from none if that is empty."""
    if file:
        sys.meta_path.insert(0, CampaignFinder(file))
