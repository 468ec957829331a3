"""Exports, each read back by another library to 0.1 mm; and what is refused."""

import functools
import json
import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from bodies import family, reordered
from hypothesis import given
from hypothesis import strategies as st

import kinlmr
from kinlmr import export
from kinlmr.body.assembly import assemble
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle, quaternion_to_matrix

FPS, FRAMES = 25.0, 6


@functools.cache
def body_of(name):
    return kinlmr.load_body(name) if name.startswith("anny") else assemble(family(name), name)


def motion_of(body, seed=0, frames=FRAMES):
    """Rotations of any angle (T, J, 3, 3), shape (S), translation (T, 3), in float64."""
    rng = np.random.default_rng(seed)
    turns = axis_angle_to_matrix(torch.from_numpy(rng.normal(0, 1.5, (frames, len(body.joints), 3))))
    shape, places = rng.normal(0, 1, body.shape_width), rng.normal(0, 2, (frames, 3))
    return turns, torch.from_numpy(shape), torch.from_numpy(places)


def posed(body, rotations, shape, translation):
    """What every reader must find: joints (T, J, 3), vertices (T, N, 3)."""
    mesh = body.to(torch.float64)(rotations, shape, translation, want=("joints", "vertices"))
    return mesh.joints.numpy(), mesh.vertices.numpy()


def reposed(body, vectors, shape, translation):
    """The same by smplx's function, from what a file holds: vectors (T, J, 3), shape (S), translation (T, 3).

    It wants joints as means of vertices: each joint is a vertex of its own, that nothing moves.
    """
    lbs = pytest.importorskip("smplx.lbs").lbs
    body, joints = body.to(torch.float64), len(body.joints)
    vectors, shape, translation = (torch.as_tensor(np.asarray(x, float)) for x in (vectors, shape, translation))
    planar = lambda x: x.unflatten(-1, (3, -1)).mT  # noqa: E731
    pose, more = planar(body.basis).split((body.pose_width, body.shape_width))
    with_joints = lambda x, j: torch.cat([x, j.unflatten(-1, (-1, 3))], -2)  # noqa: E731
    pose = with_joints(pose, pose.new_zeros(len(pose), 3 * joints)).flatten(1)
    vertices, places = lbs(
        shape.expand(len(vectors), -1), vectors.reshape(len(vectors), -1),
        with_joints(planar(body.template), body.J)[None], with_joints(more, body.J_shapedirs).permute(1, 2, 0),
        pose if len(pose) else pose.new_zeros(9 * (joints - 1), pose.shape[1]),
        torch.eye(len(body.template) // 3 + joints, dtype=torch.float64)[-joints:], torch.tensor(body.parents),
        torch.cat([body.weights.T, torch.zeros(joints, joints, dtype=torch.float64)]),
    )  # fmt: skip
    return (places + translation[:, None]).numpy(), (vertices[:, :-joints] + translation[:, None]).numpy()


def assert_within(found, truth, millimetres=0.1):
    assert found.shape == truth.shape
    assert np.linalg.norm(found - truth, axis=-1).max() < millimetres / 1000


@pytest.fixture(scope="module")
def body():
    return body_of("anny24_lo369")


# ----------------------------------------------------------------------------------------------------------------- GLB


def read_glb(path):
    """Every person's joints (T, J, 3) and skinned vertices (T, N, 3) at the animation's keys, and the keys' times."""
    pygltflib = pytest.importorskip("pygltflib")
    file = pygltflib.GLTF2().load(str(path))
    blob = file.binary_blob()
    kinds = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
    widths = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}

    def values(index):
        entry = file.accessors[index]
        view = file.bufferViews[entry.bufferView]
        kind, width = kinds[entry.componentType], widths[entry.type]
        array = np.frombuffer(blob, kind, entry.count * width, view.byteOffset).reshape(entry.count, width)
        for bound, some in ((entry.min, np.min), (entry.max, np.max)):
            assert not bound or np.array_equal(np.array(bound, np.float32), some(array, 0))
        return array.astype(np.float64) if kind is np.float32 else array.astype(int)

    (animation,), above = file.animations, {}
    for parent, node in enumerate(file.nodes):
        above.update(dict.fromkeys(node.children or [], parent))
    tracks = {(c.target.node, c.target.path): animation.samplers[c.sampler] for c in animation.channels}
    people = []
    for node in file.nodes:
        if node.skin is None:
            continue
        skin, (primitive,) = file.skins[node.skin], file.meshes[node.mesh].primitives
        times = values(tracks[skin.joints[0], "rotation"].input)[:, 0]
        world = {}

        def place(joint, frames, world=world):
            if joint not in world:
                local = np.tile(np.eye(4), (frames, 1, 1))
                turned, moved = (tracks.get((joint, path)) for path in ("rotation", "translation"))
                if turned:  # not the node above the skeleton
                    quaternions = values(turned.output)
                    assert np.allclose(np.linalg.norm(quaternions, axis=1), 1, atol=1e-6)
                    assert ((quaternions[1:] * quaternions[:-1]).sum(1) >= 0).all()
                    local[:, :3, :3] = quaternion_to_matrix(torch.from_numpy(np.roll(quaternions, 1, 1))).numpy()
                local[:, :3, 3] = values(moved.output) if moved else file.nodes[joint].translation or 0
                world[joint] = place(above[joint], frames) @ local if joint in above else local
            return world[joint]

        bones = np.stack([place(joint, len(times)) for joint in skin.joints], 1)
        bind = values(skin.inverseBindMatrices).reshape(-1, 4, 4).swapaxes(1, 2)
        at = primitive.attributes
        points = np.column_stack([values(at.POSITION), np.ones(file.accessors[at.POSITION].count)])
        influences, weights = values(at.JOINTS_0), values(at.WEIGHTS_0)
        assert np.allclose(weights.sum(1), 1, atol=1e-6)
        assert np.allclose(np.linalg.norm(values(at.NORMAL), axis=1), 1, atol=1e-5)
        faces = values(primitive.indices).reshape(-1, 3)
        vertices = np.einsum("nk,tnkij,nj->tni", weights, (bones @ bind)[:, influences], points)[..., :3]
        people.append((bones[..., :3, 3], vertices, faces, times, [file.nodes[joint].name for joint in skin.joints]))
    return people


