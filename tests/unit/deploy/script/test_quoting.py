"""The two ways to put a value into a batch script."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsody.deploy.script.quoting import (
    DIRECTIVES,
    GRAMMARS,
    Expanding,
    Safe,
    check,
    finalize,
    quote,
    quote_expanding,
    shell,
)
from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

WORDS = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def said_by_bash(words: Sequence[str], **variables: str) -> list[str]:
    script = f"printf '%s\\0' {' '.join(words)}" if words else "true"
    done = subprocess.run(["bash", "-uc", script], env=variables, capture_output=True, check=True)  # noqa: S607
    return done.stdout.decode(errors="surrogateescape").split("\0")[:-1]


@settings(max_examples=60, deadline=None)
@given(words=st.lists(WORDS, min_size=1, max_size=30))
def test_a_quoted_word_reaches_the_command_byte_for_byte(words: list[str]) -> None:
    quoted = [quote(word) for word in words]

    assert said_by_bash(quoted) == words
    assert all(word.isprintable() for word in quoted)


def test_every_control_character_and_every_byte_survives_quoting() -> None:
    words = [chr(code) for code in range(1, 256)] + ["\udc80\udcff", "a\udc99b", "\u2028\u202e"]

    assert said_by_bash([quote(word) for word in words]) == words


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("ab$A{}()`\"'\\ ;&|!*?~#\u00e9")))
def test_an_expanding_word_means_names_of_variables_and_for_the_rest_itself(text: str) -> None:
    meant = re.sub(
        r"\$(?:(\w+)|\{(\w+)\})", lambda found: "value" if "A" in found.groups() else "", text, flags=re.ASCII
    )

    assert said_by_bash([quote_expanding(text)], A="value") == [meant]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("/mnt/bb/$USER", "/mnt/bb/me"),
        ("${USER}x:$UNSET:$USER", "mex::me"),
        ("$(touch x)", "$(touch x)"),
        ("`id` $USER", "`id` me"),
        ('"; id; "$USER\\', '"; id; "me\\'),
        ("$1 $$ $? ${USER:-$(id)}$USER", "$1 $$ $? ${USER:-$(id)}me"),
    ],
)
def test_an_expanding_word_takes_all_but_variables_literally(word: str, said: str) -> None:
    assert said_by_bash([quote_expanding(word)], USER="me") == [said]


def test_what_a_variable_holds_is_not_looked_at_again() -> None:
    assert said_by_bash([quote_expanding("$USER/x")], USER="$(id) `id` *; id") == ["$(id) `id` *; id/x"]


@pytest.mark.parametrize("word", ["a\0b", "x" * 100_001, "\ud800"])
def test_a_word_that_no_program_could_get_is_refused(word: str) -> None:
    with pytest.raises(SpecError, match="text"):
        quote(word)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("account", "abc123"),
        ("account", "m1234_g"),
        ("account", "bbka-delta-gpu"),
        ("constraint", "gpu&hbm80g"),
        ("constraint", "[rack1*2&rack2*4]"),
        ("constraint", "(a100|h100)&nvme"),
        ("resource_value", "home:flare"),
        ("select_value", "polaris"),
        ("option_value", "disable_rdzv_get"),
        ("option_value", ""),
        ("gres", "gpu:h100-80"),
        ("output", "/lustre/orion/abc/runs/x-20261121/deploy/job-%j.out"),
        ("after", "12345"),
        ("after", "12345[].aurora-pbs-0001.hostmgmt.cm"),
        ("mail", "first.last+hpc@example.org"),
        ("walltime", "96:00:00"),
        ("url", "http://proxy.ccs.ornl.gov:3128/"),
        ("host", "*.hsn.cm.aurora.alcf.anl.gov"),
        ("bind", "/opt:/opt:ro"),
        ("module", "rccl-net-plugin/1.0"),
    ],
)
def test_real_values_of_real_sites_are_allowed(field: str, value: str) -> None:
    assert check(field, value) == value


ATTACKS = (
    "a\nb",
    "a\n#SBATCH --account=evil",
    "a;touch x",
    "$(touch x)",
    "`touch x`",
    "a'b",
    'a"b',
    "-a",
    "--wrap=x",
    "#SBATCH --x",
    "a #b",
    "{{ 7 }}",
    "{% if x %}",
    "a\0",
    "a\x1b[2J",
    "a\u202eb",
    "a b",
    "a\\",
    "\u0661",
    "a\n",
    "x" * 5000,
)


@pytest.mark.parametrize("field", sorted(DIRECTIVES))
@pytest.mark.parametrize("value", ATTACKS)
def test_a_directive_takes_nothing_but_its_own_grammar_and_says_so_by_name(field: str, value: str) -> None:
    with pytest.raises(SpecError, match=f"^{field}") as caught:
        check(field, value)

    assert "allowed" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_no_other_field_takes_a_nul_or_what_is_longer_than_it_may_be() -> None:
    for field, grammar in GRAMMARS.items():
        for value in ("/a\0", "a\0", "-a\0", "/" + "x" * grammar.longest):
            with pytest.raises(SpecError, match=field):
                check(field, value)


@pytest.mark.parametrize("name", ["job_payload", "UID", "SHELLOPTS", "BASH_ENV", "IFS", "_", "1A", "A-B", "A=B", ""])
def test_variables_that_the_script_or_bash_needs_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match="variable"):
        check("variable", name)


def test_an_unknown_field_lists_the_valid_ones() -> None:
    with pytest.raises(SpecError, match=r"unknown field 'colour'; valid: .*account"):
        check("colour", "red")


@pytest.mark.parametrize("value", ["text", Expanding("x"), 1.5, True, None, ["a"]])
def test_a_template_cannot_print_what_is_neither_checked_nor_quoted(value: object) -> None:
    with pytest.raises(SpecError, match="sh"):
        finalize(value)


def test_a_template_can_print_what_is_checked_or_quoted_and_whole_numbers() -> None:
    assert [finalize(value) for value in (shell("a b"), check("account", "x"), 5)] == ["'a b'", "x", 5]
    assert isinstance(shell(Expanding("$A b")), Safe)
    assert type(shell("a") + shell("b")) is str, "what is put together is not safe by itself"
