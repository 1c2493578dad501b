"""How much of a task's time is ours: no-ops through RHAPSODY and its peers, in turn, each in a fresh process."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rhapsody.errors import BackendError
from rhapsody.experiments import peers, systems
from rhapsody.experiments.peer_scripts.measure import Order
from rhapsody.experiments.result import Reference, Result, Row, describe_host, ratios_to_peers

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
    """

    modes: tuple[str, ...]
    sizes: tuple[int, ...]
    peer_names: tuple[str, ...]
    repeats: int
    workers: int
    backends: tuple[str, ...]
    journal_off: bool


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


def deadline_s(n: int) -> float:
    """Return the seconds after which a run of n tasks is ended: slower than 50 tasks/s is as good as stuck."""
    return 120 + n / 50


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
        self._pythons: dict[str, Path] = {}
        self._done = 0
        self._host = describe_host()

    def run(self) -> Result:
        """Measure everything; what fails is left out and named in `problems`. Ctrl-C keeps what is there."""
        plan = [
            (variant, n)
            for mode in self.settings.modes
            for n in self.settings.sizes or systems.MODES[mode]
            for _ in range(self.settings.repeats)
            for variant in variants(self.settings, mode)
        ]
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            self._prepare({variant.system.name: variant.system for variant, _ in plan}.values())
            for variant, n in plan:
                self._run_once(variant, n, len(plan))
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
            "problems": self.problems,
        }
        return Result(
            benchmark="throughput",
            config=config,
            host=self._host,
            repeats=self.settings.repeats,
            rows=rows,
            ratios=ratios_to_peers(rows),
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
            script = peers.HERE / "peer_scripts" / variant.system.script
            return peers.run(self._pythons[variant.system.name], script, order, deadline_s(n))

    def _problem(self, text: str) -> None:
        self.problems.append(text)
        self._say(text)
