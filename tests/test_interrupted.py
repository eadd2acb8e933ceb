"""Signals and faults in the middle of put and get: no lock, slot, task or half an item is left behind.

A handler's exception comes out where CPython looks for signals: as a function begins and after a call. Most tests raise
at one such moment, or at each in turn, which says more than a thousand signals at random times; a few send real ones.
"""

from __future__ import annotations

import mmap
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import util
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import pytest
from children import DEADLINE, Thread, and_stay, forked, wait_until, wait_until_in
from scenes import wait_until_asleep_in

import pipecap
from pipecap._native import ffi, lib
from pipecap.kernel.limits import PAGE_SIZE
from pipecap.queues import buffers, pickling, queue, receiver, sender
from pipecap.queues.connection import one_way
from pipecap.queues.sender import Sender

MIB = 1 << 20
CAPACITY = 65_536
LARGE = 200_000  # more than that capacity; a bytes object of this size is received straight into its place
WAITERS = 1 << 31
fork: Any = pipecap.get_context("fork")
# A handler that raises may do so in a callback of the garbage collector (Hypothesis has one): nobody can catch that.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

small = pipecap.get_context("fork", capacity=CAPACITY, exit_warning=None)

kinds = pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])


class Interrupt(BaseException):
    """What a handler raises."""


# Of the standard library's: half a Finalize complains when it goes, and a Condition stays locked.
NOT_OURS = {util.Finalize.__init__.__code__, threading.Condition.__enter__.__code__}


def interrupted(
    call: Callable[[], object], moment: Callable[[str, object], object], error: BaseException | None = None
) -> object:
    """Make a call, with Interrupt or this raised at the first such moment; tells what began or ended there, if any.

    A moment is "call", with the code of a Python function that begins, or "c_return", with a C function that ends.
    """
    hit: list[object] = []

    def look(frame: FrameType, event: str, called: object) -> None:
        if event not in ("call", "c_return") or called is sys.setprofile or frame.f_code in NOT_OURS:
            return
        place = frame.f_code if event == "call" else called
        if moment(event, place):
            sys.setprofile(None)
            hit.append(place)
            raise error or Interrupt

    try:
        sys.setprofile(look)
        call()
    except BaseException as raised:
        if not hit or raised is not (error or raised):
            raise
    finally:
        sys.setprofile(None)
    return hit[0] if hit else None


@pytest.fixture(autouse=True)
def no_thread_in_limbo() -> Iterator[None]:
    """Forget the threads whose start() was interrupted: the standard library keeps them."""
    yield
    threading._limbo.clear()  # type: ignore[attr-defined]


def after(name: str) -> Callable[[str, object], bool]:
    """Be the moment in which a C function returns."""
    return lambda event, place: event == "c_return" and getattr(place, "__name__", "") == name


def beginning(code: CodeType) -> Callable[[str, object], bool]:
    """Be the moment in which a Python function begins."""
    return lambda _, place: place is code


def nth(number: int) -> Callable[[str, object], bool]:
    """Be the moment after so many others."""
    left = iter(range(number))
    return lambda *_: next(left, None) is None


@contextmanager
def storm(longest: float) -> Iterator[Callable[[], None]]:
    """Let SIGALRM raise Interrupt; gives a call that sends one at a random time from now."""

    def interrupt(*_: object) -> None:
        raise Interrupt

    times = random.Random(1)
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, times.uniform(20e-6, longest)) and None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def holder(word: int) -> int:
    """Give the pid in a lock."""
    return word & ~WAITERS


def ended(made: Any) -> None:
    """Close a queue and wait until its thread has ended."""
    made.close()
    if hasattr(made, "join_thread"):
        made.join_thread()


def get(made: Any) -> Any:
    """Get in another thread, so that what hangs is a failure soon."""
    return Thread(made.get).result()


def frame(payload: bytes) -> bytes:
    return struct.pack("!i", len(payload)) + payload


# ---- put ----


