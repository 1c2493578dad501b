"""Kept results: what was kept is found again, and of what was not it is said why."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsody.errors import JournalError
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Completed, Failure, Stdio
from rhapsody.model.task import ComputeTask
from rhapsody.telemetry import results
from rhapsody.telemetry.frames import HEADER_BYTES, Entered, Ran, encode_frame
from rhapsody.telemetry.journal import Journal
from rhapsody.telemetry.reader import JournalReader
from rhapsody.telemetry.results import KeptReader, KeptResults, Left, OversizeError, Place, ValueMissing
from tests.unit.telemetry.twin import RUN, noop, offsets_of

if TYPE_CHECKING:
    from rhapsody.telemetry.scan import JournalTail

NOBODY_UID = 65_534


class Spiteful:
    """A value that cannot be pickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> str:
        raise self.error


class Mute(Exception):  # noqa: N818 - it says nothing at all
    def __str__(self) -> str:
        raise RuntimeError("not even that")


def revive(text: str) -> str:
    raise RuntimeError(text)


class Fragile:
    """A value that can be pickled and cannot be read again."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return revive, ("its library is gone",)


def task(value: object = None, stdio: Stdio | None = None, failure: Failure | None = None) -> ComputeTask:
    made = ComputeTask(noop)
    made.value, made.stdio, made.failure = value, stdio, failure
    return made


def kept(folder: Path, *batches: list[Any], **options: int) -> list[int]:
    """Keep batches of values; return the numbers of their frames."""
    writer = KeptResults(folder, **options)
    frames = []
    for values in batches:
        frames.append(writer.keep_values(values))
        writer.commit()
    writer.close()
    return frames


def reader_of(folder: Path) -> tuple[KeptReader, list[JournalTail]]:
    damages: list[JournalTail] = []
    return KeptReader(folder, damages.append), damages


def read_all(folder: Path, frame: int, count: int) -> list[Any]:
    reader, damages = reader_of(folder)
    values = [reader.read(Place(frame, at)) for at in range(count)]
    assert damages == []
    return values


def segment(folder: Path, number: int = 1) -> Path:
    return folder / "results" / f"{number:06d}.kept"


def three_frames(folder: Path) -> tuple[Path, list[int]]:
    """Keep three frames of two values each; return the file and where they begin."""
    kept(folder, [10, 11], [[20], [21]], ["30", "31"])
    return segment(folder), offsets_of(segment(folder))


def what_is_left(folder: Path) -> tuple[list[Any], list[JournalTail]]:
    """Return the values of `three_frames`, or the exceptions, and the damages that were told."""
    reader, damages = reader_of(folder)
    found: list[Any] = []
    for frame in (1, 2, 3):
        for at in (0, 1):
            try:
                found.append(reader.read(Place(frame, at)))
            except ValueMissing as exc:
                found.append(exc)
    return found, damages


THREE = [10, 11, [20], [21], "30", "31"]


class TestKeeping:
    @pytest.mark.parametrize(
        "values",
        [
            [1, 2.5, "ä\udcff", b"raw", None, True, 1j, 10**40],
            [{"a": [1, {2}]}, (1, 2), [None], Path("/x"), None, "plain"],
            [Completed(0, "out", "err", "/tmp")],  # noqa: S108 - nothing is written there
            [lambda: 7],
        ],
    )
    def test_what_is_kept_comes_back(self, values: list[Any], tmp_path: Path) -> None:
        frames = kept(tmp_path, values)

        found = read_all(tmp_path, frames[0], len(values))

        assert [each() if callable(each) else each for each in found] == [
            each() if callable(each) else each for each in values
        ]
        assert list(map(type, found)) == list(map(type, values))

    @settings(max_examples=50, deadline=None)
    @given(values=st.lists(st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers())), min_size=1))
    def test_whatever_is_kept_comes_back(self, values: list[Any]) -> None:
        with tempfile.TemporaryDirectory() as name:
            (frame,) = kept(Path(name), values)

            assert read_all(Path(name), frame, len(values)) == values

    def test_none_is_not_kept_at_all(self, tmp_path: Path) -> None:
        frames = kept(tmp_path, [None, None])
        writer = KeptResults(tmp_path)

        assert frames == [0]
        assert writer.keep_list([None] * 5) == 0
        assert writer.keep([task(), task()]) == 0
        assert not (tmp_path / "results").exists()
        assert read_all(tmp_path, 0, 3) == [None, None, None]

    def test_ten_thousand_values_are_found_again(self, tmp_path: Path) -> None:
        batches = [[(at, str(at)) for at in range(first, first + 10)] for first in range(0, 10_000, 10)]

        frames = kept(tmp_path, *batches, segment_bytes=20_000)

        assert len(list((tmp_path / "results").iterdir())) > 5
        reader, damages = reader_of(tmp_path)
        found = [reader.read(Place(frame, at)) for frame in frames for at in range(10)]
        assert found == [each for batch in batches for each in batch]
        assert damages == []

    def test_a_list_is_kept_as_one_value(self, tmp_path: Path) -> None:
        writer = KeptResults(tmp_path)

        frame = writer.keep_list([1, None, "x"])
        writer.commit()
        writer.close()

        assert read_all(tmp_path, frame, 1) == [[1, None, "x"]]

    def test_a_next_session_goes_on_behind_the_first_one(self, tmp_path: Path) -> None:
        kept(tmp_path, ["a"], ["b"])
        first, _ = reader_of(tmp_path)

        (frame,) = kept(tmp_path, ["c"], count=first.count, index=first.index)

        assert (first.count, first.index, frame) == (1, 2, 3)
        assert [read_all(tmp_path, at, 1) for at in (1, 2, 3)] == [["a"], ["b"], ["c"]]

    def test_nothing_is_written_before_it_is_committed(self, tmp_path: Path) -> None:
        writer = KeptResults(tmp_path)

        writer.keep_values([1])
        before = (tmp_path / "results").exists()
        writer.commit()
        writer.close()

        assert not before
        assert read_all(tmp_path, 1, 1) == [1]


class TestStdio:
    def test_what_a_function_printed_is_kept_with_its_value(self, tmp_path: Path) -> None:
        writer = KeptResults(tmp_path)

        frame = writer.keep([task(5, Stdio("said", "warned")), task([6])])
        writer.commit()
        writer.close()

        assert read_all(tmp_path, frame, 2) == [Left(pickle.dumps(5, protocol=5), "said", "warned", None), [6]]

    def test_an_executable_is_kept_as_it_is_since_all_is_in_its_value(self, tmp_path: Path) -> None:
        writer = KeptResults(tmp_path)
        value = Completed(0, "said", "", "/")

        frame = writer.keep([task(value, Stdio("said", "", 0))])
        writer.commit()
        writer.close()

        assert read_all(tmp_path, frame, 1) == [value]

    def test_of_a_failed_task_the_end_of_what_it_printed_is_kept(self, tmp_path: Path) -> None:
        writer = KeptResults(tmp_path)
        failed = task(None, Stdio("a" * 5_000 + "b", "c" * 5_000, -9), Failure(Cause.SIGNAL, "killed"))

        frame = writer.keep([failed])
        writer.commit()
        writer.close()

        assert read_all(tmp_path, frame, 1) == [Left(b"", "a" * 4_095 + "b", "c" * 4_096, -9)]


class TestWhatIsNotKept:
    def test_a_value_above_the_limit_is_named_and_the_others_are_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(results, "LIMIT_BYTES", 1 << 20)
        (frame,) = kept(tmp_path, [[1], bytearray(2 << 20), [3]])
        reader, _ = reader_of(tmp_path)

        with pytest.raises(
            ValueMissing, match=r"its value of 2,\d+,\d+ bytes was above the 1 MiB that are kept; return"
        ):
            reader.read(Place(frame, 1))
        assert [reader.read(Place(frame, at)) for at in (0, 2)] == [[1], [3]]

    def test_plain_values_that_are_too_large_together_are_kept_one_by_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(results, "LIMIT_BYTES", 1_000)
        (frame,) = kept(tmp_path, ["x" * 600, "y" * 600, "z" * 1_200])
        reader, _ = reader_of(tmp_path)

        assert [reader.read(Place(frame, at)) for at in (0, 1)] == ["x" * 600, "y" * 600]
        with pytest.raises(ValueMissing, match="above"):
            reader.read(Place(frame, 2))

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (RuntimeError("no pickling"), "its value of type Spiteful could not be kept: RuntimeError: no pickling"),
            (SystemExit(3), "could not be kept: SystemExit: 3"),
            (ValueError("file \udcff"), r"could not be kept: ValueError: file \\udcff"),
            (ValueError("x" * 100_000), "could not be kept: ValueError: x{400}"),
            (Mute(), "could not be kept: Mute"),
        ],
    )
    def test_a_value_that_cannot_be_pickled_is_named_and_the_others_are_kept(
        self, error: BaseException, words: str, tmp_path: Path
    ) -> None:
        (frame,) = kept(tmp_path, [[1], Spiteful(error), [3]])
        reader, _ = reader_of(tmp_path)

        with pytest.raises(ValueMissing, match=words) as caught:
            reader.read(Place(frame, 1))
        assert len(str(caught.value)) <= 500
        assert [reader.read(Place(frame, at)) for at in (0, 2)] == [[1], [3]]

    def test_a_value_that_cannot_be_read_again_is_named(self, tmp_path: Path) -> None:
        (frame,) = kept(tmp_path, [Fragile(), [2]])
        reader, damages = reader_of(tmp_path)

        with pytest.raises(ValueMissing, match="its kept value cannot be read: RuntimeError: its library is gone"):
            reader.read(Place(frame, 0))
        assert reader.read(Place(frame, 1)) == [2]
        assert damages == []

    def test_a_place_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        kept(tmp_path, [1])
        reader, _ = reader_of(tmp_path)

        with pytest.raises(ValueMissing, match="not where the journal says"):
            reader.read(Place(1, 1))
        with pytest.raises(ValueMissing, match="damaged or break off"):
            reader.read(Place(2, 0))


class TestTooMuchForOneFrame:
    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(results, "LIMIT_BYTES", 1_000)
        monkeypatch.setattr(results, "_FRAME_BYTES", 3_000)

    def test_it_is_refused(self, tmp_path: Path) -> None:
        writer = KeptResults(tmp_path)

        with pytest.raises(OversizeError):
            writer.keep_values([["x" * 900]] * 4)
        assert writer.keep_values([["x" * 900]] * 3) == 1

    def test_reasons_count_too(self, tmp_path: Path) -> None:
        writer = KeptResults(tmp_path)

        with pytest.raises(OversizeError):
            writer.keep_values([Spiteful(ValueError("x" * 900))] * 7)

    @pytest.mark.parametrize("times", ["each its own", "one for all"])
    def test_the_journal_keeps_halves_until_they_fit(self, times: str, tmp_path: Path) -> None:
        tasks = [task([f"{at}" + "x" * 900]) for at in range(13)]
        journal = Journal.create(tmp_path, RUN)
        journal.accepted(tasks, 1)

        journal.entered(State.DONE, tasks, range(100, 113) if times == "each its own" else 100)
        journal.close()

        records = [record for _, _, record in JournalReader(tmp_path).records() if isinstance(record, Entered)]
        assert sum(record.count for record in records) == 13
        assert max(record.count for record in records) <= 3
        reader, _ = reader_of(tmp_path)
        found = [reader.read(Place(record.kept, at)) for record in records for at in range(record.count)]
        assert found == [each.value for each in tasks]
        moments = [at for record in records for at in _times(record)]
        assert moments == (list(range(100, 113)) if times == "each its own" else [100] * 13)

    def test_the_journal_tells_of_running_before_done(self, tmp_path: Path) -> None:
        tasks = [task([f"{at}" + "x" * 900]) for at in range(8)]
        journal = Journal.create(tmp_path, RUN)
        journal.accepted(tasks, 1)

        journal.ran(tasks, range(8), range(10, 18))
        journal.close()

        records = [record for _, _, record in JournalReader(tmp_path).records()]
        assert not any(isinstance(record, Ran) for record in records)
        states = [record.state for record in records if isinstance(record, Entered)]
        assert states == [State.RUNNING] + [State.DONE] * (len(states) - 1)
        assert len(states) > 2


def _times(record: Entered) -> list[int]:
    return [record.times_ns] * record.count if isinstance(record.times_ns, int) else record.times_ns


class TestDamage:
    def test_every_flipped_bit_costs_the_values_of_its_frame_at_most(self, tmp_path: Path) -> None:
        path, starts = three_frames(tmp_path)
        data = path.read_bytes()

        for bit in range(8 * len(data)):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            found, damages = what_is_left(tmp_path)
            hit = max(at for at, start in enumerate(starts) if start <= bit // 8)

            lost = [at for at, value in enumerate(found) if isinstance(value, ValueMissing)]
            assert lost == [2 * hit, 2 * hit + 1]
            assert [value for at, value in enumerate(found) if at not in lost] == [
                value for at, value in enumerate(THREE) if at not in lost
            ]
            assert {(place.segment, place.offset) for place in damages} <= {("000001.kept", starts[hit])}
            assert len(damages) == 1 or (hit == 2 and not damages)  # as after a crash: nothing whole follows

    def test_damage_is_named_with_file_and_offset(self, tmp_path: Path) -> None:
        path, starts = three_frames(tmp_path)
        data = bytearray(path.read_bytes())
        data[starts[1] + HEADER_BYTES] ^= 1
        path.write_bytes(data)

        found, damages = what_is_left(tmp_path)

        assert f"its kept value is lost: the journal is damaged: {path} at offset {starts[1]}: the check" in str(
            found[2]
        )
        assert [(place.offset, place.reason) for place in damages] == [(starts[1], "the checksum of a frame is wrong")]

    def test_a_damaged_index_does_not_move_the_next_session_far_away(self, tmp_path: Path) -> None:
        path, starts = three_frames(tmp_path)
        data = bytearray(path.read_bytes())
        data[starts[1] + 14] ^= 1  # the seventh byte of the index
        path.write_bytes(data)

        reader, damages = reader_of(tmp_path)

        assert reader.index == 3
        assert [place.offset for place in damages] == [starts[1]]

    def test_a_file_cut_anywhere_gives_the_values_before(self, tmp_path: Path) -> None:
        path, starts = three_frames(tmp_path)
        data = path.read_bytes()

        for cut in range(len(data)):
            path.write_bytes(data[:cut])
            found, damages = what_is_left(tmp_path)
            whole = sum(1 for stop in [*starts[1:], len(data)] if stop <= cut)

            assert found[: 2 * whole] == THREE[: 2 * whole]
            assert all(isinstance(value, ValueMissing) for value in found[2 * whole :])
            assert damages == []

    def test_a_file_cut_in_one_session_is_followed_by_that_of_the_next(self, tmp_path: Path) -> None:
        path, _ = three_frames(tmp_path)
        path.write_bytes(path.read_bytes()[:-1])
        before, _ = reader_of(tmp_path)
        kept(tmp_path, ["new"], count=1, index=before.index)

        reader, damages = reader_of(tmp_path)

        assert (reader.count, reader.index, damages) == (2, 3, [])
        assert reader.read(Place(3, 0)) == "new"

    def test_frames_that_were_written_twice_are_read_once(self, tmp_path: Path) -> None:
        path, starts = three_frames(tmp_path)
        segment(tmp_path, 2).write_bytes(path.read_bytes()[starts[1] :])
        segment(tmp_path, 2).chmod(0o600)

        assert what_is_left(tmp_path) == (THREE, [])
        assert reader_of(tmp_path)[0].index == 3

    def test_a_record_of_another_kind_is_no_result(self, tmp_path: Path) -> None:
        path, starts = three_frames(tmp_path)
        with path.open("r+b") as file:
            file.truncate(starts[2])
            file.seek(starts[2])
            file.write(encode_frame(2, Ran(1, 1, 1, [1], [2])))

        found, _ = what_is_left(tmp_path)

        assert found[:4] == THREE[:4]
        assert "no result stands there" in str(found[4])

    def test_a_damaged_frame_is_looked_at_once(self, tmp_path: Path) -> None:
        path, starts = three_frames(tmp_path)
        data = bytearray(path.read_bytes())
        data[starts[1] + HEADER_BYTES] ^= 1
        path.write_bytes(data)
        reader, damages = reader_of(tmp_path)
        with pytest.raises(ValueMissing) as first:
            reader.read(Place(2, 0))
        path.unlink()

        with pytest.raises(ValueMissing) as second:
            reader.read(Place(2, 1))

        assert str(first.value) == str(second.value)
        assert len(damages) == 1


class TestWhoseFile:
    def test_a_file_of_somebody_else_is_refused(self, tmp_path: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("run it as root, who may give files away")
        path, _ = three_frames(tmp_path)
        os.chown(path, NOBODY_UID, -1)

        with pytest.raises(JournalError, match=f"{path} can be written by others, so its values are not read"):
            reader_of(tmp_path)

    @pytest.mark.parametrize("mode", [0o620, 0o602])
    def test_a_file_that_others_can_write_is_refused(self, mode: int, tmp_path: Path) -> None:
        path, _ = three_frames(tmp_path)
        path.chmod(mode)

        with pytest.raises(JournalError, match="chmod go-w it if it is yours"):
            reader_of(tmp_path)

    def test_only_the_owner_may_look(self, tmp_path: Path) -> None:
        path, _ = three_frames(tmp_path)

        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
