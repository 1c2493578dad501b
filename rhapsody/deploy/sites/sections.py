"""A profile as headed sections of labels and texts, for people: the terminal and the documentation show these."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ByteSize

from rhapsody.deploy.sites.block import Block, Confidence
from rhapsody.deploy.sites.nodes import NodeKind, Nodes
from rhapsody.deploy.sites.queues import CountedFor, Queue, Queues
from rhapsody.deploy.sites.values import format_cores, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rhapsody.deploy.sites.profile import SiteProfile

UNKNOWN = "?"
CONFIDENCE_WORDS = {
    Confidence.HIGH: "the facility's own page, or the software's",
    Confidence.MEDIUM: "a maintained configuration of others, or an older page",
    Confidence.LOW: "one user's word",
    Confidence.UNKNOWN: "nobody is known to say so",
}
_TITLES = {"login_node": "Login nodes", "queues": "Queues", "inference": "Model servers"}
_NOT_SHOWN = {*Block.model_fields, "kinds", "entries"}


class Table(NamedTuple):
    """Rows under headings, each with as many texts."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Section(NamedTuple):
    """One block of a profile.

    Attributes:
        title: Its heading.
        block: Who says so, what is unknown, and notes.
        rows: Labels and texts.
        table: None where the block is no list.
    """

    title: str
    block: Block
    rows: tuple[tuple[str, str], ...]
    table: Table | None


def sections_of(profile: SiteProfile) -> list[Section]:
    """Return the sections of a profile, in the order of the model."""
    return [_section(name, block) for name, block in profile.blocks.items()]


def _section(name: str, block: Block) -> Section:
    title = _TITLES.get(name, name.replace("_", " ").capitalize())
    rows = [*_rows("", block)]
    table: Table | None = None
    if isinstance(block, Nodes):
        table = _node_table(block)
        rows += [row for kind in block.kinds for row in _kind_rows(kind)]
    elif isinstance(block, Queues) and block.entries:
        table = _queue_table(block)
        rows += [(queue.name, note) for queue in block.entries for note in _queue_words(queue)]
    return Section(title, block, tuple(rows), table)


def _rows(prefix: str, model: BaseModel) -> Iterator[tuple[str, str]]:
    """Yield what a model says that differs from saying nothing."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if name in _NOT_SHOWN and not prefix:
            continue
        if value is None or value in ((), {}, "") or (value == field.default and not isinstance(value, str)):
            continue
        yield from _value_rows(f"{prefix}{name.replace('_', ' ')}", value)


def _value_rows(label: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, BaseModel):
        yield from _rows(f"{label}, ", value)
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for each in value:
            name = str(getattr(each, "name", label))
            yield label.removesuffix("s"), name
            yield from (row for row in _rows(f"{name}, ", each) if row[0] != f"{name}, name")
    else:
        yield label, _text(value)


def _text(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case ByteSize():
            return format_size(value)
        case timedelta():
            return format_duration(value)
        case dict():
            return _joined([f"{key}={each}" for key, each in value.items()])
        case tuple():
            return _joined([str(each) for each in value])
        case _:
            return str(value)


def _joined(texts: list[str]) -> str:
    """Return texts as one, with a separator that none of them has; options as on a command line."""
    if texts and texts[0].startswith("-"):
        return " ".join(texts)
    return ("; " if any("," in text or " " in text for text in texts) else ", ").join(texts)


def _known(value: object) -> str:
    return UNKNOWN if value is None else _text(value)


# Nodes


def _node_table(nodes: Nodes) -> Table:
    headings = ("kind", "nodes", "cores", "for jobs", "memory", "GPUs", "NICs", "local disk", "constraint")
    return Table(headings, tuple(_node_row(kind) for kind in nodes.kinds))


def _node_row(kind: NodeKind) -> tuple[str, ...]:
    gpus = "none"
    if kind.gpus:
        memory = f", {format_size(kind.gpus.memory)}" if kind.gpus.memory else ""
        gpus = f"{kind.gpus.count} x {kind.gpus.model or kind.gpus.vendor}{memory}"
    disk = UNKNOWN
    if kind.local_disk:
        size = f" ({format_size(kind.local_disk.size)})" if kind.local_disk.size else ""
        disk = f"{kind.local_disk.path or UNKNOWN}{size}"
        disk += f" with {kind.local_disk.constraint}" if kind.local_disk.constraint else ""
    counts = (kind.count, kind.cores, kind.usable_cores, kind.memory)
    return kind.name, *map(_known, counts), gpus, _known(kind.nics), disk, kind.constraint or "none"


def _kind_rows(kind: NodeKind) -> Iterator[tuple[str, str]]:
    if kind.reserved_cores:
        yield f"{kind.name}, reserved cores", format_cores(kind.reserved_cores)
    if kind.smt:
        yield f"{kind.name}, hardware threads per core", str(kind.smt)
    if kind.numa:
        yield f"{kind.name}, NUMA domains", "; ".join(map(format_cores, kind.numa))
    elif kind.numa_domains:
        yield f"{kind.name}, NUMA domains", str(kind.numa_domains)
    if kind.gpus and kind.gpus.cores:
        near = (f"{gpu}: {format_cores(cores)}" for gpu, cores in enumerate(kind.gpus.cores))
        yield f"{kind.name}, GPUs and the cores near them", "; ".join(near)
    if kind.account_kinds:
        yield f"{kind.name}, accounts", _text(kind.account_kinds)
    yield from ((kind.name, note) for note in kind.notes)


# Queues


def _queue_table(queues: Queues) -> Table:
    headings = ("queue", "kinds of nodes", "nodes", "walltime", "running", "submitted", "accounts")
    return Table(headings, tuple(row for queue in queues.entries for row in _queue_rows(queue)))


def _queue_rows(queue: Queue) -> Iterator[tuple[str, ...]]:
    for number, each in enumerate(queue.ranges):
        name = f"{queue.name} ({each.name})" if each.name else queue.name
        most = UNKNOWN if each.max_nodes is None else str(each.max_nodes)
        nodes = most if each.max_nodes == each.min_nodes else f"{each.min_nodes} to {most}"
        first = number == 0
        yield (
            name,
            _text(queue.node_kinds) or "all",
            nodes,
            _known(each.max_walltime),
            _known(queue.max_running) if first else "",
            _known(queue.max_submitted) if first else "",
            _text(queue.account_kinds) or "any",
        )


def _queue_words(queue: Queue) -> list[str]:
    """Return what the table has no column for."""
    partition = queue.partition if queue.partition != queue.name else None
    of_project = queue.max_running and queue.counted_for is CountedFor.PROJECT
    charge = queue.charge and f"{queue.charge.per_node_hour:g} {queue.charge.unit} for a node and hour"
    default = queue.default_walltime and f"{format_duration(queue.default_walltime)} where no walltime is named"
    words = (
        partition and f"the partition {partition}",
        queue.qos and f"the QOS {queue.qos}",
        queue.min_walltime and f"at least {format_duration(queue.min_walltime)}",
        default,
        queue.max_gpus and f"at most {queue.max_gpus} GPUs for a job",
        not queue.chaining and "no chains of jobs",
        not queue.automatic and "used only when named",
        queue.interruptible and "jobs may be killed in favour of others",
        queue.sharing and f"nodes are {queue.sharing}",
        charge,
        of_project and "the limits count the jobs of a project",
        queue.options and f"options {_text(queue.options)}",
    )
    return [*(word for word in words if isinstance(word, str)), *queue.notes]