@pytest.mark.parametrize(
    ("code", "items"),
    [(sender.put_three_now.__code__, "c"), (Sender._is_taken_on.__code__, "bc")],
    ids=["before it begins", "when it is half sent"],
)
@pytest.mark.parametrize("stale", [True, False])
def test_a_put_that_was_interrupted_goes_on_as_far_as_it_came_itself(stale: bool, code: CodeType, items: str) -> None:
    """Not as far as the one before it came."""
    made = small.Queue()
    if stale:
        made.put(b"a" * LARGE)
        assert get(made) == b"a" * LARGE
        wait_until(lambda: not made._sender._waiting)
    assert interrupted(lambda: made.put(b"b" * LARGE), beginning(code))
    putting = Thread(lambda: made.put(b"c" * LARGE))
    for item in items:
        assert get(made) == item.encode() * LARGE
    putting.result()
    assert made.qsize() == 0
    ended(made)


def test_a_half_sent_item_goes_on_though_nobody_puts_again() -> None:
    made = small.Queue()
    assert interrupted(lambda: made.put(bytes(MIB)), after("pipecap_put_three_now"))
    assert get(made) == bytes(MIB)
    ended(made)


def test_a_half_sent_item_goes_on_after_the_queue_was_closed() -> None:
    made = small.Queue()
    with forked(made.get, close=(made._writer,)) as child:
        assert interrupted(lambda: made.put(bytes(MIB)), after("pipecap_put_three_now"))
        ended(made)
        assert child.result() == bytes(MIB)


def test_a_put_waits_for_the_slot_of_a_half_sent_item() -> None:
    made = small.Queue(1)
    assert interrupted(lambda: made.put(bytes(MIB)), after("pipecap_put_three_now"))
    putting = Thread(lambda: made.put("next"))
    assert get(made) == bytes(MIB)
    putting.result()
    assert get(made) == "next"
    ended(made)


ITEMS = [b"y" * 3000, b"y" * LARGE, [b"y" * LARGE, b"z" * LARGE]]
items = pytest.mark.parametrize("item", ITEMS, ids=["small", "large", "two large"])


@items
@pytest.mark.parametrize("already", [0, 1, 2])
def test_a_put_that_nobody_reads_leaves_no_slot_and_no_task_behind(item: object, already: int) -> None:
    """Wherever it is interrupted, half sent, with the pipe full, or others in line: what will come out is counted."""
    for moment in range(2000):
        made = pipecap.get_context("fork", capacity=PAGE_SIZE, exit_warning=None).JoinableQueue(1000)
        shared = made._shared.struct
        before = [b"x" * 4000] * already  # the first one fills the pipe
        for each in before:
            made.put(each)
        hit = interrupted(lambda made=made: made.put(item), nth(moment))  # type: ignore[misc]
        counted = 1000 - shared.slots
        assert counted == shared.unfinished, hit
        got = [get(made) for _ in range(counted)]
        assert got in ([*before, item], before), hit
        assert (made.qsize(), made.empty()) == (0, True), hit
        putting = Thread(lambda made=made: made.put(b"last" * LARGE))  # type: ignore[misc]
        assert get(made) == b"last" * LARGE, hit
        putting.result()
        ended(made)
        if not hit:
            assert got == [*before, item]
            assert moment > 5
            return


@kinds
@items
def test_a_put_leaves_no_lock_behind(kind: str, item: object) -> None:
    """Wherever it is interrupted: what is half sent goes on, with the next put at the latest, and none comes twice."""
    for moment in range(2000):
        made = getattr(small, kind)()
        reading = Thread(lambda made=made: list(iter(made.get, "last")))  # type: ignore[misc]
        hit = interrupted(lambda made=made: made.put(item), nth(moment))  # type: ignore[misc]
        putting = Thread(lambda made=made: made.put("last"))  # type: ignore[misc]
        assert reading.result() in ([item], []), hit
        putting.result()
        assert made._shared.struct.writing == 0, hit
        ended(made)
        if not hit:
            assert moment > 5
            return


