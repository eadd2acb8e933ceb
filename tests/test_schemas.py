"""The published JSON Schemas, and every document the commands print."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from commands import pipecap_command, pipecap_json
from hangs import HANGS, hung
from hosts import host
from privilege import quota_used_up, unprivileged

import pipecap
from pipecap.cli import render

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
        with hung(HANGS[0]) as program:
            yield "ps", pipecap_json("ps", str(program.pid), "--tree")
            yield "doctor", pipecap_json("doctor", str(program.pid))
            yield "rescue", pipecap_json("rescue", str(program.pid), "--dry-run")
            yield "rescue", pipecap_json("rescue", str(program.pid))
        with hung(next(hang for hang in HANGS if hang.name == "both_send_first_socketpair")) as program:
            yield "doctor", pipecap_json("doctor", str(program.pid))
            yield "rescue", pipecap_json("rescue", str(program.pid))
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


def test_a_missing_an_added_and_a_changed_field_are_found() -> None:
    """The schemas are strict: each field is needed, and none is free."""
    document = pipecap_json("fit", "100")
    for change in ({"curve": None}, {"more": 1}, {"schema": "pipecap.fit/2"}):
        assert list(validator("fit").iter_errors({**document, **change}))
    for field in document["fit"]:
        lacking = copy.deepcopy(document)
        del lacking["fit"][field]
        assert list(validator("fit").iter_errors(lacking))
