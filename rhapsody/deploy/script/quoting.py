"""Two ways to put a value into a batch script, and no third.

Directives are not shell: the batch system reads `#SBATCH --constraint=gpu&hbm80g` by rules of its own, and quotes do
not help there. So each field of a directive has a grammar (`check`), and what does not keep it is refused. What follows
the directives is shell, and is quoted (`quote`, `quote_expanding`). Both return a `Safe` text, and the templates print
nothing else.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass

from rhapsody.errors import SpecError, unknown_name

LONGEST_WORD = 100_000
"""Characters of one word of a command line. Linux takes 128 KiB; a character may need several bytes."""

_REFERENCE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
_LIVE = re.compile(r'[\\"$`]')
"""What means something between double quotes."""
_ESCAPES = {"\n": r"\n", "\t": r"\t", "\r": r"\r", "'": r"\'", "\\": r"\\"}


class Safe(str):
    """A text that may be printed into a script as it is: checked, or quoted. Only this module makes any."""

    __slots__ = ()


class Expanding(str):
    """A word in which `$NAME` and `${NAME}` mean variables of the job; all else in it is literal."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a field may hold.

    Attributes:
        pattern: The whole value matches it.
        allowed: The same, for people.
        longest: Characters.
    """

    pattern: re.Pattern[str]
    allowed: str
    longest: int = 200


def _grammar(pattern: str, allowed: str, longest: int = 200) -> Grammar:
    return Grammar(re.compile(pattern, re.ASCII), allowed, longest)


_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"
_NAME_ALLOWED = "letters, digits and _ . + -, the first no + . -"
_VALUE = r"[A-Za-z0-9_./+][A-Za-z0-9_.,:=+@%/&|*()\[\]^~-]*"
_OWN_VARIABLES = (
    r"(?!job_|BASH|_$|(?:UID|EUID|PPID|SHELLOPTS|IFS|RANDOM|SRANDOM|SECONDS|LINENO|DIRSTACK|FUNCNAME|GROUPS|HISTCMD"
    r"|EPOCHSECONDS|EPOCHREALTIME|PIPESTATUS)$)"
)

DIRECTIVES = {
    "job_name": _grammar(r"[A-Za-z][A-Za-z0-9_.-]*", "letters, digits and _ . -, a letter first", 64),
    "account": _grammar(_NAME, _NAME_ALLOWED, 64),
    "queue": _grammar(_NAME, _NAME_ALLOWED, 64),
    "partition": _grammar(_NAME, _NAME_ALLOWED, 64),
    "qos": _grammar(_NAME, _NAME_ALLOWED, 64),
    "reservation": _grammar(_NAME, _NAME_ALLOWED, 64),
    "constraint": _grammar(
        r"[A-Za-z0-9_\[(][A-Za-z0-9_.:&|,*()\[\]-]*",
        "features such as gpu&hbm80g: letters, digits and _ . : & | , * ( ) [ ] -"
    ),
    "after": _grammar(
        r"[0-9]+(?:_[0-9]+)?(?:\[[0-9]*\])?(?:\.[A-Za-z0-9][A-Za-z0-9.-]*)?",
        "the id of a job, such as 123 or 123.server"
    ),
    "mail": _grammar(
        r"[A-Za-z0-9][A-Za-z0-9_.+-]*@[A-Za-z0-9][A-Za-z0-9.-]*", "an address such as name@example.org", 254
    ),
    "output": _grammar(
        r"/[A-Za-z0-9_./+@=~-]*(?:%[jJxAau][A-Za-z0-9_./+@=~-]*)*",
        "an absolute path of letters, digits and _ . / + @ = ~ - (batch systems take no spaces or quotes there)",
        1024,
    ),
    "walltime": _grammar(r"[0-9]{1,5}:[0-5][0-9]:[0-5][0-9]", "hours:minutes:seconds", 11),
    "gres": _grammar(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*", "letters, digits and _ . : -", 64),
    "option": _grammar(r"[A-Za-z][A-Za-z0-9-]*", "the name of an option without leading dashes", 40),
    "option_value": _grammar(
        rf"(?:{_VALUE})?", "letters, digits and _ . , : = + @ % / & | * ( ) [ ] ^ ~ -, the first no -"
    ),
    "resource": _grammar(r"[A-Za-z][A-Za-z0-9_]*", "letters, digits and _", 64),
    "resource_value": _grammar(
        r"[A-Za-z0-9_/][A-Za-z0-9_.:,/^~-]*", "letters, digits and _ . : , / ^ ~ -, such as home:flare"
    ),
    "select_value": _grammar(r"[A-Za-z0-9_/][A-Za-z0-9_.,/-]*", "letters, digits and _ . , / -, such as polaris"),
}  # fmt: skip
"""Fields of directives. Longer or other values are refused, with these words."""

BODY = {
    "text": _grammar(r"[^\0\ud800-\udc7f\udd00-\udfff]*", "any text without NUL", LONGEST_WORD),
    "line": _grammar(r"[^\x00-\x1f\x7f]*", "one line without control characters", LONGEST_WORD),
    "word": _grammar(
        r"[^\x00-\x1f\x7f-][^\x00-\x1f\x7f]*", "one line without control characters, the first no -", 4096
    ),
    "path": _grammar(
        r"/[^\x00-\x1f\x7f:,]*", "an absolute path without control characters, colon or comma", 4096
    ),
    "node_path": _grammar(
        r"[/$][^\x00-\x1f\x7f:,]*",
        "a path that begins with / or $VARIABLE, without control characters, colon or comma",
        4096,
    ),
    "bind": _grammar(r"[/$][^\x00-\x1f\x7f,]*", "from[:to[:ro]] that begins with / or $VARIABLE, without comma", 4096),
    "flag": _grammar(r"-[A-Za-z-][^\x00-\x1f\x7f]*", "an option, such as --rocm", 4096),
    "module": _grammar(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]*", "letters, digits and _ . + / -, the first no . + / -"),
    "variable": _grammar(
        rf"{_OWN_VARIABLES}[A-Za-z_][A-Za-z0-9_]*",
        "letters, digits and _, no digit first; not job_…, which the script uses, nor what bash sets itself",
    ),
    "passed": _grammar(r"[A-Za-z_][A-Za-z0-9_]*\*?", "the name of a variable, or the beginning of names with * behind"),
    "url": _grammar(
        r"[a-z][a-z0-9+]*://[A-Za-z0-9_.\[\]:-]+(?:/[A-Za-z0-9_./~-]*)?", "scheme://host:port, without a password"
    ),
    "host": _grammar(r"[A-Za-z0-9*.][A-Za-z0-9_.*:/-]*", "a name, address or pattern of hosts"),
}  # fmt: skip
"""Fields of the shell part: they are quoted as well; the grammar keeps out what the command called would take amiss."""

GRAMMARS = DIRECTIVES | BODY


def check(field: str, value: object, where: str = "") -> Safe:
    """Return a value that keeps the grammar of a field.

    Args:
        field: A key of `GRAMMARS`.
        value: A text or a number.
        where: What to call the field in the error's text.

    Raises:
        SpecError: It does not keep it; the text names the field and what is allowed. Or there is no such field.
    """
    grammar = GRAMMARS.get(field)
    if grammar is None:
        raise unknown_name("field", field, GRAMMARS)
    text = str(value)
    name = where or field
    if len(text) > grammar.longest:
        raise SpecError(f"{name} has {len(text)} characters, {text[:20]!r}…; at most {grammar.longest} are allowed")
    if not grammar.pattern.fullmatch(text) or (field != "text" and not text.isprintable()):
        shown = repr(text) if len(text) <= 120 else f"{text[:120]!r}…"
        raise SpecError(f"{name}={shown} cannot go into a batch script; allowed: {grammar.allowed}")
    return Safe(text)


def quote(word: str) -> Safe:
    """Return a word of a bash command line that means exactly this text, on one line, of printable characters.

    Raises:
        SpecError: It has a NUL or is too long: no program could get it.
    """
    check("text", word)
    if word.isprintable():
        quoted = shlex.quote(word)
        return Safe(f"'{word}'" if "," in word and quoted == word else quoted)  # shellcheck takes 1,2 for two words
    return Safe("$'" + "".join(map(_escaped, word)) + "'")


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))


def quote_expanding(word: str) -> Safe:
    """Return a word in which `$NAME` and `${NAME}` stand for variables of the job; unset ones for nothing.

    Nothing else is expanded, and what variables hold is not looked at again.

    Raises:
        SpecError: It has characters that cannot be shown, or is too long.
    """
    if not word.isprintable():
        raise SpecError(f"{word[:60]!r} has characters that cannot be shown; leave them out")
    check("text", word)
    parts, end = [], 0
    for found in _REFERENCE.finditer(word):
        parts += [_LIVE.sub(r"\\\g<0>", word[end : found.start()]), f"${{{found[1] or found[2]}:-}}"]
        end = found.end()
    if not parts:
        return quote(word)
    return Safe('"' + "".join([*parts, _LIVE.sub(r"\\\g<0>", word[end:])]) + '"')


def shell(word: object) -> Safe:
    """Return a word for the shell part of a script: the filter `sh` of templates.

    Args:
        word: `Expanding`, another text, or a number.
    """
    text = os.fspath(word) if isinstance(word, os.PathLike) else word
    return quote_expanding(text) if isinstance(text, Expanding) else quote(str(text))


def finalize(value: object) -> object:
    """Let `Safe` texts and whole numbers through: what templates print without a filter is an error, not a hole.

    Raises:
        SpecError: It is something else.
    """
    if isinstance(value, Safe) or type(value) is int:
        return value
    text = str(value)  # of something undefined this raises, with its name
    raise SpecError(f"a template prints {text[:60]!r} as it is; put `| sh` behind it, or `| field('…')` in a directive")