def test_the_four_strongest_joints_share_a_vertex(tmp_path):
    arrays = family("mano")
    arrays["weights"] = np.random.default_rng(0).random(arrays["weights"].shape) + 0.01
    arrays["weights"] /= arrays["weights"].sum(1, keepdims=True)
    body = assemble(arrays, "smooth")
    export.save_glb(tmp_path / "hand.glb", body, *motion_of(body))
    weak = np.argsort(arrays["weights"], 1)[:, :-4]
    np.put_along_axis(arrays["weights"], weak, 0, 1)
    arrays["weights"] /= arrays["weights"].sum(1, keepdims=True)
    del arrays["posedirs"]
    ((_, vertices, *_),) = read_glb(tmp_path / "hand.glb")
    assert_within(vertices, posed(assemble(arrays, "four"), *motion_of(body))[1])


@pytest.mark.parametrize("name", ["anny24_lo369", "anny24_lo1229"])
def test_glb_is_read_back_and_skinned(tmp_path, name):
    body = body_of(name)
    motion = motion_of(body)
    export.save_glb(tmp_path / "body.glb", body, *motion, FPS)
    ((joints, vertices, faces, times, names),) = read_glb(tmp_path / "body.glb")
    truth = posed(body, *motion)
    assert_within(joints, truth[0])
    assert_within(vertices, truth[1])
    assert (faces == body.faces.numpy()).all()
    assert np.allclose(times, np.arange(FRAMES) / FPS)
    assert names == list(body.joints)


def test_that_law_can_fail(tmp_path, body):
    rotations, shape, translation = motion_of(body)
    export.save_glb(tmp_path / "body.glb", body, rotations, shape, translation)
    ((joints, vertices, *_),) = read_glb(tmp_path / "body.glb")
    for other in ((rotations.mT, shape, translation), (rotations, shape, translation + 2e-4)):
        with pytest.raises(AssertionError):
            assert_within(joints, posed(body, *other)[0])
    with pytest.raises(AssertionError):
        assert_within(vertices, posed(body, rotations, shape + 0.1, translation)[1])


