"""Pure: the wait-for graph. Out of who could move whom comes the greatest set that moves no more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)


def stuck(movers: Mapping[Node, Collection[Node] | None]) -> set[Node]:
    """Return the greatest set of blocked threads in which each can be woken only by others in it.

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


def closure(nodes: Iterable[Node], movers: Mapping[Node, Collection[Node] | None]) -> set[Node]:
    """Return nodes, and all that they wait for, directly or not."""
    found = {*nodes}
    border = [*found]
    while border:
        new = [other for other in movers.get(border.pop()) or () if other not in found]
        found.update(new)
        border += new
    return found


def core(nodes: Collection[Node], movers: Mapping[Node, Collection[Node] | None]) -> set[Node]:
    """Return those that wait for one another, or for nothing at all, without those that only wait for them."""
    edges = {node: movers.get(node) or () for node in closure(nodes, movers)}
    found = {node for node in edges if not edges[node] or node in edges[node]}
    found.update(*(component for component in _components(edges) if len(component) > 1))
    return found & {*nodes}


def _components(edges: Mapping[Node, Collection[Node]]) -> Iterator[list[Node]]:
    """Return the strongly connected components: Tarjan's algorithm, without recursion."""
    number: dict[Node, int] = {}
    lowest: dict[Node, int] = {}
    path: list[Node] = []
    on_path: set[Node] = set()
    for root in edges:
        work = [] if root in number else [(root, iter(edges[root]))]
        while work:
            node, others = work[-1]
            if node not in number:
                number[node] = lowest[node] = len(number)
                path.append(node)
                on_path.add(node)
            other = next((each for each in others if each not in number or each in on_path), None)
            if other is not None and other not in number:
                work.append((other, iter(edges[other])))
            elif other is not None:
                lowest[node] = min(lowest[node], number[other])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[node])
                if lowest[node] == number[node]:
                    component = _taken(path, node)
                    on_path.difference_update(component)
                    yield component


def _taken(path: list[Node], node: Node) -> list[Node]:
    """Take the end of a path off, from a node on."""
    taken = [path.pop()]
    while taken[-1] != node:
        taken.append(path.pop())
    return taken


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
