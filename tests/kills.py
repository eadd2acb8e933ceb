"""Kill users of a queue at full load, again and again, and account for every item.

One cell: a kind of queue, a size and a type of items, who is killed, and a start method. The processes note in shared
files what they are about to put, have put and have got, so nothing that a killed one noted is lost with it.
"""

from __future__ import annotations

import queue as queues
import random
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from kill_workers import MAXSIZE, STOP, Cell, consume, get, produce, tag_in
from ledger import Account, Ledger, tag_of

import pipecap

LONGEST_WAIT = 20.0


@dataclass
class Outcome:
    """What was seen.

    `lost` items were put and nobody got them; `in_put` are those whose put() had not returned when it was killed, which
    nobody got either; `reported` is the sum of LostItem and TruncatedItem.
    """

    cell: Cell
    kills: int = 0
    usable: int = 0
    slowest: float = 0.0
    put: int = 0
    lost: int = 0
    in_put: int = 0
    reported: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.cell}  {self.kills:5} {self.usable:6} {self.put:9,} {self.lost:6} {self.in_put:6}"
            f" {self.reported:8} {self.slowest:7.2f} {self.seconds:6.1f}"
            + "".join(f"\n    {problem}" for problem in self.problems)
        )


HEADING = (
    f"{'kind':13} {'size':>12}  {'items':5}  {'victim':12}  {'start':5}"
    "  kills usable       put   lost in put reported slowest   time"
)


# ---- one cell ----

PARENT = 0  # its row


