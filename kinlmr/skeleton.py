"""Skeletons: a kinematic tree and its partition into parts, declared in one YAML file.

name: arm
joints: {shoulder: null, elbow: shoulder, wrist: elbow}     # name: parent, in the body model's order; one root
parts: {upper: [shoulder, elbow], lower: [wrist]}           # name: its joints; every joint in exactly one part
given: parents                                              # parents (default) | ancestors | none | {part: [parts]}

``joints: smpl.yaml`` takes the joints of another skeleton's file: an installed one, or one beside this file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from graphlib import CycleError, TopologicalSorter
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kinlmr.files import Block, Text, mapping, name_list, nearest, place, read_text, read_tree, refuse, repeated, scalar

if TYPE_CHECKING:
    from importlib.abc import Traversable

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
GIVEN = ("parents", "ancestors", "none")
NO_PARENT = ("null", "none", "nil", "~", "-1", "")  # written as text, where null is meant


@dataclass(frozen=True)
class Part:
    """A named group of joints that share one recurrent cell; its joints in the order of the part's slot."""

    name: str
    joints: tuple[str, ...]


@dataclass(frozen=True)
class Skeleton:
    """A kinematic tree of J joints, its partition into P parts, and which parts a part is given.

    ``joints`` stand in the body model's own order, ``parents`` beside them (None for the root). ``given`` is one of
    ``parents``, ``ancestors``, ``none``, or an explicit mapping, kept as pairs ``((part, (part, ...)), ...)``.
    Whatever is not a rooted tree with a partition raises a ValueError, so a Skeleton that exists is sound.

    >>> arm = Skeleton("arm", ("shoulder", "elbow"), (None, "shoulder"), (Part("upper", ("shoulder", "elbow")),))
    >>> Skeleton("arm", ("shoulder", "elbow"), (None, "sholder"), arm.parts)
    Traceback (most recent call last):
    ValueError: skeleton 'arm': joint 'elbow' hangs on 'sholder', which is not a joint; did you mean 'shoulder'?
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[str | None, ...]
    parts: tuple[Part, ...]
    given: str | tuple[tuple[str, tuple[str, ...]], ...] = "parents"

    def __post_init__(self) -> None:
        self._set(tuple)
        _check_names(self)
        _check_tree(self)
        _check_partition(self)
        _check_given(self)
        self._set(lambda names: tuple(None if name is None else str(name) for name in names))

    def __repr__(self) -> str:
        given = self.given if isinstance(self.given, str) else "by a mapping"
        return f"Skeleton({self.name!r}: {len(self.joints)} joints, {len(self.parts)} parts, given {given})"

    def _set(self, names: Callable[[Iterable[Any]], tuple[Any, ...]]) -> None:
        """Put every list of names in one form: first as tuples, and, once checked, as plain text."""
        given = self.given.items() if isinstance(self.given, Mapping) else self.given
        new = {
            "name": names([self.name])[0],
            "joints": names(self.joints),
            "parents": names(self.parents),
            "parts": tuple(Part(names([part.name])[0], names(part.joints)) for part in self.parts),
            "given": names([given])[0]
            if isinstance(given, str)
            else tuple((names([k])[0], names(v)) for k, v in given),
        }
        for field, value in new.items():
            object.__setattr__(self, field, value)

    def part_graph(self) -> dict[str, tuple[str, ...]]:
        """The parts that each part is given directly: the joint tree's quotient by the partition, or the mapping.

        ``ancestors`` stands here as ``parents``; `kinlmr.compile` closes it.
        """
        if not isinstance(self.given, str):
            mapping = dict(self.given)
            return {part.name: mapping.get(part.name, ()) for part in self.parts}
        if self.given == "none":
            return {part.name: () for part in self.parts}
        owner = {joint: part.name for part in self.parts for joint in part.joints}
        parent = dict(zip(self.joints, self.parents, strict=True))
        above = {p.name: [owner[q] for j in p.joints if (q := parent[j]) is not None] for p in self.parts}
        return {name: tuple(dict.fromkeys(a for a in given if a != name)) for name, given in above.items()}

    def to_yaml(self) -> str:
        """The skeleton as the YAML text that declares it: ``parse(s.to_yaml()) == s``."""
        quote = lambda name: f'"{name}"' if name.lower() == "null" else name  # noqa: E731
        lines = [f"name: {quote(self.name)}", "joints:"]
        for joint, parent in zip(self.joints, self.parents, strict=True):
            lines.append(f"  {quote(joint)}: {'null' if parent is None else quote(parent)}")
        lines.append("parts:")
        lines += [f"  {quote(p.name)}: [{', '.join(map(quote, p.joints))}]" for p in self.parts]
        if isinstance(self.given, str):
            lines.append(f"given: {self.given}")
        else:
            lines.append("given:" if self.given else "given: {}")
            lines += [f"  {quote(name)}: [{', '.join(map(quote, given))}]" for name, given in self.given]
        return "\n".join(lines) + "\n"


def load(source: str | os.PathLike[str] | Skeleton) -> Skeleton:
    """The skeleton of a YAML file: a path first, then the name of an installed one; a Skeleton is returned as it is.

    A FileNotFoundError names what there is; a ValueError the file, the line, what is wrong and the fix.

    >>> load("smpl.yaml")
    Skeleton('smpl': 24 joints, 6 parts, given parents)
    """
    if isinstance(source, Skeleton):
        return source
    name = os.fspath(source)
    path = _find(name, Path())
    if path is None:
        raise FileNotFoundError(_missing(name))
    return parse(read_text(path, name), name, path.parent if isinstance(path, Path) else None)


def parse(text: str, file: str = "<text>", folder: Path | None = None) -> Skeleton:
    """The skeleton that a YAML text declares.

    file    the name that messages give the text
    folder  where a file that ``joints`` names may lie; None: it must be an installed one

    Every refusal is a ValueError that names file, line and mend. Nothing in a text can run, repeat or nest without
    bound (`kinlmr.files.yaml_text`).
    """
    top = _top(text, file)
    joints = _joints(top["joints"], folder)
    parts = mapping(top["parts"], "'parts'", "name: [joints]")
    given: Text | Block = top.get("given", Text("parents", file))
    if isinstance(given, Text) and given.null:
        refuse(given.where, "given is empty; write 'none', or leave the key out for 'parents'")
    return Skeleton(
        scalar(top["name"], "'name'"),
        tuple(joints),
        tuple(None if v.null else v for v in (scalar(v, f"the parent of {k!s}") for k, v in joints.items())),
        tuple(Part(k, name_list(v, f"part {k!s}")) for k, v in parts.items()),
        given if isinstance(given, Text) else tuple((k, name_list(v, f"given {k!s}")) for k, v in
                                                    mapping(given, "'given'", "part: [parts]").items()),
    )  # fmt: skip


def _top(text: str, file: str) -> dict[str, Text | Block]:
    """The keys of a skeleton's text, and what stands there."""
    root = read_tree(text, file)
    top = mapping(root, "a skeleton", "name, joints, parts and given")
    known = [field.name for field in fields(Skeleton) if field.name != "parents"]
    for key in top:
        if key not in known:
            refuse(place(key, file), f"unknown key {key!r}; a skeleton has {', '.join(known)}{nearest(key, known)}")
    for key in ("name", "joints", "parts"):
        if key not in top:
            refuse(root.where, f"{key!r} is missing; a skeleton has {', '.join(known)}")
    return top


