"""Fingerprints of tasks, by which a resumed run finds what it has done before.

A fingerprint has two parts: one of the code (the function with what it closes over, or the executable), which many
tasks share, and one of the inputs (arguments, and what else each task has of its own). Both are the same in another
process for what is equal there: sets are sorted, and an object is what `pickle` would rebuild it from.
"""

from __future__ import annotations

import marshal
import pickle
from collections import OrderedDict
from contextlib import suppress
from copyreg import dispatch_table
from functools import lru_cache, partial
from hashlib import blake2b
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any
from weakref import ref

from rhapsody.errors import SpecError
from rhapsody.model.ai import AITask
from rhapsody.model.arguments import SCALARS
from rhapsody.model.array import ArrayTask
from rhapsody.model.campaign import CAMPAIGN_MODULE
from rhapsody.model.task import ComputeTask, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rhapsody.model.task import TaskOptions

DIGEST_BYTES = 16
SHORT_BYTES = 64
"""Marshalled arguments up to this length are their own fingerprint."""
_LONG = 10_000
"""Lists and dicts of more are pickled at once: quicker, but sets in them spoil the fingerprint."""
_MOST_VALUES = 200_000
"""Values that are taken apart for one fingerprint at most: in a web of objects there are paths without end."""
_FUNCTIONS_KEPT = 4096
MARSHAL = 2
"""Version of marshal's format: the last one that does not depend on which equal objects are the same."""
_HASHED, _NONE = b"\xff", b""


