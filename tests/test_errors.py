"""The error tree."""

from __future__ import annotations

import copy
import errno
import pickle
import traceback

import pytest

import pipecap
from pipecap import errors

EXAMPLES: list[tuple[errors.PipecapError, type[Exception]]] = [
    (errors.InvalidSize("12x", "not a number"), ValueError),
    (errors.InvalidSize(object(), "not a number"), ValueError),
    (errors.InvalidValue("timeout", "x", "seconds", hint="h"), ValueError),
    (errors.InvalidValue("processes", object(), "a list", hint="h"), ValueError),
    (errors.NotPicklable("lambda", TypeError("no")), TypeError),
    (errors.NotAPipe("fd 7", "is a file"), TypeError),
    (
        errors.ResizeRefused(
            "max-size",
            "too much",
            requested=2**21,
            capacity=65536,
            limit="fs.pipe-max-size",
            limit_value=2**20,
            hint="h",
        ),
        OSError,
    ),
    (errors.NoScratchPipe(errno.EMFILE), OSError),
    (errors.Unsupported("no", hint="h"), RuntimeError),
    (errors.ProcessGone(7), ProcessLookupError),
    (errors.AccessDenied("no"), PermissionError),
    (errors.DrainTimeout([7]), TimeoutError),
    (errors.TruncatedItem("cut", hint="h"), EOFError),
    (errors.LostItem(), EOFError),
    (errors.LostItem(1_234), EOFError),
    (errors.WorkerLost(7, -9, "task 3"), RuntimeError),
    (errors.WorkerLost(None, None, "a task"), RuntimeError),
    (errors.PoolBroken("its workers ended", pid=7, exitcode=1), errors.WorkerLost),
    (errors.PoolBroken("it was terminated", hint="h"), RuntimeError),
    (errors.BadFrame(), OSError),
]


def all_error_classes() -> set[type]:
    return {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, pipecap.PipecapError)
    }


def test_every_class_has_an_example_and_is_public() -> None:
    assert {type(error) for error, _ in EXAMPLES} | {pipecap.PipecapError} == all_error_classes()
    assert all(getattr(pipecap, cls.__name__) is cls for cls in all_error_classes())


@pytest.mark.parametrize(("error", "builtin"), EXAMPLES)
def test_is_also_the_fitting_builtin_and_has_a_hint(error: errors.PipecapError, builtin: type[Exception]) -> None:
    assert isinstance(error, builtin)
    assert error.hint
    assert f"hint: {error.hint}" in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("remake", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"])
@pytest.mark.parametrize(("error", "builtin"), EXAMPLES)
def test_survives_pickling_with_all_its_facts(error: errors.PipecapError, builtin: type, remake: object) -> None:
    again = remake(error)  # type: ignore[operator]
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.hint == error.hint
    assert getattr(again, "errno", None) == getattr(error, "errno", None)
    facts = "reason requested capacity limit limit_value pid pids parameter count exitcode task items".split()
    assert [getattr(again, fact, None) for fact in facts] == [getattr(error, fact, None) for fact in facts]


@pytest.mark.parametrize(
    ("reason", "number"),
    [
        ("max-size", errno.EPERM),
        ("quota", errno.EPERM),
        ("busy", errno.EBUSY),
        ("invalid", errno.EINVAL),
        ("memory", errno.ENOMEM),
        ("unsupported", errno.EOPNOTSUPP),
    ],
)
def test_refusal_carries_the_errno_the_kernel_gave(reason: str, number: int) -> None:
    assert errors.ResizeRefused(reason, "why", requested=1).errno == number


def test_notes_survive_pickling() -> None:
    error = errors.Unsupported("no", hint="h")
    error.add_note("and one thing more")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["hint: h", "and one thing more"]


def test_a_size_that_cannot_be_shown_is_no_trouble() -> None:
    class Secretive:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert "a Secretive" in str(errors.InvalidSize(Secretive(), "no number"))


def test_what_a_bad_size_was_is_shown_short() -> None:
    assert len(str(errors.InvalidSize("9" * 10_000, "too long"))) < 200
    assert len(str(errors.InvalidValue("timeout", "9" * 10_000, "seconds"))) < 200


def test_an_argument_out_of_its_range_is_named() -> None:
    error = errors.InvalidValue("timeout", "soon", "seconds as a number, or None")
    assert error.parameter == "timeout"
    assert str(error) == "timeout must be seconds as a number, or None, not 'soon'"


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "an item is lost: a process died with it"), (1_234, "1,234 items are lost: a process died with them")],
)
def test_what_is_lost_is_counted(count: int, text: str) -> None:
    error = errors.LostItem(count)
    assert (error.count, error.items, str(error)) == (count, (), text)


@pytest.mark.parametrize(
    ("pid", "exitcode", "text"),
    [
        (7, -9, "worker 7 was killed by signal 9 while it had task 3"),
        (7, 5, "worker 7 exited with status 5 while it had task 3"),
        (7, 0, "worker 7 exited with status 0 while it had task 3"),
        (None, None, "a worker ended while it had task 3"),
    ],
)
def test_how_a_worker_ended_is_in_its_error(pid: int | None, exitcode: int | None, text: str) -> None:
    error = errors.WorkerLost(pid, exitcode, "task 3")
    assert (error.pid, error.exitcode, error.task, str(error)) == (pid, exitcode, "task 3", text)
