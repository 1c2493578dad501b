"""The certificate and the token of a run."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import SpecError
from rhapsody.node import credentials

if TYPE_CHECKING:
    from pathlib import Path


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str | None:
    """Let two ends shake hands in memory; return the version that they agreed on."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="any"),
    ]
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[1].version()


def test_those_who_share_them_believe_each_other(tmp_path: Path) -> None:
    made = credentials.make(tmp_path / "c")
    loaded = credentials.load(tmp_path / "c")

    assert handshake(made.server(), loaded.client()) == "TLSv1.3"
    assert loaded.accepts(made.token)
    assert not loaded.accepts(made.token[:-1])
    assert not loaded.accepts("ä")


def test_a_certificate_of_another_run_is_not_believed(tmp_path: Path) -> None:
    one, other = credentials.make(tmp_path / "1"), credentials.make(tmp_path / "2")

    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(one.server(), other.client())


def test_older_versions_of_tls_are_refused(tmp_path: Path) -> None:
    made = credentials.make(tmp_path / "c")
    client = made.client()
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2

    with pytest.raises(ssl.SSLError):
        handshake(made.server(), client)


def test_each_run_has_a_token_of_its_own_and_files_are_the_owner_s(tmp_path: Path) -> None:
    first = credentials.make(tmp_path / "c")
    second = credentials.make(tmp_path / "c")

    assert first.token != second.token
    assert len(second.token) == 64
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "c").iterdir()} == {0o600}
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700


def test_what_is_not_there_yet_is_told_apart_from_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        credentials.load(tmp_path / "nowhere")

    credentials.make(tmp_path / "c")
    (tmp_path / "c" / "tls.crt").write_text("nonsense")
    with pytest.raises(SpecError, match="cannot be used"):
        credentials.load(tmp_path / "c")


def test_a_short_token_is_refused(tmp_path: Path) -> None:
    credentials.make(tmp_path / "c")
    (tmp_path / "c" / "token").write_text("secret\n")

    with pytest.raises(SpecError, match="has 6 characters; at least 16 are needed"):
        credentials.load(tmp_path / "c")


def test_files_of_a_secret_may_have_other_modes_than_those_of_a_run(tmp_path: Path) -> None:
    made = credentials.make(tmp_path / "c")
    (tmp_path / "c" / "tls.key").chmod(0o440)

    assert credentials.load(tmp_path / "c", private=False) == made
    with pytest.raises(SpecError, match="could be read or written by others"):
        credentials.load(tmp_path / "c")


def test_removing_them_leaves_nothing(tmp_path: Path) -> None:
    credentials.make(tmp_path / "c")

    credentials.remove(tmp_path / "c")

    assert list(tmp_path.iterdir()) == []
