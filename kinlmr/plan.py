"""Plans: a skeleton's part graph compiled with networkx into an order of execution, as plain tuples."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx

from kinlmr.skeleton import Skeleton

MAX_PAIRS = 1_000_000  # of a part and one that it is given


@dataclass(frozen=True)
class Plan:
    """What runs when, and who reads whom. P parts in topological order (ties as declared); hashable; no torch inside.

    parts    names of the P parts in plan order
    joints   (P) tuples: each part's joints, as indices into the skeleton's joints
    levels   tuples of part indices that may run side by side; together 0 .. P-1 in order
    reads    (P + 2) tuples: the slots that node n reads after the features, its own slot first for a part. Slots and
             nodes are numbered alike: the parts 0 .. P-1, then shape P, then camera P + 1
    order    (J) skeleton index of the joint at each place of plan order (the parts' joints one after another)
    restore  (J) place in plan order of each joint of the skeleton: its inverse
    """

    skeleton: Skeleton
    parts: tuple[str, ...]
    joints: tuple[tuple[int, ...], ...]
    levels: tuple[tuple[int, ...], ...]
    reads: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    restore: tuple[int, ...]

    def given(self, part: int) -> tuple[int, ...]:
        """The parts that part number ``part`` is given, in plan order."""
        return self.reads[part][2:]

    def __str__(self) -> str:
        width = max(map(len, self.parts))
        lines = [f"{self.skeleton.name}: {len(self.order)} joints, {len(self.parts)} parts, {len(self.levels)} levels"]
        for depth, level in enumerate(self.levels):
            for place, part in enumerate(level):
                label = f"level {depth}" if place == 0 else ""
                given = ", ".join(self.parts[g] for g in self.given(part)) or "-"
                count = len(self.joints[part])
                lines.append(
                    f"  {label:<9} {self.parts[part]:<{width}} {count:3} joint{'s' * (count != 1):1}  given {given}"
                )
        lines.append(f"  {'then':<9} {'shape':<{width}} {'':10}  given every part")
        lines.append(f"  {'':<9} {'camera':<{width}} {'':10}  given every part, shape")
        return "\n".join(lines)

    def mermaid(self) -> str:
        """The same graph as Mermaid text, which a README on GitHub draws."""
        lines = ["graph LR"]
        for part, name in enumerate(self.parts):
            lines.append(f'  p{part}["{name} ({len(self.joints[part])})"]')
            lines += [f"  p{given} --> p{part}" for given in self.given(part)]
        return "\n".join(lines) + "\n"


def compile(skeleton: Skeleton) -> Plan:
    """Compile a skeleton's part graph: topological generations, what every node reads, the joints' permutation.

    >>> from kinlmr.skeleton import load
    >>> plan = compile(load("smpl.yaml"))
    >>> plan.parts
    ('root', 'head', 'left_arm', 'right_arm', 'left_leg', 'right_leg')
    >>> plan.levels
    ((0,), (1, 2, 3, 4, 5))
    """
    if not isinstance(skeleton, Skeleton):
        raise TypeError(f"compile takes a Skeleton, not {skeleton!r}; kinlmr.load_skeleton reads one")
    declared = {part.name: part for part in skeleton.parts}
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(declared)
    graph.add_edges_from((given, part) for part, above in skeleton.part_graph().items() for given in above)
    if skeleton.given == "ancestors":
        _check_ancestors(graph, skeleton)
        graph = nx.transitive_closure_dag(graph)

    rank = {name: i for i, name in enumerate(declared)}
    generations = [sorted(level, key=rank.__getitem__) for level in nx.topological_generations(graph)]
    parts = tuple(name for level in generations for name in level)
    number = {name: i for i, name in enumerate(parts)}
    index = {joint: i for i, joint in enumerate(skeleton.joints)}

    joints = tuple(tuple(index[joint] for joint in declared[name].joints) for name in parts)
    order = tuple(joint for part in joints for joint in part)
    restore = tuple(sorted(range(len(order)), key=order.__getitem__))
    every = tuple(range(len(parts)))
    shape, camera = len(parts), len(parts) + 1
    own = tuple((i, shape, *sorted(number[g] for g in graph.predecessors(name))) for i, name in enumerate(parts))
    return Plan(
        skeleton=skeleton,
        parts=parts,
        joints=joints,
        levels=tuple(tuple(number[name] for name in level) for level in generations),
        reads=(*own, (*every, shape), (*every, shape, camera)),
        order=order,
        restore=restore,
    )


def _check_ancestors(graph: nx.DiGraph[str], skeleton: Skeleton) -> None:
    """Refuse a closure that would not fit in memory: a chain of 10,000 parts has 50 million pairs."""
    above: dict[str, int] = {}  # of each part a set of parts, as the bits of a number
    pairs = 0
    for place, name in enumerate(nx.topological_sort(graph)):
        bits = 0
        for parent in graph.predecessors(name):
            bits |= above[parent]
        pairs += bits.bit_count()
        above[name] = bits | 1 << place
    if pairs > MAX_PAIRS:
        raise ValueError(
            f"skeleton {skeleton.name!r}: its parts are given {pairs:,} ancestors in all, more than {MAX_PAIRS:,}; "
            "write 'given: parents', or join parts"
        )
