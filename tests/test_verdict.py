"""From facts to words: one test a situation, also those this host cannot show."""

from __future__ import annotations

import pytest
from hosts import host

from pipecap.kernel.limits import Headroom
from pipecap.verdict import Advice, advise

PLENTY = Headroom(pages=16384, exempt=False, exact=True, reason="", elapsed_ns=1)
EXEMPT = Headroom(pages=None, exempt=True, exact=True, reason="CAP_SYS_ADMIN lifts the quota", elapsed_ns=0)


def left(pages: int, *, exact: bool = True) -> Headroom:
    return Headroom(pages=pages, exempt=False, exact=exact, reason="" if exact else "stopped", elapsed_ns=1)


def first(*arguments: object, **facts: object) -> Advice:
    return advise(*arguments, **facts)[0]  # type: ignore[arg-type]


def test_an_ordinary_host_is_fine() -> None:
    found = first(host(), PLENTY, nominal=65536, accepted=65536)
    assert found.level == "ok"
    assert (
        found.text
        == "A queue's pipe holds 65,536 bytes and can grow to 1,048,576; the quota takes 64 more of that size."
    )


def test_who_is_exempt_may_grow_without_count() -> None:
    found = first(host(exempt_from_quota=True), EXEMPT, nominal=65536, accepted=65536)
    assert "the quota does not count for this process" in found.text


def test_a_lower_bound_is_said_to_be_one() -> None:
    """Also a small one: that the count was cut short is no problem of the host."""
    for pages in (0, 1000):
        found = first(host(), left(pages, exact=False), nominal=65536, accepted=65536)
        assert found.level == "ok"
        assert f"{pages:,} pages left or more (stopped)" in found.text


def test_a_pipe_shrunken_by_the_quota() -> None:
    found = first(host(), left(0), nominal=8192, accepted=8192)
    assert found.level == "problem"
    assert "8,192 bytes instead of 65,536" in found.text
    assert "soft quota of 16,384 pages" in found.text
    assert found.action.endswith("sysctl fs.pipe-user-pages-soft=65536")


def test_a_quota_almost_used_up_is_one_problem_not_two() -> None:
    """The kernel shrinks a pipe when 16 pages more would be too many: 4 may be left."""
    found = advise(host(user_pages_hard=300), left(4), nominal=8192, accepted=8192)
    assert [advice.level for advice in found].count("problem") == 1
    assert "4 pages are left" in found[0].text
    assert "fs.pipe-user-pages-hard=65536" in found[0].action


def test_who_is_exempt_from_the_maximum_has_no_limit() -> None:
    facts = host(exempt_from_max_size=True, exempt_from_quota=True)
    for nominal in (65536, 2**20):
        assert "no limit holds" in first(facts, EXEMPT, nominal=nominal, accepted=nominal).text


def test_a_container_without_the_privilege() -> None:
    facts = host(cap_sys_resource=True, cap_sys_admin=True, initial_user_namespace=False)
    notes = [advice for advice in advise(facts, PLENTY, nominal=65536, accepted=65536) if advice.level == "note"]
    assert "user namespace" in notes[0].text


def test_pages_of_64_kib_leave_no_room_to_grow() -> None:
    """Sixteen slots are 1 MiB then, which is pipe-max-size already."""
    found = first(host(page_size=65536), PLENTY, nominal=2**20, accepted=2**20)
    assert found.level == "problem"
    assert "cannot grow" in found.text
    assert "64 KiB pages" in found.text


def test_little_headroom_is_a_problem_before_it_shrinks_pipes() -> None:
    found = first(host(), left(100), nominal=65536, accepted=65536)
    assert found.level == "problem"
    assert "100 pages left" in found.text


def test_unknown_headroom_is_said_so() -> None:
    unknown = Headroom(pages=None, exempt=False, exact=False, reason="x", elapsed_ns=0)
    assert "how many is unknown" in first(host(), unknown, nominal=65536, accepted=65536).text


def test_a_kernel_that_fills_pipes_differently() -> None:
    found = first(host(), PLENTY, nominal=65536, accepted=65000)
    assert found.level == "problem"
    assert "Trust the measured figures" in found.text


def test_a_lowered_maximum_is_not_taken_for_the_quota() -> None:
    texts = [advice.text for advice in advise(host(pipe_max_size=8192), PLENTY, nominal=8192, accepted=8192)]
    assert not any("soft quota" in text for text in texts)
    assert any("cannot grow" in text for text in texts)


def test_a_build_without_pipe_sizes() -> None:
    found = advise(host(), None, nominal=None, accepted=65536)
    assert [advice.level for advice in found] == ["problem"]
    assert "no F_GETPIPE_SZ" in found[0].text


def test_what_is_unknown_is_listed() -> None:
    found = advise(host(pipe_max_size=None, unknown={"pipe_max_size": "masked"}), PLENTY, nominal=65536, accepted=65536)
    assert any("pipe_max_size" in advice.text for advice in found)


@pytest.mark.parametrize("nominal", [8192, 65536, 2**20])
def test_the_edge_is_always_told_with_the_command_that_shows_it(nominal: int) -> None:
    found = advise(host(), PLENTY, nominal=nominal, accepted=nominal)[-1]
    assert f"above {nominal - 4:,} pickled bytes" in found.text
    assert found.action == f"python -m pipecap fit {nominal - 3}"


def test_problems_come_first() -> None:
    levels = [advice.level for advice in advise(host(), left(0), nominal=8192, accepted=8192)]
    assert levels == sorted(levels, key=["problem", "ok", "note"].index)
