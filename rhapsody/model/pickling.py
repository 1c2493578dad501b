"""Pickling of users' values: by reference where another process can read that, else by value."""

from __future__ import annotations

import pickle

import cloudpickle


def pickle_value(value: object) -> bytes:
    """Return a value pickled, so that another process of the same campaign can read it.

    Raises:
        Exception: Whatever the value's own `__reduce__` raises.
    """
    try:
        data = pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError):
        return bytes(cloudpickle.dumps(value, protocol=5))
    if b"__main__" in data:  # another process has another __main__
        return bytes(cloudpickle.dumps(value, protocol=5))
    return data
