"""Explore the model of csrc/PROTOCOL.md: `python tests/model/explore.py`, or with --mutations, with --case WORD.

Prints the states of each case and the processor time, or the run that breaks an invariant.
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from model.cases import COUNTERS, STREAM
from model.counters import Counters
from model.explorer import Counterexample, Model, explore, find_counterexample
from model.memory import Violation
from model.mutations import MUTATIONS
from model.stream import Stream


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _models(word: str) -> list[Model]:
    models: list[Model] = [*map(Stream, STREAM), *map(Counters, COUNTERS)]
    return [model for model in models if word in model.name]


def _write_run(found: Counterexample) -> None:
    for number, step in enumerate(found.steps, 1):
        _write(f"  {number:3} {step}")
    _write(f"      -> {found.invariant}")


def explore_all(word: str) -> bool:
    """Explore the cases with a word in their names; return whether all invariants hold."""
    _write(f"{'case':<40}{'states':>12}{'transitions':>13}{'ends':>8}{'depth':>7}{'seconds':>9}")
    holds = True
    total, seconds = 0, 0.0
    for model in _models(word):
        try:
            result = explore(model)
        except Violation as violation:
            holds = False
            _write(f"{model.name:<40}  {violation}")
            if found := find_counterexample(model):
                _write_run(found)
            continue
        total += result.states
        seconds += result.seconds
        _write(
            f"{model.name:<40}{result.states:>12,}{result.transitions:>13,}{result.ends:>8,}{result.depth:>7}"
            f"{result.seconds:>9.1f}"
        )
    _write(f"{'all invariants hold' if holds else 'an invariant is broken':<40}{total:>12,}{seconds:>37.1f}")
    return holds


def show_mutations() -> bool:
    """Print the shortest run to a violation of each mutation; return whether all have one."""
    caught = True
    for mutation in MUTATIONS:
        found = find_counterexample(mutation.model)
        _write(f"{mutation.name} ({mutation.model.name})")
        if found:
            _write_run(found)
        else:
            caught = False
            _write("  not caught")
    return caught


def run() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Explore the model of csrc/PROTOCOL.md.")
    parser.add_argument("--mutations", action="store_true", help="show what each rule of the protocol prevents")
    parser.add_argument("--case", default="", metavar="WORD", help="explore only the cases with WORD in their names")
    options = parser.parse_args()
    return 0 if (show_mutations() if options.mutations else explore_all(options.case)) else 1


if __name__ == "__main__":
    raise SystemExit(run())
