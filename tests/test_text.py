"""A finding in words: what a user must read, line by line, and the drawing of every shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import programs
import pytest
import scenes

from pipecap.diagnosis import text
from pipecap.diagnosis.diagnose import diagnose
from pipecap.diagnosis.finding import Diagnosis, Finding, Party, PipeNow, Place

PIPE = PipeNow("pipe", "pipe:[991]", None, 991, 65536, 16, 62029, True, (10, 20), (10, 20), "")
PAIR = PipeNow("socketpair", "socket:[5]", None, 5, 212992, None, 219264, True, (10,), (20,), "")
FEEDER = Party(
    "writer", 20, 21, "/usr/bin/python app.py", "write", "write(fd 4, 1,000,009 bytes)", "pipe:[991]", 4, 1000009,
    937980, (10, 20), False,
)  # fmt: skip
PARENT = Party("reader", 10, 10, "python app.py", "child", "wait4(20)", "", None, None, None, (20, 21), False)
EXITING = Party(
    "reader", 20, 20, "python app.py", "private futex", "futex(), a lock of its process", "", None, None, None, (21,),
    False,
)  # fmt: skip
FINDING = Finding(
    verdict="deadlock",
    pattern="join before get",
    pid=10,
    command="/usr/bin/python app.py",
    user="alice",
    age=125.0,
    unless=(),
    pipes=(PIPE,),
    parties=(FEEDER, PARENT, EXITING),
    others=0,
    cause="process 10 should read the full pipe, and waits for process 20 to exit instead",
    fix="get the items before join()",
    rescuable=True,
    rescue="python -m pipecap rescue 10",
    no_growth=False,
)
IDLE = replace(
    FINDING, verdict="idle", pattern="waiting for input", pipes=(), parties=(EXITING,), cause="nothing moves",
    fix="none", rescuable=False, rescue="no pipe is full", no_growth=True,
)  # fmt: skip


def test_the_documented_example_reads_like_this() -> None:
    assert text.describe(FINDING) == [
        "process 10 [python app.py], 2 min 5 s old, of alice: deadlock, proven: join before get",
        "  thread 21 of process 20, probably a queue's feeder thread, waits in write(fd 4, 1,000,009 bytes),"
        " 938 KB to go [python app.py]",
        "  the pipe is full (62,029 of 65,536 bytes in 16 of 16 slots, pipe:[991]); only process 10 (its parent) reads"
        " it, and that waits for process 20 to exit",
        "  cause: process 10 should read the full pipe, and waits for process 20 to exit instead",
        "  fix: get the items before join()",
        "  without a restart: python -m pipecap rescue 10 gives it room to go on, by growing what the blocked"
        " write needs",
        "  proof: each thread can be woken only by those drawn under it or named there, and none of them moves:",
        "    [1] thread 21 of process 20: write(fd 4, 1,000,009 bytes) on pipe:[991]",
        "    ├─ [2] process 10: wait4(20)",
        "    │  └─ waits for [1] and [3]",
        "    └─ [3] process 20: futex(), a lock of its process",
        "       └─ waits for [1]",
    ]


def test_the_documented_example_live() -> None:
    with scenes.hung("join_before_get") as child:
        (finding,) = diagnose(child.pid, stacks=False).findings
        (producer,) = programs.members(child.pid).keys() - {child.pid}
    written = "\n".join(text.describe(finding))
    for part in (
        f"process {child.pid} [python",
        f"of process {producer}, probably a queue's feeder thread",
        "waits in write(fd ",
        ", 938 KB to go",
        "the pipe is full (62,029 of 65,536 bytes in 16 of 16 slots",
        f"only process {child.pid} (its parent) reads it, and that waits for process {producer} to exit",
        "join before get",
        "pipecap.drain(queue, [process])",
        "gives it room",
    ):
        assert part in written


def test_a_finding_and_a_diagnosis_print_as_the_command_does() -> None:
    found = Diagnosis(10, 0.31, (FINDING,), (), "")
    assert str(FINDING) == "\n".join(text.describe(FINDING))
    assert str(found) == "\n".join(line.text for line in text.answer(found))
    assert str(found).endswith("-> python -m pipecap rescue 10")


def test_a_notebook_shows_it_without_its_markup() -> None:
    found = Diagnosis(10, 0.31, (replace(FINDING, cause="<b>&"),), (), "")
    shown = found._repr_html_()
    assert shown.startswith("<pre>process 10 [python app.py]")
    assert shown.endswith("</pre>")
    assert "&lt;b&gt;&amp;" in shown


def test_only_the_drawing_has_characters_beyond_ascii_and_plain_has_none() -> None:
    lines = text.describe(FINDING)
    assert all(line.isascii() for line in lines[:-4])
    plain = text.plain(lines)
    assert all(line.isascii() for line in plain)
    assert plain[-4:] == [
        "    |- [2] process 10: wait4(20)",
        "    |  `- waits for [1] and [3]",
        "    `- [3] process 20: futex(), a lock of its process",
        "       `- waits for [1]",
    ]


def test_python_lines_are_shown_where_they_are_known() -> None:
    feeder = replace(FEEDER, line="queues.py:250 in Queue._feed")
    finding = replace(FINDING, parties=(feeder, replace(PARENT, line="app.py:9 in main"), EXITING))
    written = text.describe(finding)
    assert "a queue's feeder thread, waits in" in written[1]
    assert "probably" not in written[1]
    assert "at queues.py:250 in Queue._feed" in written[1]
    assert written[2].endswith("waits for process 20 to exit, at app.py:9 in main")
    assert "[2] process 10: wait4(20), at app.py:9 in main" in written[8]


def test_a_thread_that_writes_itself_is_no_feeder() -> None:
    finding = replace(FINDING, parties=(replace(FEEDER, line="app.py:3 in send"), PARENT, EXITING))
    assert "feeder" not in text.describe(finding)[1]


def test_a_main_thread_is_no_feeder_nor_is_one_of_a_hang_without_a_queue() -> None:
    main = replace(FEEDER, tid=20)
    assert "feeder" not in text.describe(replace(FINDING, parties=(main, PARENT)))[1]
    assert "feeder" not in text.describe(replace(FINDING, pattern="both sides send first"))[1]


def test_what_comes_from_outside_cannot_move_the_cursor() -> None:
    feeder = replace(FEEDER, command="python -c \x1b[2J\nprint('é')", line="\x1b]0;x\x07.py:1 in é")
    finding = replace(
        FINDING, parties=(feeder, PARENT, EXITING), cause="a\nb", fix="\x1b", command="\x1b[2J", pattern="\x07"
    )
    place = Place(1, 1, "\x1b]0;x\x07.py:1 in é")
    lines = [line.text for line in text.answer(Diagnosis(10, 0.3, (finding,), (), "", (place,)))]
    assert all(character.isprintable() for line in lines for character in line)
    assert r"\x1b[2J" in lines[1]


def test_a_long_command_is_cut() -> None:
    long = "python " + "x" * 500
    written = text.describe(replace(FINDING, parties=(replace(FEEDER, command=long), PARENT, EXITING), command=long))
    assert written[1].endswith("xxx ...]")
    assert len(written[1]) < 200
    assert len(written[0]) < 200


def test_a_program_without_a_command_line_is_named_by_its_pid() -> None:
    assert text.heading(replace(FINDING, command="")).startswith("process 10, 2 min 5 s old, of alice: ")


def test_a_deadlock_that_a_signal_handler_may_end_says_so_in_its_heading() -> None:
    heading = text.heading(replace(FINDING, unless=("SIGALRM", "SIGTERM")))
    assert heading.endswith("deadlock, unless a signal handler ends it (SIGALRM and SIGTERM): join before get")
    assert "proven" not in heading


def test_a_stall_claims_no_proof() -> None:
    stall = replace(FINDING, verdict="stall")
    assert text.heading(stall).endswith("stall, seen but not proven: join before get")
    written = "\n".join(text.describe(stall))
    assert "proof" not in written
    assert "gives it room to go on" in written


def test_a_full_pipe_that_moves_is_no_problem() -> None:
    busy = replace(
        FINDING, verdict="busy", pattern="slow reader", rescuable=False, rescue="it moves: full as soon", no_growth=True
    )
    assert not busy.problem
    assert text.heading(busy).endswith("busy, no problem by itself: slow reader")
    assert "it moves: full as soon" not in "\n".join(text.describe(busy))


def test_an_idle_finding_has_no_pipe_and_offers_no_growing() -> None:
    assert text.describe(IDLE) == [
        "process 10 [python app.py], 2 min 5 s old, of alice: idle, no problem by itself: waiting for input",
        "  process 20 waits in futex(), a lock of its process [python app.py]",
        "  cause: nothing moves",
        "  fix: none",
    ]


# ---- a whole answer ----


def written(**facts: Any) -> list[text.Line]:
    return text.answer(
        Diagnosis(
            **{"pid": 10, "seconds": 0.31, "findings": (FINDING,), "unknown": (), "footnote": "", "places": (), **facts}
        )
    )


def test_an_answer_ends_with_its_verdict_and_the_next_command() -> None:
    lines = written()
    assert lines[0] == text.Line(text.heading(FINDING), "problem")
    assert [(line.text, line.style) for line in lines[-2:]] == [
        ("  [problem] 1 deadlock found (observed for 0.3 s)", "problem"),
        ("    -> python -m pipecap rescue 10", "action"),
    ]


def test_only_drawn_lines_are_not_to_be_wrapped() -> None:
    drawn = [line.text for line in written() if line.drawn]
    assert drawn == text.describe(FINDING)[-6:]


def test_an_answer_counts_what_it_found() -> None:
    stall = replace(FINDING, verdict="stall")
    assert "  [problem] 1 deadlock and 2 stalls found (observed for 0.3 s)" in [
        line.text for line in written(findings=(FINDING, stall, stall, IDLE))
    ]


def test_where_growing_helps_nobody_no_rescue_is_offered() -> None:
    lines = written(findings=(replace(FINDING, rescuable=False, rescue="a limit forbids it", no_growth=False),))
    assert lines[-1].text == "  [problem] 1 deadlock found (observed for 0.3 s)"


def test_of_all_processes_each_program_has_its_rescue_once() -> None:
    other = replace(FINDING, pid=11)
    lines = [line.text for line in written(pid=None, findings=(FINDING, other, other, IDLE))]
    assert lines[-2:] == ["    -> python -m pipecap rescue 10", "    -> python -m pipecap rescue 11"]


def test_nothing_found_says_of_whom_and_for_how_long() -> None:
    assert [line.text for line in written(findings=())] == [
        "  [ok] no hang found on a pipe in process 10 and its descendants (observed for 0.3 s)"
    ]
    assert "no hang found on a pipe in your processes" in written(findings=(), pid=None)[0].text
    assert written(findings=(IDLE,))[-1].style == "ok"


def test_what_is_unknown_comes_before_the_verdict_and_what_a_proof_leaves_out_after_it() -> None:
    lines = [line.text for line in written(unknown=("process 7: may not be read",), footnote="1 process of others")]
    at = lines.index("  [problem] 1 deadlock found (observed for 0.3 s)")
    assert lines[at - 1] == "  [unknown] process 7: may not be read"
    assert lines[at + 1] == "  [note] 1 process of others"


def test_a_program_in_which_nothing_hangs_shows_where_its_threads_are() -> None:
    lines = written(findings=(), places=(Place(10, 12, "app.py:3 in work"),))
    assert [line.text for line in lines[:2]] == ["Python lines:", "  process 10, thread 12: app.py:3 in work"]


# ---- a pipe ----


@pytest.mark.parametrize(
    ("pipe", "said"),
    [
        (replace(PIPE, full=False, unread=230), "230 bytes lie unread in a pipe of 65,536, which is not full"),
        (
            replace(PIPE, capacity=None, slots=None, unread=None, full=None, unknown="made by another user"),
            "how full pipe:[991] is could not be seen (made by another user)",
        ),
        (replace(PIPE, readers=(20,)), "; no other process can read it"),
        (replace(PIPE, readers=()), "; no process that could be seen reads it"),
        (replace(PIPE, readers=(20, 30)), "; only process 30 reads it"),
        (replace(PIPE, readers=(10, 20, 30)), "; processes 10 and 30 could read it"),
        (replace(PIPE, readers=(*range(100, 110),)), "; processes 100, 101, 102, 103, 104, 105 and 4 more could"),
        (replace(PIPE, full=False, unread=0), "; the pipe is empty (pipe:[991]); only process 10"),
        (PAIR, "the socketpair is full (219,264 bytes unread, SO_SNDBUF 212,992, socket:[5]); only process 10"),
        (replace(PAIR, full=False, unread=12), "the socketpair is not full (12 bytes unread, SO_SNDBUF 212,992"),
    ],
)  # fmt: skip
def test_each_state_of_a_pipe_has_its_sentence(pipe: PipeNow, said: str) -> None:
    feeder = replace(FEEDER, file=pipe.file)
    assert said in "; ".join(text.sentences(replace(FINDING, pipes=(pipe,), parties=(feeder, PARENT, EXITING))))


def test_a_reader_that_sits_elsewhere_is_shown_with_its_call() -> None:
    reader = replace(PARENT, wait="read", call="read(fd 3)", file="pipe:[7]")
    assert (
        "only process 10 reads it, and that waits in read(fd 3)"
        in text.describe(replace(FINDING, parties=(FEEDER, reader, EXITING)))[2]
    )


def test_a_reader_that_is_stopped_is_said_to_be() -> None:
    reader = replace(PARENT, wait="read", call="stopped by a signal")
    assert text.describe(replace(FINDING, parties=(FEEDER, reader)))[2].endswith(
        "only process 10 reads it, and that is stopped by a signal"
    )


def test_many_pipes_are_cut_and_counted() -> None:
    finding = replace(FINDING, pipes=tuple(replace(PIPE, file=f"pipe:[{number}]") for number in range(5)))
    lines = text.sentences(finding)
    assert sum("the pipe is full" in line for line in lines) == 3
    assert "... and 2 more pipes like that" in lines


def test_a_pipe_that_cannot_grow_says_why() -> None:
    finding = replace(FINDING, rescuable=False, rescue="it is a socketpair")
    assert "  growing does not free it: it is a socketpair" in text.describe(finding)


def test_weaker_evidence_is_marked_where_it_is_used() -> None:
    finding = replace(FINDING, parties=(replace(FEEDER, weak=True), PARENT, EXITING))
    assert text.proof(finding)[0].endswith("(weaker evidence: by wchan)")


def test_a_write_of_which_no_more_is_known_has_no_rest() -> None:
    finding = replace(FINDING, parties=(replace(FEEDER, to_go=1), PARENT, EXITING))
    assert "to go" not in text.describe(finding)[1]


def test_each_party_is_drawn_once_however_many_wait_for_each_other() -> None:
    tids = range(100, 120)
    crowd = [replace(EXITING, pid=tid, tid=tid, waits_for=tuple(set(tids) - {tid})) for tid in tids]
    drawn = text.proof(replace(FINDING, parties=tuple(crowd)))
    for number in range(1, 21):
        assert sum(f"[{number}] process" in line for line in drawn) == 1
    assert drawn[2] == "│  └─ waits for [1], [3], [4], [5], [6], [7] and 13 more"
    assert len(drawn) == 1 + 2 * 19


def test_who_is_not_drawn_is_counted() -> None:
    """The parties are few; the others of the set are a number, also where a party waits for some of them."""
    waiting = replace(PARENT, waits_for=(20, 21, 31, 32))
    drawn = text.proof(replace(FINDING, parties=(FEEDER, waiting, EXITING), others=1_000))
    assert "│  └─ waits for [1], [3] and 2 more threads" in drawn
    assert drawn[-1] == "... and 1,000 more threads"
    assert text.proof(replace(FINDING, others=1))[-1] == "... and 1 more thread"


def test_many_writers_are_cut_and_counted() -> None:
    writers = tuple(replace(FEEDER, pid=tid, tid=tid) for tid in range(100, 105))
    lines = text.sentences(replace(FINDING, parties=writers))
    assert sum("waits in write" in line for line in lines) == 3
    assert lines[3] == "... and 2 more threads like that"


def test_one_party_alone_is_not_drawn() -> None:
    assert text.proof(replace(FINDING, parties=(FEEDER,))) == []
