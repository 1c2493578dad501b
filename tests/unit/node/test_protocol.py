"""Frames, and what is refused."""

from __future__ import annotations

import pytest

from rhapsody.node import machine
from rhapsody.node.messages import Host, pack_hosts, parse_join, unpack_hosts
from rhapsody.node.protocol import (
    HEADER_BYTES,
    LONGEST_COMMAND,
    Kind,
    ProtocolError,
    closed,
    command_frame,
    exit_frame,
    frame,
    parse_closed,
    parse_command,
    parse_exit,
    parse_header,
    parse_taken,
    taken,
)


def payload(whole: bytes) -> bytes:
    kind, length = parse_header(whole[:HEADER_BYTES])
    assert len(whole) == HEADER_BYTES + length
    assert kind in Kind
    return whole[HEADER_BYTES:]


def test_what_is_said_is_understood() -> None:
    assert parse_header(frame(Kind.BEAT)) == (Kind.BEAT, 0)
    assert parse_taken(payload(taken(Kind.STDERR, 70_000))) == (Kind.STDERR, 70_000)
    assert parse_closed(payload(closed(Kind.STDIN))) == Kind.STDIN
    assert [parse_exit(payload(exit_frame(code))) for code in (0, 255, -1)] == [0, 255, -1]


def test_a_command_keeps_every_byte() -> None:
    command, directory = b"printf '\xff\n=;\"$x\"'", b"/a b"

    whole = command_frame(command, directory, [b"RHAPSODY_A=1=2", b"RHAPSODY_B="])

    assert parse_command(payload(whole)) == (command, directory, {b"RHAPSODY_A": b"1=2", b"RHAPSODY_B": b""})


@pytest.mark.parametrize(
    "header", [b"\x00\x00\x00\x00\x00", b"\xff\x00\x00\x00\x00", frame(Kind.STDOUT, b"x" * 65537)[:HEADER_BYTES]]
)
def test_a_frame_that_does_not_exist_or_is_too_long_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_header(header)


def test_nobody_may_say_much_before_the_token() -> None:
    with pytest.raises(ProtocolError, match="HELLO of 1025 bytes is too long"):
        parse_header(frame(Kind.HELLO, b"x" * 1025)[:HEADER_BYTES])


@pytest.mark.parametrize("content", [b"", b"no end", b"x" * (LONGEST_COMMAND + 1) + b"\0"])
def test_a_command_that_is_not_whole_or_too_long_is_refused(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_command(content)


@pytest.mark.parametrize("parse", [parse_taken, parse_closed, parse_exit])
def test_a_frame_of_another_size_is_refused(parse: object) -> None:
    assert callable(parse)
    with pytest.raises(ProtocolError):
        parse(b"123")


@pytest.mark.parametrize("stream", [Kind.BEAT, 99])
def test_what_is_no_stream_is_refused(stream: int) -> None:
    with pytest.raises(ProtocolError, match="is no stream"):
        parse_closed(bytes([stream]))


def test_nodes_travel_unharmed() -> None:
    hosts = [Host(rank, f"n{rank}", (f"n{rank}", "x"), "10.0.0.1", 7000 + rank, machine.look()) for rank in range(3)]

    assert unpack_hosts(pack_hosts(hosts)) == hosts


@pytest.mark.parametrize("content", [b"", b"{}", b"x" * 100])
def test_what_cannot_be_read_is_refused(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack_hosts(content)
    with pytest.raises(ProtocolError):
        parse_join(content)