def test_people_who_come_and_go_are_one_glb(tmp_path, body):
    motions = [motion_of(body, seed, frames) for seed, frames in ((1, 5), (2, 1), (3, 8))]
    rotations, shapes, places = map(list, zip(*motions, strict=True))
    export.save_glb(tmp_path / "three.glb", body, rotations, shapes, places, FPS, start=[0, 4, 2])
    for found, motion, start in zip(read_glb(tmp_path / "three.glb"), motions, (0, 4, 2), strict=True):
        assert_within(found[0], posed(body, *motion)[0])
        assert_within(found[1], posed(body, *motion)[1])
        assert np.allclose(found[3], (start + np.arange(len(motion[0]))) / FPS)
    for wrong in ({"shape": shapes[:2]}, {"translation": places[0]}, {"start": [0]}):
        with pytest.raises(ValueError, match="one entry per person"):
            export.save_glb(tmp_path / "no.glb", body, rotations, **wrong)
    with pytest.raises(ValueError, match="one entry per person"):
        export.save_glb(tmp_path / "no.glb", body, [])


def test_people_of_one_glb_may_have_bodies_of_their_own(tmp_path, body):
    tall = replace(body, **{name: 1.2 * getattr(body, name) for name in ("J", "J_shapedirs", "template", "basis")})
    motions = [motion_of(body, seed, 3) for seed in (1, 2)]
    export.save_glb(tmp_path / "two.glb", [tall, body], *map(list, zip(*motions, strict=True)), FPS)
    for found, own, motion in zip(read_glb(tmp_path / "two.glb"), (tall, body), motions, strict=True):
        assert_within(found[0], posed(own, *motion)[0])
        assert_within(found[1], posed(own, *motion)[1])
    with pytest.raises(ValueError, match="start and body are lists of one entry per person, not of 2, 2, 2, 2, 1"):
        export.save_glb(tmp_path / "no.glb", [body], *map(list, zip(*motions, strict=True)), FPS, [0, 1])


def test_a_glb_of_a_body_with_pose_directions(tmp_path):
    """Pose directions have no place in a skin: joints are the body's, vertices those of the body without them."""
    body = body_of("smplh")
    rotations, shape, places = motion_of(body)
    export.save_glb(tmp_path / "body.glb", body, rotations, shape, places)
    ((joints, vertices, *_),) = read_glb(tmp_path / "body.glb")
    assert_within(joints, posed(body, rotations, shape, places)[0])
    plain = assemble({k: v for k, v in family("smplh").items() if k != "posedirs"}, "plain")
    assert_within(vertices, posed(plain, rotations, shape, places)[1])


SCRIPT = """
const {validateBytes} = require('gltf-validator');
const bytes = new Uint8Array(require('fs').readFileSync(process.argv[1]));
validateBytes(bytes).then(report => console.log(JSON.stringify(report.issues)));
"""


def test_the_khronos_validator_finds_nothing(tmp_path, body):
    node = shutil.which("node")
    if not node or subprocess.run([node, "-e", "require('gltf-validator')"], capture_output=True).returncode:
        pytest.skip("npm's gltf-validator is not there (NODE_PATH says where)")
    motions = [motion_of(body, seed, 4) for seed in (1, 2)]
    export.save_glb(tmp_path / "two.glb", body, *map(list, zip(*motions, strict=True)), FPS, start=[0, 3])
    done = subprocess.run([node, "-e", SCRIPT, str(tmp_path / "two.glb")], capture_output=True, text=True, check=True)
    issues = json.loads(done.stdout)
    assert {key: issues[key] for key in ("numErrors", "numWarnings")} == {"numErrors": 0, "numWarnings": 0}, issues


# ----------------------------------------------------------------------------------------------------------- the others


@pytest.mark.filterwarnings("ignore:Rest pose suggests:UserWarning")  # for bodies that lie or stand on their heads
def test_bvh_is_read_back(tmp_path, body):
    pybvh = pytest.importorskip("pybvh")
    motion = motion_of(body)
    export.save_bvh(tmp_path / "body.bvh", body, *motion, FPS)
    file = pybvh.read_bvh_file(tmp_path / "body.bvh")
    order = [file.joint_names.index(name) for name in body.joints]
    joints, vertices = posed(body, *motion)
    assert_within(file.joint_positions()[:, order], joints)
    places, turns = file.to_rotmat()
    vectors = matrix_to_axis_angle(torch.from_numpy(turns[:, order]))
    root = body.to(torch.float64).joints_at_rest(motion[1][None])[0, 0].numpy()
    assert_within(reposed(body, vectors, motion[1], places - root)[1], vertices)
    assert file.fps == pytest.approx(FPS)


