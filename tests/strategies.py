"""Random skeletons (any tree, any partition, any order, any conditioning), damaged ones, and models of them."""

from hypothesis import note
from hypothesis import strategies as st

from kinlmr import Part, Skeleton, build


@st.composite
def trees(draw, most=12):
    """(joints, parents): a random tree whose joints are declared in random order."""
    size = draw(st.integers(1, most))
    above = [None, *(draw(st.integers(0, i - 1)) for i in range(1, size))]
    order = draw(st.permutations(range(size)))
    return tuple(f"j{i}" for i in order), tuple(None if above[i] is None else f"j{above[i]}" for i in order)


@st.composite
def partitions(draw, joints, parents, connected):
    """Parts as a tuple of joint tuples; connected ones are what is left when some of the tree's edges are cut."""
    if connected:
        parent = dict(zip(joints, parents, strict=True))
        cut = {joint: draw(st.booleans()) for joint in joints}

        def label(joint):
            while parent[joint] is not None and not cut[joint]:
                joint = parent[joint]
            return joint
    else:
        labels = {joint: draw(st.integers(0, len(joints) - 1)) for joint in joints}
        label = labels.__getitem__
    groups = {}
    for joint in draw(st.permutations(joints)):
        groups.setdefault(label(joint), []).append(joint)
    return tuple(map(tuple, groups.values()))


@st.composite
def mappings(draw, names):
    """An explicit `given` without a cycle: a part may be given any that come before it in a random order."""
    order = draw(st.permutations(names))
    pairs = []
    for place, name in enumerate(order):
        if draw(st.booleans()):
            given = draw(st.lists(st.sampled_from(order[:place]), unique=True)) if place else []
            pairs.append((name, tuple(given)))
    return tuple(pairs)


@st.composite
def skeletons(draw, most=12, connected=None):
    """A sound skeleton. Parts that are not connected could be given one another, so theirs is a mapping or none."""
    joints, parents = draw(trees(most))
    connected = draw(st.booleans()) if connected is None else connected
    groups = draw(partitions(joints, parents, connected))
    parts = tuple(Part(f"p{i}", group) for i, group in enumerate(groups))
    modes = ["none", "mapping"] + ["parents", "ancestors"] * connected
    given = draw(st.sampled_from(modes))
    if given == "mapping":
        given = draw(mappings([part.name for part in parts]))
    skeleton = Skeleton("random", joints, parents, parts, given)
    note(skeleton.to_yaml())
    return skeleton


@st.composite
def damaged(draw):
    """A sound skeleton's fields after one edit, and the names that its refusal must give; on its line is the first."""
    s = draw(skeletons(most=8).filter(lambda s: len(s.joints) > 1))
    tree, parts = dict(zip(s.joints, s.parents, strict=True)), {p.name: p.joints for p in s.parts}
    joint = draw(st.sampled_from([j for j in s.joints if tree[j]]))
    other = draw(st.sampled_from([j for j in s.joints if j != joint]))
    part = draw(st.sampled_from([*parts]))
    own = draw(st.sampled_from(parts[part]))
    left = [j for j in parts[part] if j != own]
    line = [joint]
    while tree[line[-1]]:
        line.append(tree[line[-1]])
    ring = line[: draw(st.integers(1, len(line)))]
    knot = draw(st.lists(st.sampled_from([*parts]), min_size=1, unique=True))

    rename = lambda new: ("joints", tuple(new if j == joint else j for j in s.joints))  # noqa: E731
    hang = lambda child, parent: ("parents", tuple((tree | {child: parent}).values()))  # noqa: E731
    fill = lambda *joints: ("parts", tuple(Part(*p) for p in (parts | {part: joints}).items()))  # noqa: E731
    give = lambda given: ("given", tuple(given.items()))  # noqa: E731
    edits = {
        "a joint dropped from its part": (fill(*left), [own if left else part]),
        "a joint in a part once more": (fill(*parts[part], joint), [joint]),
        "a part's joint renamed": (fill(*left, "new"), ["new"]),
        "a part emptied": (fill(), [part]),
        "a joint renamed": (rename("new"), [joint]),
        "a joint with no name": (rename("2nd"), ["2nd"]),
        "a joint with another's name": (rename(other), [other]),
        "a joint on none": (hang(joint, "new"), ["new"]),
        "a cycle of joints": (hang(ring[-1], joint), sorted(ring, key=s.joints.index)),
        "a second root": (hang(joint, None), sorted([joint, line[-1]], key=s.joints.index, reverse=True)),
        "a cycle of parts": (give(dict(zip(knot, zip([*knot[1:], knot[0]]), strict=True))), sorted(knot)),
        "a part given one twice": (give({part: (part, part)}), [part]),
        "a part given what is none": (give({part: ("new",)}), ["new"]),
        "what is no part given one": (give({"new": (part,)}), ["new"]),
        "no way to give": (("given", "parent"), ["parent"]),
    }
    (field, value), names = edits[draw(st.sampled_from(sorted(edits)))]
    return vars(s) | {field: value}, names


@st.composite
def models(draw, cells=("gru", "lstm"), shapes=(2,), cameras=(3,)):
    """A small LMR with any options, for any skeleton."""
    skeleton = draw(skeletons(most=8))
    hidden = {part.name: draw(st.integers(1, 3)) for part in skeleton.parts} | {"camera": 3}
    options = {
        "layers": st.integers(1, 2),
        "iterations": st.integers(1, 4),
        "rotation": st.sampled_from(["6d", "axis_angle"]),
        "camera_input": st.sampled_from(["previous", "initial"]),
        "shape_input": st.sampled_from(["previous", "mean"]),
        "cell": st.sampled_from(cells),
        "shape": st.sampled_from(shapes),
        "camera": st.sampled_from(cameras),
    }
    return build(skeleton, features=5, hidden=hidden, learn_start=True, **draw(st.fixed_dictionaries(options)))
