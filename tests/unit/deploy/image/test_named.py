"""The digest by which a deployment knows its image again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from rhapsody.deploy.image.named import digest_of
from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path


def test_the_digest_of_a_file_is_that_of_all_it_holds(tmp_path: Path) -> None:
    content = b"an image" * 1_000_000
    (tmp_path / "x.sif").write_bytes(content)

    assert digest_of(str(tmp_path / "x.sif")) == f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize(
    ("name", "digest"),
    [("registry.example.org/x@sha256:12ab", "sha256:12ab"), ("registry.example.org/x:1", None), ("x", None)],
)
def test_the_digest_of_a_name_is_what_the_name_says(name: str, digest: str | None) -> None:
    assert digest_of(name) == digest


def test_an_unpacked_image_has_no_digest(tmp_path: Path) -> None:
    assert digest_of(str(tmp_path)) is None


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"x\.sif cannot be read: No such file"):
        digest_of(str(tmp_path / "x.sif"))
