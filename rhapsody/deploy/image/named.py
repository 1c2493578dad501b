"""The image that a user names: a file, an unpacked one, or what a container engine knows by name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rhapsody.errors import SpecError

_UNPACKED = ".singularity.d"
"""What Apptainer puts into every image; SingularityCE calls it the same."""
_FILE_ENDINGS = (".sif", ".sqsh", ".squashfs", ".img")


def image_for(text: str) -> str:
    """Return the absolute path of an image that is a file, or of the folder of an unpacked one; a name as it is.

    Raises:
        SpecError: It is a file that is not there, or cannot be read, or a folder without an image in it.
    """
    if not (text.startswith(("/", "./", "../", "~")) or text.endswith(_FILE_ENDINGS)):
        return text
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        if (path / _UNPACKED).is_dir():
            return str(path)
        raise SpecError(
            f"the folder {path} is no unpacked image; unpack one: apptainer build --sandbox {path} rhapsody.sif"
        )
    try:
        with path.open("rb"):
            return str(path)
    except OSError as exc:
        raise SpecError(f"the image {path} cannot be read: {exc.strerror}; give the path of an image file") from exc


def digest_of(image: str) -> str | None:
    """Return `sha256:…` of an image file, or what a name says of its digest; None for folders and other names.

    Raises:
        SpecError: The file cannot be read.
    """
    if not image.startswith("/"):
        digest = image.partition("@")[2]
        return digest or None
    if Path(image).is_dir():
        return None
    try:
        with Path(image).open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as exc:
        raise SpecError(f"the image {image} cannot be read: {exc.strerror}") from exc
