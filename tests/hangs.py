"""Named child programs for the doctor: hangs that it must find, healthy programs that it must not accuse.

Each prints `ready` once everything is started. That it stands still is then seen in /proc,
never slept for.
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
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

DEADLINE = 20.0


@dataclass(frozen=True, slots=True)
class Hang:
    """A program that hangs by itself, and what a doctor should say of it.

    `blocked_in` names what the threads of its session wait in, once for each thread: part of a kernel function's name,
    or "private", "shared" or "timed" futex. `rescuable`: what the blocked writes still want fits pipes that have grown.
    `ends`: with pipes of 1 MiB the program then comes to its end.
    """

    name: str
    program: str
    verdict: str
    pattern: str
    rescuable: bool
    blocked_in: tuple[str, ...]
    ends: bool = True


@dataclass(frozen=True, slots=True)
class Healthy:
    """A program that can go on; a deadlock is never said of it, of the other verdicts only those in `allowed`.

    `blocked_in` is seen at least once before the scene counts as set: as for a Hang, or "stopped", "traced", "zombie".
    """

    name: str
    program: str
    allowed: tuple[str, ...] = ()
    blocked_in: tuple[str, ...] = ()


HANGS = (
    Hang(
        "join_before_get",
        """
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.Queue()
child = fork.Process(target=lambda: queue.put("X" * 1000000))
child.start()
print("ready", flush=True)
child.join()
queue.get()
""",
        "deadlock",
        "join before get",
        rescuable=True,
        blocked_in=("do_wait", "private futex", "pipe_write"),
    ),
    Hang(
        "many_small_items",
        """
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.Queue()
child = fork.Process(target=lambda: [queue.put(number) for number in range(10000)])
child.start()
print("ready", flush=True)
child.join()
for number in range(10000):
    assert queue.get() == number
""",
        "deadlock",
        "join before get",
        rescuable=True,
        blocked_in=("do_wait", "private futex", "pipe_write"),
    ),
    # One page is what the kernel gives above pipe-user-pages-soft; the item would have fitted the usual sixteen.
    Hang(
        "shrunk_by_quota",
        """
import fcntl
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.Queue()
fcntl.fcntl(queue._writer.fileno(), fcntl.F_SETPIPE_SZ, 4096)
child = fork.Process(target=lambda: queue.put("X" * 20000))
child.start()
print("ready", flush=True)
child.join()
queue.get()
""",
        "deadlock",
        "join before get",
        rescuable=True,
        blocked_in=("do_wait", "private futex", "pipe_write"),
    ),
    Hang(
        "exit_with_unread_items_main",
        """
from multiprocessing import get_context
queue = get_context("fork").Queue()
for _ in range(100):
    queue.put(bytes(2000))
print("ready", flush=True)
""",
        "deadlock",
        "exit with unread items",
        rescuable=True,
        blocked_in=("private futex", "pipe_write"),
    ),
    # The parent does not join: it polls the child's sentinel, a pipe whose write end closes when the child is gone.
    Hang(
        "exit_with_unread_items_child",
        """
from multiprocessing import connection, get_context
fork = get_context("fork")
def work():
    queue = fork.Queue()
    for _ in range(100):
        queue.put(bytes(2000))
child = fork.Process(target=work)
child.start()
print("ready", flush=True)
connection.wait([child.sentinel])
child.join()
""",
        "deadlock",
        "exit with unread items",
        rescuable=True,
        blocked_in=("poll", "private futex", "pipe_write"),
    ),
    Hang(
        "both_send_first_pipes",
        """
from multiprocessing import get_context
fork = get_context("fork")
to_parent, to_child = fork.Pipe(duplex=False), fork.Pipe(duplex=False)
def talk(incoming, outgoing):
    outgoing[1].send_bytes(bytes(200000))
    incoming[0].recv_bytes()
child = fork.Process(target=talk, args=(to_child, to_parent))
child.start()
print("ready", flush=True)
talk(to_parent, to_child)
child.join()
""",
        "deadlock",
        "both sides send first",
        rescuable=True,
        blocked_in=("pipe_write", "pipe_write"),
    ),
    Hang(
        "both_send_first_socketpair",
        """
from multiprocessing import get_context
fork = get_context("fork")
here, there = fork.Pipe()
def talk(end):
    end.send_bytes(bytes(8000000))
    end.recv_bytes()
