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