def test_bvh_holds_the_first_pose_until_somebody_comes(tmp_path, body):
    motion = motion_of(body)
    export.save_bvh(tmp_path / "first.bvh", body, *motion, FPS)
    export.save_bvh(tmp_path / "later.bvh", body, *motion, FPS, start=4)
    first, later = (kinlmr.motion.read_bvh(tmp_path / f"{name}.bvh", body, FPS) for name in ("first", "later"))
    for one, two in ((first.axis_angle, later.axis_angle), (first.translation, later.translation)):
        assert len(two) == len(one) + 4
        assert torch.equal(two[:4], one[:1].expand_as(two[:4]))
        assert torch.equal(two[4:], one)
    for start in (-1, 1.5):
        with pytest.raises(ValueError, match=rf"later\.bvh: start is {start}, expected a number of frames, 0 or more"):
            export.save_bvh(tmp_path / "later.bvh", body, *motion, FPS, start=start)


def test_amass_is_read_back(tmp_path, body):
    motion = motion_of(body)
    export.save_amass(tmp_path / "body.npz", body, *motion, FPS, gender="female")
    with np.load(tmp_path / "body.npz") as file:
        data = dict(file)
    assert data["poses"].shape == (FRAMES, 72)
    assert (float(data["mocap_framerate"]), str(data["gender"])) == (FPS, "female")
    found = reposed(body, data["poses"].reshape(FRAMES, 24, 3), data["betas"], data["trans"])
    for one, truth in zip(found, posed(body, *motion), strict=True):
        assert_within(one, np.stack([truth[..., 0], -truth[..., 2], truth[..., 1]], -1))  # z up


def test_amass_for_readers_of_smplh(tmp_path, body):
    rotations, shape, translation = motion_of(body)
    rotations[:, 22:] = torch.eye(3, dtype=torch.float64)
    export.save_amass(tmp_path / "body.npz", body, rotations, shape, translation, FPS, smplh=True)
    with np.load(tmp_path / "body.npz") as file:
        assert file["poses"].shape == (FRAMES, 156)
        assert not file["poses"][:, 66:].any()
    (read,) = kinlmr.motion.load_motion(tmp_path / "body.npz", body, FPS)
    turned = body.to(torch.float64)(axis_angle_to_matrix(read.axis_angle.double()), shape).joints.numpy()
    truth = posed(body, rotations, shape, None)[0]
    assert_within(turned, truth)
    with pytest.raises(ValueError, match="SMPL's 24 joints"):
        export.save_amass(tmp_path / "no.npz", body_of("mano"), *motion_of(body_of("mano")), smplh=True)


@pytest.mark.parametrize("name", ["anny24_lo369", "smplh", "smplx"])
def test_smpl_is_read_back(tmp_path, name):
    codec = pytest.importorskip("smplcodec").codec.SMPLCodec
    body = body_of(name)
    motion = motion_of(body)
    export.save_smpl(tmp_path / "body.smpl", body, *motion, FPS, gender="male")
    file = codec.from_file(tmp_path / "body.smpl")
    assert (file.codec_version, file.frame_count, file.frame_rate, file.gender.name) == (2, FRAMES, FPS, "MALE")
    assert file.smpl_version.name == ("SMPL" if len(body.joints) == 24 else name.upper())
    found = reposed(body, file.full_pose, file.shape_parameters, file.body_translation)
    for one, truth in zip(found, posed(body, *motion), strict=True):
        assert_within(one, truth)


def test_trc_is_read_back(tmp_path, body):
    trc = pytest.importorskip("trc")
    motion = motion_of(body)
    named = kinlmr.load_body("anny24_lo369", keypoints="coco17")
    truth = named.to(torch.float64)(*motion, want=("joints", "keypoints"))
    for want, names in (("joints", body.joints), ("keypoints", named.keypoints.names)):
        export.save_trc(tmp_path / "body.trc", named, *motion, FPS, want=want)
        file = trc.TRCData()
        file.load(tmp_path / "body.trc")
        assert file["Markers"] == [name.replace(" ", "_") for name in names]
        assert (file["NumFrames"], file["DataRate"], file["Units"]) == (FRAMES, FPS, "mm")
        assert np.allclose(file["Time"], np.arange(FRAMES) / FPS, atol=1e-6)
        found = np.array([file[frame][1] for frame in file["Frame#"]]) / 1000
        assert_within(found, getattr(truth, want).numpy())
    with pytest.raises(ValueError, match="want is"):
        export.save_trc(tmp_path / "no.trc", body, *motion, want="vertices")


