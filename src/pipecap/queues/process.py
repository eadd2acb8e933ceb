"""The process classes of a Context: multiprocessing's, where their ends and starts could hang the parent.

A spawned process may die before it has read its arguments: multiprocessing's parent holds the read end of their pipe
itself while it writes them, and waits for ever where they are large. And an executor whose worker died waits for the
feeder thread of its call queue, which waits for a reader: also after all workers ended, where an unrelated child of the
process has inherited the read end. Or its other workers wait for a lock that the dead one owned. That queue is a stock
one in every context, but its workers are the context's.
"""

from __future__ import annotations

import io
import math
import os
import signal
import threading
import time
import weakref
from contextlib import suppress
from multiprocessing import connection, context, popen_spawn_posix, process, queues, resource_tracker, spawn, util
from typing import TYPE_CHECKING, Any

from pipecap.errors import Unsupported
from pipecap.kernel import pipes

# Seconds that the worker of an executor has to end after SIGTERM.
_GRACE = 2.0
_PAUSE = 0.01
_SLICE = 0.1  # of a wait for one
_DEFAULT_CAPACITY = 65536

# Of each worker of an executor: its call queue, and the inode of its pipe.
_call_queues: weakref.WeakKeyDictionary[process.BaseProcess, tuple[weakref.ref[Any], int]] = weakref.WeakKeyDictionary()
# Of call queues whose workers are terminated.
_ends: weakref.WeakKeyDictionary[Any, _End] = weakref.WeakKeyDictionary()

if TYPE_CHECKING:
    _Base = process.BaseProcess
else:
    _Base = object


class _ExecutorWorker(_Base):
    """A process which, as an executor's worker, ends when it is terminated and lets the call queue's feeder end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        arguments: tuple[Any, ...] = self._args  # type: ignore[attr-defined] # not in the stubs, as the next
        target = self._target  # type: ignore[attr-defined]
        is_worker = getattr(target, "__module__", "") == "concurrent.futures.process"
        if is_worker and arguments and isinstance(arguments[0], queues.Queue):
            inode = os.fstat(arguments[0]._writer.fileno()).st_ino  # type: ignore[attr-defined] # as well
            _call_queues[self] = weakref.ref(arguments[0]), inode

    def terminate(self) -> None:
        """Terminate the process: SIGTERM. An executor's worker is continued, too, and killed two seconds later."""
        reference, inode = _call_queues.get(self, (_nothing, 0))
        call_queue = reference()
        if call_queue is None or self.pid is None:
            return super().terminate()
        pidfd = -1
        with suppress(OSError):  # it ended, or there is no descriptor left
            pidfd = os.pidfd_open(self.pid)
        super().terminate()
        if call_queue not in _ends:
            feeder = call_queue._thread
            _ends[call_queue] = _End(feeder, -1 if feeder is None else _read_end(call_queue, inode))
        _ends[call_queue].add(pidfd)
        return None

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process ends; of a terminated executor, also for the thread that attends to its end.

        An executor whose work is done waits for its workers so. Where one was killed, it may have owned the lock of the
        call queue: those that wait for that, and so for their end, are terminated.
        """
        call_queue = _call_queues.get(self, (_nothing, 0))[0]()
        if call_queue is None or timeout is not None:
            return super().join(timeout)
        terminate_at = None
        super().join(_SLICE)
        while self.exitcode is None:
            if terminate_at is None and _one_was_killed(call_queue):
                terminate_at = time.monotonic() + _GRACE
            if terminate_at is not None and time.monotonic() > terminate_at:
                self.terminate()
                terminate_at = math.inf  # once
            super().join(_SLICE)
        if call_queue in _ends:
            _ends[call_queue].join()
        return None


def _nothing() -> None:
    return None


def _one_was_killed(call_queue: Any) -> bool:
    """Whether a worker of an executor ended otherwise than by being told to."""
    for worker, (reference, _) in list(_call_queues.items()):
        with suppress(ValueError):  # it is closed
            if reference() is call_queue and worker.exitcode:
                return True
    return False


def _read_end(call_queue: Any, inode: int) -> int:
    """Open a read end of a queue's pipe, as its own may be closed; -1 where its feeder thread has closed the other."""
    try:
        path = f"/proc/self/fd/{call_queue._writer.fileno()}"
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    if os.fstat(reader).st_ino == inode:
        return reader
    os.close(reader)  # it was closed meanwhile, and its number is another file's
    return -1