@kinds
def test_puts_through_a_storm_of_signals_leave_no_lock_behind(kind: str) -> None:
    made = getattr(small, kind)()
    shared = made._shared.struct
    ints = 0

    def read() -> int:
        count = 0
        while (item := made.get()) is not None:
            assert item == bytes(150_000)
            count += 1
        return count

    with forked(read) as child:
        with storm(700e-6) as send:
            end = time.monotonic() + 0.8
            while time.monotonic() < end:
                try:
                    send()
                    made.put(bytes(150_000))
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupt:
                    ints += 1
                    half = made._sender._waiting if kind == "Queue" else made._half_sent
                    assert holder(shared.writing) != os.getpid() or half or not shared.writing
        Thread(lambda: made.put(None)).result()
        assert child.result() > 0
    assert ints > 10
    assert shared.writing == 0
    ended(made)


@kinds
def test_threads_that_put_at_once_do_not_go_on_with_each_other_s_items(kind: str) -> None:
    """One is half sent and its writer at work: it was not interrupted."""
    made = getattr(small, kind)()

    def put(number: int) -> None:
        for _ in range(20):
            made.put(bytes([number]) * LARGE)

    putting = [Thread(lambda number=number: put(number)) for number in range(3)]  # type: ignore[misc]
    try:
        got = [get(made) for _ in range(60)]
        assert sorted(item[0] for item in got) == [0] * 20 + [1] * 20 + [2] * 20
        assert all(item == item[:1] * LARGE for item in got)
        for thread in putting:
            thread.result()
    finally:
        ended(made) if not any(thread.is_alive() for thread in putting) else made._reader.close()


@pytest.mark.parametrize("short_of_pages", [0, 1, 63, 64, 65, 4095])
@pytest.mark.parametrize("place", [0, 9, 16, 4080])
def test_a_frame_of_the_pages_of_the_pipe_fits(place: int, short_of_pages: int) -> None:
    """Wherever its source lies in a page, though a first write that is a little shorter would be copied faster."""
    made = small.SimpleQueue()
    size = CAPACITY - short_of_pages - buffers.HEADER - 7 - 2
    with mmap.mmap(-1, 2 * CAPACITY) as source, ffi.from_buffer("char[]", source) as body:
        progress = ffi.new("struct pipecap_progress *")
        result = lib.pipecap_put_three_now(made._write_port, b"h" * 7, 7, body + place, size, b"tt", 2, progress)
    assert result == 0
    assert pipecap.unread(made) == CAPACITY - short_of_pages
    made.close()


def test_a_message_of_the_pages_of_the_pipe_fits() -> None:
    reader, writer = one_way(CAPACITY)
    os.set_blocking(writer.fileno(), False)
    with mmap.mmap(-1, CAPACITY) as source, memoryview(source) as whole, whole[: CAPACITY - 4] as message:
        writer.send_bytes(message)  # BlockingIOError where it does not fit
        assert len(reader.recv_bytes()) == CAPACITY - 4
    reader.close()
    writer.close()


