"""Queues of a site: which jobs each takes, and what it charges.

A queue is what a user names with `-q`: a partition or a QOS of Slurm, a queue of PBS.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from rhapsody.deploy.sites.block import Block
from rhapsody.deploy.sites.nodes import Count, Sharing
from rhapsody.deploy.sites.values import Duration, Line, Name, Variable
from rhapsody.model.allocation import FrozenModel


class Bin(FrozenModel):
    """A range of nodes with its own limits inside a queue.

    Attributes:
        name: The queue behind, for a routing queue of PBS; such a queue is reached through the routing one only.
        min_nodes: Fewest nodes.
        max_nodes: Most nodes; None when there is no limit or it is unknown.
        max_walltime: Longest; None when unknown.
    """

    name: Name | None = None
    min_nodes: Count = 1
    max_nodes: Count | None = None
    max_walltime: Duration | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.max_nodes is not None and self.max_nodes < self.min_nodes:
            raise ValueError(f"max_nodes is {self.max_nodes}, but min_nodes is {self.min_nodes}")
        return self


class CountedFor(StrEnum):
    """Whose jobs a limit counts."""

    USER = "user"
    PROJECT = "project"


class Charge(FrozenModel):
    """What a node costs.

    Attributes:
        unit: As the site calls it: `core-hours`.
        per_node_hour: So many of it for one node and hour.
    """

    unit: Line
    per_node_hour: float = Field(gt=0)


class Queue(FrozenModel):
    """One queue.

    Attributes:
        name: What the user names.
        partition: Slurm: the partition to ask for; None when none is.
        qos: Slurm: the QOS to ask for; None when none is.
        node_kinds: Names of the kinds of nodes in it; empty means all.
        min_nodes: Fewest nodes.
        max_nodes: Most nodes; None when unknown.
        max_gpus: Most GPUs of a job; None when not limited, or unknown.
        min_walltime: Shortest.
        max_walltime: Longest; None when unknown.
        default_walltime: What a job gets that names none.
        bins: Ranges of nodes with their own limits; with any, a request must fit one of them.
        max_running: Jobs that run at once.
        max_submitted: Jobs in the queue, running ones included unless a note says otherwise.
        counted_for: Whose jobs these limits count.
        account_kinds: Kinds of accounts that may use it; empty means any.
        chaining: Whether a job may be followed by the next link of a chain.
        automatic: Whether it may be chosen for a user who names no queue.
        interruptible: Jobs may be killed in favour of others.
        sharing: None when unknown.
        charge: None when the site's unit is unknown; node-hours are then told.
        options: More options of the submit command that the queue needs, without the leading dashes: `{r: "y"}`.
        notes: What else to know.
    """

    name: Name
    partition: Name | None = None
    qos: Name | None = None
    node_kinds: tuple[Name, ...] = ()
    min_nodes: Count = 1
    max_nodes: Count | None = None
    max_gpus: Count | None = None
    min_walltime: Duration = timedelta(0)
    max_walltime: Duration | None = None
    default_walltime: Duration | None = None
    bins: tuple[Bin, ...] = ()
    max_running: Count | None = None
    max_submitted: Count | None = None
    counted_for: CountedFor = CountedFor.USER
    account_kinds: tuple[Name, ...] = ()
    chaining: bool = True
    automatic: bool = True
    interruptible: bool = False
    sharing: Sharing | None = None
    charge: Charge | None = None
    options: dict[Name, Line] = Field(default_factory=dict)
    notes: tuple[Line, ...] = ()

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.max_nodes is not None and self.max_nodes < self.min_nodes:
            raise ValueError(f"max_nodes is {self.max_nodes}, but min_nodes is {self.min_nodes}")
        if self.max_walltime is not None and self.max_walltime < self.min_walltime:
            raise ValueError("max_walltime is shorter than min_walltime")
        if self.bins and (self.max_nodes is not None or self.max_walltime is not None or self.min_nodes != 1):
            raise ValueError("a queue with bins has its limits there: leave out min_nodes, max_nodes and max_walltime")
        return self

    @property
    def ranges(self) -> tuple[Bin, ...]:
        """The bins; for a queue without, one range made of its own limits."""
        if self.bins:
            return self.bins
        return (Bin(min_nodes=self.min_nodes, max_nodes=self.max_nodes, max_walltime=self.max_walltime),)


class Queues(Block):
    """All queues, in the order in which one is looked for.

    Attributes:
        default: The queue of a job that names none; None when unknown.
        entries: The queues; empty where a site has none, or where only the machine itself knows them.
        open: Whether other names are taken as well, with a warning: the profile does not know all queues.
    """

    default: Name | None = None
    entries: tuple[Queue, ...] = ()
    open: bool = False

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [queue.name for queue in self.entries]
        names += [each.name for queue in self.entries for each in queue.bins if each.name]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two queues are called {twice[0]!r}")
        if self.default is not None and self.default not in names:
            raise ValueError(f"default is {self.default!r}, which is no queue here; queues: {', '.join(names)}")
        return self


class Mismatch(StrEnum):
    """What happens when an account's kind does not fit the queue."""

    REFUSE = "refuse"
    WARN = "warn"


class Accounts(Block):
    """What is known of accounts, also called projects or allocations.

    Attributes:
        kinds: Kinds of accounts: what queues name in `account_kinds`.
        suffixes: How the name of an account of a kind ends.
        mismatch: What happens when a name says another kind than the queue takes.
        variable: Environment variable that names the user's default account.
        balance_command: Tells what is left of it.
    """

    kinds: tuple[Name, ...] = ()
    suffixes: dict[Name, Line] = Field(default_factory=dict)
    mismatch: Mismatch = Mismatch.REFUSE
    variable: Variable | None = None
    balance_command: Line | None = None
