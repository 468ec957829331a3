"""Random bodies of the official families' sizes, and the loop that kinematics must equal."""

import numpy as np
import torch

from kinlmr import load_skeleton

# name: (skeleton, vertices, shape numbers, pose directions)
FAMILIES = {
    "smpl": ("smpl.yaml", 6890, 10),
    "smplh": ("smplh.yaml", 6890, 16),
    "smplx": ("smplx.yaml", 10475, 20),
    "mano": ("mano.yaml", 778, 10),
    "flame": ("flame.yaml", 5023, 400),
    "smal": ("smal.yaml", 3889, 41),
}


def parents_of(skeleton):
    index = {joint: i for i, joint in enumerate(skeleton.joints)}
    return np.array([-1 if p is None else index[p] for p in skeleton.parents])


def arrays(parents, vertices, shape, seed=0, pose=True):
    """Body arrays as an official file names them, random, of metres' size."""
    rng = np.random.default_rng(seed)
    joints = len(parents)
    weights = np.zeros((vertices, joints))
    near = rng.integers(0, joints, (vertices, 4))
    np.add.at(weights, (np.arange(vertices)[:, None], near), rng.random((vertices, 4)) + 0.1)
    regressor = np.zeros((joints, vertices))
    for row in regressor:
        row[rng.integers(0, vertices, 12)] = rng.random(12) + 0.1
    found = {
        "v_template": 0.4 * rng.standard_normal((vertices, 3)),
        "shapedirs": 0.01 * rng.standard_normal((vertices, 3, shape)),
        "weights": weights / weights.sum(1, keepdims=True),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "kintree_table": np.stack([np.asarray(parents) % 2**32, np.arange(joints)]).astype(np.uint32),
        "f": rng.integers(0, vertices, (7, 3)).astype(np.uint32),
    }
    if pose:
        found["posedirs"] = 0.01 * rng.standard_normal((vertices, 3, 9 * (joints - 1)))
    return found


def reordered(given, order):
    """Body arrays of the same body whose joint i is the old order[i]."""
    order, found = list(order), dict(given)
    old = given["parents"] if "parents" in given else given["kintree_table"][0].astype(np.int32)
    root = next(j for j, p in enumerate(old) if p < 0)
    for key in {"J", "J_shapedirs", "joint_names", "J_regressor"} & given.keys():
        found[key] = given[key][order]
    found["weights"] = given["weights"][:, order]
    if given.get("posedirs", np.zeros(0)).size:
        of = dict(
            zip([j for j in range(len(old)) if j != root], np.split(given["posedirs"], len(old) - 1, 2), strict=True)
        )
        found["posedirs"] = np.concatenate([of[j] for j in order if j != root], 2)
    found.pop("kintree_table", None)
    return found | {"parents": np.array([-1 if j == root else order.index(old[j]) for j in order])}


def family(name, seed=0):
    skeleton, vertices, shape = FAMILIES[name]
    return arrays(parents_of(load_skeleton(skeleton)), vertices, shape, seed)


def chained(rotations, offsets, parents):
    """Forward kinematics as a loop over joints; parents may come after their children."""
    turns, places = {}, {}

    def place(joint):
        if joint not in turns:
            if parents[joint] < 0:
                turns[joint], places[joint] = rotations[:, joint], offsets[:, joint]
            else:
                place(parents[joint])
                above = turns[parents[joint]]
                turns[joint] = above @ rotations[:, joint]
                places[joint] = places[parents[joint]] + (above @ offsets[:, joint, :, None])[..., 0]

    for joint in range(len(parents)):
        place(joint)
    every = range(len(parents))
    return torch.stack([turns[j] for j in every], 1), torch.stack([places[j] for j in every], 1)
