"""The certificate and the token of a run: who has them may run commands on its nodes.

Rank 0 makes them for the run, in a folder that only the user may read; or somebody has put them into a folder before,
as a Secret of Kubernetes is. All agents show the same certificate, and nobody trusts another.
"""

from __future__ import annotations

import datetime
import hmac
import os
import secrets
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rhapsody.errors import SpecError
from rhapsody.node.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

CERTIFICATE, KEY, TOKEN = "tls.crt", "tls.key", "token"  # as in a Secret of type kubernetes.io/tls
_FILES = (CERTIFICATE, KEY, TOKEN)
_LIFE = datetime.timedelta(days=365)
_CLOCKS = datetime.timedelta(days=1)
"""Clocks of nodes may differ by so much."""


class Credentials(NamedTuple):
    """What an agent needs to be believed, and to believe others.

    Attributes:
        folder: Where the files are.
        token: Said first by everybody who connects.
    """

    folder: Path
    token: str

    def server(self) -> ssl.SSLContext:
        """Return how an agent lets others connect."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.folder / CERTIFICATE, self.folder / KEY)
        context.num_tickets = 0  # nobody resumes a connection: it would cost two writes each time
        return context

    def client(self) -> ssl.SSLContext:
        """Return how an agent connects to others."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the certificate is the run's, not a host's, and the only one trusted
        context.load_verify_locations(self.folder / CERTIFICATE)
        return context

    def accepts(self, token: str) -> bool:
        """Return whether somebody knows the token, in a time that says nothing about it."""
        return hmac.compare_digest(token.encode(errors="replace"), self.token.encode())


def make(folder: Path) -> Credentials:
    """Make new ones; earlier ones of the folder are replaced.

    Raises:
        SpecError: They cannot be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rhapsody-node")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        write_whole(folder / KEY, private)
        write_whole(folder / TOKEN, secrets.token_hex(32).encode())
        write_whole(folder / CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM))
    except OSError as exc:
        raise SpecError(
            f"cannot write the run's certificate to {folder}: {exc.strerror}; may you write there?"
        ) from exc
    return load(folder)


def load(folder: Path, *, private: bool = True) -> Credentials:
    """Read them from a folder.

    Args:
        folder: With the files `tls.crt`, `tls.key` and `token`.
        private: Refuse files that others could read. A Secret that is mounted has other modes.

    Raises:
        FileNotFoundError: One of them is not there, or not yet.
        SpecError: They cannot be used; the text says why.
    """
    for name in _FILES if private else ():
        status = (folder / name).stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise SpecError(f"{folder / name} could be read or written by others; fix: chmod 600, as its owner")
    try:
        credentials = Credentials(folder, (folder / TOKEN).read_text().strip())
        credentials.server()
        credentials.client()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as exc:
        raise SpecError(f"the certificate and token in {folder} cannot be used: {exc}") from exc
    if len(credentials.token) < 16:
        raise SpecError(
            f"the token in {folder / TOKEN} has {len(credentials.token)} characters; at least 16 are needed"
        )
    return credentials


def remove(folder: Path) -> None:
    """Remove what `make` has made."""
    with suppress(OSError):
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
