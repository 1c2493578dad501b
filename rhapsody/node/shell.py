"""The `ssh` of a job: hands a command line to the agent of another node.

Understands OpenSSH's command line as far as launchers use it: `ssh [options] [user@]HOST [options] COMMAND...`. HOST is
a name, an address or a rank. Ends as the command does, 128 + n when signal n killed it, and with 255 for all else.

The agent makes a small script named `ssh` that runs this; it runs isolated and imports as little as it can, since each
command waits for it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import ssl
import stat
import sys

from rhapsody.node.protocol import (
    CHUNK,
    HANDSHAKE_LIMIT_S,
    HEADER_BYTES,
    LONGEST_COMMAND,
    LOST,
    SILENCE_LIMIT_S,
    WINDOW,
    Kind,
    ProtocolError,
    closed,
    command_frame,
    frame,
    hello,
    parse_closed,
    parse_exit,
    parse_header,
    parse_taken,
    taken,
)

TYPE_CHECKING = False  # the module `typing` would cost a tenth of the time that a start takes
if TYPE_CHECKING:
    from typing import NoReturn

# Source: ssh(1) of OpenSSH 9.2, its option letters that are followed by a value.
WITH_VALUE = "BbcDEeFIiJLlmOopQRSWw"
DIRECTORY_OPTION = "rhapsodydirectory="
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_WRITABLE = 4096
"""What can be written without blocking once poll() says so, where the descriptor is shared with others and blocks."""
_RECORD_BYTES = 16 << 10
"""The longest record of TLS; after a shorter one there most often is no more."""


class Refusal(Exception):  # noqa: N818 - told to the user as a line, not raised to code
    """The command cannot be run, or nobody knows how it ended."""


class Order:
    """What the command line asks for.

    Attributes:
        host: As written, without user.
        command: The words behind it.
        directory: Working directory, empty for the agent's own.
        reads_input: False for `-n`.
    """

    def __init__(self) -> None:
        self.host = ""
        self.command: list[str] = []
        self.directory = ""
        self.reads_input = True


def parse(arguments: list[str]) -> Order:
    """Read a command line as OpenSSH's client does.

    Raises:
        Refusal: A host or a command is missing.
    """
    order = Order()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            order.host = order.host or (_host(rest.pop(0)) if rest else "")
            break
        if word.startswith("-") and len(word) > 1:
            _option(word[1:], rest, order)
        elif order.host:
            rest.insert(0, word)
            break
        else:
            order.host = _host(word)
    order.command = rest
    if not order.host:
        raise Refusal("no host was given; usage: ssh [options] HOST COMMAND...")
    if not order.command:
        raise Refusal(
            f"no command for {order.host} was given: there are no interactive sessions between nodes of a job"
        )
    return order


def _option(letters: str, rest: list[str], order: Order) -> None:
    """Take an option word: letters of which only the last may have a value, attached or as the next word."""
    for place, letter in enumerate(letters):
        if letter in WITH_VALUE:
            value = letters[place + 1 :] or (rest.pop(0) if rest else "")
            if letter == "o" and value.lower().startswith(DIRECTORY_OPTION):
                order.directory = value[len(DIRECTORY_OPTION) :]
            return
        if letter in "nf":
            order.reads_input = False


def _host(word: str) -> str:
    if word.startswith("ssh://"):
        word = word[len("ssh://") :].partition("/")[0]
        name, _, port = word.rpartition(":")
        word = name if port.isdigit() and not name.endswith(":") else word
    return word.rpartition("@")[2].strip("[]")


def find_host(hosts: str, host: str) -> tuple[str, int]:
    """Return address and port of a node's agent.

    Args:
        hosts: What the agent knows of the nodes: a line each with name, address, port and rank.
        host: A name, an address or a rank.

    Raises:
        Refusal: It is none of the job's nodes; the text says which are.
    """
    table = "\n" + hosts
    start = table.find(f"\n{host.lower()} ")
    if start < 0:
        first_names: dict[str, str] = {}
        for line in hosts.splitlines():
            name, _, _, rank = line.split(" ")
            if name not in {"localhost", "127.0.0.1", "::1"}:
                first_names.setdefault(rank, name)
        names = list(first_names.values())
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise Refusal(f"{host} is not a node of this job; its nodes are {shown or 'not known yet'}")
    _, address, port, _ = table[start + 1 : table.index("\n", start + 1)].split(" ")
    return address, int(port)


def connect(folder: str, order: Order) -> ssl.SSLSocket:
    """Hand the command line to the host's agent and return the connection, which does not block."""
    command = os.fsencode(" ".join(order.command))
    if len(command) > LONGEST_COMMAND:
        raise Refusal(f"the command line has {len(command)} bytes, at most {LONGEST_COMMAND} can be: write a script")
    address, port = find_host(_read(folder, "hosts"), order.host)
    passed = [name + b"=" + value for name, value in os.environb.items() if name.startswith(b"RHAPSODY_")]
    request = command_frame(command, os.fsencode(order.directory), passed)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # all agents of a run show one certificate, and only that one is trusted
    context.load_verify_locations(os.path.join(folder, "tls.crt"))  # noqa: PTH118 - pathlib takes long to load
    try:
        plain = socket.create_connection((address, port), timeout=HANDSHAKE_LIMIT_S)
        keep_alive(plain)
        secure = context.wrap_socket(plain)
        secure.sendall(hello(_read(folder, "token")) + request)
    except OSError as exc:
        raise Refusal(f"the agent of {order.host} at {address} port {port} cannot be reached: {exc}") from exc
    secure.setblocking(False)  # noqa: FBT003 - its only argument
    return secure