def _joints(node: Text | Block, folder: Path | None) -> dict[str, Text | Block]:
    """The joints, written out or in the file that is named; then they know its lines, and the line that names it."""
    what = "'joints'"
    if isinstance(node, Text) and not node.null:
        if not node.endswith(".yaml") or ".." in node or not {*"/\\:\0"}.isdisjoint(node):
            form = "a mapping (name: parent), or the name of another skeleton's file, beside this one or installed, "
            form += f"without '/', '\\' and '..', such as smpl.yaml{nearest(node, installed())}"
            refuse(node.where, f"joints is {node[:80]!r}, expected {form}")
        path = _find(node, folder)
        if path is None:
            refuse(node.where, _missing(node, folder))
        file = f"{node.where}: {node}"
        node, what = _top(read_text(path, file), file)["joints"], "'joints' of a skeleton that another one names"
    return mapping(node, what, "name: parent")


def _find(name: str, folder: Path | None) -> Traversable | None:
    """The skeleton's file in the folder, else the installed one of that name, else None."""
    try:
        if folder is not None and (folder / name).is_file():
            return folder / name
    except OSError:  # no system has such a name
        pass
    return _folder() / name if name in installed() else None


def _missing(name: str, folder: Path | None = None) -> str:
    names = installed()
    come = f"the installed ones are {', '.join(names)}" if names else "none is installed"
    beside = (path.name for path in folder.glob("*.yaml")) if folder else ()
    return f"no skeleton {name[:200]!r}: no such file, and {come}{nearest(name, (*names, *beside))}"


def installed() -> tuple[str, ...]:
    """The names of the skeletons that come with kinlmr."""
    folder = _folder()
    return tuple(sorted(f.name for f in folder.iterdir() if f.name.endswith(".yaml"))) if folder.is_dir() else ()


def _folder() -> Traversable:
    inside = resources.files("kinlmr") / "skeletons"
    checkout = Path(__file__).parents[1]
    if not inside.is_dir() and (checkout / "pyproject.toml").is_file():
        return checkout / "skeletons"
    return inside


# ---------------------------------------------------------------------------------------------- what a skeleton must be


