"""Fingerprints: equal for what is equal, in this process and in another, and different for what is not."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhapsody.model import fingerprint
from rhapsody.model.array import ArrayTask
from rhapsody.model.fingerprint import Codes, inputs_of
from rhapsody.model.resources import Resources
from rhapsody.model.task import ComputeTask, Task
from tests.unit.model.script import code_of

if TYPE_CHECKING:
    from collections.abc import Callable

CHILD = """
    import sys
    sys.path[:0] = [{root!r}]
    from tests.unit.model.test_fingerprint import printed
    print(printed())
"""


def inputs(*args: object, **options: Any) -> bytes:  # noqa: ANN401 - of the task
    return inputs_of(ComputeTask(len, args=args, **options), ())


class Point:
    """A user's object."""

    def __init__(self, x: int, y: object = None) -> None:
        self.x, self.y = x, y

    def moved(self) -> Point:
        return Point(self.x + 1)


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: int) -> None:
        self.x = x


class Reduced:
    """Says itself what it is rebuilt from; what else it has does not count."""

    def __init__(self, x: int) -> None:
        self.x = x
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Reduced], tuple[int]]:
        return Reduced, (self.x,)


class Spiteful:
    """Cannot be taken apart."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> str:
        raise self.error


def helper(value: int) -> int:
    return value + 1


def work(value: int) -> int:
    return helper(value)


NAMES = frozenset(f"name-{at}" for at in range(100))


def of_names(value: str) -> bool:
    return value in {"ab", "cd", "ef", "gh", "ij", "kl"}


def printed() -> str:
    """Return fingerprints that must be the same in every process."""
    captured = {"set": set(NAMES), "at": 5}
    functions: list[Callable[..., Any]] = [
        work,
        of_names,
        lambda: captured,
        partial(work, 3),
        ", ".join,
        Point(1, NAMES).moved,
        len,
    ]
    values = [
        set(NAMES),
        {name: len(name) for name in NAMES},
        {"deep": [{"er": NAMES}, Point(1, {NAMES, frozenset({work, of_names})})]},
        [Path("/data"), 1.5, "ä", b"raw", None, Reduced(4)],
        (1, "plain"),
    ]
    found = [code_of(function) for function in functions] + [inputs(value) for value in values]
    assert all(found)
    return " ".join(each.hex() for each in found)


class TestAnotherProcess:
    @pytest.mark.parametrize("seed", ["0", "1", "4711"])
    def test_fingerprints_are_the_same_in_another_process(self, seed: str) -> None:
        child = textwrap.dedent(CHILD).format(root=str(Path(__file__).parents[3]))

        said = subprocess.run(
            [sys.executable, "-c", child],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )

        assert said.stderr == ""
        assert said.stdout.strip() == printed()


class TestWhatRuns:
    def test_functions_of_other_names_are_told_apart(self) -> None:
        callables: list[Callable[..., Any]] = [
            len, max, str.upper, str.lower, dict.fromkeys, Point, Slotted, partial(max, 1), partial(max, 2),
            partial(max, default=1), lambda: 1, lambda: 2, work, helper, Point(1).moved, Point(2).moved,
        ]  # fmt: skip

        assert len({code_of(each) for each in callables}) == len(callables)

    def test_code_is_looked_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        codes = Codes()
        first = codes.of(ComputeTask(work))
        monkeypatch.setattr(fingerprint, "_Writer", None)

        assert codes.of(ComputeTask(work)) == first
        assert codes.of(ComputeTask(helper)) == b""

    def test_a_function_at_the_address_of_one_that_is_gone_is_not_taken_for_it(self) -> None:
        codes = Codes()

        found = {codes.of(ComputeTask(FunctionType(work.__code__, {}, argdefs=(at,)))) for at in range(50)}

        assert len(found) == 50

    def test_what_a_builtin_method_is_bound_to_counts(self) -> None:
        assert code_of(", ".join) == code_of(", ".join)
        assert code_of(", ".join) != code_of("; ".join)

    def test_executables_are_told_apart_by_name(self) -> None:
        assert code_of("true") == code_of("true") != code_of("false")

    @pytest.mark.parametrize("what", ["true", work])
    def test_ranks_count(self, what: Callable[..., Any] | str) -> None:
        wanted = [Resources(), Resources(mpi=True), Resources(ranks=2), Resources(ranks=3)]

        assert len({code_of(what, resources=resources) for resources in wanted}) == 4

    def test_cores_do_not_count(self) -> None:
        assert code_of(work, resources=Resources(cores_per_rank=2)) == code_of(work)

    def test_how_often_and_how_long_it_is_tried_does_not_count(self) -> None:
        plain = ComputeTask(work, args=(1,))
        other = ComputeTask(work, args=(1,), retry=3, timeout_s=5, idempotent=True, duration_s=2, priority=4, uid="x")

        assert (Codes().of(plain), inputs_of(plain, ())) == (Codes().of(other), inputs_of(other, ()))

    def test_an_array_task_has_the_code_of_its_function(self) -> None:
        assert Codes().of(ArrayTask(work, [1])) == code_of(work)

    def test_what_neither_calls_nor_executes_has_no_fingerprint(self) -> None:
        task = Task(None, Resources(), 0, ComputeTask(work).options)

        assert (Codes().of(task), inputs_of(task, ())) == (b"", b"")


class TestInputs:
    @pytest.mark.parametrize(
        "value",
        [
            {"a", "b"}, frozenset({1, 2}), {"a": {1: [2]}}, [[1], [2]], ([],), Point(1, [2]), Slotted(3), Reduced(4),
            range(5), Path("/x"), bytearray(b"x"), 1 + 2j, Point, work, partial(work, 1), slice(1, 2), ..., Resources(),
            __import__("re").compile("a+"),
        ],
    )  # fmt: skip
    def test_an_equal_value_has_the_same_fingerprint(self, value: object) -> None:
        assert inputs(value) == inputs(copy.deepcopy(value)) != b""

    def test_different_values_have_different_fingerprints(self) -> None:
        values: list[object] = [
            1, 1.0, True, "1", b"1", bytearray(b"1"), None, 0.0, -0.0, [], (), {}, set(), [[]], [()], [1], (1,), {1},
            {1: None}, [1, [2]], [[1], 2], [[1, 2]], {"a": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}, Point(1), Point(2),
            Point(1, Point(1)), Slotted(1), Reduced(1), Reduced(2), Point, work, helper, range(3), "x" * 100, "y" * 100,
            __import__("re").compile("a"), __import__("re").compile("b"), {"a": b"again 0"}, [Point(1), Point(2)],
        ]  # fmt: skip

        assert len({inputs(value) for value in values}) == len(values)

    def test_sets_and_dicts_may_be_in_any_order(self) -> None:
        forth, back = list(range(0, 4_000, 7)), list(range(0, 4_000, 7))[::-1]

        assert inputs({str(at): [at] for at in forth}) == inputs({str(at): [at] for at in back})
        assert inputs({(at, "x") for at in forth}) == inputs({(at, "x") for at in back})

    def test_how_arguments_are_given_counts(self) -> None:
        tasks = [
            ComputeTask(work, args=("a",)),
            ComputeTask(work, kwargs={"a": "a"}),
            ComputeTask(work, kwargs={"b": "a"}),
            ComputeTask(work, arguments=("a",)),
            ComputeTask(work, args=("a",), env={"A": "1"}),
            ComputeTask(work, args=("a",), env={"A": "2"}),
            ComputeTask(work, args=("a",), cwd="/tmp"),  # noqa: S108 - nothing is written there
            ArrayTask(work, ["a"]),
            ArrayTask(work, ["a", "b"]),
        ]

        assert len({inputs_of(task, ()) for task in tasks}) == len(tasks)

    def test_what_a_task_depends_on_counts_by_its_position(self) -> None:
        first, second = ComputeTask(work), ComputeTask(work)

        one = inputs_of(ComputeTask(work, args=(first, [second])), (first, second))
        same = inputs_of(ComputeTask(work, args=(second, [first])), (second, first))
        other = inputs_of(ComputeTask(work, args=(second, [first])), (first, second))
        ordered = inputs_of(ComputeTask(work, after=[first, second]), (first, second))

        assert one == same
        assert len({one, other, ordered, b""}) == 4

    def test_a_gathering_of_very_many_tasks_has_a_fingerprint(self) -> None:
        tasks = [ComputeTask(work) for _ in range(10_001)]

        one = inputs_of(ComputeTask(sum, args=(tasks,)), tasks)
        other = inputs_of(ComputeTask(sum, args=(tasks[:-1],)), tasks[:-1])

        assert len({one, other, b""}) == 3

    def test_long_lists_and_dicts_are_compared_by_what_is_in_them(self) -> None:
        rows = [[at, [at]] for at in range(10_001)]

        one, same = inputs(rows), inputs(copy.deepcopy(rows))
        rows[-1][0] = -1

        assert one == same
        assert len({one, inputs(rows), inputs(dict(enumerate(rows))), b""}) == 4

    def test_objects_that_hold_themselves_have_a_fingerprint(self) -> None:
        def ring(last: int) -> list[object]:
            found: list[object] = [Point(1), last]
            found.append({"again": found})
            return found

        assert inputs(ring(1)) == inputs(ring(1)) != b""
        assert inputs(ring(1)) != inputs(ring(2))

    def test_what_holds_the_same_object_twice_is_equal_to_what_holds_equal_ones(self) -> None:
        one = Point(1)

        assert inputs([one, one]) == inputs([one, Point(1)])

    def test_numpy_arrays_are_compared_by_type_shape_and_numbers(self) -> None:
        np = pytest.importorskip("numpy", reason="pip install numpy")
        flat = np.arange(6.0)

        assert inputs(flat) == inputs(flat.copy()) != b""
        others = [flat, flat.reshape(2, 3), flat.astype("f4"), flat + 1, flat[::2], np.float64(1), np.float32(1)]
        assert len({inputs(value) for value in others}) == len(others)


class TestWhatCannotBeTakenApart:
    @pytest.mark.parametrize(
        "value",
        [
            threading.Lock(),
            [1, {"deep": threading.Lock()}],
            Spiteful(RuntimeError("no")),
            Spiteful(SystemExit(3)),
            (each for each in [1]),
        ],
    )
    def test_it_has_no_fingerprint_and_nothing_is_raised(self, value: object) -> None:
        assert inputs(value) == b""
        assert code_of(lambda: value) == b""

    def test_what_is_nested_too_deep_has_no_fingerprint(self) -> None:
        deep: list[object] = []
        for _ in range(100_000):
            deep = [deep]

        assert inputs(deep) == b""

    def test_a_web_of_objects_has_no_fingerprint_and_takes_no_time_without_end(self) -> None:
        web = [Point(at) for at in range(40)]
        for point in web:
            point.y = [each for each in web if each is not point]

        assert inputs(web) == b""

    def test_a_task_that_is_too_deep_to_be_found_has_no_fingerprint(self) -> None:
        hidden = ComputeTask(work)

        assert inputs([[[[[hidden]]]]]) == b""

    def test_an_interrupt_is_passed_on(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            inputs(Spiteful(KeyboardInterrupt()))


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary())
KEYS = st.one_of(st.integers(), st.text(max_size=4), st.tuples(st.integers(), st.text(max_size=3)))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.sets(KEYS, max_size=4),
        st.builds(Point, st.integers(), inner),
    ),
    max_leaves=12,
)


def spelled_out(value: object) -> object:
    """Return something that compares as values should: with their types, dicts and sets in any order."""
    if isinstance(value, Point):
        return "point", spelled_out(value.x), spelled_out(value.y)
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(map(spelled_out, value))
    if isinstance(value, set):
        return "set", frozenset(map(spelled_out, value))
    if isinstance(value, dict):
        return "dict", frozenset((spelled_out(key), spelled_out(item)) for key, item in value.items())
    return type(value).__name__, repr(value)


class TestProperties:
    @given(value=VALUES)
    def test_equal_values_have_equal_fingerprints(self, value: object) -> None:
        copied = pickle.loads(pickle.dumps(value))  # noqa: S301 - our own

        assert inputs(value) == inputs(copied) != b""

    @given(one=VALUES, other=VALUES)
    def test_fingerprints_are_equal_exactly_for_equal_values(self, one: object, other: object) -> None:
        assert (inputs(one) == inputs(other)) is (spelled_out(one) == spelled_out(other))
