"""What a run shows on standard error while it lasts: a live display on a terminal, else a line now and then.

Nothing here is told of single tasks: the session is looked at twice a second.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import click

from rhapsody.model.event import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import RenderableType
    from rich.live import Live
    from rich.text import Text

    from rhapsody.model.task import Task

LOOK_EVERY_S = 0.5
LINE_EVERY_S = 10.0
RATE_OVER_S = 5.0
KINDS_SHOWN = 5

COLOURS = {
    State.DONE: "green",
    State.RUNNING: "cyan",
    State.FAILED: "red",
    State.UNKNOWN: "red",
    State.CANCELED: "yellow",
}
"""Of the states that stand out, as click and rich both name them."""
_SHOWN_ORDER = (
    *(State.DONE, State.RUNNING, State.PLACED, State.READY, State.WAITING),
    *(State.FAILED, State.CANCELED, State.UNKNOWN),
)


class Watched(Protocol):
    """What is looked at: a session."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Tasks by state."""

    @property
    def running(self) -> Sequence[Task]:
        """What runs now."""


class Kind(NamedTuple):
    """Running tasks that share a label.

    Attributes:
        label: The function's name or the executable.
        tasks: How many run now.
        longest_s: How long the first of them has been seen running.
    """

    label: str
    tasks: int
    longest_s: float


class Look(NamedTuple):
    """What one look at a session found.

    Attributes:
        counts: Tasks by state, those without any left out, in the order in which they are shown.
        rate: Tasks done per second, over the last few seconds.
        kinds: What runs now, the longest running first.
    """

    counts: dict[State, int]
    rate: float
    kinds: list[Kind]


class Meter:
    """Looks at a session, and remembers enough of earlier looks to know a rate and durations."""

    def __init__(self, watched: Watched, clock: Callable[[], float] = time.monotonic) -> None:
        self._watched = watched
        self._clock = clock
        self._done: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._first_seen: dict[int, float] = {}

    def look(self) -> Look:
        """Return what there is now."""
        now = self._clock()
        found = self._watched.counts
        counts = {state: found[state] for state in _SHOWN_ORDER if found.get(state)}
        return Look(counts, self._rate(now, counts.get(State.DONE, 0)), self._kinds(now))

    def _rate(self, now: float, done: int) -> float:
        while len(self._done) > 1 and self._done[1][0] <= now - RATE_OVER_S:
            self._done.popleft()
        then, done_then = self._done[0]
        self._done.append((now, done))
        return (done - done_then) / (now - then) if now > then else 0.0

    def _kinds(self, now: float) -> list[Kind]:
        running = self._watched.running
        self._first_seen = {task.number: self._first_seen.get(task.number, now) for task in running}
        counts: dict[str, int] = {}
        longest_s: dict[str, float] = {}
        for task in running:
            label = str(getattr(task, "label", task.kind))
            counts[label] = counts.get(label, 0) + 1
            longest_s[label] = max(longest_s.get(label, 0.0), now - self._first_seen[task.number])
        kinds = [Kind(label, counts[label], longest_s[label]) for label in counts]
        return sorted(kinds, key=lambda kind: -kind.longest_s)


class Progress:
    """Says nothing but what it is told to; base of those that say more. Entered before the campaign is loaded."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def say(self, message: str) -> None:
        """Show a one-line message to stay."""
        click.echo(f"rhapsody: {message}", err=True)

    def remark(self, message: str) -> None:
        """Show a message that a quiet run can do without."""

    @contextmanager
    def watching(self, watched: Watched) -> Iterator[None]:
        """Look at a session twice a second, on the running loop, while in this context."""
        meter = Meter(watched)
        loop = asyncio.get_running_loop()

        watching = True

        def look() -> None:
            if watching:
                self.show(meter.look())
                loop.call_later(LOOK_EVERY_S, look)

        loop.call_later(LOOK_EVERY_S, look)
        try:
            yield
        finally:
            watching = False

    def show(self, look: Look) -> None:
        """Show what a look found; called on the loop, so it must not wait."""


class Lines(Progress):
    """A line every ten seconds at most, and only when something changed: for log files and pipes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[State, int] = {}
        self._next = 0.0

    def remark(self, message: str) -> None:
        """Print it."""
        self.say(message)

    def show(self, look: Look) -> None:
        """Print the states and the rate."""
        now = self._clock()
        if look.counts == self._said or now < self._next:
            return
        self._said, self._next = look.counts, now + LINE_EVERY_S
        click.echo(line_of(look, time.strftime("%H:%M:%S")), err=True)