def test_json_is_read_back(tmp_path, body):
    motion = motion_of(body)
    export.save_json(tmp_path / "body.json", body, *motion, FPS)
    content = json.loads((tmp_path / "body.json").read_text())
    found = reposed(body, *(content[key] for key in ("axis_angle", "shape", "translation")))
    for one, truth in zip(found, posed(body, *motion), strict=True):
        assert_within(one, truth)
    assert_within(np.array(content["places"]), posed(body, *motion)[0])
    assert (content["fps"], content["frames"], tuple(content["joints"])) == (FPS, FRAMES, body.joints)


# ---------------------------------------------------------------------------------------------------------------- input

SAVE = {"glb": export.save_glb, "bvh": export.save_bvh, "npz": export.save_amass, "smpl": export.save_smpl,
        "trc": export.save_trc, "json": export.save_json, "csv": export.save_csv}  # fmt: skip
EVERY = pytest.mark.parametrize("ending", SAVE)


@EVERY
def test_what_may_be_left_out_or_given_otherwise(tmp_path, body, ending):
    """No shape and translation are the mean shape and none; arrays and float32 do; shapes by frame are averaged."""
    path = tmp_path / f"body.{ending}"

    def written(*args):
        SAVE[ending](path, body, *args)
        return path.read_bytes()

    rotations, shape, translation = motion_of(body)
    zero = torch.zeros(body.shape_width, dtype=torch.float64), torch.zeros(FRAMES, 3, dtype=torch.float64)
    if ending != "npz" and ending != "smpl" and ending != "json":  # these hold as many shape numbers as were given
        assert written(rotations) == written(rotations, *zero)
    assert written(rotations, shape, translation) == written(rotations.numpy(), shape.numpy(), translation.numpy())
    by_frame = shape + torch.tensor([-1.0, 1, -2, 2, 0, 0])[:, None].double() / 4
    assert by_frame.mean(0).allclose(shape, atol=1e-15)
    if ending == "trc":
        assert written(rotations, shape, translation) == written(rotations, by_frame, translation)
    assert written(rotations.float(), shape.float().requires_grad_(), translation.float())
    assert written(rotations[:1], shape[:3], translation[:1])


@given(st.integers(0, 10**6))
def test_a_body_before_a_camera_is_turned_upright(seed):
    body = body_of("anny24_lo369").to(torch.float64)
    rotations, shape, translation = motion_of(body, seed, 2)
    turned, moved = export.upright(body, rotations, shape, translation)
    there = posed(body, rotations, shape, translation)[0] * [1, -1, -1]
    assert_within(posed(body, turned, shape, moved)[0], there)


ORDER = [1, 5, 0, 23, *(j for j in range(24) if j not in (0, 1, 5, 23))]  # of joints, the root third


@pytest.fixture(scope="module")
def other(tmp_path_factory, body):
    """The same body, its joints in that order."""
    path = tmp_path_factory.mktemp("body") / "body.npz"
    kinlmr.save_body(body, path)
    with np.load(path) as file:
        np.savez(path, **reordered(dict(file), ORDER))
    return kinlmr.load_body(path)


@pytest.mark.parametrize(("save", "more"), [("save_amass", {}), ("save_amass", {"smplh": True}), ("save_smpl", {})])
def test_files_without_names_hold_smpls_order(tmp_path, body, other, save, more):
    """Whatever the order of the body's own joints; names that are not SMPL's are refused."""
    rotations, *others = motion_of(body)
    found = []
    for mine, turns in ((body, rotations), (other, rotations[:, ORDER])):
        path = tmp_path / ("body.npz" if save == "save_amass" else "body.smpl")
        getattr(export, save)(path, mine, turns, *others, FPS, **more)
        with np.load(path) as file:
            found.append({key: file[key] for key in file.files})
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        assert np.array_equal(value, found[1][key]) or np.abs(value - found[1][key]).max() < 1e-6
    strange = replace(body, joints=("hips", *body.joints[1:]))
    with pytest.raises(
        ValueError, match=r"has 24 joints, as smpl has, but not 'pelvis'.*rename its joints, or save_json"
    ):
        getattr(export, save)(path, strange, rotations, *others, FPS, **more)


def test_a_body_whose_root_is_not_first_is_turned_upright(body, other):
    rotations, *others = motion_of(body)
    turned, moved = export.upright(body.to(torch.float64), rotations, *others)
    found, place = export.upright(other.to(torch.float64), rotations[:, ORDER], *others)
    assert torch.equal(found, turned[:, ORDER])
    assert_within(place.numpy(), moved.numpy(), 1e-3)


