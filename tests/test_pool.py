"""Pool: no death of a worker costs more than its own task."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import random
import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import forkserver
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined] # not in the stubs
from pathlib import Path
from queue import Empty
from types import SimpleNamespace
from typing import Any

import pytest
from children import Thread, state, wait_until, wait_until_in

import pipecap
from pipecap import PoolBroken, WorkerLost
from pipecap.queues import process
from pipecap.queues.pool_crew import Crew

METHODS = ("fork", "spawn", "forkserver")
LARGE = 16 << 20
# Within which a lost task must be reported, and what is no hang returns. A spawned worker imports this module first.
AT_ONCE = {"fork": 1.0, "spawn": 5.0, "forkserver": 5.0}
SOON = 20.0


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    """Have the fork server of this process run: so that no test appears to leave it behind."""
    forkserver.ensure_running()
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined] # not in the stubs


@contextmanager
def pool_of(size: int, method: str = "fork", **options: Any) -> Iterator[Any]:
    """Yield a pool that has all its workers at work; terminate it."""
    pool = pipecap.get_context(method).Pool(size, **options)
    try:
        wait_until(lambda: waiting(pool) >= size)
        yield pool
    finally:
        pool.terminate()
        pool.join()


def waiting(pool: Any) -> int:
    """Return how many workers have asked for a task."""
    pids = {worker.pid for worker in pool._pool}
    return sum(entry["pid"] in pids for entry in pool._inqueue._shared.participants())


def lost_by(call: Callable[[], object], method: str = "fork") -> WorkerLost:
    began = time.monotonic()
    with pytest.raises(WorkerLost) as caught:
        call()
    assert time.monotonic() - began < AT_ONCE[method]
    return caught.value


# ---- what workers run ----


def square(number: int) -> int:
    return number * number


def die(number: int = 9) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def die_at_3(number: int, other: int = 0) -> int:
    if number == 3:
        die()
    return number + other


def pid() -> int:
    return os.getpid()


def data(size: int) -> bytes:
    return b"x" * size


class Unreadable:
    """Cannot be unpickled."""

    def __reduce__(self) -> Any:
        return int, ("x",)


def unreadable() -> Unreadable:
    return Unreadable()


def unpicklable() -> Callable[[], None]:
    return lambda: None


def fail() -> None:
    raise ValueError("no")


def die_and_leave_a_child() -> None:
    """Die; a child of one's own holds open what the parent may wait for to close."""
    if not os.fork():
        signal.alarm(2)
        signal.pause()
    die()


# ---- one task is lost, the pool is not ----


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_worker_fails_its_task_at_once(method: str) -> None:
    with pool_of(2, method) as pool:
        calls: list[Callable[[], object]] = [
            lambda: pool.apply(die),
            lambda: pool.apply_async(die).get(SOON),
            lambda: pool.map(die_at_3, range(5), chunksize=1),
            lambda: pool.map_async(die_at_3, range(5)).get(SOON),
            lambda: pool.starmap(die_at_3, [(3, 1), (4, 1)], chunksize=1),
            lambda: pool.starmap_async(die_at_3, [(3, 1)]).get(SOON),
            lambda: list(pool.imap(die_at_3, range(5))),
            lambda: list(pool.imap(die_at_3, range(8), chunksize=2)),
            lambda: list(pool.imap_unordered(die_at_3, range(5))),
        ]
        for call in calls if method == "fork" else calls[::3]:
            pids = {worker.pid for worker in pool._pool}
            lost = lost_by(call, method)
            assert (lost.pid in pids, lost.exitcode) == (True, -9)
            wait_until(lambda: waiting(pool) == 2)
        assert pool.map(square, range(100)) == [number * number for number in range(100)]


