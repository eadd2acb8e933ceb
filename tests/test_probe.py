"""The fill probe on scratch pipes."""

from __future__ import annotations

import errno
import os
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st
from privilege import in_child, quota_used_up, unprivileged

import pipecap
from pipecap import InvalidSize, NoScratchPipe, ResizeRefused
from pipecap.kernel import probe

PAGE = os.sysconf("SC_PAGESIZE")


def test_by_default_a_page_at_a_time() -> None:
    found = pipecap.measure()
    assert (found.write_size, found.nominal, found.accepted, found.writes) == (PAGE, 16 * PAGE, 16 * PAGE, 16)
    assert (found.slots, found.partial, found.predicted) == (16, 0, 16 * PAGE)
    assert found.elapsed_ns > 0


@pytest.mark.skipif(PAGE != 4096, reason="the anchor is of 4 KiB pages")
@pytest.mark.parametrize(("write_size", "accepted"), [(1, 65536), (2049, 32784), (4097, 45066), ("1M", 65536)])
def test_anchors_on_the_real_kernel(write_size: int | str, accepted: int) -> None:
    assert pipecap.measure(write_size).accepted == accepted


@given(
    write_size=st.one_of(st.integers(1, 3 * PAGE), st.integers(1, 40 * PAGE)),
    slots=st.sampled_from([1, 2, 8, 16, 32]),
)
def test_the_kernel_takes_what_the_model_predicts(write_size: int, slots: int) -> None:
    found = pipecap.measure(write_size, capacity=slots * PAGE)
    assert found.accepted == found.predicted
    assert found.accepted == found.writes * write_size + found.partial


@given(pattern=st.lists(st.integers(1, 6 * PAGE), min_size=1, max_size=3), slots=st.sampled_from([1, 2, 8, 16, 32]))
def test_a_pattern_of_writes_too(pattern: list[int], slots: int) -> None:
    from pipecap.kernel.slots import fill

    with probe.scratch_pipe(slots * PAGE) as (_, write_end):
        accepted, writes, partial, _ = probe.probe(write_end, pattern)
    predicted = fill(tuple(pattern), slots * PAGE, PAGE)
    assert (accepted, writes, partial) == (predicted.accepted, predicted.writes, predicted.partial)


def test_a_curve_has_a_measurement_for_each_size_in_order() -> None:
    curve = pipecap.capacity_curve([1, "4K", 100], capacity="128K")
    assert [(point.write_size, point.nominal) for point in curve] == [(1, 131072), (4096, 131072), (100, 131072)]


@pytest.mark.parametrize("size", [0, -1, 2**31, 2**63, "x", 1.5, True])
def test_bad_write_sizes(size: object) -> None:
    with pytest.raises(InvalidSize):
        pipecap.measure(size)  # type: ignore[arg-type]


def test_a_capacity_that_is_refused() -> None:
    with pytest.raises(ResizeRefused):
        pipecap.measure(1, capacity=2**32)


def test_a_new_pipe_of_a_user_over_the_quota_is_two_pages() -> None:
    def measure() -> tuple[int | None, int, int]:
        with quota_used_up():
            found = pipecap.measure()
            return found.nominal, found.accepted, probe.default_capacity()

    assert unprivileged(measure) == (2 * PAGE, 2 * PAGE, 2 * PAGE)


def test_without_descriptors_left_the_error_says_so() -> None:
    def measure() -> tuple[int | None, str]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with pytest.raises(NoScratchPipe) as caught:
            pipecap.measure()
        return caught.value.errno, caught.value.hint

    pipecap.measure()  # load everything while files can be opened
    number, hint = in_child(measure)
    assert number == errno.EMFILE
    assert "ulimit -n" in hint
