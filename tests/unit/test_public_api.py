"""What `import rhapsody` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rhapsody

FROM_RHAPSODY_PY = ["Session", "ComputeTask", "AITask", "ConcurrentExecutionBackend", "DragonExecutionBackend"]
ATTRIBUTES_FROM_RHAPSODY_PY = ["state", "stdout", "stderr", "exit_code", "return_value", "exception", "uid"]


@pytest.mark.parametrize("name", rhapsody.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(rhapsody, name) is not None


def test_public_names_are_listed_once_and_shown_by_dir() -> None:
    assert len(set(rhapsody.__all__)) == len(rhapsody.__all__)
    assert set(rhapsody.__all__) <= set(dir(rhapsody))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sesion'"):
        _ = rhapsody.Sesion


def test_users_of_rhapsody_py_find_their_names() -> None:
    task = rhapsody.ComputeTask(len, args=["x"])

    assert [name for name in FROM_RHAPSODY_PY if not hasattr(rhapsody, name)] == []
    assert [name for name in ATTRIBUTES_FROM_RHAPSODY_PY if not hasattr(task, name)] == []
    assert rhapsody.ConcurrentExecutionBackend is rhapsody.LocalBackend
    assert rhapsody.DragonExecutionBackend is rhapsody.DragonBackend
    assert callable(rhapsody.Session.submit_tasks)


def test_importing_the_package_loads_none_of_its_parts() -> None:
    code = "import sys, rhapsody; print([name for name in sys.modules if name.startswith('rhapsody.')])"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "[]"


def test_using_the_session_loads_no_other_runtime_and_no_command_line() -> None:
    foreign = ["click", "rich", "dragon", "flux", "kubernetes", "numpy"]
    code = f"import sys, rhapsody; rhapsody.Session; print([name for name in {foreign} if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "[]"