child = fork.Process(target=talk, args=(there,))
child.start()
print("ready", flush=True)
talk(here)
child.join()
""",
        "stall",
        "both sides send first",
        rescuable=False,
        blocked_in=("sock_alloc_send_pskb", "sock_alloc_send_pskb"),
        ends=False,
    ),
    # Two workers wait for the write lock of the results; the third holds it.
    Hang(
        "pools_of_queues",
        """
from multiprocessing import get_context
fork = get_context("fork")
tasks, results = fork.SimpleQueue(), fork.SimpleQueue()
def work():
    for task in iter(tasks.get, None):
        results.put(task * 4)
workers = [fork.Process(target=work) for _ in range(3)]
for worker in workers:
    worker.start()
print("ready", flush=True)
for _ in range(2000):
    tasks.put(bytes(100))
for _ in range(2000):
    results.get()
for worker in workers:
    tasks.put(None)
for worker in workers:
    worker.join()
""",
        "deadlock",
        "both sides send first",
        rescuable=True,
        blocked_in=("pipe_write", "pipe_write", "shared futex", "shared futex"),
    ),
    Hang(
        "popen_wait",
        """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "print('x' * 200000)"], stdout=subprocess.PIPE)
print("ready", flush=True)
child.wait()
""",
        "deadlock",
        "output not read",
        rescuable=True,
        blocked_in=("do_wait", "pipe_write"),
    ),
    Hang(
        "stderr_not_read",
        """
import subprocess, sys
program = "import sys; sys.stderr.write('x' * 200000); print('done')"
child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
print("ready", flush=True)
child.stdout.read()
child.stderr.read()
child.wait()
""",
        "deadlock",
        "stderr not read",
        rescuable=True,
        blocked_in=("pipe_read", "pipe_write"),
    ),
    # To the kernel this is join before get, and the loop that logs is over: only the record under way tells.
    Hang(
        "queue_handler_without_listener",
        """
import logging, logging.handlers
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.Queue()
def work():
    logging.getLogger().addHandler(logging.handlers.QueueHandler(queue))
    for number in range(2000):
        logging.warning("record %d", number)
child = fork.Process(target=work)
child.start()
print("ready", flush=True)
child.join()
""",
        "deadlock",
        "logging queue without a listener",
        rescuable=True,
        blocked_in=("do_wait", "private futex", "pipe_write"),
    ),
    # On their way out the workers wait for the feeder of a queue that is not the pool's. If both have put items, the
    # feeder of one holds the queue's write lock and that of the other waits for it.
    Hang(
        "pool_join_before_get",
        """
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.Queue()
def work(number):
    queue.put(bytes(100000))
pool = fork.Pool(2)
pool.map(work, range(4), chunksize=1)
print("ready", flush=True)
pool.close()
pool.join()
for _ in range(4):
    queue.get()
""",
        "deadlock",
        "join before get",
        rescuable=True,
        blocked_in=("do_wait", "private futex", "pipe_write"),
    ),
    # Here the thread of the executor joins the workers, and the main thread joins that one.
    Hang(
        "executor_shutdown_before_get",
        """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.Queue()
def work():
    queue.put("X" * 1000000)
with ProcessPoolExecutor(1, mp_context=fork) as executor:
    executor.submit(work).result()
    print("ready", flush=True)
queue.get()
""",
        "deadlock",
        "join before get",
        rescuable=True,
        blocked_in=("private futex", "do_wait", "private futex", "pipe_write"),
    ),
    # Callbacks run in the one thread that reads results, and this one waits for a result. No proof: the thread which
    # looks after the workers polls the read end as well, and spins. Growing lets the worker go on, but nobody else.
    Hang(
        "pool_callback_waits",
        """
from multiprocessing import get_context
def work():
    return bytes(200000)
pool = get_context("fork").Pool(1)
pool.apply_async(work, callback=lambda result: pool.apply(work))
print("ready", flush=True)
pool.apply(work)
""",
        "stall",
        "consumer stopped early",
        rescuable=True,
        blocked_in=("private futex", "private futex", "private futex", "pipe_write"),
        ends=False,
    ),
    # The producer never tires: a bigger pipe only lasts a little longer.
    Hang(
        "consumer_stopped_early",
        """
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.SimpleQueue()
def produce():
    while True:
        queue.put(bytes(1000))
