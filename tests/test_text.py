"""A finding in words: what a user must read, line by line, and the drawing of every shape."""

from __future__ import annotations

from dataclasses import replace

import hangs
import pytest

from pipecap.diagnosis import text
from pipecap.diagnosis.diagnose import diagnose
from pipecap.diagnosis.finding import Finding, Party, PipeNow

PIPE = PipeNow("pipe:[991]", 991, 65536, 16, 62029, True, (10, 20), (10, 20), "")
FEEDER = Party(
    "writer", 20, 21, "/usr/bin/python app.py", "write(fd 4, 1,000,009 bytes)", "pipe:[991]", 4, 1000009, 937980,
    (10, 20), False,
)  # fmt: skip
PARENT = Party("reader", 10, 10, "python app.py", "wait4(20)", "", None, None, None, (20, 21), False)
EXITING = Party("reader", 20, 20, "python app.py", "futex(), a lock of its process", "", None, None, None, (21,), False)
FINDING = Finding(
    "deadlock",
    "join before get",
    (PIPE,),
    (FEEDER, PARENT, EXITING),
    "process 10 should read the full pipe, and waits for process 20 to exit instead",
    "get the items before join()",
    True,
    "python -m pipecap rescue 20",
)


def test_the_documented_example_reads_like_this() -> None:
    assert text.tell(FINDING) == [
        "deadlock, proven: join before get",
        "  thread 21 of process 20, a queue's feeder by the look of it, waits in write(fd 4, 1,000,009 bytes),"
        " 938 KB to go [python app.py]",
        "  the pipe is full (62,029 of 65,536 bytes in 16 of 16 slots, pipe:[991]); only process 10 (its parent) reads"
        " it, and that waits for process 20 to exit",
        "  cause: process 10 should read the full pipe, and waits for process 20 to exit instead",
        "  fix: get the items before join()",
        "  without a restart: python -m pipecap rescue 20 frees it, by growing what the blocked write needs",
        "  proof: each can be moved only by those drawn under it or named there, and none of them moves:",
        "    [1] thread 21 of process 20: write(fd 4, 1,000,009 bytes) on pipe:[991]",
        "    ├─ [2] process 10: wait4(20)",
        "    │  └─ waits for [1] and [3]",
        "    └─ [3] process 20: futex(), a lock of its process",
        "       └─ waits for [1]",
    ]


def test_the_documented_example_live() -> None:
    scene = next(hang for hang in hangs.HANGS if hang.name == "join_before_get")
    with hangs.hung(scene) as child:
        (finding,) = diagnose(child.pid).findings
    written = "\n".join(text.tell(finding))
    (producer,) = {party.pid for party in finding.parties} - {child.pid}
    for part in (
        f"of process {producer}, a queue's feeder",
        "waits in write(fd ",
        ", 938 KB to go",
        "the pipe is full (62,029 of 65,536 bytes in 16 of 16 slots",
        f"only process {child.pid} (its parent) reads it, and that waits for process {producer} to exit",
        "join before get",
        "pipecap.drain(queue, [process])",
        "frees it",
    ):
        assert part in written


def test_only_the_drawing_has_characters_beyond_ascii_and_plain_has_none() -> None:
    lines = text.tell(FINDING)
    assert all(line.isascii() for line in lines[:-4])
    plain = text.plain(lines)
    assert all(line.isascii() for line in plain)
    assert plain[-4:] == [
        "    |- [2] process 10: wait4(20)",
        "    |  `- waits for [1] and [3]",
        "    `- [3] process 20: futex(), a lock of its process",
        "       `- waits for [1]",
    ]


def test_python_lines_are_told_where_they_are_known() -> None:
    feeder = replace(FEEDER, line="queues.py:250 in Queue._feed")
    finding = replace(FINDING, parties=(feeder, replace(PARENT, line="app.py:9 in main"), EXITING))
    written = text.tell(finding)
    assert "a queue's feeder, waits in" in written[1]
    assert "at queues.py:250 in Queue._feed" in written[1]
    assert written[2].endswith("waits for process 20 to exit, at app.py:9 in main")
    assert "[2] process 10: wait4(20), at app.py:9 in main" in written[8]


def test_a_thread_that_writes_itself_is_no_feeder() -> None:
    finding = replace(FINDING, parties=(replace(FEEDER, line="app.py:3 in send"), PARENT, EXITING))
    assert "feeder" not in text.tell(finding)[1]


def test_what_comes_from_outside_cannot_move_the_cursor() -> None:
    feeder = replace(FEEDER, command="python -c \x1b[2J\nprint('é')", line="\x1b]0;x\x07.py:1 in é")
    lines = text.tell(replace(FINDING, parties=(feeder, PARENT, EXITING), cause="a\nb"))
    assert all(character.isprintable() for line in lines for character in line)
    assert r"\x1b[2J" in lines[1]