class Codes:
    """Fingerprints of code; a function is looked at once, as it is serialised once."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[ref[Any], bytes]] = OrderedDict()
        """By the function's address, which may be another's once the function is gone."""

    def of(self, task: Task) -> bytes:
        """Return the fingerprint of what a task runs; empty where there is none."""
        ranks = task.resources.ranks if task.resources.is_mpi else 0
        executable = getattr(task, "executable", None)
        if executable is not None:
            return _digest([b"executable", _scalar((executable, ranks))])
        function = getattr(task, "function", None)
        code = self._of_function(function)
        if isinstance(task, AITask):
            return code if function is not None else _REQUEST
        return code if not (code and ranks) else _digest([code, _scalar(ranks)])

    def _of_function(self, function: object) -> bytes:
        if function is None:
            return _NONE
        known = self._known.get(id(function))
        if known is not None and known[0]() is function:
            return known[1]
        code = _safely(lambda: _digest(_Writer([]).parts_of_callable(function)))
        with suppress(TypeError):  # some callable objects cannot be referred to weakly
            self._known[id(function)] = ref(function), code
            if len(self._known) > _FUNCTIONS_KEPT:
                self._known.popitem(last=False)
        return code


def inputs_of(task: Task, dependencies: Sequence[Task]) -> bytes:
    """Return the fingerprint of a task's inputs; empty where there is none.

    Args:
        task: Which; tasks among its arguments count by their position among its dependencies.
        dependencies: The tasks it names, in the order in which `dependencies_of` finds them.
    """
    options = task.options
    if isinstance(task, ComputeTask):
        if _is_plain(task) and not has_own_inputs(options):
            return fingerprint_of_plain(task.args)
        inputs: list[Any] = [task.args, task.kwargs or {}, task.arguments]
    elif isinstance(task, ArrayTask):
        inputs = [task.items]
    elif isinstance(task, AITask):
        prompt = None if task.function is not None else task.prompt
        inputs = [prompt, task.args, task.model, task.system, task.fields, task.embed]
    else:
        return _NONE
    inputs += [dict(options.env or {}), options.cwd, list(options.after)]
    return _safely(lambda: _HASHED + _digest(_Writer(dependencies).parts_of(inputs)))


def has_own_inputs(options: TaskOptions) -> bool:
    """Return whether the options of a task belong to its inputs."""
    return bool(options.env or options.cwd or options.after)


def _is_plain(task: ComputeTask) -> bool:
    return not task.kwargs and not task.arguments and SCALARS.issuperset(map(type, task.args))


def fingerprint_of_plain(args: tuple[Any, ...]) -> bytes:
    """Return the fingerprint of plain positional arguments."""
    data = marshal.dumps(args, MARSHAL)
    return data if len(data) <= SHORT_BYTES else _HASHED + _digest([data])


def _safely(make: Callable[[], bytes]) -> bytes:
    """Return what `make` makes, or nothing where an object cannot be taken apart."""
    with suppress(Exception, SystemExit):  # of the user's __reduce__: the task is not found again, and runs
        return make()
    return _NONE


def _digest(parts: Iterable[bytes]) -> bytes:
    hasher = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.digest()


def _scalar(value: object) -> bytes:
    return marshal.dumps(value, MARSHAL)  # type: ignore[arg-type]


class _Writer:
    """Takes values apart into bytes."""

    def __init__(self, dependencies: Sequence[Task]) -> None:
        self._positions = {task: at for at, task in enumerate(dependencies)}
        self._parts: list[bytes] = []
        self._path: list[object] = []
        """What is being taken apart, from the outside in: holds temporary objects, whose addresses must not recur."""
        self._within: dict[int, int] = {}
        """Where on the path an object is, by its address: it may hold itself."""
        self._defined: dict[int, tuple[int, object]] = {}
        """Functions and classes that were taken apart, by their address, with their position among these."""
        self._left = _MOST_VALUES

    def parts_of(self, value: object) -> list[bytes]:
        """Return the bytes of a value.

        Raises:
            Exception: Whatever taking an object apart raises.
        """
        self._write(value)
        return self._parts

    def parts_of_callable(self, value: object) -> list[bytes]:
        """Return the bytes of what a task calls: of an object also those of the method that does it."""
        self._write(value)
        while isinstance(value, partial):
            value = value.func
        if callable(value) and isinstance(method := type(value).__call__, FunctionType):
            self._write(method)
        return self._parts

    def _write(self, value: object) -> None:
        kind = type(value)
        if kind in SCALARS or ((kind is list or kind is tuple) and SCALARS.issuperset(map(type, value))):  # type: ignore[call-overload]
            self._parts.append(_scalar(value))
        elif (at := self._within.get(id(value))) is not None:
            self._parts.append(b"again %d" % at)
        elif self._left == 0:
            raise RecursionError(f"it holds more than {_MOST_VALUES:,} values")
        else:
            self._left -= 1
            self._within[id(value)] = len(self._path)
            self._path.append(value)
            self._write_deep(value)
            del self._within[id(self._path.pop())]

    def _write_deep(self, value: Any) -> None:  # noqa: ANN401 - anything
        if writer := _WRITERS.get(type(value)):
            writer(self, value)
        elif isinstance(value, Task):
            self._parts.append(b"dependency %d" % self._positions[value])
        elif isinstance(value, type):
            self._write_class(value)
        else:
            self._write_reduced(value)

    def _write_all(self, name: str, values: Sequence[object]) -> None:
        self._parts.append(f"{name} {len(values)}".encode())
        for value in values:
            self._write(value)

    def write_sequence(self, values: Sequence[object]) -> None:
        if not self._write_long(values):
            self._write_all(type(values).__name__, values)

    def write_dict(self, values: dict[object, object]) -> None:
        if not self._write_long(values):
            self._write_sorted("dict", values.items())

    def _write_long(self, values: Sequence[object] | dict[object, object]) -> bool:
        """Write a long list or dict at once; return whether that was possible."""
        if len(values) <= _LONG:
            return False
        with suppress(SpecError):  # it holds tasks
            self._parts.append(pickle.dumps(values, protocol=5))
            return True
        return False

    def write_set(self, values: Iterable[object]) -> None:
        self._write_sorted("set", ((value,) for value in values))

    def write_partial(self, value: partial[Any]) -> None:
        self._write_all("partial", (value.func, value.args, value.keywords))

    def write_bytes(self, value: bytearray | memoryview) -> None:
        self._parts += [b"bytes", bytes(value)]

    def _write_sorted(self, name: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Write rows in an order that follows from what is in them: none may refer to what stands in another."""
        outer, defined, found = self._parts, self._defined, []
        for row in rows:
            self._parts, self._defined = [], defined.copy()
            for value in row:
                self._write(value)
            found.append(self._parts)
        self._parts, self._defined = outer, defined
        self._parts.append(f"{name} {len(found)}".encode())
        for parts in sorted(found):
            self._parts += parts

    def write_name(self, value: object) -> None:
        name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
        self._parts.append(f"named {getattr(value, '__module__', '')}.{name}".encode())

    def write_method(self, method: MethodType | BuiltinFunctionType) -> None:
        """Write a function, and what it is bound to: an object, a class, or the module of a builtin one."""
        if isinstance(method, MethodType):
            self._write(method.__func__)
        else:
            self.write_name(method)
        self._write(method.__self__)

    def write_cached(self, function: Any) -> None:  # noqa: ANN401 - the type has no name
        self._write(function.__wrapped__)

    def write_function(self, function: FunctionType) -> None:
        """Write a function: its code, what it closes over, and what it uses of its own module."""
        if self._is_defined(function):
            return
        self._parts.append(f"function {function.__qualname__}".encode())
        self._write(function.__code__)
        self._write(function.__defaults__)
        self._write(function.__kwdefaults__)
        cells = [_content_of(cell) for cell in function.__closure__ or ()]
        self._write_all("closure", cells)
        names = sorted(_names_in(function.__code__) & function.__globals__.keys())
        for name in names:
            value = function.__globals__[name]
            if _is_of_module(value, function.__globals__):
                self._parts.append(name.encode())
                self._write(value)

    def _is_defined(self, value: object) -> bool:
        """Return whether a function or class was taken apart before; if so, refer to it."""
        known = self._defined.get(id(value))
        if known is None:
            self._defined[id(value)] = len(self._defined), value
            return False
        self._parts.append(b"defined %d" % known[0])
        return True

    def write_code(self, code: CodeType) -> None:
        self._parts += [code.co_code, code.co_exceptiontable]
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        self._parts.append(_scalar((names, counts)))
        self._write_all("constants", code.co_consts)

    def _write_class(self, value: type) -> None:
        """Write a class: its name, and of one that a script defines what makes its objects behave as they do."""
        self.write_name(value)
        if value.__module__ not in _SCRIPTS or self._is_defined(value):
            return
        self._write_all("bases", value.__bases__)
        for name in sorted(vars(value)):
            for part in _behaviour_of(name, vars(value)[name]):
                self._parts.append(name.encode())
                self._write(part)

    def _write_reduced(self, value: object) -> None:
        """Write what pickle would rebuild an object from."""
        reduce = dispatch_table.get(type(value))
        reduced = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        if isinstance(reduced, str):
            self.write_name(value)
            return
        rebuild, args, *rest = reduced
        self._parts.append(f"object of {type(value).__module__}.{type(value).__qualname__}".encode())
        self._write(rebuild)
        self._write(args)
        state, items, pairs = (*rest, None, None, None)[:3]
        self._write(state)
        self._write(None if items is None else list(items))
        self._write(None if pairs is None else dict(pairs))