@EVERY
def test_written_whole_or_not_at_all(tmp_path, body, ending, monkeypatch):
    path = tmp_path / f"body.{ending}"
    path.write_bytes(b"before")

    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        SAVE[ending](path, body, *motion_of(body))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(path.name, b"before")]


def broken(values, index, value):
    values = values.clone()
    values[index] = value
    return values


@EVERY
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, s, t: (r[:, :5], s, t), r"rotations have shape \(T, 24, 3, 3\)"),
        (lambda r, s, t: (r[:0], s, t[:0]), "T >= 1"),
        (lambda r, s, t: (r[0], s, t), r"not \(24, 3, 3\)"),
        (lambda r, s, t: (broken(r, (3, 2, 1, 1), float("nan")), s, t), "rotations are not finite in frame 3"),
        (lambda r, s, t: (broken(r, (2, 4), 2 * torch.eye(3).double()), s, t), "frame 2, left_knee: not a rotation"),
        (lambda r, s, t: (broken(r, (1, 0), -torch.eye(3).double()), s, t), "frame 1, pelvis: not a rotation"),
        (lambda r, s, t: (r, torch.cat([s, s]), t), r"shape is \(10\) or \(6, 10\), not \(20,\)"),
        (lambda r, s, t: (r, s.expand(4, -1), t), r"not \(4, 10\)"),
        (lambda r, s, t: (r, broken(s, 0, float("inf")), t), "shape are not finite"),
        (lambda r, s, t: (r, s, t[:3]), r"translation has shape \(6, 3\), not \(3, 3\)"),
        (lambda r, s, t: (r, s, broken(t, (5, 1), float("nan"))), "translation are not finite in frame 5"),
        (lambda r, s, t: (r, s, t, 0.0), "fps is a number above 0, not 0.0"),
        (lambda r, s, t: (r, s, t, float("nan")), "fps is a number above 0"),
    ],
)
def test_bad_input_is_refused_with_its_reason(tmp_path, body, ending, change, message):
    with pytest.raises(ValueError, match=message):
        SAVE[ending](tmp_path / f"body.{ending}", body, *change(*motion_of(body)))
    assert list(tmp_path.iterdir()) == []


@EVERY
def test_names_end_as_their_format_does(tmp_path, body, ending):
    with pytest.raises(ValueError, match=rf"fbx: the name must end in \.{ending}"):
        SAVE[ending](tmp_path / "body.fbx", body, *motion_of(body))
    with pytest.raises(ValueError, match="does not exist"):
        SAVE[ending](tmp_path / "no" / f"body.{ending}", body, *motion_of(body))


def test_bodies_that_a_format_cannot_hold(tmp_path):
    hand = body_of("mano")
    with pytest.raises(ValueError, match="24, 52 or 55 joints"):
        export.save_smpl(tmp_path / "hand.smpl", hand, *motion_of(hand))
    faceless = assemble({k: v for k, v in family("mano").items() if k != "f"}, "faceless")
    with pytest.raises(ValueError, match="has no faces"):
        export.save_glb(tmp_path / "hand.glb", faceless, *motion_of(faceless))
    for save, ending in ((export.save_amass, "npz"), (export.save_smpl, "smpl")):
        body = body_of("anny24_lo369")
        with pytest.raises(ValueError, match="gender is one of neutral, male, female, not 'x'"):
            save(tmp_path / f"body.{ending}", body, *motion_of(body), gender="x")


# --------------------------------------------------------------------------------------------------------------- World


def world_of(body, unseen=(0,), seed=0):
    """A World of people who come after so many frames, float32 as models answer; of one, without a leading axis."""
    rows = []
    for k, first in enumerate(unseen):
        rotations, shape, translation = (x.float() for x in motion_of(body, seed + k))
        translation[:first] = torch.nan
        contact, up = torch.zeros(FRAMES, 2, 2), torch.tensor([0.0, -1.0, 0.0]).expand(FRAMES, 3)
        rows.append(kinlmr.World(rotations, translation, 0.3 * shape.expand(FRAMES, -1), contact, up))
    return rows[0] if len(rows) == 1 else kinlmr.World(*map(torch.stack, zip(*rows, strict=True)))


def joints_of(body, world, row=None):
    """Where a World's joints (T, J, 3) are; NaN until somebody is seen."""
    world = world if row is None else kinlmr.World(*(x[row] for x in world))
    given = (world.rotations.double(), world.shape.double(), world.translation.double())
    return body.to(torch.float64)(*given).joints.numpy()


