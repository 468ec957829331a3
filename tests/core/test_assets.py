import json
from dataclasses import replace
from importlib import resources

import bodies
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_same

import kinlmr
from kinlmr import load_body, load_skeleton, save_body
from kinlmr.body import assembly
from kinlmr.body.assembly import OFFICIAL, SKELETONS, assemble
from kinlmr.body.assembly import _parents as parents_of
from kinlmr.body.assets import embedded
from kinlmr.body.points import keypoint_sets

POINTS = json.loads((resources.files("kinlmr") / "bodies" / "keypoints.json").read_text())
MESHES = pytest.mark.parametrize("name", embedded())


def rest(body, *want):
    return body(torch.eye(3).expand(len(body.joints), 3, 3), want=want)


def same_body(one, two):
    """Two bodies pose alike, to the last bit, and are named alike."""
    turns = kinlmr.rotations.axis_angle_to_matrix(torch.randn(4, len(one.joints), 3).to(one.template))
    shape, want = (
        torch.randn(4, one.shape_width).to(one.template),
        ("joints", "vertices", "keypoints")[: 2 + bool(one.keypoints)],
    )
    assert_same(*[body(turns, shape, want=want) for body in (one, two)], 1e-6)
    assert (one.name, one.joints, one.parents, one.licence) == (two.name, two.joints, two.parents, two.licence)
    assert (one.keypoints is None) == (two.keypoints is None)


# ----------------------------------------------------------------------------------------------------- what is embedded


@MESHES
def test_the_embedded_bodies(name):
    body, smpl = load_body(name), load_skeleton("smpl.yaml")
    assert body.joints == smpl.joints
    assert list(body.parents) == bodies.parents_of(smpl).tolist()
    assert body.licence.startswith("CC0-1.0")
    assert torch.allclose(body.weights.sum(0), torch.ones(()), atol=1e-6)
    vertices = rest(body, "vertices").vertices
    height = vertices[:, 1].max() - vertices[:, 1].min()
    assert 1.6 < height < 1.8
    taller = body(torch.eye(3).expand(24, 3, 3), torch.tensor([2.0]), want=("vertices",)).vertices
    assert taller[:, 1].max() - taller[:, 1].min() > height + 0.05
    assert body.faces.max() == len(vertices) - 1


@MESHES
@pytest.mark.parametrize("points", keypoint_sets())
def test_keypoint_sets_lie_where_they_should(name, points):
    body = load_body(name, keypoints=points)
    assert body.keypoints.names == keypoint_sets()[points]
    mesh = rest(body, "joints", "keypoints")
    joint = lambda name: mesh.joints[body.joints.index(name)]  # noqa: E731
    for made_of, point, place in zip(POINTS["sets"][points], body.keypoints.names, mesh.keypoints, strict=True):
        if isinstance(made_of, dict):
            one, two = made_of[point]
            assert torch.allclose(place, (joint(one) + joint(two)) / 2, atol=1e-6)
        elif point in POINTS["rest"]:
            assert (place - torch.tensor(POINTS["rest"][point])).norm() < 0.01
        else:
            assert torch.allclose(place, joint(point), atol=1e-6)
        if point.startswith("left_"):
            other = mesh.keypoints[body.keypoints.names.index("right_" + point[5:])]
            assert torch.allclose(place * torch.tensor([-1.0, 1, 1]), other, atol=0.004)


@MESHES
def test_surface_points_lie_on_the_surface(name):
    body = load_body(name)
    vertices = rest(body, "vertices").vertices
    triangles = {frozenset(face) for face in body.faces.tolist()}
    for point, (index, weight) in POINTS["surface"][name].items():
        assert any(set(index) <= face for face in triangles), point
        assert abs(sum(weight) - 1) < 1e-6
        assert min(weight) > 0
        assert vertices[index].isfinite().all()


def test_points_of_the_mesh_are_points_of_the_surface():
    body = load_body("anny24_lo1229", keypoints="coco17")
    turns = kinlmr.rotations.axis_angle_to_matrix(0.4 * torch.randn(3, 24, 3))
    mesh = body(turns, torch.randn(3, 10), want=("vertices", "keypoints"))
    index, weight = POINTS["surface"]["anny24_lo1229"]["left_ear"]
    expected = (mesh.vertices[:, index] * torch.tensor(weight)[:, None]).sum(1)
    assert torch.allclose(mesh.keypoints[:, body.keypoints.names.index("left_ear")], expected, atol=1e-5)


