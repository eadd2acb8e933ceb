"""The report on this host: measured, not inferred, and nothing left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from privilege import in_child, quota_used_up, unprivileged

import pipecap
from pipecap import host

PAGE = os.sysconf("SC_PAGESIZE")
KINDS = ["Queue", "JoinableQueue", "SimpleQueue", "Pipe(duplex=False)", "Pipe()"]


@pytest.fixture(scope="module")
def found() -> pipecap.HostReport:
    return pipecap.report()


def test_a_row_for_each_kind_and_start_method(found: pipecap.HostReport) -> None:
    assert found.queues[0].kind == "os.pipe"
    assert [(row.start_method, row.kind) for row in found.queues[1:]] == [
        (method, kind) for method in multiprocessing.get_all_start_methods() for kind in KINDS
    ]


def test_pipes_take_their_nominal_capacity_and_sockets_have_none(found: pipecap.HostReport) -> None:
    for row in found.queues:
        assert row.socketpair == (row.kind == "Pipe()")
        assert row.unknown == {}
        if row.socketpair:
            assert row.nominal is None
            assert row.accepted
        else:
            assert row.nominal == row.accepted == 16 * PAGE


def test_what_typical_items_fill_is_measured_and_as_predicted(found: pipecap.HostReport) -> None:
    assert [item.measured for item in found.items] == [item.fit.items for item in found.items]
    assert [item.fit.item for item in found.items] == list(host.TYPICAL_ITEMS)


def test_the_report_is_plain_data(found: pipecap.HostReport) -> None:
    assert json.loads(json.dumps(found.to_dict()))["python"] == f"{sys.implementation.name} {sys.version.split()[0]}"
    assert found.uid == os.getuid()


def test_queues_are_measured_each_on_its_own_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A context whose queues get smaller pipes: the report shows it, so it does not infer them from os.pipe()."""
    from multiprocessing import connection

    stock = connection.Pipe

    def smaller(duplex: bool = True) -> tuple[object, object]:
        ends = stock(duplex)
        if not duplex:
            pipecap.resize(ends, 4 * PAGE)
        return ends

    monkeypatch.setattr(connection, "Pipe", smaller)
    rows = {row.kind: (row.nominal, row.accepted) for row in pipecap.report().queues}
    assert rows["os.pipe"] == (16 * PAGE, 16 * PAGE)
    assert rows["Queue"] == rows["SimpleQueue"] == rows["Pipe(duplex=False)"] == (4 * PAGE, 4 * PAGE)


def test_shrunken_pipes_are_reported() -> None:
    def look() -> pipecap.HostReport:
        with quota_used_up():
            return pipecap.report()

    found = unprivileged(look)
    assert {row.accepted for row in found.queues if not row.socketpair} == {2 * PAGE}
    assert found.verdict[0].level == "problem"
    assert f"{2 * PAGE:,} bytes instead of {16 * PAGE:,}" in found.verdict[0].text
    assert found.items[-1].fit.capacity == 2 * PAGE


def test_a_host_without_semaphores_still_gets_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /dev/shm is missing, Queue() fails in its lock: its row says so, the others are there."""

    def no_semaphores(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", no_semaphores)
    rows = {row.kind: row for row in pipecap.report().queues}
    assert rows["Queue"].accepted is None
    assert "No such file" in rows["Queue"].unknown["accepted"]
    assert rows["Pipe(duplex=False)"].accepted == 16 * PAGE


def test_without_descriptors_the_error_is_ours() -> None:
    def look() -> str:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with pytest.raises(pipecap.NoScratchPipe) as caught:
            pipecap.report()
        return str(caught.value)

    pipecap.report()
    assert "Too many open files" in in_child(look)


LEAVES_NOTHING = """
import os, pipecap
from pathlib import Path
for _ in range(20):
    shm = set(os.listdir("/dev/shm"))
    before = os.listdir("/proc/self/fd")
    pipecap.report()
    assert os.listdir("/proc/self/fd") == before, os.listdir("/proc/self/fd")
    assert not Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    if not set(os.listdir("/dev/shm")) - shm:
        break  # else it was another program's, or ours: then it is so each time
else:
    raise AssertionError(set(os.listdir("/dev/shm")) - shm)
"""


def test_no_helper_process_descriptor_or_semaphore_stays() -> None:
    """In a fresh interpreter, where no resource tracker ran before."""
    subprocess.run([sys.executable, "-W", "error", "-c", LEAVES_NOTHING], check=True)


def test_no_rich_argparse_or_json_is_loaded_for_a_report() -> None:
    program = "import sys, pipecap; pipecap.report(); print(*{'rich', 'argparse', 'json'} & {*sys.modules})"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == ""


def test_proc_sys_is_what_is_reported(found: pipecap.HostReport) -> None:
    assert found.limits.pipe_max_size == int(Path("/proc/sys/fs/pipe-max-size").read_text())
