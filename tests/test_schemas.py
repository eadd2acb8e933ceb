"""The published JSON Schemas, and every document the commands print."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from commands import pipecap_command, pipecap_json
from hosts import host
from privilege import quota_used_up, unprivileged
from scenes import healthy, hung

import pipecap
from pipecap.cli import render
from pipecap.diagnosis.finding import VERDICTS, Diagnosis, Finding, Moving, Party, PipeNow, Place, Verdict
from pipecap.diagnosis.rescue import Rescue, Step

NAMES = ["report", "fit", "get", "set", "tune", "ps", "doctor", "rescue"]


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((files("pipecap") / "schemas" / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def documents() -> Iterator[tuple[str, Any]]:
    """Every document this host can be made to print, good and bad targets alike."""
    read_end, write_end = os.pipe()
    try:
        yield "report", pipecap_json()
        yield "fit", pipecap_json("fit", "100")
        yield "fit", pipecap_json("fit", "3G", "--capacity", "4K")
        yield "tune", pipecap_json("tune", "8K", "--seconds", "0.1", "--rounds", "1")
        yield "get", pipecap_json("get", "stdin", "/", stdin=read_end)
        yield "set", pipecap_json("set", "128K", "stdin", "/", stdin=read_end)
        yield "set", pipecap_json("set", "8G", "stdin", stdin=read_end)
        with hung("join_before_get") as program:
            yield "ps", pipecap_json("ps", str(program.pid), "--tree")
            yield "doctor", pipecap_json("doctor", str(program.pid))
            yield "doctor", pipecap_json("doctor", str(program.pid), "--no-stacks")
            yield "rescue", pipecap_json("rescue", str(program.pid), "--dry-run")
            yield "rescue", pipecap_json("rescue", str(program.pid))
        with hung("both_send_first_socketpair") as program:
            yield "doctor", pipecap_json("doctor", str(program.pid))
            yield "rescue", pipecap_json("rescue", str(program.pid))
        with hung("fifo_open_order") as program:
            yield "doctor", pipecap_json("doctor", str(program.pid), "--patience", "0.1")
        with healthy("idle_pool") as program:
            yield "doctor", pipecap_json("doctor", str(program.pid))
        yield "set", json.loads(pipecap_command("run", "--json", "64K", "--", "true").stderr)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_every_schema_is_published_and_no_other() -> None:
    assert sorted(path.name for path in (files("pipecap") / "schemas").iterdir()) == sorted(
        f"{name}.json" for name in NAMES
    )


def test_what_the_commands_print_is_valid_and_names_its_schema() -> None:
    for name, document in documents():
        validator(name).validate(document)
        assert document["schema"] == f"pipecap.{name}/1"


def test_a_report_from_over_the_quota_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    def look() -> dict[str, object]:
        with quota_used_up():
            return pipecap.report().to_dict()

    render.answer("report", unprivileged(look), [], as_json=True)
    validator("report").validate(json.loads(capsys.readouterr().out))


def test_unknown_limits_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    unknown = host(pipe_max_size=None, cap_sys_admin=None, exempt_from_quota=None, unknown={"pipe_max_size": "masked"})
    data = {**pipecap.report().to_dict(), "limits": unknown.to_dict(), "headroom": None, "items": []}
    render.answer("report", data, [], as_json=True)
    validator("report").validate(json.loads(capsys.readouterr().out))


RESULTS: dict[str, type] = {
    "diagnosis": Diagnosis, "finding": Finding, "pipe": PipeNow, "party": Party, "moving": Moving, "place": Place,
    "rescue": Rescue, "step": Step,
}  # fmt: skip


@pytest.mark.parametrize("name", ["doctor", "rescue"])
def test_a_schema_has_the_fields_of_its_results_in_their_order(name: str) -> None:
    schema: Any = validator(name).schema
    top = RESULTS["diagnosis" if name == "doctor" else name]
    for kind, part in [(top, schema), *((RESULTS[key], part) for key, part in schema["$defs"].items())]:
        fields = [field.name for field in dataclasses.fields(kind)]
        assert [each for each in part["properties"] if each != "schema"] == fields
        assert [each for each in part["required"] if each != "schema"] == fields


def made_up(verdict: Verdict) -> Finding:
    return Finding(
        verdict=verdict,
        pattern="made up",
        pid=7,
        command="app",
        user="me",
        age=12.5,
        unless=("SIGTERM",),
        pipes=(
            PipeNow("fifo", "fifo:1:2", 1, 2, None, None, None, None, (), (), "made by another user"),
            PipeNow("socketpair", "socket:[5]", None, 5, 212_992, None, 9, False, (1,), (2,), ""),
        ),
        parties=(
            Party("writer", 7, 8, "app", "write", "write(fd 1)", "socket:[5]", 1, 10, 1, (9,), True),
            Party("waits", 9, 9, "app", "outside", "pause()", "", None, None, None, (), False, "app.py:1 in f"),
        ),
        others=3,
        cause="cause",
        fix="fix",
        rescuable=False,
        rescue="no room",
        no_growth=False,
        moving=Moving(3.0, None, 12, 12, 0) if verdict == "busy" else None,
    )


MADE_UP = Diagnosis(
    pid=None,
    seconds=3.2,
    findings=tuple(map(made_up, VERDICTS)),
    unknown=("process 3: may not be read",),
    footnote="1 process of other users could not be read",
    places=(Place(7, 8, "app.py:2 in g"),),
)


def test_each_verdict_and_what_is_not_known_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    step = Step("pipe:[9]", 9, 7, 8, "write(fd 1)", 4096, 0, None, False, "refused", "net.core.wmem_max")
    rescue = Rescue(7, False, (step,), None, MADE_UP.findings, ("advice",))
    for name, result in (("doctor", MADE_UP), ("rescue", rescue)):
        render.answer(name, result.to_dict(), [], as_json=True)
        validator(name).validate(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("change", [{"verdict": "quiet"}, {"age": "old"}, {"moving": {}}, {"unless": ["SIGINT"]}])
def test_a_finding_that_is_none_is_found(change: dict[str, object]) -> None:
    document = json.loads(json.dumps({"schema": "pipecap.doctor/1", **MADE_UP.to_dict()}))
    assert not list(validator("doctor").iter_errors(document))
    document["findings"][0].update(change)
    assert list(validator("doctor").iter_errors(document))


def test_a_missing_an_added_and_a_changed_field_are_found() -> None:
    """The schemas are strict: each field is needed, and none is free."""
    document = pipecap_json("fit", "100")
    for change in ({"curve": None}, {"more": 1}, {"schema": "pipecap.fit/2"}):
        assert list(validator("fit").iter_errors({**document, **change}))
    for field in document["fit"]:
        lacking = copy.deepcopy(document)
        del lacking["fit"][field]
        assert list(validator("fit").iter_errors(lacking))
