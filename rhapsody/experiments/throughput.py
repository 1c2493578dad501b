"""How much of a task's time is ours: no-ops through RHAPSODY and its peers, in turn, each in a fresh process."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rhapsody.errors import BackendError
from rhapsody.experiments import peers, systems
from rhapsody.experiments.peer_scripts.measure import Order
from rhapsody.experiments.result import (
    Reference,
    Result,
    Row,
    describe_host,
    merged,
    ratios_to_local,
    ratios_to_peers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rhapsody.experiments.peer_scripts.measure import Report

METRICS = {
    "tasks_per_s": "1/s",
    "items_per_s": "1/s",
    "executables_per_s": "1/s",
    "main_cpu_us_per_task": "µs",
    "main_cpu_us_per_item": "µs",
    "main_cpu_us_per_executable": "µs",
    "workers_cpu_us_per_task": "µs",
    "workers_cpu_us_per_item": "µs",
    "workers_cpu_us_per_executable": "µs",
    "latency_median_us": "µs",
    "latency_p99_us": "µs",
    "bytes_per_queued_task": "B",
    "bytes_per_finished_task": "B",
    "longest_gap_submitting_ms": "ms",
    "longest_gap_running_ms": "ms",
}
"""Unit of every metric that the scripts report."""

CLOCK = (
    "Clock: from before the first task object is made until the system's own bulk wait for all of them has returned."
    " Before it starts, 2 tasks per worker have run."
)

SLOWEST_PER_S = 2.0
"""With fewer tasks a second even a slow peer is as good as stuck."""
_EARLIER = "a machine of 2 cores, earlier"
REFERENCE = {
    "rhapsody-py 0.6, processes": Reference(metric="tasks_per_s", unit="1/s", low=4_100, high=5_900, where=_EARLIER),
    "parsl, htex": Reference(metric="tasks_per_s", unit="1/s", low=1_500, high=1_500, where=_EARLIER),
    "ray": Reference(metric="tasks_per_s", unit="1/s", low=2_300, high=2_300, where=_EARLIER),
    "dask": Reference(metric="tasks_per_s", unit="1/s", low=600, high=600, where=_EARLIER),
    "processpool": Reference(metric="tasks_per_s", unit="1/s", low=9_000, high=14_000, where=_EARLIER),
    "rhapsody-py 0.6, executables": Reference(
        metric="executables_per_s", unit="1/s", low=930, high=1_550, where=_EARLIER
    ),
    "subprocess.run": Reference(metric="executables_per_s", unit="1/s", low=1_960, high=1_960, where=_EARLIER),
}


class Settings(NamedTuple):
    """What is measured.

    Attributes:
        modes: Keys of `systems.MODES`.
        sizes: For all modes; empty for each mode's own.
        peer_names: Keys of `systems.PEERS`.
        repeats: Fresh processes per row.
        workers: Worker processes of every system.
        backends: RHAPSODY's.
        journal_off: Whether RHAPSODY without its journal is measured too.
        slow_up_to: Largest size of peers that are measured up to a size only; None for each one's own.
    """

    modes: tuple[str, ...]
    sizes: tuple[int, ...]
    peer_names: tuple[str, ...]
    repeats: int
    workers: int
    backends: tuple[str, ...]
    journal_off: bool
    slow_up_to: int | None = None


class Variant(NamedTuple):
    """One system, set up in one way, in one mode."""

    system: systems.System
    backend: str
    mode: str
    journal: bool | None = None

    @property
    def options(self) -> dict[str, str | int | bool]:
        """What sets its rows apart."""
        options: dict[str, str | int | bool] = {"mode": self.mode}
        if self.journal is not None:
            options["journal"] = self.journal
        if (self.system.name, self.backend) == ("rhapsody-py", "noop"):
            options["executes"] = False
        return options

    @property
    def label(self) -> str:
        """For people."""
        return self.row("tasks_per_s", 1, [0.0]).label

    def largest(self, settings: Settings) -> int | None:
        """Return the largest size that it is measured at; None without a limit."""
        own = self.system.largest.get(self.backend)
        return own if own is None or settings.slow_up_to is None else settings.slow_up_to

    def row(self, metric: str, n: int, runs: list[float]) -> Row:
        """Return the row of some runs."""
        return Row.of_runs(
            runs,
            system=self.system.name,
            backend=self.backend,
            n=n,
            options=self.options,
            metric=metric,
            unit=METRICS[metric],
        )


def variants(settings: Settings, mode: str) -> list[Variant]:
    """Return what takes part in a mode, in the order in which it takes turns."""
    journal_variants = (True, False) if settings.journal_off else (True,)
    ours = [(backend, journal) for backend in dict.fromkeys(settings.backends) for journal in journal_variants]
    found = [Variant(systems.RHAPSODY, backend, mode, journal) for backend, journal in ours]
    others = [systems.peer_named(name) for name in dict.fromkeys(settings.peer_names)]
    if mode == "latency" and systems.PEERS["processpool"] not in others:
        others.append(systems.PEERS["processpool"])
    if mode == "executables":
        others.append(systems.SUBPROCESS)
    found += [Variant(other, backend, mode) for other in others for backend in other.modes.get(mode, ())]
    return found


class Plan(NamedTuple):
    """What is run, in order.

    Attributes:
        runs: A variant and its size, as often as it is repeated.
        left_out: What is not measured and why, in sentences.
    """

    runs: list[tuple[Variant, int]]
    left_out: list[str]


def plan(settings: Settings) -> Plan:
    """Return what is run; of a mode in which a slow peer can take none of the sizes, all run at its largest, too."""
    runs: list[tuple[Variant, int]] = []
    left_out: list[str] = []
    for mode in settings.modes:
        sizes = dict.fromkeys(settings.sizes or systems.MODES[mode])
        taking_part = variants(settings, mode)
        limits = {variant: variant.largest(settings) or max(sizes) for variant in taking_part}
        added = sorted({limit for limit in limits.values() if limit < min(sizes)})
        for variant, limit in limits.items():
            if skipped := [size for size in sizes if size > limit]:
                left_out.append(_left_out(variant, skipped, limit))
        runs += [
            (variant, n)
            for n in [*added, *sizes]
            for _ in range(settings.repeats)
            for variant in taking_part
            if n <= limits[variant]
        ]
    return Plan(runs, left_out)


def _left_out(variant: Variant, sizes: list[int], limit: int) -> str:
    """Return why some sizes of a variant are not measured."""
    return (
        f"{variant.label}, {variant.mode}: not at n={', '.join(f'{size:,}' for size in sizes)}, since it manages few"
        f" tasks a second on small machines; at most n={limit:,} (--slow-up-to says otherwise)"
    )


def deadline_s(n: int, slowest_per_s: float = 50.0) -> float:
    """Return the seconds after which a run of n tasks is ended: slower than that is as good as stuck."""
    return 120 + n / slowest_per_s


class Measurement:
    """The runs of one experiment, as they come in.

    Args:
        settings: What is measured.
        out: Folder of the results; journals are written there too, since their file system matters.
        say: Gets one line per run, and several for what failed.

    Attributes:
        problems: What failed; empty when all is well.
    """

    def __init__(self, settings: Settings, out: Path, say: Callable[[str], None]) -> None:
        self.settings = settings
        self.out = out
        self.problems: list[str] = []
        self._say = say
        self._runs: dict[tuple[Variant, int, str], list[float]] = defaultdict(list)
        self._versions: dict[str, str] = {}
        self._waiting: dict[str, str] = {}
        self._given_up: set[Variant] = set()
        self._left_out: list[str] = []
        self._pythons: dict[str, Path] = {}
        self._done = 0
        self._host = describe_host()

    def run(self) -> Result:
        """Measure everything; what fails is left out and named in `problems`. Ctrl-C keeps what is there."""
        runs, self._left_out = plan(self.settings)
        for text in self._left_out:
            self._say(f"left out: {text}")
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            self._prepare({variant.system.name: variant.system for variant, _ in runs}.values())
            for variant, n in runs:
                self._run_once(variant, n, len(runs))
        except KeyboardInterrupt:
            self._problem("interrupted: the rows hold what had been measured by then")
        return self.result()

    def result(self) -> Result:
        """Return what was measured so far."""
        rows = tuple(variant.row(metric, n, runs) for (variant, n, metric), runs in self._runs.items())
        config: dict[str, Any] = {
            **self.settings._asdict(),
            "versions": self._versions,
            "waiting": self._waiting,
            "clock": CLOCK,
            "left_out": self._left_out,
            "problems": self.problems,
        }
        return Result(
            benchmark="throughput",
            config=config,
            host=self._host,
            repeats=self.settings.repeats,
            rows=rows,
            ratios=merged(ratios_to_peers(rows), ratios_to_local(rows)),
            reference=REFERENCE,
            kind="real",
        )

    def _prepare(self, wanted: Iterable[systems.System]) -> None:
        for system in wanted:
            self._say(f"environment of {system.name}: {'checking' if system.own_environment else 'this interpreter'}")
            try:
                self._pythons[system.name] = peers.prepare(system)
            except BackendError as exc:
                self._problem(f"{system.name} is left out: {exc}")

    def _run_once(self, variant: Variant, n: int, total: int) -> None:
        self._done += 1
        if variant.system.name not in self._pythons or variant in self._given_up:
            return
        where = f"[{self._done}/{total}] {variant.label}, {variant.mode}, n={n:,}"
        try:
            report, left = self._measure(variant, n)
        except BackendError as exc:
            self._given_up.add(variant)
            self._problem(f"{where}: failed, and is left out of this mode from here on: {exc}")
            return
        for metric, value in report.metrics.items():
            self._runs[variant, n, metric].append(value)
        self._versions[variant.system.name] = report.version
        self._waiting[f"{variant.system.name}, {variant.mode}"] = report.waiting
        shown = ", ".join(f"{metric} {value:,.5g}" for metric, value in report.metrics.items())
        self._say(f"{where}: {shown}")
        if left:
            self._problem(f"{where}: left running after its own shutdown, and was ended: {'; '.join(left)}")

    def _measure(self, variant: Variant, n: int) -> tuple[Report, list[str]]:
        with tempfile.TemporaryDirectory(prefix=".journals-", dir=self.out) as runs_dir:
            order = Order(
                mode="functions" if variant.mode == "scaling" else variant.mode,
                n=n,
                workers=self.settings.workers,
                backend=variant.backend,
                journal=bool(variant.journal),
                scratch="",
                runs_dir=str(Path(runs_dir).resolve()),
                result="",
            )
            launch = peers.Launch(
                self._pythons[variant.system.name],
                peers.HERE / "peer_scripts" / variant.system.script,
                over_dragon=variant.system.over_dragon,
            )
            limit_s = deadline_s(n) if variant.largest(self.settings) is None else deadline_s(n, SLOWEST_PER_S)
            return peers.run(launch, order, limit_s)

    def _problem(self, text: str) -> None:
        self.problems.append(text)
        self._say(text)
