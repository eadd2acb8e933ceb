"""Show what pipes and queues really get on this host: measured, explained, judged (the default command)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from pipecap.cli.render import Block, Line, Table, answer, bar
from pipecap.host import HostReport, QueueMeasurement, report
from pipecap.kernel.limits import Headroom, HostLimits
from pipecap.tracker import forked_resource_tracker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def run(arguments: argparse.Namespace) -> int:
    """Measure, then show."""
    with forked_resource_tracker():
        found = report()
    answer("report", found.to_dict(), list(_blocks(found)), as_json=arguments.json)
    return 0


def _blocks(found: HostReport) -> Iterator[Block]:
    page = found.limits.page_size
    yield Line(
        f"pipecap {found.pipecap} · {found.python} · {found.system} {found.release} {found.machine}"
        f" · uid {found.uid} · pages of {page:,} bytes"
    )
    yield Line()
    yield Line(f"What each kind of queue gets here, in bytes, by writes of {page:,}", "heading")
    yield Table(
        ("kind", "start methods", ">nominal", ">measured", ""),
        [row for group in _groups(found.queues) for row in [_queue_row(group)]],
    )
    yield Line()
    if found.items:
        yield Line(
            f"What fits in an empty queue's pipe of {found.items[0].fit.capacity:,} bytes, by pickled size", "heading"
        )
        yield Table(
            (">item", ">frame", ">fit", ">measured", ">unread", ">wasted", "of the pipe used"),
            [
                (
                    f"{item.fit.item:,}",
                    f"{item.fit.frame:,}",
                    f"{item.fit.items:,}",
                    f"{item.measured:,}",
                    f"{item.fit.unread:,}",
                    f"{item.fit.wasted / item.fit.capacity:.0%}",
                    bar(item.fit.unread / item.fit.capacity) or "does not fit",
                )
                for item in found.items
            ],
        )
        yield Line()
    yield Line("What this user may do", "heading")
    yield Table(("limit", "value", "for this process"), list(_limit_rows(found.limits, found.headroom)))
    yield Line()
    yield Line("Verdict", "heading")
    for advice in found.verdict:
        yield Line(f"  [{advice.level}] {advice.text}", advice.level)
        yield Line(f"    -> {advice.action}", "action")


def _groups(queues: tuple[QueueMeasurement, ...]) -> list[list[QueueMeasurement]]:
    """Rows of one kind whose start methods measured the same, together."""
    groups: dict[object, list[QueueMeasurement]] = {}
    for queue in queues:
        key = (queue.kind, queue.nominal, queue.accepted, tuple(queue.unknown.items()))
        groups.setdefault(key, []).append(queue)
    return list(groups.values())


def _queue_row(group: list[QueueMeasurement]) -> tuple[str, ...]:
    first = group[0]
    return (
        first.kind,
        ", ".join(queue.start_method for queue in group if queue.start_method),
        "socketpair" if first.socketpair else _number(first.nominal),
        _number(first.accepted),
        "; ".join(first.unknown.values()),
    )


def _limit_rows(host: HostLimits, left: Headroom | None) -> Iterator[tuple[str, str, str]]:
    yield (
        "fs.pipe-max-size",
        f"{_number(host.pipe_max_size)} bytes",
        _applies(host, host.exempt_from_max_size, "lacks CAP_SYS_RESOURCE"),
    )
    quota = _applies(host, host.exempt_from_quota, "lacks CAP_SYS_ADMIN too")
    yield "fs.pipe-user-pages-soft", _pages(host.user_pages_soft), quota
    yield "fs.pipe-user-pages-hard", _pages(host.user_pages_hard), "" if host.user_pages_hard == 0 else quota
    yield "quota headroom", _headroom(left), left.reason if left else ""


def _applies(host: HostLimits, exempt: bool | None, why: str) -> str:
    if exempt is None:
        return "privileges unknown"
    if exempt:
        return "exempt"
    return f"applies: {'not the initial user namespace' if host.initial_user_namespace is False else why}"


def _headroom(left: Headroom | None) -> str:
    if left is None or (left.pages is None and not left.exempt):
        return "unknown"
    if left.pages is None:
        return "exempt"
    return f"{'' if left.exact else 'at least '}{left.pages:,} pages"


def _pages(pages: int | None) -> str:
    return "off" if pages == 0 else f"{_number(pages)} pages"


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"