child = fork.Process(target=produce)
child.start()
for _ in range(10):
    queue.get()
print("ready", flush=True)
child.join()
""",
        "deadlock",
        "join before get",
        rescuable=True,
        blocked_in=("do_wait", "pipe_write"),
        ends=False,
    ),
    # A bounded queue has a second brake, the semaphore of its free places: put() waits there, the feeder in write().
    Hang(
        "bounded_consumer_stopped_early",
        """
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.Queue(200)
def produce():
    while True:
        queue.put(bytes(1000))
child = fork.Process(target=produce)
child.start()
for _ in range(10):
    queue.get()
print("ready", flush=True)
child.join()
""",
        "deadlock",
        "join before get",
        rescuable=True,
        blocked_in=("do_wait", "shared futex", "pipe_write"),
        ends=False,
    ),
    Hang(
        "killed_with_read_lock",
        """
import os, signal
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.Queue()
def die():
    queue._rlock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)
for _ in range(10):
    queue.put("item")
dying = fork.Process(target=die)
dying.start()
dying.join()
consumers = [fork.Process(target=queue.get) for _ in range(2)]
for consumer in consumers:
    consumer.start()
print("ready", flush=True)
for consumer in consumers:
    consumer.join()
""",
        "deadlock",
        "reader died holding the lock",
        rescuable=False,
        blocked_in=("do_wait", "private futex", "shared futex", "shared futex"),
        ends=False,
    ),
    # Nothing is unread, nothing is full: an idle queue looks the same.
    Hang(
        "killed_with_write_lock",
        """
import os, signal
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.Queue()
def die():
    queue._wlock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)
dying = fork.Process(target=die)
dying.start()
dying.join()
fork.Process(target=lambda: queue.put("item")).start()
print("ready", flush=True)
queue.get()
""",
        "quiet",
        "waiting for a lock",
        rescuable=False,
        blocked_in=("pipe_read", "private futex", "shared futex"),
        ends=False,
    ),
    # PyDLL keeps the GIL during the call. The reader got some bytes out before it needed the GIL again, for which it
    # asks every 5 ms.
    Hang(
        "gil_held",
        """
import ctypes, os, threading
reading, writing = os.pipe()
write = ctypes.PyDLL(None).write
def read():
    while os.read(reading, 65536):
        pass
reader = threading.Thread(target=read)
reader.start()
print("ready", flush=True)
write(writing, bytes(500000), 500000)
os.close(writing)
reader.join()
""",
        "stall",
        "reader cannot run",
        rescuable=True,
        blocked_in=("pipe_write", "timed futex"),
    ),
)

HEALTHY = (
    # Each item takes a slot of its own and is replaced at once: full, with as much unread, at whatever time one looks.
    Healthy(
        "slow_reader",
        """
import time
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.SimpleQueue()
def produce():
    while True:
        queue.put(bytes(4000))
fork.Process(target=produce).start()
print("ready", flush=True)
while True:
    queue.get()
    time.sleep(0.05)
""",
        blocked_in=("pipe_write",),
    ),
    Healthy(
        "busy_writer",
        """
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.SimpleQueue()
def produce():
    while True:
        queue.put(bytes(100000))
fork.Process(target=produce).start()
queue.get()
print("ready", flush=True)
while True:
    queue.get()
""",
    ),
    Healthy(
        "poll_with_timeout",
        """
from multiprocessing import get_context
fork = get_context("fork")
reading, writing = fork.Pipe(duplex=False)
def watch():
    while not reading.poll(0.2):
        pass
child = fork.Process(target=watch)
child.start()
print("ready", flush=True)
child.join()
""",
        blocked_in=("poll", "do_wait"),
    ),
    # A stall where the window of the samples is shorter than the nap.
    Healthy(
        "sleeper",
        """
import os, time
reading, writing = os.pipe()
if not os.fork():
    os.close(reading)
    while True:
        os.write(writing, bytes(65536))
print("ready", flush=True)
while True:
    time.sleep(0.2)
    os.read(reading, 65536)
""",
        allowed=("stall",),
        blocked_in=("pipe_write",),
    ),
    # Between two items it looks like join before get, but for the time limit.
    Healthy(
        "join_with_time_limit",
        """
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.SimpleQueue()
def produce():
    while True:
        queue.put(bytes(5000))
child = fork.Process(target=produce)
child.start()
print("ready", flush=True)
while True:
    child.join(0.1)
    queue.get()
