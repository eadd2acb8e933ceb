"""Pure: the wait-for graph. Out of who could move whom comes the greatest set that moves no more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)


def stuck(movers: Mapping[Node, Collection[Node] | None]) -> set[Node]:
    """Give the greatest set of blocked threads in which each can be moved only by others in it.

    `movers` has, of each blocked thread, the threads that could end its wait; None where somebody who is not known
    could. A thread that is no key is not blocked. Each is taken out once, so the work grows with threads and edges.
    """
    waiting: defaultdict[Node, list[Node]] = defaultdict(list)
    free: list[Node] = []
    for thread, others in movers.items():
        if others is None or any(other not in movers for other in others):
            free.append(thread)
        else:
            for other in others:
                waiting[other].append(thread)
    moving = set(free)
    while free:
        for thread in waiting[free.pop()]:
            if thread not in moving:
                moving.add(thread)
                free.append(thread)
    return movers.keys() - moving


def groups(threads: Iterable[Node], movers: Mapping[Node, Collection[Node] | None]) -> list[set[Node]]:
    """Split threads into those that wait for one another, directly or not."""
    members = set(threads)
    near: defaultdict[Node, set[Node]] = defaultdict(set)
    for thread in members:
        for other in movers[thread] or ():
            if other in members:
                near[thread].add(other)
                near[other].add(thread)
    found: list[set[Node]] = []
    while members:
        group = {members.pop()}
        border = [*group]
        while border:
            new = near[border.pop()] - group
            group |= new
            border += new
        members -= group
        found.append(group)
    return found