# ----------------------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pose", [True, False])
def test_saved_and_loaded(tmp_path, dtype, pose):
    path = tmp_path / "body.npz"
    body = assemble(bodies.arrays((-1, 0, 1, 1), 20, 3, pose=pose), "made").to(dtype)
    for other in (body, body.with_keypoints("ab", torch.rand(2, 20))):
        save_body(other, path)
        again = load_body(path).to(dtype)
        same_body(again, other)
        for field in ("template", "basis", "weights", "J", "J_shapedirs"):
            assert torch.equal(getattr(again, field), getattr(other, field)), field
    save_body(load_body("anny24_lo369", keypoints="coco17"), path)
    same_body(load_body(path), load_body("anny24_lo369", keypoints="coco17"))
    with pytest.raises(ValueError, match=r"a body file ends in \.npz"):
        save_body(body, tmp_path / "body.pkl")


def test_the_law_can_fail():
    one, two = (assemble(bodies.arrays((-1, 0, 1, 1), 20, 3, seed=seed), "made") for seed in (0, 1))
    with pytest.raises(AssertionError):
        same_body(one, two)


def test_half_precision_loads_to_float32(tmp_path):
    arrays = bodies.arrays((-1, 0, 1, 1), 20, 3)
    half = {key: value.astype(np.float16) if value.dtype.kind == "f" else value for key, value in arrays.items()}
    np.savez(tmp_path / "half.npz", **half)
    body = load_body(tmp_path / "half.npz")
    assert body.template.dtype == body.weights.dtype == torch.float32
    assert torch.allclose(body.weights.sum(0), torch.ones(()), atol=1e-6)
    assert torch.allclose(body.template, assemble(arrays, "made").template, atol=2e-3)


def test_some_columns(tmp_path):
    arrays = bodies.arrays((-1, 0, 1, 1), 20, 6)
    np.savez(tmp_path / "body.npz", **arrays)
    body = load_body(tmp_path / "body.npz", columns=[0, 4])
    whole = load_body(tmp_path / "body.npz")
    turns = torch.eye(3).expand(4, 3, 3)
    shape = torch.tensor([1.0, 0, 0, 0, -2, 0])
    assert torch.allclose(body(turns, shape[[0, 4]], want=("vertices",)).vertices,
                          whole(turns, shape, want=("vertices",)).vertices, atol=1e-6)  # fmt: skip
    with pytest.raises(ValueError, match=r"columns \[6\] asked for, its shape directions are 0 \.\. 5"):
        load_body(tmp_path / "body.npz", columns=[0, 6])
    for same in (np.array([0, 4], np.uint8), torch.tensor([0, 4])):
        assert torch.equal(load_body(tmp_path / "body.npz", columns=same).basis, body.basis)
    for wrong in ([True, False, False, False, True, False], [0.0, 4.0], [[0, 4]]):
        with pytest.raises(ValueError, match=r"body\.npz: columns are numbers of shape directions, not "):
            load_body(tmp_path / "body.npz", columns=wrong)


def test_a_regressor_of_ones_own(tmp_path):
    arrays = bodies.arrays((-1, 0, 1, 1), 20, 3)
    np.savez(tmp_path / "body.npz", **arrays)
    rows = np.random.default_rng(0).random((17, 20))
    np.save(tmp_path / "rows.npy", rows)
    for points in (rows, str(tmp_path / "rows.npy"), tmp_path / "rows.npy"):
        body = load_body(tmp_path / "body.npz", keypoints=points)
        mesh = rest(body, "vertices", "keypoints")
        assert torch.allclose(mesh.keypoints, torch.from_numpy(rows).float() @ mesh.vertices, atol=1e-5)
    for points, where in ((np.eye(3, 20, -1), ""), (tmp_path / "zero.npy", r".*zero\.npy: ")):
        np.save(tmp_path / "zero.npy", np.eye(3, 20, -1))
        with pytest.raises(ValueError, match=f"^{where}point 'point0' is given by no vertex and no joint"):
            load_body(tmp_path / "body.npz", keypoints=points)
    (tmp_path / "rows.npy").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"rows\.npy: not a \.npy file of numbers"):
        load_body(tmp_path / "body.npz", keypoints=tmp_path / "rows.npy")
    with pytest.raises(FileNotFoundError, match="no keypoint set and no file 'coco18'.*did you mean 'coco17'"):
        load_body("anny24_lo369", keypoints="coco18")
    with pytest.raises(ValueError, match=r"shape \(K, 20\), not float64 of \(3,\)"):
        load_body(tmp_path / "body.npz", keypoints=rows[0, :3])
    with pytest.raises(ValueError, match="^a regressor of numbers that are not finite"):
        load_body(tmp_path / "body.npz", keypoints=np.where(rows > 0.9, np.inf, rows))
    with pytest.raises(ValueError, match="no joint and no surface point 'nose', which coco17 needs"):
        load_body(tmp_path / "body.npz", keypoints="coco17")