def test_the_error_says_who_died_how_and_with_what() -> None:
    with pool_of(1) as pool:
        worker = pool._pool[0].pid
        lost = lost_by(lambda: pool.apply(die, (15,)))
        assert str(lost) == f"worker {worker} was killed by signal 15 while it had die()"
        wait_until(lambda: waiting(pool) == 1)
        lost = lost_by(lambda: pool.map(die_at_3, range(6), chunksize=2))
        assert lost.task == "chunk 1 of die_at_3(), 2 items"
        wait_until(lambda: waiting(pool) == 1)
        assert lost_by(lambda: pool.apply(os._exit, (7,))).exitcode == 7
        assert lost_by(lambda: pool.apply(exit, (0,))).exitcode == 0


def test_other_items_of_an_imap_come_out() -> None:
    with pool_of(2) as pool:
        numbers: list[object] = []
        items = pool.imap(die_at_3, range(8))
        while True:
            try:
                numbers.append(items.next(SOON))
            except StopIteration:
                break
            except WorkerLost as lost:
                numbers.append(lost.task)
        assert numbers == [0, 1, 2, "task 3 of die_at_3()", 4, 5, 6, 7]


def test_a_map_that_lost_a_worker_does_not_wait_for_its_other_tasks() -> None:
    with pool_of(2) as pool:
        errors: list[BaseException] = []
        result = pool.map_async(sleep_or_die, [SOON, 0], chunksize=1, error_callback=errors.append)
        lost_by(lambda: result.get(SOON))
        assert errors == [result._value]


def sleep_or_die(seconds: float) -> None:
    if not seconds:
        die()
    time.sleep(seconds)


def test_a_worker_killed_while_it_waits_costs_nothing() -> None:
    with pool_of(2) as pool:
        for _ in range(3):
            for worker in list(pool._pool):
                worker.kill()
            assert pool.apply_async(square, (3,)).get(SOON) == 9


def test_a_reader_is_at_a_frame_that_it_received_and_at_none_that_it_waited_for() -> None:
    """Else another worker could receive it and die with it, and the task would appear to be in living hands."""
    queue = pipecap.get_context("fork").Queue()
    words, member = queue._shared.struct, queue._shared.member
    for number in (1, 2):
        with pytest.raises(Empty):
            queue.get(timeout=0.01)
        assert words.participants[member.index].at == 0
        queue.put(number)
        assert queue.get() == number
        assert words.participants[member.index].at == number
    queue.close()
    queue.join_thread()


def test_a_child_of_a_killed_worker_does_not_delay_its_end() -> None:
    with pool_of(1) as pool:
        lost_by(lambda: pool.apply(die_and_leave_a_child))


def test_a_worker_killed_amid_a_large_task_loses_this_task_alone() -> None:
    with pool_of(1) as pool:
        os.kill(pool._pool[0].pid, signal.SIGSTOP)
        results = [pool.apply_async(len, (b"x" * LARGE,)) for _ in range(3)]
        words = pool._inqueue._shared.struct
        wait_until(lambda: words.written > 1 << 16)
        threading.Thread(target=kill_amid_receiving, args=(pool._pool[0].pid, words)).start()
        outcomes = [outcome_of(result) for result in results]
        assert [outcome for outcome in outcomes if outcome != LARGE] in ([], [WorkerLost])
        assert pool.apply(square, (3,)) == 9