class _Run:
    """The processes of one cell and what became of them."""

    def __init__(self, cell: Cell, folder: Path, limit: float) -> None:
        self.cell = cell
        self.limit = limit
        self.random = random.Random(str(cell))
        self.ledger = Ledger(folder, make=True)
        self.context: Any = pipecap.get_context(cell.method, exit_warning=None)
        sizes = () if cell.kind == "SimpleQueue" else (MAXSIZE[cell.size],)
        self.queue = getattr(self.context, cell.kind)(*sizes)
        self.rows = iter(range(1, 1 << 20))
        self.killed: dict[str, list[int]] = {"producer": [], "consumer": []}
        self.alive: dict[str, list[tuple[int, BaseProcess]]] = {"producer": [], "consumer": []}
        self.spares: dict[str, list[tuple[int, BaseProcess]]] = {"producer": [], "consumer": []}
        self.outcome = Outcome(cell)
        self.markers = 0

    # -- processes --

    def _start(self, role: str) -> tuple[int, BaseProcess]:
        row = next(self.rows)
        work = produce if role == "producer" else consume
        process = self.context.Process(
            target=work, args=(self.queue, str(self.ledger.folder), row, self.cell), daemon=True
        )
        process.start()
        return row, process

    def add(self, role: str) -> None:
        """Let one more work; a spawned one was made before, and waits."""
        spares = self.spares[role]
        row, process = spares.pop(0) if spares else self._start(role)
        self.ledger.go[row] = 1
        self.alive[role].append((row, process))

    def refill(self, roles: list[str]) -> None:
        """Make spare processes, where a start takes long."""
        if self.cell.method == "spawn":
            for role in roles:
                self.spares[role].append(self._start(role))

    # -- one kill --

    def _await_moment(self, role: str, row: int, pid: int) -> None:
        """Return at a random moment, or once the process owns a lock or has items in its feeder."""
        ledger, progress = self.ledger, self.ledger.begun if role == "producer" else self.ledger.done
        end = time.monotonic() + LONGEST_WAIT
        while not progress[row] and not ledger.errors() and time.monotonic() < end:
            time.sleep(0.0005)
        time.sleep(self.random.uniform(0, 0.01 if self.cell.size < 1 << 20 else 0.03))
        aim = self.random.choice(["", "", "lock", "lock", "held"])
        end = time.monotonic() + 0.05
        while aim and time.monotonic() < end:
            state = self.queue.debug_state()
            if aim == "lock" and state["writing" if role == "producer" else "reading"] == pid:
                break
            if aim == "held" and any(each["held"] for each in state["participants"] if each["pid"] == pid):
                break

    def kill(self, roles: list[str]) -> None:
        """Kill one of each role; then let the survivors show that the queue is usable, and replace the victims."""
        victims = [(role, *self.random.choice(self.alive[role])) for role in roles]
        last = victims[-1]
        assert last[2].pid is not None
        self._await_moment(last[0], last[1], last[2].pid)
        for _, _, process in victims:
            process.kill()
        killed_at = time.monotonic()
        reap_first = self.random.random() < 0.5
        for role, row, process in victims:
            self.alive[role].remove((row, process))
            self.killed[role].append(row)
            if reap_first:
                process.join()
        self.outcome.kills += len(victims)
        seconds = self._seconds_until_usable(killed_at)
        if seconds is None:
            self.outcome.problems.append(f"kill {self.outcome.kills}: not usable: {self.queue.debug_state()}")
            raise _GivenUp
        self.outcome.usable += len(victims) if seconds <= self.limit else 0
        self.outcome.slowest = max(self.outcome.slowest, seconds)
        if seconds > self.limit:
            self.outcome.problems.append(f"kill {self.outcome.kills}: usable only after {seconds:.2f} s")
        for role, _, process in victims:
            process.join()
            process.close()
            self.add(role)
        self.refill(roles)

    def _seconds_until_usable(self, begin: float) -> float | None:
        """Put a marker and wait for it to come out, at a consumer that lives or here; return when a new item first did.

        Behind large items the marker itself comes late.
        """
        number = self.markers = self.markers + 1
        before = {row: self.ledger.begun[row] for row, _ in self.alive["producer"]}
        self.ledger.begun[PARENT] = number
        putting = threading.Thread(target=self._put, args=(tag_of(PARENT, number),), daemon=True)
        putting.start()
        if not self.alive["consumer"]:
            getting = threading.Thread(target=self._get_until, args=(number,), daemon=True)
            getting.start()
        seconds = None
        while not self.ledger.has_seen(number) and time.monotonic() < begin + LONGEST_WAIT:
            if seconds is None and any(self.ledger.out[row] > begun for row, begun in before.items()):
                seconds = time.monotonic() - begin
            time.sleep(0.001)
        if not self.ledger.has_seen(number):
            return None
        seconds = seconds or time.monotonic() - begin
        putting.join(LONGEST_WAIT)
        self.ledger.put[PARENT] = number
        return seconds

    def _put(self, item: int) -> None:
        try:
            self.queue.put(item)
        except BaseException:
            self.ledger.note_error(PARENT, traceback.format_exc())

    def _get_until(self, number: int) -> None:
        try:
            with self.ledger.log(PARENT) as note:
                while not self.ledger.has_seen(number):
                    get(self.queue, self.ledger, PARENT, self.cell, note)
        except BaseException:
            self.ledger.note_error(PARENT, traceback.format_exc())

    # -- the end --

    def finish(self) -> None:
        """Let all work end as usual, and collect what is reported in the end."""
        self.ledger.stop()
        for role in ("producer", "consumer"):
            for _, process in self.spares[role]:
                process.kill()
        for row, process in self.alive["producer"]:
            process.join(LONGEST_WAIT)
            if process.exitcode is None:
                self.outcome.problems.append(f"producer {row} does not end: {self.queue.debug_state()}")
                raise _GivenUp
        for _ in self.alive["consumer"]:
            within(lambda: self.queue.put(STOP))
        for row, process in self.alive["consumer"]:
            process.join(LONGEST_WAIT)
            if process.exitcode is None:
                self.outcome.problems.append(f"consumer {row} does not end: {self.queue.debug_state()}")
                raise _GivenUp
        within(self._collect)

    def _collect(self) -> None:
        lost = self.ledger.lost
        if self.cell.kind == "JoinableQueue":
            try:
                self.queue.join()
            except pipecap.LostItem as error:
                lost[PARENT] += error.count
            self.queue.join()  # what was reported is not reported again
        with self.ledger.log(PARENT) as note:
            source = pipecap.drain(self.queue, [])
            while True:
                try:
                    note(tag_in(next(source)))
                except StopIteration:
                    break
                except pipecap.LostItem as error:
                    lost[PARENT] += error.count
                except pipecap.TruncatedItem:
                    self.ledger.truncated[PARENT] += 1
        if self.cell.kind != "SimpleQueue":
            self._check_credits()

    def _check_credits(self) -> None:
        maxsize, problems = MAXSIZE[self.cell.size], self.outcome.problems
        if self.queue.qsize() != 0:
            problems.append(f"qsize() of the empty queue is {self.queue.qsize()}")
        put = 0
        with suppress(queues.Full):
            while put <= maxsize:
                self.queue.put_nowait(put)
                put += 1
        if put != maxsize:
            problems.append(f"{put} of {maxsize} credits are there")
        for number in range(put):
            if self.queue.get() != number:
                problems.append("what was put in the end did not come out")

    def account(self) -> None:
        """Compare what was put with what came out."""
        tasks = self.cell.kind == "JoinableQueue"
        account = Account(self.ledger, self.killed["producer"], self.killed["consumer"], tasks=tasks)
        self.outcome.put, self.outcome.lost, self.outcome.in_put = account.put, account.lost, account.in_put
        self.outcome.reported = account.reported
        # What put() has returned for is in the pipe, or waits in the feeder and has a credit.
        self.outcome.problems += account.problems(
            0 if self.cell.kind == "SimpleQueue" else MAXSIZE[self.cell.size],
            len(self.killed["consumer"]) if self.cell.victim == "both" else 0,
        )
        state = self.queue.debug_state()
        if state["writing"] or state["reading"] or state["broken"]:
            self.outcome.problems.append(f"left behind: {state}")

    def close(self) -> None:
        """Leave nothing behind."""
        for processes in (*self.alive.values(), *self.spares.values()):
            for _, process in processes:
                process.kill()
                process.join()
                process.close()
        if self.cell.kind == "SimpleQueue":
            self.queue.close()
        else:
            self.queue.close(discard=True)
            within(self.queue.join_thread)
        self.ledger.close()


class _GivenUp(Exception):
    """The queue hangs."""


def within(call: Callable[[], None]) -> None:
    """Make a call that may hang."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LONGEST_WAIT)
    if errors:
        raise errors[0]
    if thread.is_alive():
        raise TimeoutError(f"{call} hangs")


def run_cell(cell: Cell, kills: int, folder: Path, *, limit: float = 2.0) -> Outcome:
    """Kill `kills` processes of one queue; it must be usable again within `limit` seconds."""
    begin = time.monotonic()
    run = _Run(cell, folder, limit)
    many = 3 if cell.victim == "one of 3 + 3" else 1
    roles = ["producer", "consumer"] if cell.victim in ("both", "one of 3 + 3") else [cell.victim]
    try:
        for role in ("producer", "consumer"):
            for _ in range(many):
                run.add(role)
        run.refill([role for role in roles for _ in range(2)])
        while run.outcome.kills < kills and not run.ledger.errors():
            run.kill([run.random.choice(roles)] if many == 3 else roles)
        run.finish()
        run.account()
    except _GivenUp:
        pass
    except Exception:
        run.outcome.problems.append(traceback.format_exc() + str(run.queue.debug_state()))
    finally:
        run.outcome.problems += run.ledger.errors()
        run.close()
    run.outcome.seconds = time.monotonic() - begin
    return run.outcome
