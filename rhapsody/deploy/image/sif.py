"""The head of an image file of Apptainer: whether it is one, and for which machines.

Source: Singularity Image Format, version 01: 32 bytes of launch script, 10 of magic, 3 of version, 3 of architecture.
"""

from __future__ import annotations

from typing import NamedTuple

HEAD_BYTES = 64
"""So much of a file is enough."""

_MAGIC = b"SIF_MAGIC\0"


class Architecture(NamedTuple):
    """One kind of machine.

    Attributes:
        machine: As the kernel calls it: `x86_64`.
        image: As images call it: `amd64`; None where no image of ours is made for it.
    """

    machine: str
    image: str | None


_ARCHITECTURES = {
    b"01": Architecture("i686", None),
    b"02": Architecture("x86_64", "amd64"),
    b"04": Architecture("aarch64", "arm64"),
    b"06": Architecture("ppc64le", "ppc64le"),
    b"11": Architecture("s390x", "s390x"),
    b"12": Architecture("riscv64", "riscv64"),
}


def is_sif(head: bytes) -> bool:
    """Return whether a file that begins so is an image of Apptainer."""
    return head[32:42] == _MAGIC


def architecture_of(head: bytes) -> Architecture | None:
    """Return for which machines an image that begins so was made; None when it does not say."""
    return _ARCHITECTURES.get(head[45:47])
