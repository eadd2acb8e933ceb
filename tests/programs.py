"""The programs of tests/hanging and tests/healthy, and what a doctor may report of each.

`running` starts one in a session of its own, `steady` waits until it stands still: seen in /proc, never slept for.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
DEADLINE: Final = 20.0  # seconds until `ready`
STEADY_WITHIN: Final = 10.0  # seconds
SPINS_AFTER: Final = 3.0  # seconds
STEADY_SAMPLES: Final = 6  # equal ones in a row
SAMPLE_INTERVAL: Final = 0.05  # seconds

# The argument of a system call, by its number, that limits its time, and the value that means none: milliseconds of an
# int, or a pointer. The numbers are those of the Linux headers.
INFINITE: Final = 0xFFFFFFFF
TIME_LIMITS: Final = {
    "x86_64": {
        7: (2, INFINITE),  # poll
        23: (4, 0),  # select
        35: (0, 0),  # nanosleep
        128: (2, 0),  # rt_sigtimedwait
        202: (3, 0),  # futex
        230: (2, 0),  # clock_nanosleep
        232: (3, INFINITE),  # epoll_wait
        270: (4, 0),  # pselect6
        271: (2, 0),  # ppoll
        281: (3, INFINITE),  # epoll_pwait
    },
    "aarch64": {
        22: (3, INFINITE),  # epoll_pwait
        72: (4, 0),  # pselect6
        73: (2, 0),  # ppoll
        98: (3, 0),  # futex
        101: (0, 0),  # nanosleep
        115: (2, 0),  # clock_nanosleep
        137: (2, 0),  # rt_sigtimedwait
    },
}
TIME_LIMIT: Final = TIME_LIMITS.get(os.uname().machine, {})


@dataclass(frozen=True, slots=True)
class Hanging:
    """A program that hangs permanently.

    One of `verdicts` must be reported. `words` are lower-case parts of what the finding says (pattern, cause and fix).
    `rescuable`: whether larger pipes let the blocked writer continue; None where both answers are right.
    `needs`: commands without which the program, or its diagnosis ("py-spy"), is not available.
    """

    name: str
    verdicts: tuple[str, ...]
    words: tuple[str, ...]
    rescuable: bool | None
    needs: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return HERE / "hanging" / f"{self.name}.py"


@dataclass(frozen=True, slots=True)
class Healthy:
    """A program that can continue: besides "idle" and "busy" only verdicts in `allowed` may be reported."""

    name: str
    allowed: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return HERE / "healthy" / f"{self.name}.py"


DEADLOCK: Final = ("deadlock",)
STALL: Final = ("stall",)
EITHER: Final = ("deadlock", "stall")

JOIN: Final = ("join before get",)
BOTH_SEND: Final = ("both sides send first",)
END_OF_FILE: Final = ("end of file", "write end")
ANSWER: Final = ("answer",)

HANGING: Final = (
    # A child's exit that cannot come, for it waits for room.
    Hanging("join_before_get", DEADLOCK, JOIN, True),
    Hanging("join_before_get_beside_a_ticker", EITHER, JOIN, True),
    Hanging("join_before_get_beside_threads", EITHER, JOIN, True),
    Hanging("join_before_get_pipecap", EITHER, JOIN, None),
    Hanging("spawn_join_before_get", DEADLOCK, JOIN, True),
    Hanging("forkserver_join_before_get", EITHER, JOIN, True),
    Hanging("many_children_join_before_get", DEADLOCK, JOIN, True),
    Hanging("many_small_items", DEADLOCK, JOIN, True),
    Hanging("shrunk_by_quota", DEADLOCK, JOIN, True),
    Hanging("process_join_in_a_thread", DEADLOCK, JOIN, True),
    Hanging("pool_join_before_get", DEADLOCK, JOIN, True),
    Hanging("executor_shutdown_before_get", DEADLOCK, JOIN, True),
    Hanging("consumer_stopped_early", DEADLOCK, JOIN, None),
    Hanging("bounded_consumer_stopped_early", DEADLOCK, JOIN, None),
    Hanging("put_of_a_bounded_queue", DEADLOCK, JOIN, False, needs=("py-spy",)),
    Hanging("put_of_a_bounded_queue_pipecap", DEADLOCK, JOIN, False),
    Hanging("wait_for_any_child", DEADLOCK, JOIN, True),
    Hanging("perl_system_before_reading", DEADLOCK, JOIN, True, needs=("perl",)),
    # Anybody may open a FIFO that has a name.
    Hanging("shell_waits_before_it_reads", EITHER, ("read",), None),
    Hanging("shell_fills_its_own_fifo", EITHER, ("read",), None),
    Hanging("pipeline_waits_for_its_go_ahead", EITHER, (), None),
    # Room that is waited for in other calls than write(2).
    Hanging("writev_before_the_reader", DEADLOCK, JOIN, True),
    Hanging("splice_before_the_reader", DEADLOCK, JOIN, True),
    Hanging("tee_before_the_reader", DEADLOCK, JOIN, None),
    Hanging("vmsplice_before_the_reader", DEADLOCK, JOIN, None),
    Hanging("sendfile_before_the_reader", DEADLOCK, JOIN, True),
    Hanging("sendfile_to_a_socketpair", DEADLOCK, JOIN, None),
    Hanging("poll_for_room", DEADLOCK, JOIN, None),
    Hanging("epoll_for_room_in_a_socketpair", DEADLOCK, JOIN, None),
    Hanging("select_for_room", DEADLOCK, BOTH_SEND, None),
    Hanging("selectors_both_directions", DEADLOCK, BOTH_SEND, None),
    Hanging("socketpair_full_in_one_direction", DEADLOCK, JOIN, None),
    # An exit that waits for room.
    Hanging("exit_with_unread_items_main", DEADLOCK, ("exit with unread items",), True),
    Hanging("exit_with_unread_items_child", DEADLOCK, ("exit with unread items",), True),
    # Both sides send first.
    Hanging("both_send_first_pipes", DEADLOCK, BOTH_SEND, True),
    Hanging("both_send_first_socketpair", DEADLOCK, BOTH_SEND, None),
    Hanging("both_send_first_stdin", DEADLOCK, (*BOTH_SEND, "communicate"), True),
    Hanging("pools_of_queues", DEADLOCK, BOTH_SEND, True),
    Hanging("chain_of_three", DEADLOCK, ("send",), None),
    Hanging("asyncio_drain", DEADLOCK, (*BOTH_SEND, "communicate"), None),
    Hanging("node_child_both_send_first", DEADLOCK, BOTH_SEND, None, needs=("node",)),
    Hanging("perl_both_send_first", DEADLOCK, BOTH_SEND, True, needs=("perl",)),
    # Output that nobody reads.
    Hanging("popen_wait", DEADLOCK, ("output not read",), True),
    Hanging("stderr_not_read", DEADLOCK, ("stderr not read",), True),
    Hanging("asyncio_wait_without_reading", DEADLOCK, ("output not read",), None),
    Hanging("python_parent_socketpair_stderr", DEADLOCK, ("not read",), None),
    Hanging("node_parent_stderr", EITHER, ("not read",), None, needs=("node",)),
    Hanging("node_parent_waits_for_exit", EITHER, ("not read",), None, needs=("node",)),
    Hanging("stdio_server_stderr", DEADLOCK, ("stderr not read", "thread", "file"), None),
    # A reader that is there and does not read, or is there no more.
    Hanging("queue_handler_without_listener", DEADLOCK, ("listener",), True),
    Hanging("logging_listener_ended", DEADLOCK, ("listener",), True),
    Hanging("logger_lock_and_queue_thread", DEADLOCK, ("lock",), None),
    # Its pool has a thread that spins: where py-spy cannot read it, that is taken for work.
    Hanging("pool_callback_waits", (*EITHER, "busy"), (), None),
    Hanging("gil_held", STALL, ("cannot run",), True),
    Hanging("self_pipe_of_signals", DEADLOCK, ("nonblock",), True),
    Hanging("spawned_child_dies_before_its_arguments", DEADLOCK, ("ended", "read end"), None),
    # Consumers and tasks that are gone.
    Hanging("joinable_worker_raised", DEADLOCK, ("consumer", "task_done"), False),
    Hanging("joinable_worker_raised_pipecap", DEADLOCK, ("consumer", "task_done"), False),
    Hanging("joinable_workers_ended_pipecap", DEADLOCK, ("consumer",), False),
    Hanging("pool_worker_killed_mid_task", DEADLOCK, ("task", "lost"), False, needs=("py-spy",)),
    Hanging("pool_worker_exits_in_its_task", DEADLOCK, ("task", "lost"), False, needs=("py-spy",)),
    # Locks whose owner has ended, or was lost at a fork.
    Hanging("killed_with_read_lock", DEADLOCK, ("died", "lock"), False),
    Hanging("killed_with_write_lock", DEADLOCK, ("died", "lock"), False, needs=("py-spy",)),
    Hanging("pool_idle_worker_killed_terminate", DEADLOCK, ("died", "lock"), False),
    Hanging("pool_idle_worker_killed_apply", DEADLOCK, ("died", "lock"), False),
    Hanging("pool_dead_reader_and_big_tasks", DEADLOCK, ("died", "lock"), False),
    Hanging("lock_held_at_fork", DEADLOCK, ("lock", "fork"), False),
    Hanging("logging_lock_held_at_fork", DEADLOCK, ("lock", "fork"), False),
    # An end of file that cannot come.
    Hanging("end_of_file_held_by_the_reader", DEADLOCK, END_OF_FILE, False),
    Hanging("end_of_file_held_by_a_grandchild", DEADLOCK, ("cannot come", "write end"), False),
    Hanging("end_of_file_held_by_a_daemon", DEADLOCK, END_OF_FILE, False),
    Hanging("siblings_inherit_write_ends", DEADLOCK, (*END_OF_FILE, "inherit"), False),
    Hanging("popen_inherits_the_other_stdin", DEADLOCK, (*END_OF_FILE, "inherit"), False),
    # The owner of the write end waits for a client of the network, and may exit.
    Hanging("grandchild_keeps_stdout", STALL, END_OF_FILE, False),
    Hanging("recv_after_child_died", DEADLOCK, ("cannot come", "write end", "close"), False),
    Hanging("recv_after_child_died_pipecap", DEADLOCK, ("cannot come", "write end", "close"), False),
    Hanging("recv_after_child_died_duplex", DEADLOCK, ("cannot come", "close"), False),
    # An answer that cannot come.
    Hanging("both_receive", DEADLOCK, ANSWER, False),
    Hanging("both_receive_through_a_socketpair", DEADLOCK, ANSWER, False),
    Hanging("request_kept_in_a_buffer", DEADLOCK, (*ANSWER, "flush"), False),
    Hanging("answer_kept_in_a_buffer", DEADLOCK, (*ANSWER, "flush"), False),
    Hanging("node_and_python_both_receive", EITHER, ANSWER, False, needs=("node",)),
    Hanging("get_that_nobody_feeds", DEADLOCK, ("cannot come",), False),
    Hanging("get_that_nobody_feeds_pipecap", DEADLOCK, ("cannot come",), False),
    # FIFOs: anybody may open the other end.
    Hanging("fifo_open_order", STALL, ("fifo", "open"), False),
    Hanging("fifo_both_open_for_reading", STALL, ("fifo", "open"), False),
)

HEALTHY: Final = (
    # Data that moves, however slowly.
    Healthy("slow_reader"),
    Healthy("busy_writer"),
    Healthy("sleeper"),
    Healthy("join_with_time_limit"),
    Healthy("first_thread_ended"),
    Healthy("threads_come_and_go"),
    Healthy("processes_come_and_go"),
    Healthy("slow_stock_200kb_01s"),
    Healthy("slow_stock_200kb_06s"),
    Healthy("slow_stock_200kb_2s"),
    Healthy("slow_stock_2mb_01s"),
    Healthy("slow_stock_2mb_06s"),
    Healthy("slow_stock_2mb_2s"),
    Healthy("slow_pipecap_200kb_01s"),
    Healthy("slow_pipecap_200kb_2s"),
    Healthy("slow_pipecap_2mb_06s"),
    Healthy("slow_pipecap_2mb_2s"),
    Healthy("slow_shell_200kb_01s"),
    Healthy("slow_shell_200kb_2s"),
    Healthy("slow_shell_2mb_06s"),
    Healthy("slow_shell_2mb_2s"),
    Healthy("shell_pipeline_of_four"),
    Healthy("training_loop", needs=("numpy",)),
    Healthy("training_loop_of_slow_steps"),
    Healthy("both_directions_by_threads"),
    Healthy("node_parent_reads_slowly", needs=("node",)),
    Healthy("put_of_a_bounded_pipecap_queue"),
    Healthy("pool_at_work"),
    Healthy("pool_at_hard_work"),
    Healthy("retired_worker_of_a_pool"),
    # Full, and nothing moves for longer than `patience`: a task takes 5 s, a person or a debugger takes its time.
    Healthy("join_of_a_joinable_queue", STALL),
    Healthy("pager_on_a_terminal", STALL),
    Healthy("stopped_reader", STALL),
    Healthy("suspended_reader", STALL),
    Healthy("traced_reader", STALL),
    Healthy("timer_thread_kills_the_child", STALL),
    # Full, and the process that moves it comes from outside.
    Healthy("fifo_that_somebody_opens", STALL),
    Healthy("end_in_flight", STALL),
    Healthy("poll_until_the_readers_are_gone", STALL),
    Healthy("spawned_child_that_still_imports", STALL),
    # Full until a signal's handler acts: "deadlock, unless a signal handler ends it".
    Healthy("alarm_ends_the_join", EITHER),
    Healthy("interval_timer_ends_the_wait", EITHER),
    Healthy("gate_opened_by_signal", EITHER),
    Healthy("self_pipe_read", DEADLOCK),
    # Events, conditions, barriers, semaphores, locks.
    Healthy("event_until_sigint"),
    Healthy("event_until_sigterm"),
    Healthy("condition_until_sigusr1"),
    Healthy("barrier"),
    Healthy("semaphore"),
    Healthy("semaphore_until_sigusr1"),
    Healthy("lock_of_a_sleeper"),
    Healthy("locks_in_a_cycle_beside_unread_items"),
    # A main thread that waits for a signal or its self-pipe.
    Healthy("wakeup_fd"),
    Healthy("asyncio_until_sigterm"),
    Healthy("pause_beside_idle_pool"),
    Healthy("pause_beside_idle_joinable_queue"),
    Healthy("sigwait_beside_idle_executor"),
    Healthy("sigtimedwait_beside_manager"),
    # Without work.
    Healthy("idle_pool"),
    Healthy("idle_pool_beside_unread_items"),
    Healthy("idle_pool_pipecap"),
    Healthy("idle_executor"),
    Healthy("idle_thread_pool"),
    Healthy("idle_forkserver"),
    Healthy("idle_asyncio"),
    Healthy("idle_queue_listener"),
    Healthy("idle_controller_and_workers"),
    Healthy("idle_pipecap_workers"),
    Healthy("stdio_server_idle"),
    Healthy("node_parent_idle", needs=("node",)),
    Healthy("node_server", needs=("node",)),
    # Waits for the clock, the network, a person, a file.
    Healthy("zombie"),
    Healthy("poll_with_timeout"),
    Healthy("get_with_a_time_limit"),
    Healthy("parent_reads_with_a_time_limit"),
    Healthy("get_of_an_empty_queue"),
    Healthy("get_of_an_empty_pipecap_queue"),
    Healthy("join_of_a_pipecap_joinable_queue"),
    Healthy("asyncio_child_sleeps"),
    Healthy("communicate_with_a_slow_child"),
    Healthy("stdio_server_is_slow"),
    Healthy("perl_parent_waits", needs=("perl",)),
    Healthy("socket_server"),
    Healthy("socket_activated_child"),
    Healthy("prefork_server"),
    Healthy("prefork_server_with_heartbeats"),
    Healthy("siblings_wait_for_input"),
    Healthy("server_in_debugger"),
    Healthy("jobserver"),
    Healthy("jobserver_of_make"),
    Healthy("shell_pipeline"),
    Healthy("tail"),
    Healthy("tail_and_grep"),
    Healthy("fifo_daemon_opens"),
    Healthy("fifo_daemon_reads"),
    Healthy("fifo_daemon_of_a_shell"),
)


# One or two of each kind, for the default suite; --all-programs runs the others, too.
SAMPLE: Final = frozenset(
    """
    join_before_get join_before_get_pipecap forkserver_join_before_get process_join_in_a_thread pool_join_before_get
    executor_shutdown_before_get put_of_a_bounded_queue put_of_a_bounded_queue_pipecap wait_for_any_child
    splice_before_the_reader sendfile_to_a_socketpair epoll_for_room_in_a_socketpair select_for_room
    exit_with_unread_items_child both_send_first_pipes both_send_first_socketpair asyncio_drain popen_wait
    stderr_not_read node_parent_stderr stdio_server_stderr queue_handler_without_listener logger_lock_and_queue_thread
    spawned_child_dies_before_its_arguments joinable_worker_raised joinable_worker_raised_pipecap
    pool_worker_killed_mid_task killed_with_read_lock pool_dead_reader_and_big_tasks lock_held_at_fork
    end_of_file_held_by_the_reader siblings_inherit_write_ends grandchild_keeps_stdout recv_after_child_died_pipecap
    both_receive request_kept_in_a_buffer get_that_nobody_feeds fifo_open_order

    slow_stock_200kb_2s slow_pipecap_2mb_2s slow_shell_200kb_2s training_loop_of_slow_steps pager_on_a_terminal
    alarm_ends_the_join self_pipe_read event_until_sigint semaphore locks_in_a_cycle_beside_unread_items wakeup_fd
    asyncio_until_sigterm pause_beside_idle_pool sigwait_beside_idle_executor idle_pool idle_pool_beside_unread_items
    idle_pool_pipecap idle_executor idle_forkserver idle_asyncio idle_queue_listener idle_pipecap_workers
    node_parent_idle get_with_a_time_limit get_of_an_empty_pipecap_queue join_of_a_pipecap_joinable_queue
    prefork_server jobserver tail_and_grep fifo_daemon_opens server_in_debugger
    """.split()
)


@contextmanager
def running(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program up to `ready`, in a session of its own; kill all of the session in the end."""
    with (
        tempfile.TemporaryDirectory(
            prefix="pipecap-"
        ) as scratch,  # for the FIFOs and files that a killed program leaves
        tempfile.TemporaryFile("w+") as trouble,
        subprocess.Popen(
            [sys.executable, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=trouble,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": scratch},
        ) as child,
    ):
        try:
            assert child.stdout is not None
            line = child.stdout.readline() if select.select([child.stdout], [], [], DEADLINE)[0] else ""
            if line != "ready\n":
                trouble.seek(0)
                raise AssertionError(f"{path.name}: {line!r} instead of ready; {places(child.pid)}\n{trouble.read()}")
            yield child
        finally:
            _end(child)


def steady(pid: int) -> None:
    """Return once no thread of a session runs, and none has run for some samples in a row.

    A thread that sleeps under a time limit may wake up by the clock in between. One that still runs after some seconds
    spins, as Pool's does while a result lies unread: then only the others count.
    """
    before: dict[int, tuple[str, str]] = {}
    same = 0
    start = time.monotonic()
    spinning: set[int] = set()
    while True:
        now = places(pid)
        runs = {tid for tid, (place, _) in now.items() if place == "running"}
        if time.monotonic() - start > SPINS_AFTER:
            spinning |= runs
        now = {tid: place for tid, place in now.items() if tid not in spinning}
        same = same + 1 if now == before and not runs - spinning else 0
        if now and same >= STEADY_SAMPLES:
            return
        if time.monotonic() - start > STEADY_WITHIN:
            raise AssertionError(f"not steady: {now or 'ended'}")
        before = now
        time.sleep(SAMPLE_INTERVAL)


def members(session: int) -> dict[int, str]:
    """Return the processes of a session: the state letter by pid."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended
            stat = (directory / "stat").read_text(errors="replace")  # with a name that may be any bytes
            state, _parent, _group, its_session = stat.rpartition(") ")[2].split()[:4]
            if int(its_session) == session:
                found[int(directory.name)] = state
    return found


def places(session: int) -> dict[int, tuple[str, str]]:
    """Return where each thread of a session is, by tid, and how often it has slept ("" where the clock may wake it)."""
    found = {}
    for pid in members(session):
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(OSError):
                    found[int(task.name)] = _place(task)
    return found


def _place(task: Path) -> tuple[str, str]:
    state = (task / "stat").read_text(errors="replace").rpartition(") ")[2][0]
    if state in "TtZX":
        return {"T": "stopped", "t": "traced", "Z": "zombie", "X": "dead"}[state], ""
    function = (task / "wchan").read_text()
    call = (task / "syscall").read_text().split()
    if state == "R" or function == "0" or len(call) < 9:
        return "running", ""
    if _timed(int(call[0]), [int(argument, 16) for argument in call[1:7]]):
        return f"{function}, timed", ""
    status = (task / "status").read_text(errors="replace")
    return function, status.rpartition("\nvoluntary_ctxt_switches:")[2].split()[0]


def _timed(number: int, arguments: list[int]) -> bool:
    """Return whether a sleeping call has a time limit; one that is not listed has none."""
    if number not in TIME_LIMIT:
        return False
    argument, none = TIME_LIMIT[number]
    return (arguments[argument] & INFINITE if none else arguments[argument]) != none


def _end(leader: subprocess.Popen[str]) -> None:
    """Kill every process of a session and reap it: this process adopts the orphans, init may take seconds over them."""
    end = time.monotonic() + DEADLINE
    with _subreaper():
        with suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGCONT)
            os.killpg(leader.pid, signal.SIGKILL)
        while rest := members(leader.pid):
            for pid in rest:  # also one that looks like a zombie: its other threads may live
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                if pid != leader.pid:
                    with suppress(ChildProcessError):  # its own parent has not ended yet
                        os.waitpid(pid, os.WNOHANG)
            leader.poll()
            if time.monotonic() > end:
                raise AssertionError(f"these do not end: {rest}")
            time.sleep(0.002)


@contextmanager
def _subreaper() -> Iterator[None]:
    """Make this process the parent of its descendants that lose theirs (PR_SET_CHILD_SUBREAPER, 36)."""
    prctl = ctypes.CDLL(None).prctl
    prctl(36, ctypes.c_ulong(1))
    try:
        yield
    finally:
        prctl(36, ctypes.c_ulong(0))
