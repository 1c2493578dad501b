"""The executor of a node on which the session is not, where Dragon starts its workers."""

from __future__ import annotations

import marshal

from rhapsody.backends import executor
from rhapsody.backends.dragon.plan import Plan
from rhapsody.backends.dragon.starter import OtherDragonStarter


def main() -> None:
    """Be the executor."""
    executor.serve(
        lambda post, left, tell: OtherDragonStarter(
            left,
            Plan(**marshal.loads(post.further))._replace(log=f"{post.logs}/dragon-{post.node}.log"),  # noqa: S302 - ours
            post.node,
            tell,
        )
    )