def kill_amid_receiving(worker: int, words: Any) -> None:
    os.kill(worker, signal.SIGCONT)
    wait_until(lambda: words.consumed > LARGE // 4)
    os.kill(worker, signal.SIGKILL)


def outcome_of(result: Any) -> object:
    try:
        return result.get(SOON)
    except WorkerLost as error:
        return type(error)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_killed_amid_a_large_result_loses_this_result_alone(method: str) -> None:
    with pool_of(2, method) as pool:
        words = pool._outqueue._shared.struct
        before = words.written
        victim = pool.apply_async(data, (LARGE,))
        wait_until(lambda: words.written > before + LARGE // 8)
        os.kill(pool._outqueue._shared.owner(reading=False), signal.SIGKILL)
        others = [pool.apply_async(data, (size,)) for size in (100, LARGE, 100)]
        assert [other.get(SOON) for other in others] == [data(size) for size in (100, LARGE, 100)]
        lost_by(lambda: victim.get(SOON), method)


def test_a_stopped_worker_is_alive() -> None:
    with pool_of(2) as pool:
        victim = pool.apply_async(stop_then, (5,))
        wait_until(lambda: "T" in {state(worker.pid) for worker in pool._pool})
        lost_by(lambda: pool.apply(die))
        assert pool.apply(square, (3,)) == 9
        with pytest.raises(multiprocessing.TimeoutError):
            victim.get(0)
        for worker in pool._pool:
            os.kill(worker.pid, signal.SIGCONT)
        assert victim.get(SOON) == 5


def stop_then(value: int) -> int:
    os.kill(os.getpid(), signal.SIGSTOP)
    return value


# ---- objects that do not travel ----


def test_what_cannot_be_pickled_or_unpickled_fails_its_own_task() -> None:
    with pool_of(1) as pool:
        worker = pool.apply(pid)
        for error, func, args in (
            (ValueError, unreadable, ()),  # its result, here
            (ValueError, len, (Unreadable(),)),  # its argument, there
            (AttributeError, len, (unpicklable(),)),
            (MaybeEncodingError, unpicklable, ()),
            (ValueError, fail, ()),
        ):
            with pytest.raises(error):
                pool.apply(func, args)
        assert pool.apply(pid) == worker


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_raises_does_not_end_the_pool(capsys: pytest.CaptureFixture[str]) -> None:
    with pool_of(1) as pool:
        result = pool.apply_async(square, (3,), callback=unpicklable_error)
        assert result.get(SOON) == 9
        assert pool.map_async(square, [3], callback=unpicklable_error).get(SOON) == [9]
        assert not pool._cache


def unpicklable_error(_: object) -> None:
    raise RuntimeError("of a callback")


# ---- workers that do not start ----


@pytest.mark.parametrize(("method", "initializer"), [("fork", fail), ("spawn", os._exit)], ids=["raises", "exits"])
def test_workers_that_die_at_start_break_the_pool_after_some_tries(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], method: str, initializer: Any
) -> None:
    monkeypatch.setattr("pipecap.queues.pool_crew._LONGEST_PAUSE", 0.1)
    started: list[int] = []
    context: Any = pipecap.get_context(method)
    original = type(context).Process.start

    def start(process: Any) -> None:
        original(process)
        started.append(process.pid)

    monkeypatch.setattr(type(context).Process, "start", start)
    pool = context.Pool(3, initializer, () if initializer is fail else (3,))
    result = pool.map_async(square, range(10))
    items = pool.imap(square, range(10))
    with pytest.raises(PoolBroken) as caught:
        result.get(SOON)
    assert caught.value.exitcode == (1 if initializer is fail else 3)
    assert caught.value.pid in started
    assert len(started) <= 3 + 3 + 8
    with pytest.raises(PoolBroken):
        items.next(SOON)
    with pytest.raises(StopIteration):
        items.next(SOON)
    with pytest.raises(PoolBroken):
        pool.apply(square, (3,))
    pool.close()
    pool.join()
    assert not pool._pool
    capfd.readouterr()


def test_the_pause_before_a_new_worker_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("pipecap.queues.pool_crew.time", SimpleNamespace(monotonic=lambda: now))

    def start() -> Any:
        raise OSError("no more processes")

    crew = Crew(start, 1, [])
    pauses = []
    while not crew.has_failed():
        pause = crew.fill(set)
        assert pause is not None
        pauses.append(pause)
        now += pause
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1, 1])
    assert "no more processes" in str(crew.failure())


def test_a_start_that_fails_for_a_while_is_retried() -> None:
    with pool_of(1) as pool:
        crew = pool._threads._crew
        original, fails = crew._start, iter([True] * 4)

        def start() -> Any:
            if next(fails, False):
                raise OSError("no more processes")
            return original()

        crew._start = start
        lost_by(lambda: pool.apply(die))
        assert pool.apply_async(square, (3,)).get(SOON) == 9