@pytest.fixture
def protocol_5(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Python 3.14, whose default it is: it hands over buffers as they are."""

    def new_pickler() -> tuple[ForkingPickler, Any]:
        pieces = pickling._Pieces()
        pickler = ForkingPickler(pieces, 5)
        pickler.dispatch_table = pickling._Reducers()
        return pickler, pieces

    monkeypatch.setattr(pickling, "_new_pickler", new_pickler)
    monkeypatch.setattr(pickling, "_picklers", [])


@pytest.mark.usefixtures("protocol_5")
@pytest.mark.parametrize("batch", [False, True])
def test_a_buffer_is_sent_as_it_was_put(batch: bool) -> None:
    made = small.Queue()
    buffer = bytearray(b"a" * MIB)
    if batch:
        made.put_many([buffer])
    else:
        made.put(buffer)
    buffer[:] = b"X" * MIB
    buffer.append(1)  # BufferError while somebody holds it
    assert get(made) == b"a" * MIB
    ended(made)


def test_what_a_handler_raises_while_items_are_pickled_is_not_an_error_of_the_list() -> None:
    """Neither at the pickler's moments nor after the last one."""

    def outcome() -> BaseException | None:
        try:
            queue._all_pickled([1, [2] * 1000, b"3" * MIB])
        except pipecap.NotPicklable as error:
            return error.__cause__
        except Exception as error:
            return error
        return None

    for moment in range(2000):
        raised = TimeoutError("out of a handler")
        seen: list[BaseException | None] = []
        hit = interrupted(lambda seen=seen: seen.append(outcome()), nth(moment), raised)  # type: ignore[misc]
        assert seen in ([raised], [], [None]), hit
        if not hit:
            assert moment > 5
            return


# ---- get ----


@kinds
@pytest.mark.parametrize("wrap", [bytes, lambda item: [item]], ids=["bytes", "list"])
def test_a_get_leaves_no_lock_behind(kind: str, wrap: Callable[[bytes], object]) -> None:
    """Wherever it is interrupted: the lock is free, or what is half here goes on; no item is out of place."""
    made = getattr(pipecap.get_context("fork", capacity=MIB), kind)()
    first, second = wrap(b"1" * LARGE), wrap(b"2" * LARGE)
    for moment in range(2000):
        made.put(first)
        made.put(second)
        hit = interrupted(made.get, nth(moment))
        assert holder(made._shared.struct.reading) != os.getpid() or made._half_received, hit
        item = get(made)
        if item == first and hit:
            item = get(made)
        assert item == second, hit
        assert made._shared.struct.reading == 0, hit
        assert made.empty()
        if kind == "Queue":
            assert made.qsize() == 0, hit
        if not hit:
            assert moment > 5
            break
    ended(made)


def test_gets_through_a_storm_of_signals_leave_no_lock_behind() -> None:
    made = fork.Queue()

    def write() -> None:
        number = 0
        while True:
            made.put(number.to_bytes(8, "little") * (LARGE // 8))
            number += 1
            while made.qsize() > 20:
                time.sleep(0.0001)

    expected = ints = 0
    with forked(write):
        with storm(400e-6) as send:
            end = time.monotonic() + 0.9
            while time.monotonic() < end:
                try:
                    send()
                    item = made.get(timeout=DEADLINE)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupt:
                    ints += 1
                    assert holder(made._shared.struct.reading) != os.getpid() or made._half_received
                    continue
                number = int.from_bytes(item[:8], "little")
                assert item == item[:8] * (LARGE // 8)
                assert number >= expected  # whole ones go with the exception: they were got
                expected = number + 1
        assert expected
        assert ints > 10
        assert len(get(made)) == LARGE
    made.close()


def test_without_memory_for_a_large_bytes_object_it_is_kept() -> None:
    size = 64 * MIB - 9  # the largest one; malloc finds no room for it in the heap of another thread

    def poor() -> tuple[int, bool]:
        made = fork.Queue()
        made.put(bytes(size))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * PAGE_SIZE + 20 * MIB, limits[1]))
        with pytest.raises(MemoryError):
            made.get(timeout=DEADLINE)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        made.put("next")
        return len(made.get(timeout=DEADLINE)), made.get(timeout=DEADLINE) == "next"

    with forked(poor) as child:
        assert child.result() == (size, True)


class _Chunked:
    """An unpickler that asks for a mebibyte at a time, as that of Python 3.15 (gh-119204)."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def load(self) -> bytes:
        head = self._file.read(3) + self._file.read(4)
        (size,) = struct.unpack("<I", head[3:])
        whole = bytearray(b"G" * size)
        for begin in range(0, size, MIB):
            end = min(begin + MIB, size)
            assert self._file.readinto(memoryview(whole)[begin:end]) == end - begin
            assert whole.count(b"G", end) == size - end, "more came than was asked for"
        return bytes(whole)


@kinds
def test_an_unpickler_that_asks_in_pieces_gets_no_more_than_it_asks_for(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = getattr(fork, kind)()
    monkeypatch.setattr(receiver, "_large", receiver._large)
    monkeypatch.setattr(receiver, "pickle", SimpleNamespace(Unpickler=_Chunked, loads=pickle.loads))
    items = [bytes(range(200)) * (20 * MIB // 1000), bytes(MIB), b"x" * LARGE]
    putting = Thread(lambda: [made.put(item) for item in items])
    for item in items:
        assert get(made) == item
    putting.result()
    ended(made)


@pytest.mark.parametrize("more", [b"C\5", b"B\5", b"X\0"])
def test_a_pickle_that_goes_on_where_it_should_end_takes_nothing_of_the_next(more: bytes) -> None:
    made = fork.Queue()
    made._shared.take_slots(1, 0)
    writing = Thread(lambda: made._writer.send_bytes(b"\x80\x04B" + struct.pack("<I", MIB) + bytes(MIB) + more))
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        get(made)
    writing.result()
    assert made._shared.struct.reading == 0
    made.put("the next item, which is longer")
    assert get(made) == "the next item, which is longer"
    assert made.qsize() == 0
    ended(made)


@pytest.mark.parametrize("wrap", [bytes, lambda item: [item]], ids=["bytes", "list"])
def test_a_queue_closed_amid_an_item_is_told_to_the_other_readers(wrap: Callable[[bytes], object]) -> None:
    """Nobody there will read the rest, and the lock is not left behind for it."""
    made = small.Queue()
    go_on, tell = os.pipe()
    wire = frame(pickle.dumps(wrap(b"a" * LARGE)))

    def read_too() -> None:
        os.read(go_on, 1)
        made.get(timeout=DEADLINE)

    for _ in range(2):
        made._shared.take_slots(1, 0)
    with forked(read_too) as child:
        os.write(made._writer.fileno(), wire[: LARGE // 10])
        getting = Thread(made.get)
        wait_until_in("poll", os.getpid(), getting.native_id)
        made._sender._used = True  # as after a put: close() then closes both ends
        made.close()
        with pytest.raises(OSError, match="handle is closed"):
            getting.result()
        assert made._shared.struct.reading == 0
        os.write(tell, b"x")
        with pytest.raises(pipecap.BadFrame):
            child.result()
    os.close(go_on)
    os.close(tell)


# ---- writers that die, or have no memory ----


@contextmanager
def dead_in_a_header(made: Any, first: bytes) -> Iterator[int]:
    """Let a writer die 2 bytes into the header of its second item."""
    with forked(and_stay(lambda: made.put_many([first, b"2" * 3000]))) as child:
        wait_until_asleep_in(child.pid, "pipe_write")
        yield child.end()


def page_of(count: int) -> bytes:
    """Give an item whose frame is so many bytes long."""
    return b"1" * (count - len(frame(pickle.dumps(bytes(2000)))) + 2000)


def one_page() -> Any:
    return pipecap.get_context("fork", capacity=PAGE_SIZE, exit_warning=None).Queue()


def test_a_header_that_was_read_ahead_of_a_dead_writer_is_an_item_cut_short() -> None:
    made = one_page()
    first = page_of(PAGE_SIZE - 2)
    with dead_in_a_header(made, first) as pid:
        assert get(made) == first
        shared = made._shared.struct
        assert (shared.ahead_count, holder(shared.writing)) == (2, pid)
        assert not made._wlock.acquire(timeout=1.2)  # a writer looks twice whether the dead one was in an item
        with pytest.raises(pipecap.TruncatedItem):
            get(made)
        assert shared.writing == 0
        made.put("next")
        assert get(made) == "next"
        assert made.qsize() == 0
    ended(made)


def test_a_drain_tells_of_a_header_that_was_read_ahead_of_a_dead_writer() -> None:
    made = one_page()
    first = page_of(PAGE_SIZE - 2)
    dead = fork.Process(target=and_stay(lambda: made.put_many([first, b"2" * 3000])))
    live = fork.Process(target=made.put, args=("live",))
    dead.start()
    wait_until_asleep_in(dead, "pipe_write")
    dead.kill()
    dead.join()
    live.start()
    with pytest.raises(pipecap.TruncatedItem) as caught:
        pipecap.join([dead, live], made, timeout=DEADLINE)
    assert caught.value.items == [first, "live"]
    assert made.qsize() == 0
    for process in (dead, live):
        process.join()
        process.close()
    ended(made)


NO_MEMORY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/uio.h>

int calls_of_pwritev2 = -1, calls_of_writev = -1; /* until one fails */

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    ssize_t (*real)(int, const struct iovec *, int, off_t, int) = dlsym(RTLD_NEXT, "pwritev2");

    if (calls_of_pwritev2 >= 0 && calls_of_pwritev2-- == 0) {
        errno = ENOMEM;
        return -1;
    }
    return real(fd, parts, count, offset, flags);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    ssize_t (*real)(int, const struct iovec *, int) = dlsym(RTLD_NEXT, "writev");

    if (calls_of_writev >= 0 && calls_of_writev-- == 0) {
        errno = ENOMEM;
        return -1;
    }
    return real(fd, parts, count);
}
"""

SHORT_OF_MEMORY = """
import ctypes, sys, threading, time, pipecap
kind, calls, number = sys.argv[1:]
made = getattr(pipecap.get_context("fork", capacity=65536, exit_warning=None), kind)()
failed = []
left = ctypes.c_int.in_dll(ctypes.CDLL(None), calls)
left.value = int(number)
def put():
    try:
        made.put(b"a" * 200_000)
    except MemoryError:
        failed.append("failed")
    made.put(b"b" * 200_000)
    made.put(None)
putting = threading.Thread(target=put, daemon=True)
putting.start()
if kind == "Queue":
    putting.join()  # one is half sent, the others in line
else:
    while left.value >= 0:
        time.sleep(0.001)
got = []
while (item := made.get()) is not None:
    assert item == item[:1] * 200_000
    got.append(item[:1].decode())
putting.join()
print(*failed, *got, made._shared.struct.writing, made._maxsize - made._shared.struct.slots if kind == "Queue" else 0)
"""


@pytest.fixture(scope="module")
def no_memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile what stands in for a cgroup at its limit: pages of a pipe are accounted (fs/pipe.c)."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc)")
    source = tmp_path_factory.mktemp("no_memory") / "no_memory.c"
    source.write_text(NO_MEMORY)
    library = source.with_suffix(".so")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=60)
    return library


