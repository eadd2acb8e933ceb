"""Predict how many items of a size fit an empty queue's pipe, and what is wasted."""

from __future__ import annotations

import argparse
import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipecap.cli.render import Block, Line, Table, answer, bar
from pipecap.cli.trouble import say
from pipecap.errors import ResizeRefused
from pipecap.kernel.fit import Fit, fit, pickled_size, smallest_capacity
from pipecap.kernel.probe import scratch_pipe
from pipecap.results import Result

_LARGEST_REPEAT = 2**27  # a list of that many takes a GiB
_LARGEST_ARRAY = 2**30


@dataclass(frozen=True, slots=True)
class Prediction(Result):
    """The answer of `fit`: the item itself, the sizes around it, and the smallest pipe that takes one whole.

    `smallest_capacity` is None where no pipe takes one. `resize_refused` is why a new pipe did not get that size here
    and now (the `.reason` of ResizeRefused), None where it did.
    """

    fit: Fit
    smallest_capacity: int | None
    resize_refused: str | None
    curve: tuple[Fit, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to fit into what."""
    parser.usage = "pipecap fit [-h] [--json] [--capacity C] (SIZE | --object EXPR)"
    parser.add_argument("size", metavar="SIZE", nargs="?", help='pickled bytes of one item: 4096, "64K", "1MB"')
    parser.add_argument(
        "--object",
        metavar="EXPR",
        help="a Python literal to pickle instead, \"b'0' * 65514\", or an array, numpy:float64:131072",
    )
    parser.add_argument("--capacity", metavar="C", help="bytes of the pipe (default: what a new pipe gets here)")


def run(arguments: argparse.Namespace) -> int:
    """Predict, then show."""
    if (arguments.size is None) == (arguments.object is None):
        say("fit takes a SIZE or --object EXPR")
        return 2
    try:
        item = arguments.size if arguments.object is None else pickled_size(literal(arguments.object))
    except ValueError as error:
        say(str(error))
        return 2
    found = fit(item, capacity=arguments.capacity)
    needed = smallest_capacity(found.item)
    prediction = Prediction(
        fit=found,
        smallest_capacity=needed,
        resize_refused="invalid" if needed is None else _try(needed),
        curve=tuple(fit(size, capacity=found.capacity) for size in _around(found.item)),
    )
    answer("fit", prediction.to_dict(), list(_blocks(prediction)), as_json=arguments.json)
    return 0


def _try(capacity: int) -> str | None:
    """Make a scratch pipe that large; give the reason if it is refused."""
    try:
        with scratch_pipe(capacity):
            return None
    except ResizeRefused as refused:
        return refused.reason


def literal(expression: str) -> object:
    """Evaluate a Python literal in which parts may be repeated (`b"0" * 65514`); no names, no calls.

    Or make an array: "numpy:float64:131072" is of that dtype and shape ("numpy:uint8:224x224x3"). Raises ValueError.
    """
    text = expression.strip()
    try:
        if text.startswith("numpy:"):
            return _array(text)
        return ast.literal_eval(_Repetitions().visit(ast.parse(text, mode="eval")))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        example = "\"b'0' * 65514\", or an array, numpy:float64:131072"
        raise ValueError(f"--object takes a literal, such as {example}: {error}") from None


def _array(text: str) -> object:
    """Make an array. Not of zeros: all its pages would be the kernel's one of these."""
    try:
        import numpy
    except ImportError:
        raise ValueError("arrays need numpy, which cannot be imported") from None
    try:
        _, dtype, sizes = text.split(":")
        shape = [int(size) for size in sizes.split("x")]
        kind = numpy.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"an array is numpy:DTYPE:SIZExSIZE...: {error}") from None
    if kind.hasobject or not kind.itemsize or min(shape) < 0:
        raise ValueError("an array is of numbers, and none of its sizes below 0")
    size = math.prod(shape) * kind.itemsize
    if size > _LARGEST_ARRAY:
        raise ValueError("too large to build here: give its pickled size instead")
    return numpy.ones(size, "uint8").view(kind).reshape(shape)


class _Repetitions(ast.NodeTransformer):
    """Replace `literal * number` by what it makes."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Repeat; leave all other arithmetic to literal_eval(), which refuses it."""
        if not isinstance(node.op, ast.Mult):
            return node
        one, times = (ast.literal_eval(self.visit(side)) for side in (node.left, node.right))
        if isinstance(one, int):
            one, times = times, one
        if not isinstance(one, bytes | str | list | tuple) or not isinstance(times, int):
            raise TypeError("only bytes, str, list and tuple can be repeated")
        if len(one) * times > _LARGEST_REPEAT:
            raise ValueError("too large to build here: give its pickled size instead")
        repeated: Any = one * times  # literal_eval() takes constants of any type
        return ast.copy_location(ast.Constant(repeated), node)


def _around(item: int) -> list[int]:
    """Sizes around `item`: a quarter of it to four times it, and the bytes next to it, where edges show."""
    sizes = {item * quarter // 4 for quarter in (1, 2, 3, 4, 5, 6, 8, 12, 16)} | {item - 1, item + 1}
    return sorted(size for size in sizes if size > 0)


def _blocks(prediction: Prediction) -> Iterator[Block]:
    found = prediction.fit
    writes = " + ".join(f"{size:,}" for size in found.writes)
    many = f"{len(found.writes)} writes ({writes} bytes)" if len(found.writes) > 1 else "one write"
    yield Line(f"An item of {found.item:,} pickled bytes is a frame of {found.frame:,} bytes, sent in {many}.")
    yield Line(_what_fits(found))
    yield Line()
    yield Table(
        (">item", ">fit", ">unread", ">wasted", "of the pipe used"),
        [
            (
                f"{'> ' if point.item == found.item else ''}{point.item:,}",
                f"{point.items:,}",
                f"{point.unread:,}",
                f"{point.wasted:,}",
                bar(point.unread / point.capacity) or "does not fit",
            )
            for point in prediction.curve
        ],
    )
    yield Line()
    yield from _verdict(prediction)


def _what_fits(found: Fit) -> str:
    pipe = f"A pipe of {found.capacity:,} bytes ({found.slots:,} slots of {found.capacity // found.slots:,})"
    if not found.items:
        return f"{pipe} takes none of them whole."
    items = "1 item" if found.items == 1 else f"{found.items:,} items"
    unused = f"{found.wasted:,} bytes ({found.wasted / found.capacity:.0%}) go unused"
    return f"{pipe} takes {items} in {found.slots_used:,} slots; {unused}."


def _verdict(prediction: Prediction) -> Iterator[Line]:
    if prediction.fit.items:
        yield Line(
            f"  [ok] A process may put {prediction.fit.items:,} of these and exit though nobody reads; "
            "with one more, it waits for a reader.",
            "ok",
        )
        return
    yield Line(
        "  [problem] It does not fit: a process that puts one cannot exit until somebody reads it, "
        "and a parent that joins before it gets hangs.",
        "problem",
    )
    if prediction.resize_refused is None:
        size = prediction.smallest_capacity
        yield Line(f"    -> get() before join(), or pipecap.resize(queue, {size}) right after making it", "action")
    else:
        yield Line(f"    -> get() before join(): no pipe here gets that large ({prediction.resize_refused})", "action")