class Display(Progress):
    """A few lines at the bottom of a terminal, redrawn by a thread of its own; what the campaign prints goes above.

    Standard output is led around the display only where it is a terminal, too: a pipe gets every byte as printed.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._began = time.monotonic()
        self._look: Look | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.console import Console  # noqa: PLC0415 - not needed where nobody watches
        from rich.live import Live  # noqa: PLC0415

        # Without markup: rich would read it in what the campaign prints, and raise on `[/...]`.
        console = Console(stderr=True, force_terminal=True, soft_wrap=True, markup=False, highlight=False, emoji=False)
        self._live = Live(
            console=console,
            get_renderable=self._draw,
            refresh_per_second=1 / LOOK_EVERY_S,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, message: str) -> None:
        """Print a message above the display."""
        if self._live is not None:
            self._live.console.print(f"rhapsody: {message}")
        else:
            super().say(message)

    def remark(self, message: str) -> None:
        """Print it above the display."""
        self.say(message)

    def show(self, look: Look) -> None:
        """Keep the look for the next time that the display is drawn."""
        self._look = look

    def _draw(self) -> RenderableType:
        from rich.console import Group  # noqa: PLC0415 - not needed where nobody watches
        from rich.text import Text  # noqa: PLC0415

        elapsed = clock_time(time.monotonic() - self._began)
        if self._look is None:
            return Text(f"{elapsed}  loading {self._title}", style="dim")
        lines = [self._headline(self._look, elapsed)]
        lines += [Text(text, style="dim") for text in kind_lines(self._look.kinds)]
        width = self._live.console.width - 1 if self._live is not None else 79
        for line in lines:
            line.truncate(width, overflow="ellipsis")  # a line that wraps would garble the redrawing
        return Group(*lines)

    @staticmethod
    def _headline(look: Look, elapsed: str) -> Text:
        from rich.text import Text  # noqa: PLC0415 - not needed where nobody watches

        line = Text(elapsed)
        for state, count in look.counts.items():
            line.append("  ").append(f"{state} {count}", style=COLOURS.get(state, ""))
        return line.append(f"  ({rate_text(look.rate)})" if look.counts else "  no tasks yet")


def progress_for(title: str, *, quiet: bool) -> Progress:
    """Return what suits standard error: a display on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        return Progress()
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return Display(title)
    return Lines()


def line_of(look: Look, time_of_day: str) -> str:
    """Render a look as one line."""
    states = "  ".join(f"{state} {count}" for state, count in look.counts.items())
    return f"{time_of_day}  {states}  ({rate_text(look.rate)})"


def kind_lines(kinds: Sequence[Kind]) -> list[str]:
    """Render what runs, in at most `KINDS_SHOWN` lines."""
    shown = kinds if len(kinds) <= KINDS_SHOWN else kinds[: KINDS_SHOWN - 1]
    lines = [f"{kind.tasks:>5}x  {clock_time(kind.longest_s):>5}  {kind.label}" for kind in shown]
    if rest := kinds[len(shown) :]:
        lines.append(f"{sum(kind.tasks for kind in rest):>5}x         of {len(rest)} other kinds")
    return lines


def rate_text(rate: float) -> str:
    """Render a rate, with a decimal only where it matters."""
    return f"{rate:.1f}/s" if 0 < rate < 10 else f"{rate:.0f}/s"


def clock_time(seconds: float) -> str:
    """Render a duration as m:ss, or h:mm:ss from an hour on."""
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"