def test_the_left_hands_mirrored_directions():
    rng = np.random.default_rng(0)
    arrays = bodies.family("mano")
    size = arrays["v_template"] - arrays["v_template"].mean(0)
    arrays["v_template"] += np.array([0, 5, -5])  # wherever the hand is
    arrays["shapedirs"] = 0.02 * rng.standard_normal((778, 3, 10))
    arrays["shapedirs"][..., 0] += 0.1 * size
    right = assemble(arrays, "MANO_RIGHT.pkl")
    left = {**arrays, "shapedirs": arrays["shapedirs"] * np.array([-1, 1, 1])[:, None]}
    assert torch.equal(assemble(left, "MANO_LEFT.pkl").basis, right.basis)


def test_a_body_that_was_saved_is_not_corrected_again(tmp_path):
    body = assemble(
        {**bodies.family("mano"), "shapedirs": np.random.default_rng(3).standard_normal((778, 3, 6))}, "MANO.pkl"
    )
    vertices = body.template.view(3, -1).T
    mirrored = replace(
        body, basis=torch.cat([body.basis[:-6], (vertices * torch.tensor([-1.0, 1, 1])).T.reshape(1, -1).expand(6, -1)])
    )
    save_body(mirrored, tmp_path / "hand.npz")
    assert torch.equal(load_body(tmp_path / "hand.npz").basis, mirrored.basis)


def test_saved_points_are_checked_and_follow_the_columns(tmp_path):
    path = tmp_path / "body.npz"
    body = assemble(bodies.arrays((-1, 0, 1, 1), 20, 3), "made").with_keypoints("ab", torch.rand(2, 20))
    save_body(body, path)
    fewer = load_body(path, columns=[2])
    turns = torch.eye(3).expand(4, 3, 3)
    expected = body(turns, torch.tensor([0.0, 0, 1.5]), want=("keypoints",)).keypoints
    assert torch.allclose(fewer(turns, torch.tensor([1.5]), want=("keypoints",)).keypoints, expected, atol=1e-6)
    with np.load(path) as file:
        good = {key: file[key] for key in file.files}
    for key, value, message in (
        ("points_bone", good["points_bone"] + 4, r"points_bone names 4 \.\. 7, there are 4"),
        ("points_names", good["points_names"][:1], r"points_owner names 0 \.\. 1, there are 1"),
        ("points_basis", good["points_basis"][1:], "points_basis has 29 rows, expected 30"),
    ):
        np.savez(path, **{**good, key: value})
        with pytest.raises(ValueError, match=message):
            load_body(path)


