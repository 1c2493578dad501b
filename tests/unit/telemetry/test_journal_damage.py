"""Damaged journals: what was recorded comes back up to the damage, never anything else."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsody.errors import JournalError
from rhapsody.model.event import Event, State
from rhapsody.model.task import ComputeTask
from rhapsody.telemetry import frames
from rhapsody.telemetry.reader import JournalTail, read_events, read_run, read_tasks
from tests.unit.telemetry.twin import Twin, a_small_run, noop, offsets_of, only_segment


def read_until_damage(folder: Path) -> tuple[list[Event], list[JournalTail], str]:
    """Return the events, where the journal breaks off, and the text of the error."""
    events: list[Event] = []
    tails: list[JournalTail] = []
    try:
        events.extend(read_events(folder, tails.append))  # keeps what came before an error
    except JournalError as exc:
        return events, tails, str(exc)
    return events, tails, ""


def several_segments(folder: Path) -> Twin:
    """Return a closed journal of four segments, each with events."""
    twin = Twin(folder, segment_bytes=100)
    for moment in range(4):
        twin.accepted([ComputeTask(noop, uid=f"a-long-uid-number-{moment}-{at}") for at in range(4)], moment)
        twin.journal.commit()
    twin.journal.close()
    return twin


def append_frame(folder: Path, index: int, record: frames.AnyRecord) -> int:
    """Write a frame with a right checksum behind the others; return its offset."""
    path = only_segment(folder)
    offset = path.stat().st_size
    with path.open("ab") as file:
        file.write(frames.encode_frame(index, record))
    return offset


class TestTail:
    def test_a_journal_cut_anywhere_gives_the_events_before(self, tmp_path: Path) -> None:
        twin = a_small_run(tmp_path)
        path = only_segment(tmp_path)
        data, starts = path.read_bytes(), offsets_of(path)
        seen = set()

        for cut in range(len(data)):
            path.write_bytes(data[:cut])
            events, tails, error = read_until_damage(tmp_path)
            torn_at = max(start for start in starts if start <= cut)

            assert error == ""
            assert events == twin.expected[: len(events)]
            assert [(tail.segment, tail.offset) for tail in tails] == (
                [("000001.log", torn_at)] if cut not in starts or cut == 0 else []
            )
            seen.add(len(events))

        assert seen == {0, 4, 7, 10, 13, 14, 18}  # a frame is there as a whole or not at all

    def test_zeros_behind_the_last_frame_are_told_as_tail(self, tmp_path: Path) -> None:
        twin = a_small_run(tmp_path)
        path = only_segment(tmp_path)
        size = path.stat().st_size
        with path.open("ab") as file:
            file.write(bytes(4096))

        events, tails, error = read_until_damage(tmp_path)

        assert (events, error) == (twin.expected, "")
        assert tails == [JournalTail("000001.log", size, "no frame begins here")]

    def test_a_torn_new_segment_is_told_as_tail(self, tmp_path: Path) -> None:
        twin = several_segments(tmp_path)
        last = tmp_path / "journal" / "000004.log"
        last.write_bytes(last.read_bytes()[:9])

        events, tails, error = read_until_damage(tmp_path)

        assert (events, error) == (twin.expected[:12], "")
        assert tails == [JournalTail("000004.log", 0, "the header of a frame breaks off")]

    def test_a_journal_cut_before_its_description_says_so(self, tmp_path: Path) -> None:
        a_small_run(tmp_path)
        path = only_segment(tmp_path)
        path.write_bytes(path.read_bytes()[:30])

        with pytest.raises(JournalError, match="breaks off before it says what run it is"):
            read_run(tmp_path)


class TestDamage:
    def test_every_flipped_bit_is_found(self, tmp_path: Path) -> None:
        twin = a_small_run(tmp_path)
        path = only_segment(tmp_path)
        data, starts = path.read_bytes(), offsets_of(path)

        for bit in range(8 * len(data)):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            events, tails, error = read_until_damage(tmp_path)
            offset = max(start for start in starts if start <= bit // 8)

            assert events == twin.expected[: len(events)]
            if offset == starts[-1]:
                assert len(events) == len(twin.expected) - 1
                assert [(tail.segment, tail.offset) for tail in tails] == [("000001.log", offset)]
            else:
                assert f"{path} at offset {offset}:" in error

    @settings(max_examples=150, deadline=None)
    @given(data=st.data())
    def test_whatever_is_written_over_the_journal_no_wrong_event_comes_back(self, data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as name:
            twin = a_small_run(Path(name))
            path = only_segment(Path(name))
            whole = path.read_bytes()
            at = data.draw(st.integers(0, len(whole) - 1))
            rubbish = data.draw(st.one_of(st.binary(min_size=1), st.just(whole[: data.draw(st.integers(1, 300))])))
            damaged = whole[:at] + rubbish + whole[at + data.draw(st.integers(0, len(rubbish))) :]
            path.write_bytes(damaged)

            events, tails, error = read_until_damage(Path(name))

        assert events == twin.expected[: len(events)]
        assert damaged == whole or tails or error

    def test_a_lost_frame_is_noticed(self, tmp_path: Path) -> None:
        a_small_run(tmp_path)
        path = only_segment(tmp_path)
        data, starts = path.read_bytes(), offsets_of(path)
        path.write_bytes(data[: starts[2]] + data[starts[3] :])

        _, tails, error = read_until_damage(tmp_path)

        assert f"{path} at offset {starts[2]}: frame 3 stands where frame 2 should" in error
        assert tails == []

    def test_a_damaged_end_of_a_segment_that_is_not_the_last_is_an_error(self, tmp_path: Path) -> None:
        twin = several_segments(tmp_path)
        second = tmp_path / "journal" / "000002.log"
        second.write_bytes(second.read_bytes()[:-1])

        events, tails, error = read_until_damage(tmp_path)

        assert events == twin.expected[:4]
        assert f"{second} at offset 0:" in error
        assert tails == []

    @pytest.mark.parametrize("name", ["000001.log", "000003.log"])
    def test_a_missing_segment_is_named(self, name: str, tmp_path: Path) -> None:
        several_segments(tmp_path)
        (tmp_path / "journal" / name).unlink()

        with pytest.raises(JournalError, match=rf"journal/{name} is missing, but 000004\.log is there"):
            list(read_events(tmp_path))

    def test_a_folder_without_journal_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(JournalError, match=f"there is no journal in {tmp_path}/journal"):
            list(read_events(tmp_path))

    def test_a_segment_that_may_not_be_read_is_named(self, tmp_path: Path) -> None:
        several_segments(tmp_path)
        third = tmp_path / "journal" / "000003.log"
        third.unlink()
        third.mkdir()

        with pytest.raises(JournalError, match=f"cannot read {third}: Is a directory"):
            list(read_events(tmp_path))


class TestWrongContents:
    """Frames whose checksum is right, and whose record is not."""

    @pytest.mark.parametrize(
        "changes",
        [
            {"count": 0},
            {"count": frames.MAX_EVENTS + 1},
            {"numbers": [1]},
            {"numbers": -1},
            {"attempts": [1, 2, 3]},
            {"times_ns": []},
            {"details": ["only one"]},
            {"state": "ASLEEP"},
        ],
    )
    def test_columns_that_do_not_fit_are_refused(self, changes: dict[str, object], tmp_path: Path) -> None:
        a_small_run(tmp_path)
        record = frames.Entered(2, State.FAILED, 1, [1, 1], [5, 6], ["", ""])
        for name, value in changes.items():
            setattr(record, name, value)
        offset = append_frame(tmp_path, 8, record)

        events, _, error = read_until_damage(tmp_path)

        assert len(events) == 19
        assert f"at offset {offset}:" in error

    @pytest.mark.parametrize(
        "changes",
        [
            {"runs": []},
            {"runs": [(1, 0)]},
            {"runs": [(0, 0), (0, 0)]},
            {"runs": [(0, 0), (2, 0)]},
            {"runs": [(0, 99)]},
            {"uids": [(2, "third")]},
            {"lengths": [(2, 5)]},
            {"definitions": [frames.Definition("task", "noop", 0, 0, 1, 0, 0, None, exclusive=False, mpi=False)]},
        ],
    )
    def test_tasks_that_do_not_fit_are_refused(self, changes: dict[str, object], tmp_path: Path) -> None:
        a_small_run(tmp_path)
        record = frames.Accepted(2, 9, 1_000_000, 2, [], [(0, 0)], [], [], ready=False)
        for name, value in changes.items():
            setattr(record, name, value)
        offset = append_frame(tmp_path, 8, record)

        with pytest.raises(JournalError, match=f"at offset {offset}:"):
            list(read_tasks(tmp_path))
        assert f"at offset {offset}:" in read_until_damage(tmp_path)[2]

    @pytest.mark.parametrize("changes", [{"count": 0}, {"numbers": [1]}, {"started_ns": [1]}, {"ended_ns": []}])
    def test_ends_that_do_not_fit_are_refused(self, changes: dict[str, object], tmp_path: Path) -> None:
        a_small_run(tmp_path)
        record = frames.Ran(2, 1, 1, [5, 6], [7, 8])
        for name, value in changes.items():
            setattr(record, name, value)
        offset = append_frame(tmp_path, 8, record)

        assert f"at offset {offset}: " in read_until_damage(tmp_path)[2]
        assert "frames are missing" not in read_until_damage(tmp_path)[2]

    @pytest.mark.parametrize(
        "changes", [{"slots": []}, {"sizes": [1]}, {"sizes": [1, 2]}, {"ranges": [(0, 1)]}, {"slots": [(), ((0, 1),)]}]
    )
    def test_placements_that_do_not_fit_are_refused(self, changes: dict[str, object], tmp_path: Path) -> None:
        a_small_run(tmp_path)
        row = ((0, (1,), ()),)
        record = frames.Placed(2, 9, 1, 1, [row, row], [], [])
        for name, value in changes.items():
            setattr(record, name, value)
        offset = append_frame(tmp_path, 8, record)

        assert f"at offset {offset}:" in read_until_damage(tmp_path)[2]

    def test_a_session_that_was_there_before_is_refused(self, tmp_path: Path) -> None:
        a_small_run(tmp_path)

        offset = append_frame(tmp_path, 8, frames.Run(2, "{}", 1))

        assert f"at offset {offset}: session 1 of the run follows session 1" in read_until_damage(tmp_path)[2]

    def test_a_journal_of_another_schema_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "journal").mkdir()
        (tmp_path / "journal" / "000001.log").write_bytes(frames.encode_frame(0, frames.Run(3, "{}", 1)))

        with pytest.raises(JournalError, match="it is of schema 3, this version reads schema 2"):
            read_run(tmp_path)

    def test_a_frame_that_could_not_be_read_back_is_not_written(self) -> None:
        with pytest.raises(ValueError, match="at most 67108864 are allowed"):
            frames.encode_frame(0, frames.Run(1, "x" * (frames.MAX_PAYLOAD_BYTES + 1), 1))