def keep_alive(connection: socket.socket) -> None:
    """Have the kernel end a connection whose other side has gone without a word, and send small frames at once."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE_LIMIT_S * 1000))


def _read(folder: str, name: str) -> str:
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:  # noqa: PTH118, PTH123
            return file.read()
    except OSError as exc:
        raise Refusal(f"the agent of this node has ended: {folder}/{name} cannot be read ({exc.strerror})") from exc


class Relay:
    """Passes the three streams and signals between this process and the agent, until the command has ended."""

    def __init__(self, connection: ssl.SSLSocket, host: str, *, reads_input: bool) -> None:
        self._connection = connection
        self._host = host
        self._sending = bytearray()
        self._received = bytearray()
        self._writing = {Kind.STDOUT: bytearray(), Kind.STDERR: bytearray()}
        self._outputs = {Kind.STDOUT: _own_writer(1), Kind.STDERR: _own_writer(2)}
        self._passed_on = {Kind.STDOUT: 0, Kind.STDERR: 0}
        self._reads_input = reads_input
        self._room = WINDOW
        """Bytes of our input that the agent still takes."""
        self._exit_code: int | None = None
        self._polled: dict[int, int] = {}
        self._poll = select.poll()
        if not reads_input:
            self._sending += frame(Kind.STDIN)

    def run(self, signals: int) -> int:
        """Return the command's exit code.

        Args:
            signals: Descriptor from which the numbers of signals to pass on can be read.

        Raises:
            Refusal: The agent did not run it, or was lost.
        """
        while self._exit_code is None or any(self._writing.values()):
            self._watch(signals)
            ready = dict(self._poll.poll())
            if signals in ready:
                for number in os.read(signals, 64):
                    self._sending += frame(Kind.SIGNAL, bytes([number]))
            for stream in self._writing:
                if self._outputs[stream][0] in ready:
                    self._write(stream)
            if 0 in ready:
                self._read_input()
            if self._exit_code is None:
                self._talk(ready)
        return self._exit_code

    def _watch(self, signals: int) -> None:
        """Ask poll() for what can go on now."""
        wanted = {signals: select.POLLIN}
        if self._exit_code is None:
            wanted[self._connection.fileno()] = select.POLLIN | (select.POLLOUT if self._sending else 0)
            if self._reads_input and self._room > 0 and len(self._sending) < CHUNK:
                wanted[0] = select.POLLIN
        for stream, (descriptor, _) in self._outputs.items():
            if self._writing[stream]:
                wanted[descriptor] = select.POLLOUT
        for descriptor in self._polled.keys() - wanted.keys():
            self._poll.unregister(descriptor)
        for descriptor, events in wanted.items():
            if self._polled.get(descriptor) != events:
                self._poll.register(descriptor, events)
        self._polled = wanted

    def _read_input(self) -> None:
        try:
            data = os.read(0, min(CHUNK, self._room))
        except OSError:  # closed, or a terminal that is not ours: there is nothing to read
            data = b""
        self._sending += frame(Kind.STDIN, data)
        self._room -= len(data)
        self._reads_input = bool(data)

    def _write(self, stream: Kind) -> None:
        waiting = self._writing[stream]
        try:
            count = _write_some(*self._outputs[stream], waiting)
        except OSError:  # nobody reads it any more: let the command feel that
            self._sending += closed(stream)
            count = len(waiting)
        del waiting[:count]
        self._passed_on[stream] += count
        if self._passed_on[stream] >= CHUNK:
            self._sending += taken(stream, self._passed_on[stream])
            self._passed_on[stream] = 0

    def _talk(self, ready: dict[int, int]) -> None:
        self._send()
        if self._connection.fileno() in ready:
            self._receive()

    def _send(self) -> None:
        while self._sending:
            try:
                count = self._connection.send(self._sending[:CHUNK])
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            except OSError as exc:
                self._sending.clear()
                if not isinstance(exc, ConnectionError):
                    raise Refusal(f"the connection to {self._host} was lost: {exc}") from exc
                return  # what the agent said last can still be read, and says more
            del self._sending[:count]

    def _receive(self) -> None:
        much = False
        while self._exit_code is None:
            try:
                data = self._connection.recv(CHUNK)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as exc:
                raise Refusal(f"the connection to {self._host} was lost: {exc}") from exc
            if not data:
                raise Refusal(f"the connection to {self._host} was lost: its agent has ended")
            self._received += data
            self._understand()
            much = much or len(data) >= _RECORD_BYTES
            if not much and not self._connection.pending():
                return  # to look whether there is more would cost more than to be woken for it

    def _understand(self) -> None:
        while len(self._received) >= HEADER_BYTES and self._exit_code is None:
            kind, length = parse_header(bytes(self._received[:HEADER_BYTES]))
            if len(self._received) < HEADER_BYTES + length:
                return
            payload = bytes(self._received[HEADER_BYTES : HEADER_BYTES + length])
            del self._received[: HEADER_BYTES + length]
            self._hear(kind, payload)

    def _hear(self, kind: Kind, payload: bytes) -> None:
        if kind in self._writing:
            self._writing[kind] += payload
        elif kind == Kind.TAKEN:
            self._room += parse_taken(payload)[1]
        elif kind == Kind.CLOSED:
            parse_closed(payload)
            if self._reads_input:
                self._reads_input = False
                os.close(0)  # who writes to us feels it as if the command were here
                os.open(os.devnull, os.O_RDONLY)
        elif kind == Kind.EXIT:
            self._exit_code = parse_exit(payload)
        elif kind == Kind.REFUSED:
            raise Refusal(f"{self._host} refuses: {payload.decode(errors='replace')}")
        else:
            raise ProtocolError(f"a frame {kind.name}, which is not for us")


def _own_writer(descriptor: int) -> tuple[int, bool]:
    """Return a descriptor to write to, and whether it never blocks: a pipe is opened anew, nobody else has that."""
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), True
    except OSError:  # it was closed, nobody reads it, or there is no /proc
        pass
    return descriptor, False


def _write_some(descriptor: int, never_blocks: bool, waiting: bytearray) -> int:  # noqa: FBT001 - of a pair
    """Write what there is room for, once poll() has said that there is some; return how many bytes."""
    if never_blocks:
        try:
            return os.write(descriptor, waiting)
        except BlockingIOError:
            return 0
    room = select.poll()
    room.register(descriptor, select.POLLOUT)
    count = 0
    while count < len(waiting) and (count == 0 or room.poll(0)):
        count += os.write(descriptor, waiting[count : count + _WRITABLE])
    return count


def run(folder: str, arguments: list[str]) -> int:
    """Run a command line of `ssh`; return the exit code.

    Args:
        folder: Where the agent of this node keeps what is needed to reach the others.
        arguments: Behind `ssh`.
    """
    if arguments == ["-V"]:
        sys.stderr.write("rhapsody-node: ssh among the nodes of a job\n")
        return 0
    try:
        order = parse(arguments)
        connection = connect(folder, order)
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        for number in FORWARDED:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        return Relay(connection, order.host, reads_input=order.reads_input).run(wake_read)
    except (Refusal, ProtocolError) as exc:
        sys.stderr.write(f"ssh: {exc}\n")
        return LOST


def main() -> NoReturn:
    """Be `ssh`; the first argument is the agent's folder."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # it was closed: a connection must not take its number
        os.set_inheritable(descriptor, True)  # noqa: FBT003
    os.close(descriptor)
    code = run(sys.argv[1], sys.argv[2:])
    sys.stderr.flush()
    os._exit(code)  # nothing is left to tidy up, and this is quicker