""",
        allowed=("stall",),
        blocked_in=("pipe_write", "poll"),
    ),
    Healthy(
        "socket_server",
        """
import socket
from multiprocessing import get_context
fork = get_context("fork")
server = socket.create_server(("127.0.0.1", 0))
child = fork.Process(target=server.accept)
child.start()
print("ready", flush=True)
child.join()
""",
        blocked_in=("accept", "do_wait"),
    ),
    Healthy(
        "shell_pipeline",
        """
import subprocess
shell = subprocess.Popen(["sh", "-c", "sleep 1000 | cat"])
print("ready", flush=True)
shell.wait()
""",
        blocked_in=("do_wait", "do_wait", "pipe_read", "nanosleep"),
    ),
    # Any file will do that exists everywhere and need not be removed.
    Healthy(
        "tail",
        """
import subprocess
tail = subprocess.Popen(["tail", "-n", "0", "-f", "/etc/passwd"], stdout=subprocess.PIPE)
print("ready", flush=True)
tail.stdout.read()
""",
        blocked_in=("pipe_read",),
    ),
    Healthy(
        "stopped_reader",
        """
import os, signal
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.SimpleQueue()
def consume():
    while True:
        queue.get()
reader = fork.Process(target=consume)
reader.start()
os.kill(reader.pid, signal.SIGSTOP)
print("ready", flush=True)
while True:
    queue.put(bytes(1000))
""",
        allowed=("stall",),
        blocked_in=("stopped", "pipe_write"),
    ),
    # In a process group of its own, as a shell's jobs are: SIGTSTP does not stop an orphaned one, as the session's is.
    Healthy(
        "suspended_reader",
        """
import os, signal
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.SimpleQueue()
def consume():
    os.setpgid(0, 0)
    os.kill(os.getpid(), signal.SIGTSTP)
    while True:
        queue.get()
reader = fork.Process(target=consume)
reader.start()
print("ready", flush=True)
while True:
    queue.put(bytes(1000))
""",
        allowed=("stall",),
        blocked_in=("stopped", "pipe_write"),
    ),
    # 16 is PTRACE_ATTACH. The main process is the debugger at its prompt.
    Healthy(
        "traced_reader",
        """
import ctypes, os, sys
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.SimpleQueue()
def consume():
    while True:
        queue.get()
def produce():
    while True:
        queue.put(bytes(1000))
reader, writer = fork.Process(target=consume), fork.Process(target=produce)
reader.start()
writer.start()
assert ctypes.CDLL(None).ptrace(16, reader.pid, None, None) == 0
os.waitpid(reader.pid, 0)
print("ready", flush=True)
sys.stdin.read()
""",
        allowed=("stall",),
        blocked_in=("traced", "pipe_write", "pipe_read"),
    ),
    # The parent has not asked for its dead child, and will write to the other when it is told to.
    Healthy(
        "zombie",
        """
import os, sys
reading, writing = os.pipe()
if not os.fork():
    os._exit(0)
if not os.fork():
    os.close(writing)
    os.read(reading, 1)
    os._exit(0)
print("ready", flush=True)
sys.stdin.read()
""",
        blocked_in=("zombie", "pipe_read", "pipe_read"),
    ),
    # A process whose first thread has ended is a zombie by name: its fds are to be seen only under its other threads.
    Healthy(
        "first_thread_ended",
        """
import ctypes, os, threading, time
reading, writing = os.pipe()
if not os.fork():
    os.close(reading)
    while True:
        os.write(writing, bytes(4096))
def read():
    while True:
        os.read(reading, 4096)
        time.sleep(0.05)
threading.Thread(target=read).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
""",
        blocked_in=("zombie", "pipe_write", "nanosleep"),
    ),
    Healthy(
        "threads_come_and_go",
        """
import threading, time
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.SimpleQueue()
def produce():
    while True:
        queue.put(bytes(1000))
fork.Process(target=produce).start()
print("ready", flush=True)
while True:
    thread = threading.Thread(target=queue.get)
    thread.start()
    thread.join()
    time.sleep(0.001)
""",
        blocked_in=("pipe_write",),
    ),
    Healthy(
        "processes_come_and_go",
        """
import time
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.Queue()
print("ready", flush=True)
while True:
    child = fork.Process(target=queue.put, args=(bytes(100000),))
    child.start()
    queue.get()
    child.join()
    time.sleep(0.01)
