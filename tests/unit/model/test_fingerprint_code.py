"""Fingerprints of functions: they change with the code and all that it uses, and with nothing else."""

from __future__ import annotations

import pytest

from tests.unit.model.script import FUNCTION, code_of, run_script, script_code


def helper(value: int) -> int:
    return value + 1


class TestCode:
    def test_the_same_text_gives_the_same_code(self) -> None:
        assert script_code() == script_code()

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("first = helper(value)", "first = helper(value + 1)"),
            ("range(value)", "range(value, 9)"),
            ('{"x", "y", "z"}', '{"x", "y", "w"}'),
            ("RATE = 0.5", "RATE = 0.25"),
            ("LIMITS = (1, 2)", "LIMITS = (1, 2.0)"),
            ("most=10", "most=11"),
            ("least=0", "least=None"),
            ("return value + RATE", "return value - RATE"),
            ("return value - 1", "return value - 2"),
            ("value.strip()", "value.lstrip()"),
            ("self.size ** 2", "self.size ** 3"),
            ("size = 3", "size = 4"),
            ('("a", "b")', '("a", "c")'),
            ("except ValueError:\n            return None\n        else:\n            second = Model(first)",
             "    second = Model(first)\n        except ValueError:\n            return None"),
        ],
    )  # fmt: skip
    def test_changed_code_is_noticed(self, old: str, new: str) -> None:
        assert script_code(old, new) != script_code()

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("RATE = 0.5", "\n\n\n    RATE = 0.5  # a half"),
            ("first = helper(value)", "# help it\n\n            first = (helper(value))"),
            ('"changes": "while it runs"', '"changes": "all the time"'),
            ("def helper", "def unused():\n        return 4\n\n    def helper"),
        ],
    )
    def test_lines_comments_and_what_is_not_used_do_not_count(self, old: str, new: str) -> None:
        assert script_code(old, new) == script_code()

    def test_the_name_of_the_file_does_not_count(self) -> None:
        one, other = (run_script(FUNCTION, file=file)["function"] for file in ("a.py", "/else/where/b.py"))

        assert code_of(one) == code_of(other)

    @pytest.mark.parametrize("name", ["method", "object", "partial", "child"])
    def test_a_changed_method_of_the_script_is_noticed(self, name: str) -> None:
        assert script_code("self.weight * value", "self.weight + value", name) != script_code(name=name)

    @pytest.mark.parametrize(
        ("name", "old", "new"),
        [
            ("method", "self.weight * value", "self.weight + value"),
            ("object", "return value - 1", "return value - 2"),
            ("partial", "return value - 1", "return value - 2"),
            ("cached", "first = helper(value)", "first = helper(value + 1)"),
            ("closure", "inner + value", "inner - value"),
        ],
    )
    def test_changed_code_in_an_imported_module_is_noticed(self, name: str, old: str, new: str) -> None:
        assert script_code(old, new, name, "my_library") != script_code(name=name, module="my_library")

    def test_a_cached_helper_counts(self) -> None:
        text = (
            "from functools import cache\n@cache\ndef helper(n):\n    return {}\ndef function():\n    return helper(1)"
        )

        one, other = (code_of(run_script(text.format(what))["function"]) for what in ("n", "-n"))

        assert one != other

    def test_what_a_function_closes_over_counts(self) -> None:
        outer = run_script(FUNCTION)["outer"]

        assert code_of(outer(1)) == code_of(outer(1))
        assert len({code_of(outer(value)) for value in (1, 1.0, True, "1", [1], {1}, helper)}) == 7

    def test_what_a_method_is_bound_to_counts(self) -> None:
        one, same, other = (code_of(run_script(FUNCTION)["Model"](weight).predict) for weight in (2, 2, 3))

        assert one == same
        assert one != other

    def test_functions_that_call_one_another_have_a_fingerprint(self) -> None:
        text = "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n {} 0 and even(n - 1)"

        one, other = (code_of(run_script(text.format(sign))["even"]) for sign in ("!=", ">"))

        assert one
        assert one != other

    def test_a_script_whose_functions_all_use_each_other_is_taken_apart_once(self) -> None:
        calls = " + ".join(f"f{at}(n)" for at in range(60))
        text = "\n".join(f"def f{at}(n):\n    return {at} + {calls}" for at in range(60))

        assert code_of(run_script(text)["f0"]) == code_of(run_script(text)["f0"]) != b""
        assert code_of(run_script(text.replace("59 +", "58 +"))["f0"]) != code_of(run_script(text)["f0"])
