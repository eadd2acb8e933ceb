"""The words for ends of file that do not come, where the fix depends on who holds the write end."""

from __future__ import annotations

from scenes import hung_text

import pipecap

POPEN_WAIT = """
import subprocess
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
print("ready", flush=True)
child.wait()
"""
ONE_TOKEN_PIPE = """
import os
reading, writing = os.pipe()
for _ in range(2):
    if not os.fork():
        os.read(reading, 1)
        os._exit(0)
print("ready", flush=True)
os.wait()
"""


def test_a_parent_that_holds_the_stdin_of_its_child_closes_it_before_it_waits() -> None:
    with hung_text(POPEN_WAIT) as program:
        (finding,) = pipecap.diagnose(program.pid, window=0.1).findings
    assert (finding.verdict, finding.pattern) == ("deadlock", "end of file that cannot come")
    assert finding.fix.startswith(f"close the write end in process {program.pid} before it waits: stdin.close()")


def test_two_readers_of_one_pipe_do_not_wait_for_answers_of_each_other() -> None:
    with hung_text(ONE_TOKEN_PIPE) as program:
        (finding,) = pipecap.diagnose(program.pid, window=0.1).findings
    assert finding.verdict == "deadlock"
    assert finding.pattern != "answer that cannot come"