""",
    ),
    Healthy(
        "idle_pool",
        """
import threading
from multiprocessing import get_context
pool = get_context("fork").Pool(2)
pool.map(abs, range(10))
print("ready", flush=True)
threading.Event().wait()
""",
        allowed=("quiet",),
        blocked_in=("private futex", "private futex", "poll", "pipe_read", "pipe_read", "shared futex"),
    ),
    # What could move a thread without being seen: each of these goes on by itself, some seconds later.
    Healthy(
        "fifo_that_somebody_opens",
        """
import os, tempfile, threading, time
path = os.path.join(tempfile.gettempdir(), f"pipecap-{os.getpid()}.fifo")
os.mkfifo(path)
fd = os.open(path, os.O_RDWR)
def unlink_later():
    time.sleep(0.2)
    os.unlink(path)
if not os.fork():
    unlink_later()
    os._exit(0)
print("ready", flush=True)
os.write(fd, bytes(200000))
""",
        allowed=("stall",),
        blocked_in=("pipe_write",),
    ),
    Healthy(
        "end_in_flight",
        """
import os, socket, sys, time
reading, writing = os.pipe()
ours, theirs = socket.socketpair()
if not os.fork():
    os.close(reading)
    os.close(writing)
    time.sleep(30)
    os._exit(0)
theirs.close()
socket.send_fds(ours, [b"x"], [reading])
print("ready", flush=True)
os.write(writing, bytes(200000))
""",
        allowed=("stall",),
        blocked_in=("pipe_write", "nanosleep"),
    ),
    Healthy(
        "locks_in_a_cycle_beside_unread_items",
        """
import time
from multiprocessing import get_context
fork = get_context("fork")
queue, one, other = fork.SimpleQueue(), fork.Lock(), fork.Lock()
queue.put("a result")
def take(first, second):
    with first:
        time.sleep(0.3)
        with second:
            pass
children = [fork.Process(target=take, args=locks) for locks in ((one, other), (other, one))]
for child in children:
    child.start()
print("ready", flush=True)
for child in children:
    child.join()
""",
        allowed=("quiet",),
        blocked_in=("do_wait", "shared futex", "shared futex"),
    ),
    Healthy(
        "poll_until_the_readers_are_gone",
        """
import os, select
reading, writing = os.pipe()
if not os.fork():
    os.write(writing, bytes(200000))
    os._exit(0)
waiting = select.poll()
waiting.register(writing, select.POLLIN)
print("ready", flush=True)
waiting.poll()
""",
        allowed=("stall",),
        blocked_in=("pipe_write", "poll"),
    ),
    Healthy(
        "spawned_child_that_still_imports",
        """
import os, time
from multiprocessing import get_context
fork = get_context("fork")
event = fork.Event()
queue = fork.Queue()
def consume():
    event.wait()
    queue.get()
consumer = fork.Process(target=consume)
consumer.start()
queue.put(bytes(1000000))
if not os.fork():
    os.execvp("sleep", ["sleep", "30"])
print("ready", flush=True)
event.wait()
""",
        allowed=("stall",),
        blocked_in=("pipe_write", "nanosleep", "shared futex", "shared futex"),
    ),
    # The same, and all of them have inherited a queue that nobody has read yet.
    Healthy(
        "idle_pool_beside_unread_items",
        """
import threading
from multiprocessing import get_context
fork = get_context("fork")
queue = fork.SimpleQueue()
queue.put("for later")
pool = fork.Pool(2)
pool.map(abs, range(10))
print("ready", flush=True)
threading.Event().wait()
""",
        allowed=("quiet",),
        blocked_in=("private futex", "private futex", "poll", "pipe_read", "pipe_read", "shared futex"),
    ),
    Healthy(
        "idle_executor",
        """
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
executor = ProcessPoolExecutor(2, mp_context=get_context("fork"))
list(executor.map(abs, range(10)))
print("ready", flush=True)
threading.Event().wait()
""",
        allowed=("quiet",),
        blocked_in=("private futex", "private futex", "poll", "pipe_read", "shared futex"),
    ),
    Healthy(
        "idle_asyncio",
        """
import asyncio
async def main():
    child = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    print("ready", flush=True)
    await child.stdout.read()