def test_people_of_a_world_come_into_one_glb_when_they_are_seen(tmp_path, body):
    pygltflib = pytest.importorskip("pygltflib")
    world = world_of(body, (0, 2))
    export.save_glb(tmp_path / "two.glb", body, world, fps=FPS)
    export.save_glb(tmp_path / "list.glb", body, [kinlmr.World(*(x[k] for x in world)) for k in (0, 1)], fps=FPS)
    assert (tmp_path / "two.glb").read_bytes() == (tmp_path / "list.glb").read_bytes()
    for row, (found, first) in enumerate(zip(read_glb(tmp_path / "two.glb"), (0, 2), strict=True)):
        assert_within(found[0], joints_of(body, world, row)[first:])
        assert np.allclose(found[3], np.arange(first, FRAMES) / FPS)
    file = pygltflib.GLTF2().load(str(tmp_path / "two.glb"))
    above = [file.nodes[k] for k in file.scenes[0].nodes if file.nodes[k].mesh is None]
    assert [node.name for node in above] == ["person1", "person2"]
    assert [file.nodes[node.children[0]].name for node in above] == ["pelvis", "pelvis"]
    (hidden,) = [c for c in file.animations[0].channels if c.target.path == "scale"]
    assert file.nodes[hidden.target.node].name == "person2"
    sampler = file.animations[0].samplers[hidden.sampler]
    assert (sampler.interpolation, file.accessors[sampler.input].max) == ("STEP", [pytest.approx(2 / FPS)])


@pytest.mark.filterwarnings("ignore:Rest pose suggests:UserWarning")
@pytest.mark.parametrize("units", [1, 100])
def test_a_bvh_of_a_world_begins_with_the_clip_at_rest(tmp_path, body, units):
    pybvh = pytest.importorskip("pybvh")
    world = world_of(body, (2,))
    export.save_bvh(tmp_path / "late.bvh", body, world, fps=FPS, scale=units)
    file = pybvh.read_bvh_file(tmp_path / "late.bvh")
    found = file.joint_positions()[:, [file.joint_names.index(name) for name in body.joints]] / units
    truth = joints_of(body, world)
    assert len(found) == FRAMES
    assert_within(found[2:], truth[2:])
    rest = body.to(torch.float64).joints_at_rest(world.shape[:1].double())[0].numpy()
    at = found[0] - rest
    assert np.allclose(at, at[0], atol=1e-4)
    assert np.allclose(at[0, [0, 2]] + rest[0, [0, 2]], truth[2, 0, [0, 2]], atol=1e-4)
    assert found[0, :, 1].min() == pytest.approx(truth[2, :, 1].min(), abs=1e-4)
    text = (tmp_path / "late.bvh").read_text()
    assert text.count("End Site") == sum(j not in body.parents for j in range(24))


