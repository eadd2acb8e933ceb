"""How large a pipe must become: by made-up limits, and held to the kernel where it is grown to just that."""

from __future__ import annotations

import fcntl
import os
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from unittest import mock

import children
import pytest
from hosts import host
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipecap.diagnosis import diagnose, growth, rescue
from pipecap.diagnosis.find import Case
from pipecap.diagnosis.finding import PROBLEMS, Diagnosis, Finding, Party, PipeNow, Verdict
from pipecap.diagnosis.named import Named
from pipecap.kernel.limits import PAGE_SIZE, HostLimits, limits
from pipecap.proc import sockets

LARGEST = 2**31
PIPE = PipeNow("pipe", "pipe:[9]", None, 9, 65536, 16, 65536, True, (1,), (2,), "")
PAIR = PipeNow("socketpair", "socket:[9]", None, 9, 212_992, None, 219_264, True, (1,), (2,), "")

CAPACITIES = st.integers(0, 19).map(lambda power: PAGE_SIZE << power)
TO_GO = st.one_of(st.none(), st.integers(1, 1 << 32), st.integers(1, 1 << 17))
WRITERS = st.lists(TO_GO, min_size=1, max_size=4)
HOSTS = st.builds(
    lambda most, exempt: host(pipe_max_size=most, exempt_from_max_size=exempt),
    st.one_of(st.none(), CAPACITIES),
    st.sampled_from([True, False, None]),
)
SOCKET_MOST = st.one_of(st.none(), st.integers(4608, 1 << 24))
PIPES = st.one_of(
    st.builds(lambda kind, capacity: pipe_of(kind, capacity), st.sampled_from(["pipe", "fifo"]), CAPACITIES),
    st.builds(lambda capacity: pipe_of("socketpair", capacity), st.integers(4608, 1 << 22)),
    st.builds(lambda kind: pipe_of(kind, None), st.sampled_from(["pipe", "fifo", "socketpair"])),
)


def pipe_of(kind: str, capacity: int | None, number: int = 9) -> PipeNow:
    slots = None if capacity is None or kind == "socketpair" else capacity // PAGE_SIZE
    full = None if capacity is None else True
    unknown = "made by another user" if capacity is None else ""
    return PipeNow(kind, f"{kind}:{number}", None, number, capacity, slots, capacity, full, (1,), (2,), unknown)  # type: ignore[arg-type]


def writers_of(pipe: PipeNow, to_go: Sequence[int | None]) -> list[Party]:
    return [
        Party("writer", 2, 20 + at, "app", "write", "write(fd 4)", pipe.file, 4, each, each, (), False)
        for at, each in enumerate(to_go)
    ]


def plan_of(
    pipe: PipeNow, to_go: Sequence[int | None], of_host: HostLimits | None = None, most: int | None = None
) -> growth.Plan:
    return growth.plan(pipe, writers_of(pipe, to_go), of_host or host(), most)


# ---- made-up limits ----


@given(PIPES, WRITERS, HOSTS, SOCKET_MOST)
def test_a_plan_that_works_grows_and_passes_no_limit(
    pipe: PipeNow, to_go: list[int | None], of_host: HostLimits, most: int | None
) -> None:
    plan = plan_of(pipe, to_go, of_host, most)
    assert plan.works == (not plan.refused)
    if not plan.works:
        return
    assert pipe.capacity is not None
    assert plan.limit is None
    assert plan.wanted is not None
    assert plan.wanted > pipe.capacity
    if pipe.kind == "socketpair":
        assert most is None or plan.wanted <= most
    else:
        assert plan.wanted <= LARGEST
        assert plan.wanted & (plan.wanted - 1) == 0  # a power of two, as the kernel has it
        assert of_host.exempt_from_max_size or of_host.pipe_max_size is None or plan.wanted <= of_host.pipe_max_size


@given(PIPES, WRITERS, HOSTS, SOCKET_MOST)
def test_a_plan_that_does_not_work_says_why(
    pipe: PipeNow, to_go: list[int | None], of_host: HostLimits, most: int | None
) -> None:
    """It cannot be opened, no pipe takes it, or a limit that there is forbids it, and that is named."""
    plan = plan_of(pipe, to_go, of_host, most)
    if plan.works:
        return
    if pipe.capacity is None:
        assert "made by another user" in plan.refused
    elif plan.limit is None:
        assert pipe.kind != "socketpair"
        assert sum(filter(None, to_go)) > LARGEST - 2 * pipe.capacity
    else:
        allowed = most if pipe.kind == "socketpair" else of_host.pipe_max_size
        assert plan.limit == ("net.core.wmem_max" if pipe.kind == "socketpair" else "fs.pipe-max-size")
        assert plan.limit in plan.refused
        assert f"{allowed:,}" in plan.refused