asyncio.run(main())
""",
        allowed=("quiet",),
        blocked_in=("poll", "pipe_read"),
    ),
    # The servers outlive the one process that was started with them.
    Healthy(
        "idle_forkserver",
        """
import threading, time
from multiprocessing import get_context
child = get_context("forkserver").Process(target=time.sleep, args=(0,))
child.start()
child.join()
child = get_context("spawn").Process(target=time.sleep, args=(0,))
child.start()
child.join()
print("ready", flush=True)
threading.Event().wait()
""",
        allowed=("quiet",),
        blocked_in=("private futex", "poll", "pipe_read"),
    ),
)


@contextmanager
def hung(hang: Hang) -> Iterator[subprocess.Popen[str]]:
    """Run a program, in a session of its own, until it hangs; kill the whole session in the end."""
    with _session(hang.program) as child:
        _wait_until_blocked(child.pid, hang.name, hang.blocked_in, looks=4)
        yield child


@contextmanager
def healthy(scene: Healthy) -> Iterator[subprocess.Popen[str]]:
    """Run a program, in a session of its own, until its scene is set; kill the whole session in the end."""
    with _session(scene.program) as child:
        _wait_until_blocked(child.pid, scene.name, scene.blocked_in, looks=1)
        yield child


def members(session: int) -> dict[int, str]:
    """Give the processes of a session, by pid, with their state letter."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended
            stat = (directory / "stat").read_text(errors="replace")  # with a name that may be any bytes
            state, _parent, _group, its_session = stat.rpartition(") ")[2].split()[:4]
            if int(its_session) == session:
                found[int(directory.name)] = state
    return found


def places(session: int) -> dict[int, str]:
    """Tell, for each thread of a session by its tid, where it is."""
    found = {}
    for pid in members(session):
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(OSError):
                    found[int(task.name)] = _place(task)
    return found


@contextmanager
def _session(program: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program up to `ready`, in a session of its own; kill all of the session in the end."""
    with (
        tempfile.TemporaryFile("w+") as trouble,
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=trouble,
            text=True,
            start_new_session=True,
        ) as child,
    ):
        try:
            assert child.stdout is not None
            said = child.stdout.readline() if select.select([child.stdout], [], [], DEADLINE)[0] else ""
            if said != "ready\n":
                trouble.seek(0)
                raise AssertionError(f"{said!r} instead of ready; {places(child.pid)}\n{trouble.read()}")
            yield child
        finally:
            _end(child)


def _wait_until_blocked(session: int, name: str, expected: tuple[str, ...], *, looks: int) -> None:
    """Return once the threads were where they should be, and had not moved, for that many looks in a row."""
    wanted = Counter(expected)
    before: dict[int, tuple[str, str]] = {}
    same = 0
    end = time.monotonic() + DEADLINE
    while True:
        seen = places(session)
        now = {tid: (place, _moves(tid, place)) for tid, place in seen.items() if any(part in place for part in wanted)}
        there = all(sum(part in place for place, _ in now.values()) >= count for part, count in wanted.items())
        same = 0 if not there else same + 1 if now == before else 1
        if same >= looks:
            return
        if time.monotonic() > end:
            raise AssertionError(f"{name}: not in {', '.join(expected)}, but {seen}; processes {members(session)}")
        before = now
        time.sleep(0.02)


def _place(task: Path) -> str:
    """Tell where a thread is: a kernel function, the kind of futex, or its state where that says more."""
    state = (task / "stat").read_text(errors="replace").rpartition(") ")[2][0]
    if state in "TtZX":
        return {"T": "stopped", "t": "traced", "Z": "zombie", "X": "dead"}[state]
    function = (task / "wchan").read_text()
    if "futex" not in function:
        return "running" if function == "0" else function
    call = (task / "syscall").read_text().split()
    if len(call) < 9:  # "running", or not in a system call
        return "running"
    operation, limit = int(call[2], 16), int(call[4], 16)
    if limit:
        return "timed futex"
    return "private futex" if operation & 128 else "shared futex"  # FUTEX_PRIVATE_FLAG


def _moves(tid: int, place: str) -> str:
    """Count how often a thread went to sleep; not of one that wakes by the clock, which is allowed to."""
    if place == "timed futex":
        return ""
    with suppress(OSError):
        for line in Path(f"/proc/{tid}/status").read_text(errors="replace").splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                return line.split()[1]
    return "gone"


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