@EVERY
def test_several_people_are_a_file_each_where_a_format_holds_one(tmp_path, body, ending):
    world = world_of(body, (1, 3))
    SAVE[ending](tmp_path / f"walk.{ending}", body, world, fps=FPS)
    names = ["walk"] if ending == "glb" else ["walk1", "walk2"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{name}.{ending}" for name in names]
    if ending != "glb":
        SAVE[ending](tmp_path / f"alone.{ending}", body, kinlmr.World(*(x[1] for x in world)), fps=FPS)
        alone, second = (tmp_path / f"{name}.{ending}" for name in ("alone", "walk2"))
        assert alone.read_bytes().replace(b"alone", b"walk2") == second.read_bytes() or ending in ("npz", "smpl")


@pytest.mark.parametrize(("ending", "frames"), [("npz", FRAMES), ("smpl", FRAMES), ("trc", 4), ("json", 4), ("csv", 4)])
def test_files_with_times_begin_when_somebody_comes(tmp_path, body, ending, frames):
    path = tmp_path / f"late.{ending}"
    SAVE[ending](path, body, world_of(body, (2,)), fps=FPS)
    if ending in ("npz", "smpl"):
        with np.load(path) as file:
            poses, moves = (
                file[key] for key in (("poses", "trans") if ending == "npz" else ("bodyPose", "bodyTranslation"))
            )
        assert len(poses) == len(moves) == frames
        assert np.isfinite(moves).all()
        assert not poses[:2].reshape(2, -1)[:, 3:].any()  # at rest but for AMASS's turn of the root
    elif ending == "json":
        content = json.loads(path.read_text())
        assert (content["start"], content["frames"], len(content["places"])) == (2, frames, frames)
    else:
        rows = [line for line in path.read_text().replace("\t", ",").splitlines() if line[:1].isdigit()][-frames:]
        first = 3 if ending == "trc" else 2
        assert [int(row.split(",")[0]) for row in rows] == list(range(first, first + frames))
        assert float(rows[0].split(",")[1]) == pytest.approx(2 / FPS)


def test_who_is_lost_stays_and_who_was_never_seen_is_refused(tmp_path, body):
    world = world_of(body, (1,))
    world.translation[4] = torch.nan
    export.save_json(tmp_path / "gap.json", body, world, fps=FPS)
    places = np.array(json.loads((tmp_path / "gap.json").read_text())["places"])
    assert_within(places[3], places[2])
    assert_within(places[[0, 1, 2, 4]], joints_of(body, world)[[1, 2, 3, 5]])
    nobody = world._replace(translation=torch.full_like(world.translation, torch.nan))
    with pytest.raises(ValueError, match=r"no\.glb: person 2 was seen in no frame .* leave them out"):
        export.save_glb(tmp_path / "no.glb", body, [world, nobody], fps=FPS)
    with pytest.raises(ValueError, match="a World has a shape and a place of its own: leave out shape and translation"):
        export.save_glb(tmp_path / "no.glb", body, world, world.shape, fps=FPS)
    assert not (tmp_path / "no.glb").exists()


def test_a_recovery_is_made_upright_and_warned_of(tmp_path, body):
    rotations, shape, _ = (x.float() for x in motion_of(body))
    camera, box = torch.tensor([0.9, 0.1, 0.0]).repeat(FRAMES, 1), torch.tensor([320.0, 180.0, 200.0]).repeat(FRAMES, 1)
    box[:2] = 0
    recovery = kinlmr.Recovery(rotations, shape.expand(FRAMES, -1), camera, box)
    with pytest.warns(UserWarning, match="a Recovery is where the camera sees it: it leans .* and floats") as seen:
        export.save_json(tmp_path / "body.json", body, recovery, fps=FPS, size=(640, 360), focal=800.0)
    assert len(seen) == 1
    turned, moved = recovery.in_camera((640, 360), 800.0, body)
    truth = posed(body, turned.double(), shape.double(), moved.double())[0] * [1, -1, -1]
    content = json.loads((tmp_path / "body.json").read_text())
    assert_within(np.array(content["places"]), truth[2:])
    with pytest.raises(ValueError, match=r"give size=\(width, height\) and focal="):
        export.save_json(tmp_path / "body.json", body, recovery, fps=FPS)


def test_csv_has_positions_rotations_and_bends(tmp_path, body):
    rotations, shape, translation = motion_of(body)
    bent = torch.eye(3, dtype=torch.float64).repeat(FRAMES, 24, 1, 1)
    knee = body.joints.index("left_knee")
    bent[:, knee] = axis_angle_to_matrix(torch.tensor([[0.5 * k, 0.0, 0.0] for k in range(FRAMES)])).double()
    for turns, name in ((rotations, "any"), (bent, "bent")):
        export.save_csv(tmp_path / f"{name}.csv", body, turns, shape, translation, FPS)
        rows = np.genfromtxt(tmp_path / f"{name}.csv", delimiter=",", names=True)
        read = lambda axes, rows=rows: np.stack(  # noqa: E731
            [np.stack([rows[f"{joint}_{axis}"] for axis in axes], -1) for joint in body.joints], 1
        )
        assert_within(read("xyz"), posed(body, turns, shape, translation)[0])
        x, y, z = np.deg2rad(read(("rx", "ry", "rz"))).transpose(2, 0, 1)
        about = lambda axis, angle: axis_angle_to_matrix(  # noqa: E731
            torch.from_numpy(angle[..., None] * np.eye(3)[axis])
        )
        assert torch.allclose(about(2, z) @ about(1, y) @ about(0, x), turns, atol=1e-6)
    still = rows["left_knee_bend"][0]
    assert rows["frame"].tolist() == list(range(FRAMES))
    assert np.allclose(rows["left_knee_bend"], np.rad2deg(0.5) * np.arange(FRAMES), atol=still + 0.1)
    assert "left_foot_bend" not in rows.dtype.names