@given(PIPES, WRITERS, st.one_of(st.none(), CAPACITIES))
def test_a_limit_of_pipes_does_not_bind_a_user_who_is_exempt(
    pipe: PipeNow, to_go: list[int | None], most: int | None
) -> None:
    plan = plan_of(pipe, to_go, host(pipe_max_size=most, exempt_from_max_size=True))
    assert plan.limit != "fs.pipe-max-size"


@given(CAPACITIES, st.lists(st.integers(1, 1 << 17), min_size=1, max_size=4))
def test_a_pipe_grows_to_the_smallest_size_that_takes_what_is_known(capacity: int, to_go: list[int]) -> None:
    """Each writer's bytes fill slots of their own at worst; all slots there are in use."""
    plan = plan_of(pipe_of("pipe", capacity), to_go, host(pipe_max_size=None))
    assume(plan.wanted is not None)
    assert plan.wanted is not None
    assert plan.wanted >= capacity + sum(to_go)
    assert plan.wanted // 2 < capacity + sum(to_go) + PAGE_SIZE


@given(CAPACITIES, HOSTS)
def test_where_what_is_left_to_write_is_not_known_the_size_doubles(capacity: int, of_host: HostLimits) -> None:
    """As far as the limit goes."""
    plan = plan_of(pipe_of("pipe", capacity), [None], of_host)
    if plan.works:
        assert plan.wanted == 2 * capacity or plan.wanted == of_host.pipe_max_size


@given(PIPES, WRITERS, HOSTS, SOCKET_MOST, TO_GO)
def test_one_more_writer_never_asks_for_less(
    pipe: PipeNow, to_go: list[int | None], of_host: HostLimits, most: int | None, more: int | None
) -> None:
    one, two = plan_of(pipe, to_go, of_host, most), plan_of(pipe, [*to_go, more], of_host, most)
    if one.wanted is not None and two.wanted is not None:
        assert one.wanted <= two.wanted
    else:
        assert two.wanted is None


@pytest.mark.parametrize(
    ("pipe", "to_go", "facts", "most", "expected"),
    [
        # Root, or no limit.
        (PIPE, [937_980], {"exempt_from_max_size": True}, None, (1 << 20, "", None)),
        (PIPE, [937_980], {"pipe_max_size": None}, None, (1 << 20, "", None)),
        # An ordinary user: up to 1 MiB by default, and no byte more.
        (PIPE, [983_040], {}, None, (1 << 20, "", None)),
        (PIPE, [983_041], {}, None, (1 << 21, "at least 2,097,152 bytes", "fs.pipe-max-size")),
        (PIPE, [500_000, 500_000], {}, None, (1 << 21, "at least 2,097,152 bytes", "fs.pipe-max-size")),
        (PIPE, [None], {}, None, (131_072, "", None)),
        (PIPE, [None], {"pipe_max_size": 65_536}, None, (65_536, "largest size", "fs.pipe-max-size")),
        # More than any pipe has.
        (PIPE, [LARGEST], {"exempt_from_max_size": True}, None, (None, "more than any pipe", None)),
        # A socketpair has a limit of its own, which binds root too.
        (PAIR, [1_000_000], {"pipe_max_size": 65_536}, 1 << 24, (None, "", None)),
        (PAIR, [8_000_000], {"exempt_from_max_size": True}, 425_984, (None, "net.core.wmem_max", "net.core.wmem_max")),
        (PAIR, [None], {}, None, (None, "", None)),
    ],
)
def test_made_up_hosts(
    pipe: PipeNow, to_go: list[int | None], facts: dict[str, object], most: int | None,
    expected: tuple[int | None, str, str | None],
) -> None:  # fmt: skip
    plan = plan_of(pipe, to_go, host(**facts), most)
    wanted, refused, limit = expected
    assert plan.limit == limit
    assert refused in plan.refused
    assert plan.works == (refused == "")
    assert wanted is None or plan.wanted == wanted


# ---- one rule ----


@st.composite
def hangs(draw: st.DrawFn) -> tuple[tuple[PipeNow, ...], tuple[Party, ...]]:
    """One to three pipes, and one to three writers of each."""
    kinds = draw(st.lists(st.sampled_from(["pipe", "socketpair"]), min_size=1, max_size=3))
    pipes = tuple(
        pipe_of(kind, draw(st.one_of(st.none(), CAPACITIES if kind == "pipe" else st.integers(4608, 1 << 22))), number)
        for number, kind in enumerate(kinds)
    )
    parties = tuple(party for pipe in pipes for party in writers_of(pipe, draw(WRITERS)))
    return pipes, parties