@pytest.mark.parametrize(
    ("kind", "calls", "number", "outcome"),
    [
        ("Queue", "pwritev2", 0, "failed b 0 0"),  # nothing was sent yet: an error
        ("SimpleQueue", "pwritev2", 0, "failed b 0 0"),
        ("Queue", "pwritev2", 2, "a b 0 0"),  # half of it was: the rest must follow
        ("SimpleQueue", "pwritev2", 2, "a b 0 0"),
        ("SimpleQueue", "writev", 0, "a b 0 0"),  # the first one that waits
        ("Queue", "writev", 0, "a b 0 0"),  # in the thread: half of one is sent, ...
        *[("Queue", "writev", number, "a b 0 0") for number in (16, 17, 18)],  # ... or the next one is begun
    ],
)
def test_want_of_memory_amid_an_item_is_waited_out(
    kind: str, calls: str, number: int, outcome: str, no_memory: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, kind, f"calls_of_{calls}", str(number)],
        env={**os.environ, "LD_PRELOAD": str(no_memory)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.stdout.strip(), done.stderr) == (outcome, "")


# ---- several threads ----


def test_threads_that_drain_what_an_interrupted_get_many_left_get_each_item_once() -> None:
    made = fork.Queue()
    count = 8_000
    made.put_many(range(count // 4))
    assert interrupted(lambda: made.get_many(), after("pipecap_get"))
    assert made._half_received
    producer = fork.Process(target=made.put_many, args=(range(count // 4, count),))
    producer.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        draining = [Thread(lambda: list(pipecap.drain(made, [producer], timeout=DEADLINE))) for _ in range(4)]
        got = [item for thread in draining for item in thread.result()]
    finally:
        sys.setswitchinterval(interval)
    assert sorted(got) == list(range(count))
    assert made.qsize() == 0
    producer.join()
    producer.close()
    ended(made)