def test_a_long_command_is_cut() -> None:
    finding = replace(FINDING, parties=(replace(FEEDER, command="python " + "x" * 500), PARENT, EXITING))
    assert text.tell(finding)[1].endswith("xxx ...]")
    assert len(text.tell(finding)[1]) < 200


def test_a_stall_claims_no_proof() -> None:
    written = "\n".join(text.tell(replace(FINDING, verdict="stall")))
    assert written.startswith("stall, seen but not proven: ")
    assert "proof" not in written


def test_a_quiet_finding_has_no_pipe_and_offers_no_growing() -> None:
    finding = Finding("quiet", "waiting for input", (), (EXITING,), "nothing moves", "none", False, "no pipe is full")
    assert text.tell(finding) == [
        "quiet, no problem by itself: waiting for input",
        "  process 20 waits in futex(), a lock of its process [python app.py]",
        "  cause: nothing moves",
        "  fix: none",
        "  who waits for whom:",
        "    [1] process 20: futex(), a lock of its process",
        "    └─ waits for thread 21",
    ]


@pytest.mark.parametrize(
    ("pipe", "said"),
    [
        (replace(PIPE, full=False, unread=230), "230 bytes lie unread in a pipe of 65,536, which is not full"),
        (
            replace(PIPE, capacity=None, slots=None, unread=None, full=None, unknown="made by another user"),
            "how full pipe:[991] is could not be seen (made by another user)",
        ),
        (replace(PIPE, readers=(20,)), "; no other process can read it"),
        (replace(PIPE, readers=()), "; nobody that could be seen reads it"),
        (replace(PIPE, readers=(20, 30)), "; only process 30 reads it"),
        (replace(PIPE, readers=(10, 20, 30)), "; processes 10 and 30 could read it"),
        (replace(PIPE, readers=(*range(100, 110),)), "; processes 100, 101, 102, 103, 104, 105 and 4 more could"),
        (
            PipeNow("socket:[5]", 5, None, None, None, None, (10,), (20,), ""),
            "socket:[5] is a socket: how full it is, the kernel does not tell; only process 10 (its parent) reads it",
        ),
    ],
)  # fmt: skip
def test_each_state_of_a_pipe_is_told(pipe: PipeNow, said: str) -> None:
    feeder = replace(FEEDER, file=pipe.file)
    assert said in "\n".join(text.sentences(replace(FINDING, pipes=(pipe,), parties=(feeder, PARENT, EXITING))))


def test_a_reader_that_sits_elsewhere_is_told_with_its_call() -> None:
    reader = replace(PARENT, call="read(fd 3)", file="pipe:[7]")
    assert (
        "only process 10 reads it, and that waits in read(fd 3)"
        in text.tell(replace(FINDING, parties=(FEEDER, reader, EXITING)))[2]
    )


def test_a_pipe_that_cannot_grow_says_why() -> None:
    finding = replace(FINDING, rescuable=False, rescue="it is a socketpair")
    assert "  growing does not free it: it is a socketpair" in text.tell(finding)


def test_weaker_evidence_is_marked_where_it_is_used() -> None:
    finding = replace(FINDING, parties=(replace(FEEDER, weak=True), PARENT, EXITING))
    assert text.proof(finding)[0].endswith("(weaker evidence: told by wchan)")


def test_a_write_of_which_no_more_is_known_has_no_rest() -> None:
    finding = replace(FINDING, parties=(replace(FEEDER, to_go=1), PARENT, EXITING))
    assert "to go" not in text.tell(finding)[1]


def test_each_party_is_drawn_once_however_many_wait_for_each_other() -> None:
    tids = range(100, 120)
    crowd = [replace(EXITING, pid=tid, tid=tid, waits_for=tuple(set(tids) - {tid})) for tid in tids]
    drawn = text.proof(replace(FINDING, parties=tuple(crowd)))
    for number in range(1, 21):
        assert sum(f"[{number}] process" in line for line in drawn) == 1
    assert drawn[2] == "│  └─ waits for [1], [3], [4], [5], [6], [7] and 13 more"
    assert len(drawn) == 1 + 2 * 19


def test_a_crowd_is_cut_and_counted() -> None:
    crowd = [replace(EXITING, pid=tid, tid=tid, waits_for=(tid + 1,)) for tid in range(100, 1100)]
    finding = replace(FINDING, parties=tuple(crowd))
    assert text.proof(finding)[-1] == "... and 976 more threads"
    assert text.sentences(finding)[3] == "... and 997 more threads like that"


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (1, "1 byte"),
        (9_999, "9,999 bytes"),
        (10_000, "10 KB"),
        (937_980, "938 KB"),
        (1_200_000, "1.2 MB"),
        (25_000_000, "25 MB"),
        (3_100_000_000, "3.1 GB"),
        (9_000_000_000_000, "9,000 GB"),
    ],
)
def test_amounts(size: int, told: str) -> None:
    assert text.amount(size) == told
