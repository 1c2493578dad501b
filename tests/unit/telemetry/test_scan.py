"""Walking through segments: sessions that follow one another, frames twice, and going on behind damage."""

from __future__ import annotations

import tempfile
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsody.errors import JournalError
from rhapsody.model.event import State
from rhapsody.telemetry.frames import Entered, decode_record, encode_frame
from rhapsody.telemetry.reader import Changes, JournalReader
from rhapsody.telemetry.scan import JournalTail, Scan
from tests.unit.telemetry.twin import a_small_run, offsets_of, only_segment

if TYPE_CHECKING:
    from collections.abc import Iterable

OLD, NEW = 1_000, 2_000


def frame(index: int, mark: int) -> bytes:
    return encode_frame(index, Entered(1, State.READY, index, 0, mark, []))


def write(folder: Path, number: int, indices: Iterable[int], mark: int = OLD, suffix: str = ".log") -> Path:
    """Write a segment of frames that carry a mark."""
    path = folder / f"{number:06d}{suffix}"
    path.write_bytes(b"".join(frame(index, mark) for index in indices))
    return path


def add(path: Path, data: bytes) -> int:
    """Write behind what is there; return where."""
    offset = path.stat().st_size
    with path.open("ab") as file:
        file.write(data)
    return offset


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def found_by(scan: Scan) -> list[tuple[int, int]]:
    """Return index and mark of each frame."""
    found = []
    for _, each in scan:
        record = decode_record(each.payload)
        assert isinstance(record, Entered)
        assert record.numbers == each.index
        assert isinstance(record.times_ns, int)
        found.append((each.index, record.times_ns))
    return found


def told_by(folder: Path) -> tuple[list[tuple[int, int]], list[JournalTail], JournalTail | None]:
    """Return index and mark of each frame, the damages that were told, and the tail."""
    damages: list[JournalTail] = []
    scan = Scan(folder, on_damage=damages.append)
    return found_by(scan), damages, scan.tail


def marked(mark: int, *indices: int) -> list[tuple[int, int]]:
    return [(index, mark) for index in indices]


class TestSegments:
    def test_segments_follow_one_another(self, tmp_path: Path) -> None:
        for number, first in enumerate((0, 3, 6), 1):
            write(tmp_path, number, range(first, first + 3))

        assert told_by(tmp_path) == (marked(OLD, *range(9)), [], None)

    def test_files_of_other_names_are_left_alone(self, tmp_path: Path) -> None:
        write(tmp_path, 1, range(3))
        (tmp_path / "synced").write_text("7")
        (tmp_path / "left.1.0.log").write_bytes(b"of somebody else")
        write(tmp_path, 1, range(50), suffix=".kept")

        assert told_by(tmp_path) == (marked(OLD, 0, 1, 2), [], None)

    def test_the_suffix_says_which_segments(self, tmp_path: Path) -> None:
        write(tmp_path, 1, range(3))
        write(tmp_path, 1, range(2), NEW, ".kept")

        assert found_by(Scan(tmp_path, ".kept")) == marked(NEW, 0, 1)

    @pytest.mark.parametrize("number", [1, 2])
    def test_a_missing_segment_is_named_even_if_damage_is_only_told(self, number: int, tmp_path: Path) -> None:
        for each in (1, 2, 3):
            write(tmp_path, each, [each - 1]).touch()
        (tmp_path / f"{number:06d}.log").unlink()

        with pytest.raises(JournalError, match=rf"{tmp_path}/00000{number}\.log is missing, but 000003\.log is there"):
            told_by(tmp_path)

    def test_an_empty_journal_says_so(self, tmp_path: Path) -> None:
        write(tmp_path, 1, [])

        assert told_by(tmp_path) == ([], [], JournalTail("000001.log", 0, "the journal is empty"))