# ---- the end ----


def stopped(pool: Any) -> None:
    for worker in pool._pool:
        os.kill(worker.pid, signal.SIGSTOP)


def killed(pool: Any) -> None:
    for worker in pool._pool:
        os.kill(worker.pid, signal.SIGKILL)


def nothing(pool: Any) -> None:
    pass


@pytest.mark.parametrize("before", [nothing, stopped, killed])
@pytest.mark.parametrize("kind", ["task", "result", "many"])
def test_terminate_does_not_wait_for_anything(before: Any, kind: str) -> None:
    with pool_of(2) as pool:
        if kind == "task":
            result = pool.map_async(len, [b"x" * LARGE] * 8, chunksize=1)
            wait_until(lambda: pool._inqueue._shared.struct.written > 1 << 16)
        elif kind == "result":
            result = pool.map_async(data, [LARGE] * 40, chunksize=1)
            wait_until(lambda: pool._outqueue._shared.struct.written > 1 << 16)
        else:
            result = pool.map_async(time.sleep, [SOON] * 10_000, chunksize=1)
        before(pool)
        Thread(pool.terminate).result()
        with suppress(WorkerLost):  # of the killed ones; else PoolBroken, which is one
            assert len(result.get(0)) == 8
        assert pool._pool == []
        assert multiprocessing.active_children() == []


def test_terminate_kills_what_ignores_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipecap.queues.pool_crew._GRACE", 0.2)
    with pool_of(1, initializer=signal.signal, initargs=(signal.SIGTERM, signal.SIG_IGN)) as pool:
        Thread(pool.terminate).result()
        assert pool._pool == []


def test_a_callback_may_terminate_its_pool() -> None:
    with pool_of(2) as pool:
        result = pool.apply_async(square, (3,), callback=lambda _: pool.terminate())
        assert result.get(SOON) == 9
        pool.join()
        with pytest.raises(ValueError, match="not running"):
            pool.apply(square)


@pytest.mark.parametrize("method", METHODS)
def test_close_and_join_wait_for_all_jobs(method: str) -> None:
    pool = pipecap.get_context(method).Pool(2, maxtasksperchild=1 if method == "fork" else None)
    results = [pool.apply_async(square, (number,)) for number in range(6)]
    items = pool.imap(square, range(6))
    lost = pool.apply_async(die)
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(square, (3,))
    pool.join()
    assert [result.get(0) for result in results] == list(items) == [0, 1, 4, 9, 16, 25]
    with pytest.raises(WorkerLost):
        lost.get(0)


def test_a_worker_ends_after_its_most_tasks() -> None:
    with pool_of(1, maxtasksperchild=2) as pool:
        pids = [pool.apply(pid) for _ in range(6)]
        assert pids[::2] == pids[1::2]
        assert len(set(pids)) == 3


def test_a_pool_that_is_dropped_ends() -> None:
    pool = pipecap.get_context("fork").Pool(2)
    assert pool.map(square, [2, 3]) == [4, 9]
    workers = list(pool._pool)
    with pytest.warns(ResourceWarning, match="unclosed running"):  # noqa: PT031 -- from the collection
        del pool
        gc.collect()
    assert not any(worker.is_alive() for worker in workers)


def test_its_arguments_are_those_of_multiprocessing() -> None:
    context = pipecap.get_context("fork")
    for wrong in ({"processes": 0}, {"maxtasksperchild": 0}, {"maxtasksperchild": 1.5}):
        with pytest.raises(ValueError, match="must be"):
            context.Pool(**wrong)
    with pytest.raises(TypeError):
        context.Pool(1, "not callable")  # type: ignore[arg-type] # on purpose


# ---- random kills ----

SIZES = (100, 4 << 10, 64 << 10, 1 << 20, LARGE)


