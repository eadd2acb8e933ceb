"""A diagnosis as text: what the command prints, and the same in a notebook."""

from __future__ import annotations

import re

from commands import pipecap_command
from programs import HERE, running, steady

import pipecap

HUNG = HERE / "hanging" / "many_small_items.py"


def test_the_text_of_a_diagnosis_is_what_the_command_prints() -> None:
    """But for the width, at which the command wraps, and for how long it took."""
    with running(HUNG) as program:
        steady(program.pid)
        printed = pipecap_command("doctor", str(program.pid)).stdout
        found = pipecap.diagnose(program.pid)
    assert " ".join(_timeless(str(found)).split()) == " ".join(_timeless(printed).split())
    assert str(found.findings[0]) in str(found)


def test_a_notebook_shows_the_same_text_escaped() -> None:
    with running(HUNG) as program:
        steady(program.pid)
        found = pipecap.diagnose(program.pid)
    shown = found._repr_html_()
    assert shown.startswith("<pre>process ")
    assert "&gt; python -m pipecap rescue" in shown
    assert "<string>" not in shown


def _timeless(text: str) -> str:
    return re.sub(r"\d+ s old|\d\.\d s\)", "", text)