class _End:
    """The end of an executor: its workers, and what its feeder thread still writes."""

    def __init__(self, feeder: threading.Thread | None, reader: int) -> None:
        self._feeder = feeder
        self._reader = reader  # -1 without a feeder
        self._pidfds: list[int] = []
        self._lock = threading.Lock()
        self._watcher: threading.Thread | None = None

    def add(self, pidfd: int) -> None:
        """Attend to a worker that was sent SIGTERM."""
        with self._lock:
            if pidfd >= 0:
                _signal(pidfd, signal.SIGCONT)
                self._pidfds.append(pidfd)
            if self._watcher is None:
                watcher = threading.Thread(target=self._watch, name="ExecutorEnd", daemon=True)
                with suppress(RuntimeError):  # no thread at the interpreter's shutdown: SIGTERM must do
                    watcher.start()
                    self._watcher = watcher

    def join(self) -> None:
        """Wait until all workers that were added have ended, and the feeder thread: a second at most."""
        watcher = self._watcher
        if watcher is not None:
            watcher.join(1)

    def _watch(self) -> None:
        kill_at = time.monotonic() + _GRACE
        while True:
            while pidfds := self._remaining(kill_at):
                ended = connection.wait(pidfds, _PAUSE)
                with self._lock:
                    for pidfd in set(pidfds).intersection(ended):
                        os.close(pidfd)
                        self._pidfds.remove(pidfd)
            self._drain()
            with self._lock:
                if not self._pidfds:
                    self._watcher = None
                    return

    def _remaining(self, kill_at: float) -> list[int]:
        """Return the descriptors of the workers that have not ended; kill them if it is time."""
        with self._lock:
            if time.monotonic() > kill_at:
                for pidfd in self._pidfds:
                    _signal(pidfd, signal.SIGKILL)
            return list(self._pidfds)

    def _drain(self) -> None:
        """Read what no worker will, until the feeder thread has written it or another worker is terminated."""
        if self._reader < 0 or self._feeder is None:
            return
        time.sleep(_PAUSE)  # it may end by itself
        give_up_at = time.monotonic() + _GRACE
        while self._feeder.ident is None and time.monotonic() < give_up_at:  # another thread is about to start it
            time.sleep(_PAUSE)
        while not self._pidfds and self._feeder.is_alive():
            if connection.wait([self._reader], _PAUSE) and not os.read(self._reader, 1 << 20):
                break
        if not self._pidfds:
            os.close(self._reader)
            self._reader = -1


def _signal(pidfd: int, number: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


class ForkProcess(_ExecutorWorker, context.ForkProcess):
    """Of the start method "fork"."""


class ForkServerProcess(_ExecutorWorker, context.ForkServerProcess):
    """Of the start method "forkserver"."""


class SpawnProcess(_ExecutorWorker, context.SpawnProcess):
    """Of the start method "spawn"."""

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        return _SpawnPopen(process_obj)


class _SpawnPopen(popen_spawn_posix.Popen):
    """multiprocessing's, but for the pipe of the arguments: it has room for them, and no reader but the child."""

    def _launch(self, process_obj: process.BaseProcess) -> None:
        tracker_fd = resource_tracker.getfd()
        arguments = io.BytesIO()
        internals: Any = context  # what is private is in no stub, nor are the helpers below
        helpers: Any = util
        internals.set_spawning_popen(self)
        try:
            internals.reduction.dump(spawn.get_preparation_data(process_obj.name), arguments)
            internals.reduction.dump(process_obj, arguments)
        finally:
            internals.set_spawning_popen(None)
        ours: list[int] = []
        childs: list[int] = []
        try:
            for mine, its in ((0, 1), (1, 0)):
                ends = os.pipe()
                ours.append(ends[mine])
                childs.append(ends[its])
            child_w, child_r = childs
            self.sentinel, parent_w = ours
            if arguments.tell() > _DEFAULT_CAPACITY:
                with suppress(Unsupported):
                    pipes.resize(parent_w, arguments.tell(), best_effort=True)
            command = spawn.get_command_line(tracker_fd=tracker_fd, pipe_handle=child_r)
            fds: list[int | None] = self._fds  # type: ignore[attr-defined] # those that the arguments name
            fds += [tracker_fd, child_r, child_w]
            self.pid = helpers.spawnv_passfds(spawn.get_executable(), command, fds)
            while childs:
                os.close(childs.pop())
            with (
                suppress(BrokenPipeError),
                open(parent_w, "wb", closefd=False) as pipe,
            ):  # it died: its exit code says so
                pipe.write(arguments.getbuffer())
        finally:
            self.finalizer = util.Finalize(self, helpers.close_fds, ours)
            for fd in childs:
                os.close(fd)