def content(seed: int, size: int, as_array: bool) -> Any:
    block = hashlib.sha256(str(seed).encode()).digest()
    whole = (block * (size // 32 + 1))[:size]
    return array("B", whole) if as_array else whole


def digest(*contents: Any) -> str:
    return hashlib.blake2b(contents[0]).hexdigest()


def outcomes_of(pool: Any, kind: str, func: Any, arguments: list[tuple[Any, ...]]) -> Callable[[], list[Any]]:
    """Start tasks by one of the pool's methods; return what waits for their results, errors among them."""
    if kind == "apply":
        results = [pool.apply_async(func, each) for each in arguments]
        return lambda: [caught(result.get) for result in results]
    if kind == "starmap":
        result = pool.starmap_async(func, arguments, chunksize=1)
        return lambda: whole(caught(result.get), len(arguments))
    items = getattr(pool, kind)(Star(func), arguments)
    return lambda: [caught(items.next) for _ in arguments]


class Star:
    """A function of one tuple."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    def __call__(self, arguments: tuple[Any, ...]) -> Any:
        return self.func(*arguments)


def caught(get: Callable[[float], Any]) -> Any:
    try:
        return get(SOON)
    except WorkerLost as error:
        return error


def whole(outcome: Any, count: int) -> list[Any]:
    return [outcome] * count if isinstance(outcome, WorkerLost) else outcome


def kill_at_random(method: str, where: str, as_array: bool, kills: int) -> dict[str, int]:
    """Kill workers beside tasks of all sizes until `kills` were killed; return how that went."""
    chance = random.Random(f"{method} {where} {as_array}")
    victims: set[int] = set()
    seed = right = lost = 0
    with pool_of(3, method) as pool:
        while len(victims) < kills:
            triples = [(seed + number, chance.choice(SIZES), as_array) for number in range(6)]
            seed += len(triples)
            kind = chance.choice(("apply", "starmap", "imap", "imap_unordered"))
            is_task = where == "task"
            arguments = [(content(*triple),) for triple in triples] if is_task else triples
            wait_for = outcomes_of(pool, kind, digest if is_task else content, arguments)
            time.sleep(chance.random() * chance.choice((0.002, 0.02, 0.1)))
            with suppress(ProcessLookupError, IndexError):
                victim = chance.choice(list(pool._pool)).pid
                os.kill(victim, signal.SIGKILL)
                victims.add(victim)
            wanted = [digest(content(*triple)) for triple in triples]
            outcomes = wait_for()  # raises TimeoutError where it hangs
            errors = {id(error): error for error in outcomes if isinstance(error, WorkerLost)}
            assert len(errors) <= 1, errors
            assert all((error.pid in victims, error.exitcode) == (True, -9) for error in errors.values())
            found = [outcome if isinstance(outcome, WorkerLost) or is_task else digest(outcome) for outcome in outcomes]
            if kind == "imap_unordered":
                assert {each for each in found if isinstance(each, str)} <= set(wanted)
                assert len(set(map(str, found))) == len(wanted)
            else:
                assert all(
                    each == want or isinstance(each, WorkerLost) for each, want in zip(found, wanted, strict=True)
                )
            lost += len(errors)
            right += sum(isinstance(each, str) for each in found)
    return {"kills": len(victims), "lost": lost, "right": right}


@pytest.mark.parametrize("as_array", [False, True], ids=["bytes", "arrays"])
@pytest.mark.parametrize("where", ["task", "result"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_random_kills_cost_one_task_each_at_most(
    request: pytest.FixtureRequest, method: str, where: str, as_array: bool
) -> None:
    if request.config.getoption("--kill-matrix", False):
        print(method, where, as_array, kill_at_random(method, where, as_array, 65))  # noqa: T201 -- for -s
    elif method == "fork":
        kill_at_random(method, where, as_array, 4)
    else:
        pytest.skip("takes minutes: asks for --kill-matrix")


def test_a_pool_leaves_no_descriptor_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pool_of(2) as pool:
            lost_by(partial(pool.apply, die))
        del pool
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


# ---- executors ----


def bytes_read(worker: int) -> int:
    return int(Path(f"/proc/{worker}/io").read_text().split()[1])


def amid_task(executor: Any) -> int:
    """Return the PID of a worker that is receiving a large argument."""
    before = {worker: bytes_read(worker) for worker in executor._processes}

    def receiving() -> list[int]:
        return [worker for worker, count in before.items() if bytes_read(worker) > count + (1 << 20)]

    executor.submit(len, b"x" * LARGE)
    wait_until(receiving)
    return receiving()[0]


def amid_result(executor: Any) -> int:
    """Return the PID of a worker that is sending a large result."""
    shared = executor._result_queue._shared
    before = shared.struct.written
    executor.submit(data, LARGE)
    wait_until(lambda: shared.struct.written > before + (1 << 20))
    return int(shared.owner(reading=False))


@pytest.mark.parametrize("sibling", [None, signal.SIGSTOP], ids=["", "beside a stopped one"])
@pytest.mark.parametrize("moment", [amid_task, amid_result])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_executor_breaks_and_never_hangs(method: str, moment: Any, sibling: int | None) -> None:
    context = pipecap.get_context(method)
    executor = ProcessPoolExecutor(1 if sibling is None else 2, mp_context=context)
    assert list(executor.map(square, range(8))) == [number * number for number in range(8)]
    workers = list(executor._processes)
    heir = multiprocessing.get_context("fork").Process(target=signal.pause)  # has the read end of the call queue
    heir.start()
    try:
        victim = moment(executor)
        for worker in workers:
            os.kill(worker, signal.SIGKILL if worker == victim else sibling or 0)
        late = []
        with suppress(BrokenProcessPool):
            late = [executor.submit(len, b"x" * LARGE) for _ in range(3)]
        assert not wait(late, SOON).not_done
        assert {type(future.exception()) for future in late} <= {BrokenProcessPool}
        Thread(executor.shutdown).result()
        with pytest.raises(RuntimeError):
            executor.submit(square, 3)
    finally:
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        heir.kill()
        heir.join()
        wait_until(lambda: "ExecutorEnd" not in {thread.name for thread in threading.enumerate()})


def test_a_spawned_process_that_dies_before_it_reads_its_arguments_does_not_hang_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: b"/bin/true")
    context: Any = pipecap.get_context("spawn")
    child = context.Process(target=len, args=(b"x" * LARGE,))
    Thread(child.start).result()
    child.join(SOON)
    assert child.exitcode == 0


def test_the_end_of_an_executor_waits_for_a_feeder_thread_that_is_about_to_start(pipe: tuple[int, int]) -> None:
    feeder = threading.Thread(target=os.write, args=(pipe[1], bytes(100_000)), daemon=True)  # more than the pipe holds
    end = process._End(feeder, os.dup(pipe[0]))
    draining = Thread(end._drain)
    wait_until_in("nanosleep", os.getpid(), draining.native_id)
    feeder.start()
    draining.result()
    feeder.join(SOON)
    assert not feeder.is_alive()


def test_a_map_does_not_mind_that_all_workers_are_dead() -> None:
    """The base class divides by how many there are."""
    with pipecap.get_context("fork").Pool(1) as pool:
        for _ in range(20):
            os.kill(pool.apply(os.getpid), signal.SIGKILL)
            with suppress(pipecap.WorkerLost):
                assert pool.map(abs, [1, -2]) == [1, 2]
        assert pool.starmap(pow, iter([(2, 3)] * 9)) == [8] * 9
        assert pool.map(abs, []) == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_executor_whose_idle_worker_was_killed_shuts_down(method: str) -> None:
    """It mostly owns the lock of the call queue, a stock one, which the other worker then waits for."""
    for _ in range(3):
        executor = ProcessPoolExecutor(2, mp_context=pipecap.get_context(method))
        assert list(executor.map(abs, range(-6, 0))) == [6, 5, 4, 3, 2, 1]
        time.sleep(0.1)
        os.kill(min(executor._processes), signal.SIGKILL)
        Thread(executor.shutdown).result()
