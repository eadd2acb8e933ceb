"""Print the peak memory of producer and consumer, bytes above what they began with: `peak.py QUEUE KIND SIZE COUNT`.

QUEUE is stock or ours, KIND bytes or array. A program of its own, for both to be forked from a fresh interpreter that
has loaded no more than it needs. The producer puts the same item of SIZE bytes COUNT times without waiting.
"""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

MODULES = {"stock": "multiprocessing", "ours": "pipecap.queues.context"}


def peak() -> int:
    """Give the most memory this process has had."""
    match = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise RuntimeError("no VmHWM in /proc/self/status")
    return int(match[1]) << 10


def made(kind: str, size: int) -> Any:
    """Make an item, all of whose memory is there."""
    if kind == "bytes":
        return bytes(1) * size
    return importlib.import_module("numpy").ones(size, "uint8")


def produce(answer: Any, queue: Any, kind: str, size: int, count: int) -> None:
    """Put, and end only when all is sent."""
    before = peak()
    item = made(kind, size)
    for _ in range(count):
        queue.put(item)
    queue.close()
    queue.join_thread()
    answer.send(peak() - before)


def consume(answer: Any, queue: Any, kind: str, size: int, count: int) -> None:
    """Get, each item kept until the next has come."""
    before = peak()
    for _ in range(count):
        item = queue.get()
    assert len(item) == size
    answer.send(peak() - before)


def main(name: str, kind: str, size: int, count: int) -> None:
    """Let the two do their work, at the same time."""
    context = importlib.import_module(MODULES[name]).get_context("fork")
    made(kind, 1)
    queue = context.Queue()
    peaks = {}
    sides = []
    for side in (produce, consume):
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=side, args=(writer, queue, kind, size, count), daemon=True)
        process.start()
        sides.append((side.__name__, reader, process))
    for side_name, reader, process in sides:
        if not reader.poll(30):
            raise TimeoutError(f"{side_name}: hung")
        peaks[side_name] = reader.recv()
        process.join()
    sys.stdout.write(json.dumps(peaks))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