_Cached: type = type(lru_cache(_safely))
_REQUEST = _digest([b"request to a model"])
"""Code of requests whose prompt no function makes: what else there is are inputs."""
_WRITERS: dict[type, Callable[[_Writer, Any], None]] = {
    list: _Writer.write_sequence,
    tuple: _Writer.write_sequence,
    dict: _Writer.write_dict,
    set: _Writer.write_set,
    frozenset: _Writer.write_set,
    partial: _Writer.write_partial,
    bytearray: _Writer.write_bytes,
    memoryview: _Writer.write_bytes,
    FunctionType: _Writer.write_function,
    CodeType: _Writer.write_code,
    ModuleType: _Writer.write_name,
    MethodType: _Writer.write_method,
    BuiltinFunctionType: _Writer.write_method,
    _Cached: _Writer.write_cached,
}
"""Who takes what apart; what is not here is taken apart as pickle would."""

_SCRIPTS = frozenset({"__main__", CAMPAIGN_MODULE})
"""Modules that are edited from run to run."""


def _content_of(cell: Any) -> object:  # noqa: ANN401 - what a closure holds
    try:
        return cell.cell_contents
    except ValueError:  # still empty: a function that is defined further down
        return None


def _behaviour_of(name: str, member: object) -> list[object]:
    """Return the parts of a class's member that belong to its fingerprint."""
    if isinstance(member, staticmethod | classmethod):
        return [member.__func__]
    if isinstance(member, property):
        return [member.fget, member.fset, member.fdel]
    is_ours = isinstance(member, FunctionType) or (_is_constant(member) and not name.startswith("__"))
    return [member] if is_ours else []


def _names_in(code: CodeType) -> set[str]:
    """Return the names that code uses, that of functions inside it too."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names_in(constant)
    return found


def _is_of_module(value: object, names: dict[str, Any]) -> bool:
    """Return whether a global belongs to a function's fingerprint: a function of its module, or a plain constant."""
    if isinstance(value, _Cached):
        value = getattr(value, "__wrapped__", None)
    if isinstance(value, FunctionType):
        return value.__globals__ is names
    if isinstance(value, type):
        return value.__module__ == names.get("__name__")
    return _is_constant(value)


def _is_constant(value: object) -> bool:
    return type(value) in SCALARS or (type(value) is tuple and SCALARS.issuperset(map(type, value)))