@given(hangs(), HOSTS, SOCKET_MOST, st.sampled_from(PROBLEMS), st.sampled_from(["", "it is stopped"]))
def test_what_a_finding_promises_a_dry_run_plans(
    hang: tuple[tuple[PipeNow, ...], tuple[Party, ...]],
    of_host: HostLimits,
    most: int | None,
    verdict: Verdict,
    no_growth: str,
) -> None:
    """`rescuable`, the steps of a dry run and the plan of each pipe say the same, and give the same reason."""
    pipes, parties = hang
    named = Named("made up", "cause", "fix", no_growth)
    case = Case(verdict, ())
    with (
        mock.patch.object(diagnose, "limits", return_value=of_host),
        mock.patch.object(rescue, "limits", return_value=of_host),
        mock.patch.object(sockets, "largest", return_value=most),
    ):
        can, how = diagnose._rescue(case, named, pipes, parties, 7)
        finding = Finding(
            verdict, "made up", 7, "app", "me", 1.0, (), pipes, parties, 0, "cause", "fix", can, how, bool(no_growth)
        )
        found = Diagnosis(7, 0.3, (finding,), (), "")
        with (
            mock.patch.object(rescue, "diagnose", return_value=found),
            mock.patch.object(rescue, "require_process"),
        ):
            answer = rescue.rescue(7, dry_run=True)
    plans = [
        plan_of(pipe, [party.to_go for party in parties if party.file == pipe.file], of_host, most) for pipe in pipes
    ]
    assert finding.rescuable == (not no_growth and all(plan.works for plan in plans))
    if finding.rescuable:
        assert [(step.file, step.wanted, step.refused) for step in answer.steps] == [
            (pipe.file, plan.wanted, "") for pipe, plan in zip(pipes, plans, strict=True)
        ]
        assert finding.rescue == "python -m pipecap rescue 7"
    else:
        refusals = [step.refused for step in answer.steps if step.refused]
        assert refusals or len(answer.steps) < len(pipes)
        assert finding.rescue in (no_growth, *(plan.refused for plan in plans))
        assert not no_growth or answer.steps == ()
    assert answer.left == (finding,)
    assert (answer.freed, [step.granted for step in answer.steps]) == (None, [None] * len(answer.steps))


# ---- the kernel ----


@settings(max_examples=30)
@given(st.integers(0, 5), st.integers(1, 300_000))
def test_a_full_pipe_grown_as_planned_takes_what_is_left_to_write(power: int, to_go: int) -> None:
    """At worst: a byte in each slot, and none of them takes more (packets)."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_DIRECT)
    try:
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PAGE_SIZE << power)
        capacity = fcntl.fcntl(write_end, fcntl.F_GETPIPE_SZ)
        for _ in range(capacity // PAGE_SIZE):
            os.write(write_end, b"x")
        with pytest.raises(BlockingIOError):
            os.write(write_end, b"x")
        plan = plan_of(pipe_of("pipe", capacity), [to_go], limits())
        assume(plan.works)
        assert plan.wanted is not None
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, plan.wanted)
        assert os.write(write_end, bytes(to_go)) == to_go
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize("size", [1, 100, 5_000, 33_000, 200_000, 1_000_000])
@pytest.mark.parametrize("before", [1, 1_000, 33_000])
def test_a_sender_that_sleeps_goes_on_once_its_socket_is_grown_as_planned(before: int, size: int) -> None:
    """However the bytes are cut that lie there already: the kernel counts memory, and wakes at a quarter."""
    here, there = socket.socketpair()
    with here, there:
        fill(here, before)
        pair = pair_now(here)
        plan = plan_of(pair, [size], most=sockets.largest())
        if not plan.works:
            pytest.skip(f"not on this host: {plan.refused}")
        sender = children.Thread(lambda: here.send(bytes(size)))
        children.wait_until(lambda: sender.native_id is not None)
        children.wait_until_in("sock_alloc_send", os.getpid(), sender.native_id)
        grow(here, plan)
        assert sender.result() == size


@pytest.mark.parametrize("before", [1, 1_000, 33_000, 300_000])
def test_a_socket_polled_for_room_has_some_once_it_is_grown_as_planned(before: int) -> None:
    here, there = socket.socketpair()
    with here, there:
        fill(here, before)
        plan = plan_of(pair_now(here), [None], most=sockets.largest())
        if not plan.works:
            pytest.skip(f"not on this host: {plan.refused}")
        assert select.select([], [here], [], 0)[1] == []
        grow(here, plan)
        assert select.select([], [here], [], 0)[1] == [here]


def fill(end: socket.socket, size: int) -> None:
    end.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            end.send(bytes(size))
    end.setblocking(True)


def pair_now(end: socket.socket) -> PipeNow:
    return pipe_of("socketpair", end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))


def grow(end: socket.socket, plan: growth.Plan) -> None:
    """Set it as rescue does: the kernel doubles what it is given (socket(7))."""
    assert plan.wanted is not None
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, plan.wanted // 2)