def test_hand_means():
    arrays = {**bodies.family("mano"), "hands_mean": np.arange(45.0)}
    assert assemble(arrays, "MANO_RIGHT.pkl").hand_mean.shape == (15, 3)
    both = {**bodies.family("smplh"), "hands_meanl": np.arange(45.0), "hands_meanr": -np.arange(45.0)}
    assert assemble(both, "SMPLH.pkl").hand_mean.shape == (30, 3)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v_template": None}, "'v_template' is missing; a body has v_template, shapedirs"),
        ({"v_template": np.zeros((0, 3))}, r"a body without vertices; v_template has shape \(0, 3\)"),
        ({"v_template": np.zeros((20, 2))}, r"v_template has shape \(20, 2\), expected \(any, 3\)"),
        ({"shapedirs": np.zeros((19, 3, 2))}, r"shapedirs has shape \(19, 3, 2\), expected \(20, 3, any\)"),
        ({"posedirs": np.zeros((20, 3, 26))}, r"posedirs has shape \(20, 3, 26\), expected \(20, 3, 27\)"),
        ({"J_regressor": np.zeros((4, 21))}, r"J_regressor has shape \(4, 21\), expected \(4, 20\)"),
        ({"shapedirs": np.full((20, 3, 2), np.nan)}, r"shapedirs is not finite at \(0, 0, 0\)"),
        ({"v_template": np.array([["a", "b", "c"]])}, "v_template holds <U1, expected numbers"),
        ({"weights": np.full((20, 4), 0.3)}, r"the skinning weights of vertex 0 sum to 1\.2000, expected 1"),
        (
            {"kintree_table": np.array([[2**32 - 1, 0, 9, 1], [0, 1, 2, 3]])},
            "gives joint 2 'joint2' parent 9, expected 0 .. 3 or -1",
        ),
        (
            {"kintree_table": np.array([[2**32 - 1, 0, 3, 2], [0, 1, 2, 3]])},
            "runs in a circle: joint2 -> joint3 -> joint2; one",
        ),
        ({"kintree_table": np.array([[1, 2, 0, 1], [0, 1, 2, 3]])}, "a circle: joint0 -> joint1 -> joint2 -> joint0;"),
        (
            {"kintree_table": np.array([[-1, 0, -1, 2], [0, 1, 2, 3]])},
            "has 2 roots, expected one: joint 0 'joint0' .parent -1., joint 2 'joint2' .parent -1.; give all but one a",
        ),
        (
            {"kintree_table": np.array([[-1, 0, 2, 2], [0, 1, 2, 3]])},
            "2 roots, .* joint 2 'joint2' .its own parent.; give",
        ),
        (
            {"kintree_table": np.array([[-1, 0, 2, 2], [0, 1, 2, 3]]), "joint_names": np.array(list("abcd"))},
            "joint 2 'c'",
        ),
        ({"kintree_table": np.zeros((2, 0), int)}, "the kinematic tree is empty"),
        ({"kintree_table": np.array([[2**32 - 1, 0, 1, 1], [0, 2, 1, 3]])}, r"numbers its joints \[0, 2, 1, 3\]"),
        ({"kintree_table": np.array([[-1, 0.5, 1, 1], [0, 1, 2, 3]])}, "the kinematic tree holds fractions"),
        ({"weights": np.tile([1.1, -0.1, 0, 0], (20, 1))}, "the skinning weights of vertex 0 are negative"),
        ({"f": np.array([[0, 0.5, 1]])}, "f holds fractions"),
        ({"hands_mean": np.zeros(44)}, "hands_mean has 44 numbers, expected three a joint"),
        ({"hands_mean": np.full(45, np.nan)}, "hands_mean is not finite"),
        ({"f": np.array([[0, 1, 20]])}, r"f names vertices 0 \.\. 20, there are 20"),
        ({"joint_names": np.array(["a", "b"])}, "2 joint_names for 4 joints"),
    ],
)
def test_arrays_that_are_no_body(change, message):
    arrays = {**bodies.arrays((-1, 0, 1, 1), 20, 3), **change}
    with pytest.raises(ValueError, match=f"file.npz: .*{message}"):
        assemble({key: value for key, value in arrays.items() if value is not None}, "file.npz")


def test_one_vertex_with_wrong_weights_is_named():
    arrays = bodies.arrays((-1, 0, 1, 1), 20, 3)
    arrays["weights"][2] *= 0.98
    arrays["weights"][13] *= 1.1
    with pytest.raises(ValueError, match=r"vertex 13 sum to 1\.1000"):
        assemble(arrays, "file")


def test_a_root_is_written_in_many_ways():
    arrays = bodies.arrays((-1, 0, 1, 1), 20, 3)
    roots = {np.int8: -1, np.int32: 0, np.uint8: 255, np.uint16: 65535, np.uint32: 2**32 - 1, np.uint64: 2**64 - 1}
    for kind, root in roots.items():
        body = assemble({**arrays, "kintree_table": np.array([[root, 0, 1, 1], [0, 1, 2, 3]], kind)}, "file")
        assert body.parents == (-1, 0, 1, 1)