class TestNextSession:
    def test_what_was_torn_off_is_no_damage_when_the_next_session_goes_on_there(self, tmp_path: Path) -> None:
        add(write(tmp_path, 1, range(3)), frame(3, OLD)[:-1])
        write(tmp_path, 2, [3, 4], NEW)

        assert told_by(tmp_path) == (marked(OLD, 0, 1, 2) + marked(NEW, 3, 4), [], None)
        assert found_by(Scan(tmp_path)) == marked(OLD, 0, 1, 2) + marked(NEW, 3, 4)

    def test_what_an_old_session_writes_afterwards_does_not_count(self, tmp_path: Path) -> None:
        old = write(tmp_path, 1, range(3))
        write(tmp_path, 2, [3, 4], NEW)
        add(old, frame(3, OLD) + frame(4, OLD) + frame(5, OLD) + b"torn")

        assert told_by(tmp_path) == (marked(OLD, 0, 1, 2) + marked(NEW, 3, 4), [], None)

    def test_three_sessions_follow_one_another(self, tmp_path: Path) -> None:
        write(tmp_path, 1, range(6))
        write(tmp_path, 2, range(3, 9), NEW)
        write(tmp_path, 3, range(5, 7), 3_000)

        assert told_by(tmp_path)[0] == marked(OLD, 0, 1, 2) + marked(NEW, 3, 4) + marked(3_000, 5, 6)

    def test_a_session_that_died_before_its_first_frame_is_passed_over(self, tmp_path: Path) -> None:
        write(tmp_path, 1, range(3))
        add(write(tmp_path, 2, []), frame(3, NEW)[:5])
        write(tmp_path, 3, [3, 4], 3_000)

        assert told_by(tmp_path) == (marked(OLD, 0, 1, 2) + marked(3_000, 3, 4), [], None)

    def test_frames_that_were_written_once_more_come_once(self, tmp_path: Path) -> None:
        write(tmp_path, 1, range(6))
        write(tmp_path, 2, range(4, 9), NEW)

        assert told_by(tmp_path) == (marked(OLD, 0, 1, 2, 3) + marked(NEW, 4, 5, 6, 7, 8), [], None)

    def test_what_is_written_once_more_while_somebody_reads_comes_once(self, tmp_path: Path) -> None:
        write(tmp_path, 1, range(6))
        scan = Scan(tmp_path)
        before = found_by(scan)
        write(tmp_path, 2, range(4, 9), NEW)

        assert before + found_by(scan) == marked(OLD, *range(6)) + marked(NEW, 6, 7, 8)


class TestReadingOn:
    def test_what_was_written_since_comes_at_the_next_look(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1, range(2))
        scan = Scan(tmp_path)

        first = found_by(scan)
        add(path, frame(2, OLD))
        second = found_by(scan)
        write(tmp_path, 2, [3], NEW)
        third = found_by(scan)

        assert (first, second, third) == (marked(OLD, 0, 1), marked(OLD, 2), marked(NEW, 3))
        assert found_by(scan) == []
        assert scan.index == 4

    def test_a_frame_that_is_being_written_comes_when_it_is_whole(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1, [0])
        whole = frame(1, OLD)
        offset = add(path, whole[:11])
        damages: list[JournalTail] = []
        scan = Scan(tmp_path, on_damage=damages.append)

        first, tail = found_by(scan), scan.tail
        add(path, whole[11:])
        second = found_by(scan)

        assert (first, second) == (marked(OLD, 0), marked(OLD, 1))
        assert tail == JournalTail("000001.log", offset, "the header of a frame breaks off")
        assert (scan.tail, damages) == (None, [])

    def test_what_is_written_behind_damage_comes_too(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1, range(3))
        damages: list[JournalTail] = []
        scan = Scan(tmp_path, on_damage=damages.append)
        overwrite(path, offsets_of(path)[1] + 2, b"?")

        first = found_by(scan)
        add(path, frame(3, OLD))
        second = found_by(scan)

        assert (first, second) == (marked(OLD, 0, 2), marked(OLD, 3))
        assert len(damages) == 1

    def test_who_stops_half_way_goes_on_from_there(self, tmp_path: Path) -> None:
        write(tmp_path, 1, range(3))
        write(tmp_path, 2, range(3, 6), NEW)
        scan = Scan(tmp_path)

        for _, found in scan:
            if found.index == 3:
                break

        assert found_by(scan) == marked(NEW, 4, 5)


