"""The thread that sends what put() could not send at once, and the end of it: close(), discard, exit."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import util
from typing import TYPE_CHECKING

from pipecap.queues import native
from pipecap.queues.exit_guard import warn
from pipecap.queues.native import failure
from pipecap.queues.sender import Sender

if TYPE_CHECKING:
    from pipecap.queues.connection import Connection

_log = logging.getLogger("pipecap")

# How long exit waits for an item that is partly in the pipe after the rest was discarded.
_LAST_WAIT = 0.2
_LATE_PAUSE = 0.001


class Feeder:
    """The feeder thread of one queue in this process; it runs once something waits in line."""

    def __init__(self, sender: Sender, reader: Connection, writer: Connection, exit_warning: float | None) -> None:
        self.sender = sender
        self.reader = reader
        self.writer = writer
        self.exit_warning = exit_warning
        self.ignore_epipe = False
        self.is_finished = False  # close(), exit or the end of the queue: no more puts
        self._discarded = False
        self.thread: threading.Thread | None = None
        self._join: util.Finalize | None = None
        self._join_cancelled = False

    def start(self) -> None:
        """See to it that the thread runs, where something waits. RuntimeError without threads.

        At the exit of a Python 3.12, where no thread starts, the caller itself sends what waits.
        """
        if self.thread is not None or not self.sender.struct.items:
            return
        thread = self.thread = threading.Thread(target=self._feed, name="QueueFeederThread", daemon=True)
        try:
            thread.start()
            if not self._join_cancelled:
                self._join = util.Finalize(thread, Feeder._join_at_exit, [weakref.ref(thread), self], exitpriority=-5)
        except BaseException as error:  # the next put tries again; a thread that did start finds that it is not the one
            if self.thread is thread:
                self.thread = self._join = None
            if not (isinstance(error, RuntimeError) and "interpreter shutdown" in str(error)):
                raise
            if not self._join_cancelled and not self._discarded:
                self.send_here()

    def send_here(self) -> None:
        """Send what waits, in the caller's thread."""
        self.thread = threading.current_thread()
        warn_at = None if self.exit_warning is None else time.monotonic() + self.exit_warning
        try:
            while self.sender.struct.items:
                if native.feed(self.sender.struct) == 1:
                    self._reap()
                elif warn_at is not None and time.monotonic() > warn_at:
                    warn_at = None
                    self._warn()
        finally:
            self.thread = None
        self._reap()

    def _feed(self) -> None:
        me = threading.current_thread()
        while self.thread is me and (result := native.feed(self.sender.struct)):
            if result == 1:
                self._reap()
        if self.thread is not me:
            return
        self._reap()
        self.close_ends()
        if self._join is not None:
            self._join.cancel()

    def _reap(self) -> None:
        lost, error = self.sender.reap()
        if lost and not (self.ignore_epipe and isinstance(failure(error), BrokenPipeError)):
            _log.error("%d item(s) of the queue on fd %d were lost: %s", lost, self.writer._end.fd, failure(error))

    def close_ends(self) -> None:
        """Close both ends of the pipe in this process; not at its exit, when daemon threads may still use them."""
        if util.is_exiting():
            return
        self.reader.close()
        self.writer.close()

    # ---- the end ----

    def finish(self) -> None:
        """Take no more; send what waits, then close both ends of the pipe in this process. Returns at once."""
        self.is_finished = True
        native.sender_closing(self.sender.struct)
        if self.thread is None and self.sender.struct.items:
            self.start()  # an exception came between put() and this
        elif self.thread is None and self.sender.struct.used:
            self.close_ends()
        elif self.thread is not None and self._join is None and not self._join_cancelled:
            self.send_here()  # beside a daemon thread that is at it, and ends with the process

    def is_waited_for(
        self,
        current: Callable[[], threading.Thread] = threading.current_thread,  # bound: at the exit modules are empty
        main: Callable[[], threading.Thread] = threading.main_thread,
    ) -> bool:
        """Whether the exit of the process waits for this thread, after its queues were flushed."""
        thread = current()
        return not thread.daemon and thread is not main()

    def refuse(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Ignore a put at the exit of the process: a daemon thread that puts for ever leaves the CPU to the others."""
        sleep(_LATE_PAUSE)

    def discard(self) -> tuple[int, int, bool]:
        """Drop all that waits: items, bytes, and whether one more is partly in the pipe."""
        self._discarded = True
        dropped = self.sender.discard()
        self.sender.reap()
        return dropped.items, dropped.size, bool(dropped.partial)

    def cancel_join(self) -> None:
        """Let the process exit without waiting for the thread."""
        self._join_cancelled = True
        if self._join is not None:
            self._join.cancel()

    def join(self) -> None:
        """Wait until all is sent; after exit_warning seconds one warning says what the wait is for."""
        if self._join is not None:
            self._join()

    @staticmethod
    def _join_at_exit(thread_ref: weakref.ref[threading.Thread], feeder: Feeder) -> None:
        thread = thread_ref()
        if thread is None:
            return
        if feeder._discarded:
            thread.join(_LAST_WAIT)
            return
        thread.join(feeder.exit_warning)
        if thread.is_alive():
            feeder._warn()
            thread.join()

    def _warn(self) -> None:
        with suppress(Exception):  # without stderr, say: the wait matters more than its report
            warn(self)
