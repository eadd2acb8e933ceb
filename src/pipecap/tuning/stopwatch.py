"""A stopwatch for pipes: two processes of our own move items through one scratch pipe, as fast as it lets them.

The processes are fresh interpreters, for a library must not fork a caller that may have threads, and multiprocessing's
own way to start one would run the caller's main module again. They end when told, when killed, and when this process
is gone: each waits on a socket whose other end is here, or on a pipe whose other end the partner has.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipecap.errors import NoScratchPipe, PipecapError, Unsupported
from pipecap.kernel import pipes

if TYPE_CHECKING:
    from typing import Self

_START_PATIENCE = 30.0
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, slots=True)
class Setting:
    """How a pipe is used: through the Connection of the `side` "stock" or "pipecap", with `capacity` bytes.

    `chunk` is the most bytes that pipecap's Connection gives to one write(2), None for the stock one.
    """

    side: str
    capacity: int
    chunk: int | None


class Stopwatch:
    """A producer and a consumer, and the scratch pipe between them. A context manager: what it started, it ends.

    `item` is how many bytes to move, as they are, or the payload of an object, which each send pickles again and each
    receive unpickles. `cpus` are the CPUs of producer and consumer while they are pinned; `pin_error` is why the kernel
    refused them. Raises NoScratchPipe without descriptors, Unsupported where no interpreter can be started, one was
    killed, or one cannot make the object.
    """

    def __init__(self, item: int | bytes, cpus: tuple[int, int] | None) -> None:
        self.pin_error = ""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._sockets: dict[str, socket.socket] = {}
        self._received: dict[str, bytes] = {}
        with ExitStack() as stack:
            stack.callback(self._end)
            try:
                self._start(cpus or (None, None), stack)
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    raise NoScratchPipe(error.errno) from error
                raise Unsupported(
                    f"no process to measure with: {error.strerror}",
                    hint="look at `ulimit -u` and at the memory and process limits of the container",
                ) from error
            self._hand_over(item)
            for answer in self._answers(time.monotonic() + _START_PATIENCE).values():
                self.pin_error = self.pin_error or answer["pin_error"]
            self._stack = stack.pop_all()

    def _start(self, cpus: tuple[int, int] | tuple[None, None], stack: ExitStack) -> None:
        with ExitStack() as handed_over:  # what is the children's alone is closed here, started or not
            self._pipe, write_end = os.pipe()
            stack.callback(os.close, self._pipe)
            handed_over.callback(os.close, write_end)
            ready, steady = os.pipe()
            handed_over.callback(os.close, ready)
            handed_over.callback(os.close, steady)
            for role, cpu, fds in (
                ("producer", cpus[0], (write_end, ready)),
                ("consumer", cpus[1], (self._pipe, steady)),
            ):
                ours, theirs = socket.socketpair()
                stack.callback(ours.close)
                handed_over.callback(theirs.close)
                self._sockets[role] = ours
                self._received[role] = b""
                with _no_signals():  # a handler that raises in between would leave a child that nobody knows
                    self._processes[role] = subprocess.Popen(
                        _command(role, cpu, fds),
                        stdin=theirs.fileno(),
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        pass_fds=fds,
                        process_group=0,  # a Ctrl-C is for us, who end them
                    )

    def _hand_over(self, item: int | bytes) -> None:
        """Tell both what is moved; the producer makes it."""
        for role, channel in self._sockets.items():
            payload = item if isinstance(item, bytes) and role == "producer" else b""
            what = {"bytes": item if isinstance(item, int) else None, "payload": len(payload)}
            with suppress(ConnectionError):  # it was killed: _answers() tells
                channel.sendall(json.dumps(what).encode() + b"\n" + payload)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        for process in self._processes.values():
            process.kill()  # they have nothing to put in order
        for process in self._processes.values():
            process.wait()

    def time(self, setting: Setting, *, pinned: bool, seconds: float) -> tuple[int, int]:
        """Move items for about that long, at least one; gives how many, and the nanoseconds until all had arrived.

        Raises ResizeRefused.
        """
        if pipes.capacity(self._pipe) != setting.capacity:
            pipes.resize(self._pipe, setting.capacity)
        order = {"side": setting.side, "chunk": setting.chunk, "pinned": pinned, "ns": int(seconds * 1e9)}
        line = json.dumps(order).encode() + b"\n"
        for role, channel in self._sockets.items():
            with suppress(ConnectionError):  # it was killed: _answers() tells
                channel.sendall(line)
            self._received[role] = b""
        answers = self._answers(None)
        return answers["consumer"]["items"], answers["consumer"]["end"] - answers["producer"]["start"]

    def _answers(self, deadline: float | None) -> dict[str, Any]:
        """Wait for one line of each."""
        answers: dict[str, Any] = {}
        while len(answers) < len(self._sockets):
            waiting = {channel: role for role, channel in self._sockets.items() if role not in answers}
            readable = _readable([*waiting], 0.5)
            for channel in readable:
                role = waiting[channel]
                self._received[role] += self._received_from(role)
                if self._received[role].endswith(b"\n"):
                    answers[role] = json.loads(self._received[role])
                    if "no_item" in answers[role]:
                        raise _no_item(answers[role]["no_item"])
                    if "error" in answers[role]:
                        raise self._failed(answers[role]["error"])
            if not readable and any(process.poll() is not None for process in self._processes.values()):
                raise self._failed("it ended")  # and somebody forked meanwhile keeps its socket open
            if deadline is not None and time.monotonic() > deadline:
                raise self._failed(f"it did not answer in {_START_PATIENCE:.0f} s")
        return answers

    def _received_from(self, role: str) -> bytes:
        try:
            data = self._sockets[role].recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            raise self._failed("it ended")
        return data

    def _failed(self, why: str) -> PipecapError:
        """Say what became of the two. One that was killed explains what the other complains of."""
        for role, process in self._processes.items():
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
            if process.returncode is not None and process.returncode < 0:
                name = signal.Signals(-process.returncode).name
                return Unsupported(
                    f"the sweep's {role} was killed ({name})",
                    hint="SIGKILL is mostly the kernel's: out of memory; try a smaller item",
                )
        return Unsupported(
            f"the sweep's processes failed: {why}",
            hint=f"does `{sys.executable} -c 'import pipecap'` run, and is there memory for a few items?",
        )


def _no_item(why: str) -> Unsupported:
    return Unsupported(
        f"the sweep's processes cannot make the item: {why}",
        hint="they are new interpreters, and import its class by name: put it into a module; or tune(its pickled size)",
    )


@contextmanager
def _no_signals() -> Iterator[None]:
    """Let signals wait until the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _readable(channels: list[socket.socket], seconds: float) -> list[socket.socket]:
    """Wait for input, as select(2) does, but with any number of descriptors open."""
    poll = select.poll()
    by_number = {channel.fileno(): channel for channel in channels}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(seconds * 1000)]


def _command(role: str, cpu: int | None, fds: tuple[int, int]) -> list[str]:
    """Give the command line of a child, which finds its modules where we found ours."""
    if not sys.executable or getattr(sys, "frozen", False):
        raise Unsupported(
            "no Python to measure with: this program has no interpreter of its own",
            hint="run `python -m pipecap tune` with an ordinary Python on the same host",
        )
    path = [entry for entry in sys.path if isinstance(entry, str)]
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    program = (
        f"import sys; sys.path[:] = {[*path, home]!a}; "
        f"from pipecap.tuning.movers import work; work({role!r}, {cpu}, {fds[0]}, {fds[1]})"
    )
    return [sys.executable, "-I", "-B", "-c", program]
