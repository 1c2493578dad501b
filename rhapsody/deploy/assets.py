"""Where the files lie that are shipped beside the code: profiles, templates."""

from __future__ import annotations

from pathlib import Path

import rhapsody


def asset_folder(name: str) -> Path:
    """Return a shipped folder, such as `site-profiles`: inside an installed package, at the top of a checkout.

    Raises:
        FileNotFoundError: The installation lacks it.
    """
    package = Path(rhapsody.__file__).resolve().parent
    for folder in (package / "_assets" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{package} has no {name}; install rhapsody-hpc again")