@given(st.lists(st.integers(-1, 11), min_size=1, max_size=12))
def test_parents_are_a_tree_or_refused(raw):
    """What is accepted leads every joint to one root; what does is accepted."""
    names = [f"j{i}" for i in range(len(raw))]
    expected = [-1 if p in (-1, i) else p for i, p in enumerate(raw)]
    leads = []
    for joint in range(len(raw)):
        for _ in raw:
            if 0 <= joint < len(raw) and expected[joint] != -1:
                joint = expected[joint]
        leads.append(joint)
    sound = expected.count(-1) == 1 and all(0 <= j < len(raw) and expected[j] == -1 for j in leads)
    if sound:
        assert parents_of(np.array(raw), names) == tuple(expected)
    else:
        with pytest.raises(ValueError, match="the kinematic tree .*'?j\\d"):
            parents_of(np.array(raw), names)


def test_a_long_chain_of_joints_is_read_at_once():
    raw = np.arange(-1, 99_999)
    assert parents_of(raw, range(len(raw)))[-1] == 99_998


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SMPL_NEUTRAL.pkl", r"no such file.*anny24.*SMPL files are had by registering at smpl\.is\.tue\.mpg\.de"),
        ("models/SMPLX_MALE.npz", r"SMPLX files .* smpl-x\.is\.tue\.mpg\.de"),
        ("MANO_LEFT.pkl", r"mano\.is\.tue\.mpg\.de"),
        ("any24", "did you mean 'anny24'"),
    ],
)
def test_files_that_are_not_there(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        load_body(name)


def test_tables_of_the_families():
    assert all(len(load_skeleton(name).joints) == joints for joints, name in SKELETONS.items())
    sizes = {name: (len(load_skeleton(skeleton).joints), n) for name, (skeleton, n, _) in bodies.FAMILIES.items()}
    assert {name: size for size, name in OFFICIAL.items() if size != (33, 3889)} == sizes


@pytest.mark.parametrize("joints", SKELETONS)
def test_joints_without_names_have_those_of_the_skeleton_whose_tree_they_are(joints):
    skeleton = load_skeleton(SKELETONS[joints])
    parents = bodies.parents_of(skeleton)
    arrays = bodies.arrays(parents, 5, 2)
    assert assemble(arrays, "file").joints == skeleton.joints
    assert assemble({**arrays, "joint_names": np.arange(joints)}, "file").joints == skeleton.joints
    parents[-1] = int(parents[-1] == 0)
    other = assemble(bodies.arrays(parents, 5, 2), "file")
    assert other.joints == tuple(f"joint{i}" for i in range(joints))


def small():
    return bodies.arrays((-1, 0, 1), 5, 2)


def test_limits_are_exact():
    size = 3 * (3 * 2 + 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "MAX_NUMBERS", size)
        assemble(small(), "small")
        patch.setattr(assembly, "MAX_NUMBERS", size - 1)
        with pytest.raises(ValueError, match=f"would take {size} numbers, more than {size - 1}"):
            assemble(small(), "small")
    far = small()
    far["v_template"][0, 0] = 1e9
    assemble(far, "small")
    far["v_template"][0, 0] = -np.nextafter(1e9, np.inf)
    with pytest.raises(ValueError, match=r"v_template holds 1e\+09, more than 1e\+09; a body is in metres"):
        assemble(far, "small")


def test_whole_numbers_may_be_written_as_floats_and_fractions_may_not():
    plain, written = small(), small()
    written["f"] = written["f"].astype(np.float64)
    assert torch.equal(assemble(written, "small").faces, assemble(plain, "small").faces)
    written["f"][0, 0] += 0.5
    with pytest.raises(ValueError, match="f holds fractions, expected whole numbers"):
        assemble(written, "small")


@pytest.mark.parametrize("joint", [-1, 3])
def test_weights_by_index(joint):
    dense, sparse = small(), small()
    sparse["weights_index"], sparse["weights_value"] = np.tile(np.arange(3), (5, 1)), sparse.pop("weights")
    assert torch.equal(assemble(sparse, "small").weights, assemble(dense, "small").weights)
    sparse["weights_index"][4, 2] = joint
    with pytest.raises(ValueError, match=r"names joints -?\d \.\. \d, there are 3"):
        assemble(sparse, "small")


def test_weights_are_made_to_sum_to_one():
    nearly = small()
    nearly["weights"] *= 1.004
    body = assemble(nearly, "small").to(torch.float64)
    assert torch.allclose(body.weights.sum(0), torch.ones(5).double(), atol=1e-6)
    nearly["weights"] *= 1.004
    with pytest.raises(ValueError, match=r"sum to 1\.0080, expected 1"):
        assemble(nearly, "small")
