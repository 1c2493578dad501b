"""A function on its way to a process of another interpreter: as the bytes of a file, and back."""

from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING, Any

from rhapsody.errors import SpecError
from rhapsody.model.campaign import CAMPAIGN_MODULE

if TYPE_CHECKING:
    from collections.abc import Callable

_HEAD = b"rhapsody loader, Python "


def render_loader(loader: Callable[..., object]) -> bytes:
    """Return a function as the bytes of a file.

    Functions of modules are written by name, others with their code: so one of the latter kind wants the same Python
    there as here.

    Raises:
        SpecError: It cannot be pickled.
    """
    import cloudpickle  # noqa: PLC0415 - whoever reads a function of a module needs none

    campaign = sys.modules.get(CAMPAIGN_MODULE)
    if campaign is not None:  # that process does not know it
        cloudpickle.register_pickle_by_value(campaign)
    try:
        pickled = cloudpickle.dumps(loader)
    except Exception as exc:  # whatever the loader holds may raise
        raise SpecError(f"the loader {loader!r} cannot be pickled: {exc}; name it as MODULE:FUNCTION") from exc
    finally:
        if campaign is not None:
            cloudpickle.unregister_pickle_by_value(campaign)
    return _HEAD + _python() + b"\n" + bytes(pickled)


def parse_loader(content: bytes, where: str) -> Any:  # noqa: ANN401 - checked by the caller
    """Return what is in the bytes of such a file, which came from its owner.

    Raises:
        SpecError: It is no such file, or cannot be read here; `where` begins the text.
    """
    head, _, pickled = content.partition(b"\n")
    if not head.startswith(_HEAD):
        raise SpecError(f"{where} holds no loader; write it with rhapsody.inference.worker_loader.write_loader")
    made_by = head.removeprefix(_HEAD)
    if made_by != _python():
        raise SpecError(
            f"the loader in {where} was written by Python {made_by.decode(errors='replace')}, and this is "
            f"{_python().decode()}; use the same, or name the loader as MODULE:FUNCTION"
        )
    try:
        return pickle.loads(pickled)  # noqa: S301 - from a file of our own, as the caller has seen
    except Exception as exc:  # what is unpickled imports the user's modules
        raise SpecError(f"the loader in {where} cannot be read: {type(exc).__name__}: {exc}") from exc


def _python() -> bytes:
    return f"{sys.version_info.major}.{sys.version_info.minor}".encode()