def _fault(skeleton: Skeleton, name: str, message: str) -> NoReturn:
    refuse(place(name, f"skeleton {skeleton.name!r}"), message)


def _cycle(graph: dict[str, tuple[str, ...]]) -> list[str]:
    """A cycle of name -> what it hangs on, as [a, c, b, a] from its first declared name, or []."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        ring = error.args[1][:0:-1]
        members = set(ring)
        first = ring.index(next(name for name in graph if name in members))
        return [*ring[first:], *ring[: first + 1]]
    return []


def _arrows(names: Sequence[str]) -> str:
    return " -> ".join(names if len(names) <= 12 else [*names[:6], f"... {len(names) - 12} more ...", *names[-6:]])


def _check_names(s: Skeleton) -> None:
    for kind, names in (("skeleton", [s.name]), ("joint", s.joints), ("part", [p.name for p in s.parts])):
        for name in names:
            if not isinstance(name, str) or not NAME.fullmatch(name):
                form = "a letter or '_' followed by up to 63 letters, digits or '_'"
                colon = "; between a name and its value stands ': '" if re.search(r"\w[\s:]", str(name)) else ""
                _fault(s, name, f"{kind} name {str(name)[:80]!r} is not {form}{colon}")
        for name in repeated(names):
            _fault(s, name, f"{kind} {name!r} is declared twice; remove one or rename it")


def _check_tree(s: Skeleton) -> None:
    if not s.joints:
        _fault(s, s.name, "a skeleton needs at least one joint")
    if len(s.parents) != len(s.joints):
        _fault(s, s.name, f"{len(s.joints)} joints but {len(s.parents)} parents; give each joint one (or None)")
    joints = set(s.joints)
    for joint, parent in zip(s.joints, s.parents, strict=True):
        if parent is not None and parent not in joints:
            null = "written null, without quotes" if isinstance(parent, Text) else "None"
            root = f"; the root's parent is {null}" if str(parent).lower() in NO_PARENT else ""
            near = nearest(str(parent), s.joints)
            _fault(s, parent, f"joint {joint!r} hangs on {parent!r}, which is not a joint{root}{near}")
    if cycle := _cycle({j: () if p is None else (p,) for j, p in zip(s.joints, s.parents, strict=True)}):
        _fault(s, cycle[0], f"joints hang on one another: {_arrows(cycle)}; one of them must hang elsewhere")
    first, *rest = [j for j, p in zip(s.joints, s.parents, strict=True) if p is None]
    if rest:
        _fault(s, rest[0], f"{rest[0]!r} is a second root beside {first!r}; give it a parent")


def _check_partition(s: Skeleton) -> None:
    if not s.parts:
        _fault(s, s.name, "a skeleton needs at least one part")
    joints, owner = set(s.joints), dict[str, str]()
    for part in s.parts:
        if not part.joints:
            _fault(s, part.name, f"part {part.name!r} is empty; give it a joint or remove it")
        for joint in part.joints:
            if joint not in joints:
                near = nearest(joint, s.joints)
                _fault(s, joint, f"part {part.name!r} has {joint!r}, which is not a joint{near}")
            if joint in owner:
                twice = f"twice in part {part.name!r}"
                both = f"in parts {owner[joint]!r} and {part.name!r}"
                where = twice if owner[joint] == part.name else both
                _fault(s, joint, f"joint {joint!r} is {where}; every joint belongs to exactly one part")
            owner[joint] = part.name
    lost = [j for j in s.joints if j not in owner]
    if lost:
        shown = ", ".join(map(repr, lost[:8])) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
        _fault(s, lost[0], f"in no part: {shown}; every joint belongs to exactly one part")


def _check_given(s: Skeleton) -> None:
    names = {part.name: None for part in s.parts}
    if isinstance(s.given, str):
        if s.given not in GIVEN:
            expected = f"{', '.join(GIVEN)} or a mapping part: [parts]{nearest(s.given, GIVEN)}"
            _fault(s, s.given, f"given is {s.given!r}, expected {expected}")
    else:
        for name in repeated([key for key, _ in s.given]):
            _fault(s, name, f"'given' names part {name!r} twice; join the two lists")
        for key, given in s.given:
            for name in (key, *given):
                if name not in names:
                    _fault(s, name, f"'given' names {name!r}, which is not a part{nearest(name, names)}")
            for name in repeated(given):
                _fault(s, name, f"part {key!r} is given {name!r} twice; name it once")
    if cycle := _cycle(s.part_graph()):
        key, mend = cycle[0], "join these parts, or make 'given' a mapping"
        if not isinstance(s.given, str):
            key, mend = next(key for key, _ in s.given if key == cycle[0]), "remove one of them"
        _fault(s, key, f"parts are given one another: {_arrows(cycle)}; {mend}")
