"""`pipecap tune`: what it prints, draws and refuses."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import time
import xml.etree.ElementTree
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from commands import ENVIRONMENT, PIPECAP, assert_one_line_of_trouble, pipecap_command, pipecap_json
from privilege import in_child

import pipecap
from pipecap.cli import main
from pipecap.cli.plot import bars

QUICK = ("--seconds", "0.1", "--rounds", "1")


def test_the_answer_is_tables_a_verdict_and_the_line_of_code() -> None:
    answer = pipecap_command("tune", "20K", *QUICK)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("Items of 20,480 pickled bytes from Connection to Connection, in MB/s")
    lines = answer.stdout.splitlines()
    heads = next(line for line in lines if line.startswith("  capacity")).split()
    assert heads == "capacity stock by 4K by 8K by 16K whole best of the row".split()
    placements = 1 + (len(os.sched_getaffinity(0)) > 1)
    assert sum(line.split()[:1] == ["64K"] for line in lines) == placements
    assert "█" in answer.stdout
    assert "Verdict" in lines
    assert lines[-1].startswith("    -> ")


def test_json_has_the_sweep_and_the_recommendation() -> None:
    found = pipecap_json("tune", "--object", "b'0' * 1000", *QUICK)
    assert found["sweep"]["item"] == found["recommendation"]["item"] == pipecap.pickled_size(b"0" * 1000)
    assert found["plot"] is None
    assert found["recommendation"]["verdict"][0]["action"] == found["recommendation"]["choice"]["code"]


def test_an_array_is_moved_as_one() -> None:
    answer = pipecap_command("tune", "--object", "numpy:uint8:224x224x3", *QUICK)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("Items, each a numpy.ndarray of 150,6")
    found = pipecap_json("tune", "--object", "{'label': 3, 'text': 'x' * 5000}", *QUICK)
    assert found["sweep"]["kind"] == "dict"
    assert pipecap_json("fit", "--object", "numpy:float64:131072")["fit"]["item"] > 1_048_576


def test_a_plot_shows_stock_recommended_and_best() -> None:
    sweep = pipecap.tune(5000, seconds=0.1, rounds=1)
    found = pipecap.recommend(sweep)
    for placement in sweep.placements:
        drawn = bars(sweep, found, placement)
        assert [*drawn] == ["stock, on a new pipe", "recommended", "best measured"]
        stock, recommended, best = drawn.values()
        assert (stock.side, stock.capacity) == ("stock", sweep.default_capacity)
        assert recommended.throughput == found.choice.throughput[placement]
        assert best.throughput == max(cell.throughput for cell in sweep.cells if cell.placement == placement)


def test_a_plot_is_a_picture(tmp_path: Path) -> None:
    """In a child, for matplotlib keeps the files of its fonts open."""
    png, svg = tmp_path / "out.png", tmp_path / "out.SVG"

    def run(*arguments: str) -> str:
        with redirect_stdout(io.StringIO()) as out:
            assert main(["tune", *QUICK, *arguments]) == 0
        return out.getvalue()

    text, document = in_child(lambda: (run("100", "--plot", str(png)), run("8K", "--json", "--plot", str(svg))))
    assert f"Drawnto{png}." in "".join(text.split())  # however long a name the directory has
    assert json.loads(document)["plot"] == str(svg)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert xml.etree.ElementTree.parse(svg).getroot().tag.endswith("svg")


def test_matplotlib_is_loaded_only_to_draw() -> None:
    answer = pipecap_command("tune", "100", *QUICK, env={**ENVIRONMENT, "PYTHONPROFILEIMPORTTIME": "1"})
    assert "pipecap.tuning.sweep" in answer.stderr
    assert "matplotlib" not in answer.stderr


def test_without_matplotlib_it_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no such module')\n")
    answer = pipecap_command(
        "tune", "100", "--plot", str(tmp_path / "out.png"), env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    )
    assert_one_line_of_trouble(answer, 1, "plots need matplotlib", "pip install 'pipecap[plot]'")


@pytest.fixture
def no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("pipecap.cli.tune.tune", fail)


@pytest.mark.usefixtures("no_sweep")
def test_where_nothing_can_be_written_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "directory.png").mkdir()
    for path, why in (("no/out.png", "No such file"), ("directory.png", "Is a directory")):
        status = main(["tune", "100", "--plot", str(tmp_path / path)])
        assert_one_line_of_trouble(subprocess.CompletedProcess([], status, *capsys.readouterr()), 1, why)


def test_the_look_before_leaves_no_empty_file_and_an_old_one_as_it_is(tmp_path: Path) -> None:
    new, old = tmp_path / "new.png", tmp_path / "old.png"
    old.write_text("kept")
    for path in (new, old):
        assert main(["tune", "nonsense", "--plot", str(path)]) == 2
    assert not new.exists()
    assert old.read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "takes a SIZE"),
        (("1", "--object", "1"), "takes a SIZE"),
        (("0",), "invalid size"),
        (("-5",), ""),
        (("x",), "invalid size"),
        (("8000T",), "invalid size"),
        (("--object", "open('x')"), "--object takes a literal"),
        (("--object", "numpy:float64"), "--object takes"),
        (("--object", "numpy:nothing:5"), "--object takes"),
        (("--object", "numpy:float64:5xx"), "--object takes"),
        (("--object", "numpy:float64:-1"), "below 0"),
        (("--object", "numpy:S:1000000000000000"), "of numbers"),
        (("--object", "numpy:O:10"), "of numbers"),
        (("--object", "numpy:float64:1000000x1000000"), "too large to build here"),
        (("100", "--plot", "out.pdf"), ".png or .svg"),
        (("100", "--plot", ""), ".png or .svg"),
        (("100", "--seconds", "0"), "--seconds"),
        (("100", "--seconds", "nan"), "--seconds"),
        (("100", "--seconds", "x"), "--seconds"),
        (("100", "--rounds", "0"), "--rounds"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["tune", *arguments])
    answer = subprocess.CompletedProcess([], status, *capsys.readouterr())
    assert_one_line_of_trouble(answer, 2, words)


def test_progress_is_shown_on_a_terminal_only() -> None:
    ours, theirs = pty.openpty()
    try:
        answer = pipecap_command(
            "tune", "100", *QUICK, stderr=theirs, env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "80"}
        )
        shown = b""
        while select.select([ours], [], [], 0)[0]:
            shown += os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)
    assert answer.returncode == 0
    assert b"measuring" in shown
    assert b"100%" in shown
    assert "measuring " not in answer.stdout


def test_a_ctrl_c_ends_it_quietly_and_all_it_started() -> None:
    with subprocess.Popen(
        [*PIPECAP, "tune", "64K", "--seconds", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        process_group=0,
    ) as command:
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
        while len(pids := children.read_text().split()) < 2:
            assert command.poll() is None
            time.sleep(0.01)
        os.killpg(command.pid, signal.SIGINT)
        out, err = command.communicate(timeout=20)
    assert (command.returncode, out, err) == (130, b"", b"")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
