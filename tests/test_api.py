"""The public names, what loading them costs, and bad input to every one of them."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pipecap

CALLS: dict[str, tuple[object, ...]] = {
    # every public function, with arguments that are right
    "capacity": (0,),
    "capacity_curve": ([1, 4096],),
    "diagnose": (os.getpid(),),
    "fit": (100,),
    "headroom": (),
    "items_that_fit": (100,),
    "limits": (),
    "list_pipes": (os.getpid(),),
    "measure": (100,),
    "pickled_size": ("x",),
    "pipes_of": (0,),
    "report": (),
    "rescue": (os.getpid(),),
    "resize": (0, "128K"),
    "state": (0,),
    "unread": (0,),
}
# These take queues or seconds; their bad input has its tests in test_queue, test_drain, test_tuning and test_watch.
OF_QUEUES = ["drain", "get_context", "join", "recommend", "tune", "watch"]
FUNCTIONS = [name for name in pipecap.__all__ if inspect.isfunction(getattr(pipecap, name)) and name not in OF_QUEUES]


def test_the_names_for_type_checkers_are_the_names_at_run_time() -> None:
    tree = ast.parse(Path(pipecap.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        (node.module, alias.asname) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    homes = {(home, name) for home, names in pipecap._HOMES.items() for name in names.split()}
    assert imported == homes | {("pipecap", None)}


def test_every_name_is_there_and_documented() -> None:
    for name in pipecap.__all__:
        assert inspect.getdoc(getattr(pipecap, name)), name
    assert sorted({*pipecap.__all__, "__version__"} - {*dir(pipecap)}) == []
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        pipecap.nonsense  # noqa: B018 -- the look-up is the test


def test_every_class_of_the_package_that_is_a_result_is_frozen_and_plain_data() -> None:
    found = pipecap.report()
    for result in (found, found.limits, found.headroom, *found.queues, *found.items, *found.verdict, pipecap.measure()):
        assert not hasattr(result, "__dict__")
        assert isinstance(result.to_dict(), dict)  # type: ignore[union-attr]
        with pytest.raises((AttributeError, TypeError)):
            result.unknown = 1  # type: ignore[union-attr, misc]


def test_importing_pipecap_loads_next_to_nothing() -> None:
    program = "import sys; before = {*sys.modules}; import pipecap; print(*sorted({*sys.modules} - before))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {*answer.stdout.split()} <= {
        "pipecap",
        "importlib",
        "importlib._bootstrap",
        "importlib._bootstrap_external",
        "warnings",
    }


@pytest.mark.parametrize(
    "name", [name for name in FUNCTIONS if name not in ("report", "pickled_size", "items_that_fit")]
)
def test_a_call_loads_no_rich_json_argparse_or_multiprocessing(name: str) -> None:
    """Of a process other than the caller, diagnose() asks py-spy where it is installed, and reads its JSON."""
    given = ", ".join("os.getpid()" if each == os.getpid() else repr(each) for each in CALLS[name])
    program = f"import sys, pipecap, os; pipecap.{name}({given}); print(*sorted(sys.modules))"
    read_end, write_end = os.pipe()
    try:
        answer = subprocess.run(
            [sys.executable, "-c", program], stdin=read_end, capture_output=True, text=True, check=True
        )
    finally:
        os.close(read_end)
        os.close(write_end)
    unwanted = {"rich", "json", "argparse", "multiprocessing", "concurrent.futures", "logging"}
    assert not unwanted & {*answer.stdout.split()}


def test_every_function_has_a_call_here() -> None:
    assert sorted(FUNCTIONS) == sorted(CALLS)


def short(argument: object) -> str:
    return "huge" if isinstance(argument, int) and argument > 2**1000 else repr(argument)[:20]


STRANGE = [
    None,
    -1,
    2**100,
    10**5000,
    1.5,
    True,
    "nonsense",
    "9" * 5000,
    b"x",
    [],
    (),
    {},
    object(),
    float("nan"),
    2**31 - 1,
    type,
]


def is_right(name: str, argument: object) -> bool:
    """Whether what is strange elsewhere makes sense here."""
    match name:
        case "pickled_size":
            return True  # anything that pickles
        case "items_that_fit":
            return type(argument) is not int or argument == 2**31 - 1
        case "fit":
            return argument == 2**31 - 1
        case "capacity_curve":
            return argument in ([], (), {})
        case "measure" | "diagnose" | "list_pipes":
            return argument is None
    return False


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if CALLS[name]])
@pytest.mark.parametrize("strange", STRANGE, ids=short)
def test_a_strange_first_argument_is_an_error_of_the_tree(name: str, strange: object) -> None:
    """And leaves nothing behind: see the fixture in conftest.py."""
    function: Callable[..., object] = getattr(pipecap, name)
    arguments = (strange, *CALLS[name][1:])
    if is_right(name, strange):
        function(*arguments)
        return
    with pytest.raises(pipecap.PipecapError) as caught:
        function(*arguments)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["measure", "fit", "items_that_fit", "capacity_curve"])
@pytest.mark.parametrize("strange", [-1, 2**40, 10**5000, 1.5, True, "nonsense", b"x", [], object()], ids=short)
def test_a_strange_capacity_is_too(name: str, strange: object) -> None:
    first = [1] if name == "capacity_curve" else 1
    with pytest.raises(pipecap.PipecapError) as caught:
        getattr(pipecap, name)(first, capacity=strange)
    assert caught.value.hint


@pytest.mark.parametrize("strange", [-1, 1.5, True, None, "nonsense", "9" * 5000, b"x", [], object()], ids=short)
@pytest.mark.parametrize("best_effort", [False, True])
def test_a_strange_size_leaves_the_pipe_alone(strange: object, best_effort: bool, pipe: tuple[int, int]) -> None:
    before = pipecap.state(pipe)
    with pytest.raises(pipecap.PipecapError) as caught:
        pipecap.resize(pipe, strange, best_effort=best_effort)  # type: ignore[arg-type]
    assert caught.value.hint
    assert pipecap.state(pipe) == before


@pytest.mark.parametrize("name", ["capacity", "unread", "state", "pipes_of", "resize"])
def test_a_descriptor_that_was_closed(name: str, pipe: tuple[int, int]) -> None:
    for end in pipe:
        os.close(end)
    with pytest.raises(pipecap.NotAPipe) as caught:
        getattr(pipecap, name)(pipe[1], *CALLS[name][1:])
    assert "closed" in caught.value.hint


def test_every_room_says_what_it_is() -> None:
    for path in Path(pipecap.__file__).parent.rglob("*.py"):
        parts = path.relative_to(Path(pipecap.__file__).parent).with_suffix("").parts
        name = ".".join(["pipecap", *(part for part in parts if part != "__init__")])
        if parts[-1] != "__main__":
            assert importlib.import_module(name).__doc__, name
