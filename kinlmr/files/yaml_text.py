"""A YAML text as nested lists of names that know their lines: what `kinlmr.skeleton` reads.

From YAML's event stream, never its objects: every scalar stays text, and whatever can run, repeat or nest without bound
(tags, anchors, merge keys, depth, size) is refused before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

import yaml

if TYPE_CHECKING:
    from importlib.abc import Traversable

MAX_BYTES = 4_000_000
MAX_DEPTH = 16
MAX_NODES = 200_000


def refuse(where: str, message: str) -> NoReturn:
    """A ValueError that begins with file and line."""
    raise ValueError(f"{where}: {message}")


def place(name: str, otherwise: str = "") -> str:
    """Where a name stands: its file and line if it was read from one."""
    return name.where if isinstance(name, Text) else otherwise


def repeated(names: Sequence[str]) -> Iterator[str]:
    """Each name that was there before, once for every time that it is there again."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


class Text(str):
    """A scalar that remembers where it stood, and whether it was YAML's null."""

    __slots__ = ("null", "where")
    where: str
    null: bool

    def __new__(cls, text: str, where: str, null: bool = False) -> Text:
        self = super().__new__(cls, text)
        self.where, self.null = where, null
        return self


class Block(list["Text | Block"]):
    """A mapping (keys and values in turn) or a sequence, as it was read."""

    def __init__(self, where: str, kind: str) -> None:
        super().__init__()
        self.where, self.kind = where, kind


def read_text(path: Traversable, file: str) -> str:
    """The text of a file, no more of it than is ever read; ``file`` is the name that messages give it."""
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        refuse(f"{file}:{line}", f"not UTF-8 text (byte {data[error.start]:#04x}); save it as UTF-8")


def read_tree(text: str, file: str) -> Text | Block:
    """The document as nested blocks, from its events; depth is bounded, so nothing here can run away."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        refuse(file, f"larger than {MAX_BYTES // 1_000_000} MB; a skeleton is a small file")
    top = Block(f"{file}:1", "document")
    open_blocks = [top]
    try:
        for count, event in enumerate(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))):
            where = f"{file}:{event.start_mark.line + 1}"  # type: ignore[union-attr]
            anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
            if count > MAX_NODES:
                refuse(where, f"more than {MAX_NODES:,} names and lists; a skeleton has a few thousand at most")
            if anchor:
                refuse(where, f"anchors and aliases are not read ({anchor!r}); write it out")
            if tag:
                refuse(where, f"tags are not read ({tag!r}); write plain text")
            if isinstance(event, yaml.DocumentStartEvent) and top:
                refuse(where, "a second document; a skeleton file holds one")
            if isinstance(event, yaml.ScalarEvent):
                null = not event.style and event.value in ("", "~", "null", "Null", "NULL")
                if event.value == "<<" and not event.style:
                    refuse(where, "merge keys are not read ('<<'); write it out")
                open_blocks[-1].append(Text(event.value, where, null))
            elif isinstance(event, yaml.CollectionStartEvent):
                if len(open_blocks) > MAX_DEPTH:
                    refuse(where, f"nested deeper than {MAX_DEPTH}; a skeleton needs 3")
                kind = "mapping" if isinstance(event, yaml.MappingStartEvent) else "sequence"
                block = Block(where, kind)
                open_blocks[-1].append(block)
                open_blocks.append(block)
            elif isinstance(event, yaml.CollectionEndEvent):
                open_blocks.pop()
    except yaml.MarkedYAMLError as error:
        lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", text)
        line, message = _fault(error, [*lines, ""])  # the end may be marked as a line of its own
        refuse(f"{file}:{line + 1}", f"not YAML: {message}")
    except yaml.YAMLError as error:
        refuse(file, f"not YAML: {str(error).splitlines()[0]}")
    if not top:
        refuse(file, "is empty; a skeleton has name, joints, parts and given")
    return top[0]


def _fault(error: yaml.MarkedYAMLError, lines: list[str]) -> tuple[int, str]:
    """The line, from 0, on which a text stops being YAML, and why: the parser often notices only on a later one."""
    mark, begin, problem = error.problem_mark or error.context_mark, error.context_mark, str(error.problem)
    if mark is None:
        return 0, problem
    if lines[mark.line][mark.column : mark.column + 1] == "\t":
        return mark.line, "a tab; indent with spaces"
    suspect = mark.line
    if begin and "expected ':'" in problem:
        suspect = begin.line
    elif "mapping values" in problem or "<document start>" in problem:
        above = (n for n in range(mark.line - 1, -1, -1) if lines[n].split("#")[0].strip())
        suspect = next(above, suspect)
    seen = lines[suspect].split(" #")[0].strip()
    if suspect < mark.line and not re.search(r"^-|:(\s|$)", seen):
        return suspect, f"{seen[:80]!r} has no ': ' after its name; write 'name: value'"
    if "mapping values" in problem:
        problem += "; one 'name: value' stands on a line, as far in as its neighbours"
    since = f" ({error.context} of line {begin.line + 1})" if begin and begin.line < mark.line else ""
    return mark.line, problem + since


def mapping(node: Text | Block, what: str, form: str) -> dict[str, Text | Block]:
    """The keys and values of a mapping; refused where it is none, or a key is twice in it. ``form``: what to write."""
    if isinstance(node, Text) or node.kind != "mapping":
        refuse(node.where, f"{what} must be a mapping ({form}), not {_seen(node)}")
    names = [scalar(key, f"a key of {what}") for key in node[0::2]]
    for name in repeated(names):
        first = next(n for n in names if n == name)
        refuse(place(name), f"{name!r} stands twice in {what} (first at {first.where}); remove one or rename it")
    return dict(zip(names, node[1::2], strict=True))


def scalar(node: Text | Block, what: str) -> Text:
    """One name; anything else is refused."""
    if not isinstance(node, Text):
        refuse(node.where, f"{what} must be one name, not {_seen(node)}")
    return node


def name_list(node: Text | Block, what: str) -> tuple[Text, ...]:
    """The names of a list, none where nothing stands; anything else is refused."""
    if isinstance(node, Text) and node.null:
        return ()
    if isinstance(node, Text) or node.kind != "sequence":
        refuse(node.where, f"{what} must be a list [a, b, c], not {_seen(node)}")
    return tuple(scalar(item, f"an entry of {what}") for item in node)


def _seen(node: Text | Block) -> str:
    return f"{node[:80]!r}" if isinstance(node, Text) else f"a {node.kind}"