class TestDamage:
    def test_it_goes_on_behind_damage_and_tells_where_it_was(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1, range(5))
        starts = offsets_of(path)
        overwrite(path, starts[1] + 25, b"\xff")
        overwrite(path, starts[3] + 2, b"\xff")

        found, damages, tail = told_by(tmp_path)

        assert found == marked(OLD, 0, 2, 4)
        assert damages == [
            JournalTail("000001.log", starts[1], "the checksum of a frame is wrong"),
            JournalTail("000001.log", starts[3], "no frame begins here"),
        ]
        assert tail is None

    def test_damage_in_each_segment_is_told(self, tmp_path: Path) -> None:
        paths = [write(tmp_path, number, range(3 * number - 3, 3 * number)) for number in (1, 2, 3)]
        for path in paths:
            overwrite(path, offsets_of(path)[1], b"\0" * 8)

        found, damages, _ = told_by(tmp_path)

        assert found == marked(OLD, 0, 2, 3, 5, 6, 8)
        assert [place.segment for place in damages] == ["000001.log", "000002.log", "000003.log"]

    def test_frames_that_are_missing_before_the_next_segment_are_told(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1, range(3))
        write(tmp_path, 2, [5, 6], NEW)

        found, damages, _ = told_by(tmp_path)

        assert found == marked(OLD, 0, 1, 2) + marked(NEW, 5, 6)
        assert damages == [JournalTail("000001.log", path.stat().st_size, "frames 3 to 4 are missing")]

    def test_missing_frames_are_an_error_to_who_does_not_listen(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1, range(3))
        write(tmp_path, 2, [5, 6], NEW)

        with pytest.raises(JournalError, match=f"{path} at offset {path.stat().st_size}: frames 3 to 4 are missing"):
            found_by(Scan(tmp_path))

    def test_a_damaged_end_of_a_session_hides_nothing_of_the_next(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1, range(4))
        starts = offsets_of(path)
        overwrite(path, starts[3] + 25, b"\xff")
        write(tmp_path, 2, [4, 5], NEW)

        found, damages, tail = told_by(tmp_path)

        assert found == marked(OLD, 0, 1, 2) + marked(NEW, 4, 5)
        assert [(place.segment, place.reason) for place in damages] == [("000001.log", "frames 3 to 3 are missing")]
        assert tail is None

    def test_a_damaged_beginning_of_a_session_is_told_and_what_follows_counts(self, tmp_path: Path) -> None:
        write(tmp_path, 1, range(3))
        second = write(tmp_path, 2, [3, 4, 5], NEW)
        overwrite(second, 0, b"\0")

        found, damages, _ = told_by(tmp_path)

        assert found == marked(OLD, 0, 1, 2) + marked(NEW, 4, 5)
        assert damages == [JournalTail("000002.log", 0, "no frame begins here")]

    def test_rubbish_behind_the_last_frame_is_the_tail_and_no_damage(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1, range(2))
        offset = add(path, bytes(100))

        assert told_by(tmp_path) == (marked(OLD, 0, 1), [], JournalTail("000001.log", offset, "no frame begins here"))

    def test_an_older_frame_that_stands_once_more_is_left_out(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1, range(3))
        offset = add(path, frame(1, NEW) + frame(3, OLD))

        found, damages, _ = told_by(tmp_path)

        assert found == marked(OLD, 0, 1, 2, 3)
        assert [place.offset for place in damages] == [offset]


def told_of_run(folder: Path) -> tuple[list[tuple[int, State, int, int, str]], list[JournalTail]]:
    """Return what is left of the events of a run, and the places that were told, the tail included."""
    places: list[JournalTail] = []
    reader = JournalReader(folder, places.append)
    events: list[tuple[int, State, int, int, str]] = []
    for found in reader:
        if isinstance(found, Changes):
            columns = (found.numbers, repeat(found.state), found.attempts, found.times, found.details)
            events += zip(*columns, strict=False)
    return events, [*places, *([reader.tail] if reader.tail else [])]


@cache
def a_run() -> tuple[bytes, list[int], list[tuple[int, State, int, int, str]]]:
    """Return a run's journal, where its frames begin, and its events."""
    with tempfile.TemporaryDirectory() as name:
        a_small_run(Path(name))
        path = only_segment(Path(name))
        return path.read_bytes(), offsets_of(path), told_of_run(Path(name))[0]


@st.composite
def damaged_runs(draw: st.DrawFn) -> bytes:
    """Make journals with rubbish, or with frames of their own, anywhere: between and in place of what was there."""
    whole, starts, _ = a_run()
    copied = st.builds(lambda first, size: whole[first : first + size], st.sampled_from(starts), st.integers(1, 900))
    damaged = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(whole) - 1))
        rubbish = draw(st.one_of(st.binary(min_size=1, max_size=50), copied))
        damaged[at : at + draw(st.integers(0, len(rubbish)))] = rubbish
    return bytes(damaged)


class TestWhateverHappens:
    @settings(max_examples=200, deadline=None)
    @given(damaged=damaged_runs())
    def test_every_event_that_is_left_is_a_right_one_and_the_damage_is_told_with_its_place(
        self, damaged: bytes
    ) -> None:
        whole, starts, right = a_run()
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "journal").mkdir()
            (Path(name) / "journal" / "000001.log").write_bytes(damaged)
            left, places = told_of_run(Path(name))

        differs = next(
            (at for at, (old, new) in enumerate(zip(whole, damaged, strict=False)) if old != new), len(whole)
        )
        remaining = iter(right)
        assert all(event in remaining for event in left)  # in their order, each once
        if damaged != whole:
            assert places[0].segment == "000001.log"
            assert places[0].offset == max(start for start in [*starts, len(whole)] if start <= differs)

    def test_every_flipped_bit_costs_one_frame(self, tmp_path: Path) -> None:
        a_small_run(tmp_path)
        path = only_segment(tmp_path)
        data, starts = path.read_bytes(), offsets_of(path)

        for bit in range(8 * len(data)):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            damages: list[JournalTail] = []
            scan = Scan(path.parent, on_damage=damages.append)
            indices = [each.index for _, each in scan]
            hit = max(at for at, start in enumerate(starts) if start <= bit // 8)
            places = [*damages, *([scan.tail] if scan.tail else [])]

            assert indices == [at for at in range(len(starts)) if at != hit]
            assert [(place.segment, place.offset) for place in places] == [("000001.log", starts[hit])]
