"""Rigs by name and by file: whatever the axes of their bones, their limbs point where the body's do."""

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from recordings import BODY, INDEX, NAMED, random_axes, walk, written

import kinlmr
from kinlmr import export
from kinlmr.export import glb
from kinlmr.motion import DIALECTS, gltf, rigs
from kinlmr.motion.bvh import Bvh
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_quaternion

REST = BODY.J.double().view(-1, 3).numpy()
MIXAMO = {INDEX[joint]: f"mixamorig:{name}" for joint, name in DIALECTS["mixamo"].items()}
TURN = axis_angle_to_matrix(torch.tensor([-np.pi / 2, 0.0, 0.0], dtype=torch.float64)).numpy()


def motion():
    """A walk (rotations, no shape, translation), and where its joints (T, 24, 3) are."""
    rotations, root = walk()
    translation = root - REST[0]
    mesh = BODY.to(torch.float64)(torch.from_numpy(rotations), None, torch.from_numpy(translation))
    return (rotations, None, translation), mesh.joints.numpy()


def standing(path, frames=3, axes=None, **more):
    """A BVH whose frames are the T-pose."""
    still = np.tile(np.eye(3), (frames, 24, 1, 1)), np.tile([0, 0.93, 0.0], (frames, 1))
    return written(path, still, axes, **more)


def character(path, axes, scale=1.0, matrices=False):
    """A GLB of a triangle on Mixamo's bones, along any axes, under a node that turns and shrinks what is in it."""
    nodes = [{"name": "Armature", "scale": [0.01] * 3, "children": [1]}]
    nodes[0]["rotation"] = np.roll(matrix_to_quaternion(torch.from_numpy(TURN)).numpy(), -1).tolist()
    above = {j: next((p for p in _upwards(j) if p in NAMED), -1) for j in NAMED}
    for j in NAMED:
        p = above[j]
        turned, place = (axes[p], scale * REST[p]) if p >= 0 else (TURN, np.zeros(3))
        own = np.eye(4)
        own[:3, :3], own[:3, 3] = turned.T @ axes[j], 100 * turned.T @ (scale * REST[j] - place)
        node = {"name": MIXAMO[j], "translation": own[:3, 3].tolist()}
        node["rotation"] = np.roll(matrix_to_quaternion(torch.from_numpy(own[:3, :3])).numpy(), -1).tolist()
        if matrices:
            node = {"name": MIXAMO[j], "matrix": own.T.ravel().tolist()}
        if children := [1 + NAMED.index(c) for c in NAMED if above[c] == j]:
            node["children"] = children
        nodes.append(node)
    nodes.append({"name": "mesh", "mesh": 0, "skin": 0})
    content = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0, len(nodes) - 1]}], "nodes": nodes,
               "animations": [{"channels": [], "samplers": []}]}  # fmt: skip
    buffer = glb.Buffer(content)
    points = {"POSITION": buffer.accessor(np.eye(3), "f4", bounds=True)}
    points |= {"JOINTS_0": buffer.accessor(np.zeros((3, 4)), "u1"), "WEIGHTS_0": buffer.accessor(np.eye(3, 4), "f4")}
    content["meshes"] = [{"primitives": [{"attributes": points}]}]
    content["skins"] = [{"joints": list(range(1, 1 + len(NAMED)))}]
    path.write_bytes(buffer.packed())
    return path


def _upwards(j):
    while (j := BODY.parents[j]) >= 0:
        yield j


def played(path):
    """Where a GLB's nodes (T, 3) are by name, and at which times."""
    pygltflib = pytest.importorskip("pygltflib")
    file = pygltflib.GLTF2().load(str(path))
    blob, (animation,) = file.binary_blob(), file.animations

    def values(index):
        entry = file.accessors[index]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[entry.type]
        at = file.bufferViews[entry.bufferView].byteOffset
        return np.frombuffer(blob, np.float32, entry.count * width, at).reshape(-1, width).astype(float)

    tracks = {(c.target.node, c.target.path): animation.samplers[c.sampler] for c in animation.channels}
    times = values(next(iter(tracks.values())).input)[:, 0]
    world, names = {}, {}

    def visit(k, above):
        node = file.nodes[k]
        local = np.tile(
            gltf.local({key: x for key, x in json.loads(node.to_json()).items() if x is not None}), (len(times), 1, 1)
        )
        if (k, "rotation") in tracks:
            rows = values(tracks[k, "rotation"].output)
            lengths = np.linalg.norm(local[0, :3, :3], axis=0)
            turned = kinlmr.rotations.quaternion_to_matrix(torch.from_numpy(np.roll(rows, 1, 1))).numpy()
            local[:, :3, :3] = turned * lengths
        if (k, "translation") in tracks:
            local[:, :3, 3] = values(tracks[k, "translation"].output)
        world[k] = above @ local
        names[node.name] = world[k][:, :3, 3]
        for child in node.children or []:
            visit(child, world[k])

    for root in file.scenes[file.scene].nodes:
        visit(root, np.eye(4))
    return names, times


def assert_plays(path, truth, millimetres=2.0, scale=1.0):
    """Mixamo's bones in a GLB are where the body's joints (T, 24, 3) are."""
    found, times = played(path)
    assert np.allclose(times, np.arange(len(truth)) / 30)
    for j, name in MIXAMO.items():
        assert np.linalg.norm(found[name] - scale * truth[:, j], axis=-1).max() < millimetres / 1000, name


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("rig", export.RIGS)
def test_rigs_by_name_are_read_back_by_pybvh(tmp_path, rig):
    pybvh = pytest.importorskip("pybvh")
    given, truth = motion()
    export.save_bvh(tmp_path / "walk.bvh", BODY, *given, 30, rig=rig)
    file, (units, names) = pybvh.read_bvh_file(tmp_path / "walk.bvh"), export.RIGS[rig]
    assert set(file.joint_names) == set(names.values())
    order = [file.joint_names.index(names[name]) for name in BODY.joints]
    assert units == {"mixamo": 100, "unreal": 100, "vrm": 1}[rig]
    assert np.abs(file.joint_positions()[:, order] / units - truth).max() < 1e-4
    export.save_bvh(tmp_path / "metres.bvh", BODY, *given, 30, rig=rig, scale=1)
    assert np.abs(pybvh.read_bvh_file(tmp_path / "metres.bvh").joint_positions()[:, order] - truth).max() < 1e-4
    export.save_glb(tmp_path / "walk.glb", BODY, *given, 30, rig=rig)
    found, _ = played(tmp_path / "walk.glb")
    assert max(np.abs(found[names[name]] - truth[:, j]).max() for j, name in enumerate(BODY.joints)) < 1e-4


@pytest.mark.parametrize("rig", export.RIGS)
def test_rigs_by_name_are_read_back_by_us(tmp_path, rig):
    """Their names are those that makers use."""
    given, _ = motion()
    export.save_bvh(tmp_path / "walk.bvh", BODY, *given, 30, rig=rig)
    read = kinlmr.motion.read_bvh(tmp_path / "walk.bvh", BODY)
    found = axis_angle_to_matrix(read.axis_angle.double()).numpy()
    assert np.abs(found - given[0]).max() < 1e-4


def test_a_hand_has_no_bones_of_a_rig(tmp_path):
    few = replace(BODY, joints=tuple(f"bone{j}" for j in range(24)))
    with pytest.raises(ValueError, match="has no pelvis, spine1, .*: the names of vrm are for bodies with SMPL's"):
        export.save_bvh(tmp_path / "no.bvh", few, *motion()[0], 30, rig="vrm")


VRMA = """
const url = name => require('url').pathToFileURL(require.resolve(name)).href;
(async () => {
  const {GLTFLoader} = await import(url('three/examples/jsm/loaders/GLTFLoader.js'));
  const {VRMAnimationLoaderPlugin} = require('@pixiv/three-vrm-animation');
  const loader = new GLTFLoader();
  loader.register(parser => new VRMAnimationLoaderPlugin(parser));
  const bytes = new Uint8Array(require('fs').readFileSync(process.argv[1]));
  const {userData} = await loader.parseAsync(bytes.buffer, '');
  const [animation] = userData.vrmAnimations;
  const tracks = animation.humanoidTracks;
  const values = map => Object.fromEntries([...map].map(([bone, track]) => [bone, [...track.values]]));
  console.log(JSON.stringify({duration: animation.duration, rest: animation.restHipsPosition.toArray(),
    rotation: values(tracks.rotation), translation: values(tracks.translation)}));
})();
"""


def test_a_vrma_is_loaded_by_three_vrm(tmp_path):
    node = shutil.which("node")
    if (
        not node
        or subprocess.run([node, "-e", "require('@pixiv/three-vrm-animation')"], capture_output=True).returncode
    ):
        pytest.skip("npm's @pixiv/three-vrm-animation is not there (NODE_PATH says where)")
    (rotations, _, translation), _ = motion()
    export.save_glb(tmp_path / "walk.vrma", BODY, rotations, None, translation, 30)
    done = subprocess.run([node, "-e", VRMA, str(tmp_path / "walk.vrma")], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["duration"] == pytest.approx((len(rotations) - 1) / 30)
    assert set(found["rotation"]) == set(DIALECTS["vrm"].values())
    assert 0.8 < found["rest"][1] < 1.1  # the hips stand as high as legs are long
    for joint, bone in DIALECTS["vrm"].items():
        turned = kinlmr.rotations.quaternion_to_matrix(
            torch.tensor(found["rotation"][bone], dtype=torch.float64).view(-1, 4).roll(1, -1)
        )
        assert np.abs(turned.numpy() - rotations[:, INDEX[joint]]).max() < 1e-5
    assert np.allclose(np.reshape(found["translation"]["hips"], (-1, 3)), translation + REST[0], atol=1e-5)


def test_a_vrma_names_its_bones(tmp_path):
    given, _ = motion()
    export.save_glb(tmp_path / "walk.vrma", BODY, *given, 30)
    file = gltf.read(tmp_path / "walk.vrma")
    bones = file.content["extensions"]["VRMC_vrm_animation"]["humanoid"]["humanBones"]
    assert {file.content["nodes"][found["node"]]["name"] for found in bones.values()} == set(DIALECTS["vrm"].values())
    assert "meshes" not in file.content
    with pytest.raises(ValueError, match=r"no\.vrma: rig is mixamo, but a \.vrma is for the rig vrm"):
        export.save_glb(tmp_path / "no.vrma", BODY, *given, 30, rig="mixamo")


def test_the_bones_of_a_vrm_are_found_by_what_it_says(tmp_path):
    """Whatever their names."""
    path = character(tmp_path / "rig.vrm", random_axes(0))
    content, binary = gltf.read(path)[:2]
    human = {DIALECTS["vrm"][joint]: {"node": 1 + NAMED.index(INDEX[joint])} for joint in DIALECTS["mixamo"]}
    for node in content["nodes"][1:]:
        node["name"] = f"J_{node['name'][-3:]}"
    content["extensions"] = {"VRMC_vrm": {"humanoid": {"humanBones": human}}}
    path.write_bytes(glb.Buffer(content, binary).packed())
    rig = rigs.read(path, BODY)
    assert {rig.file.nodes[i] for i in rig.joints.values()} == {found["node"] for found in human.values()}
    content["extensions"]["VRMC_vrm"]["humanoid"]["humanBones"] = {"hips": {"node": 1}}
    path.write_bytes(glb.Buffer(content, binary).packed())
    with pytest.raises(ValueError, match=r"rig\.vrm: its humanoid, or body 'anny24_lo369', lacks leftUpperLeg"):
        rigs.read(path, BODY)


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_a_bvh_rig_of_any_axes_moves_as_the_body(tmp_path, seed):
    """With bones along other axes, zero rotations are no T-pose; the file's frames say where that is."""
    axes = None if seed is None else random_axes(seed)
    standing(tmp_path / "rig.bvh", axes=axes)
    given, truth = motion()
    export.save_bvh(tmp_path / "walk.bvh", BODY, *given, 30, rig=tmp_path / "rig.bvh")
    rig, file = Bvh(tmp_path / "rig.bvh"), Bvh(tmp_path / "walk.bvh")
    assert (file.names, file.parents, file.ends) == (rig.names, rig.parents, rig.ends)
    assert np.allclose(file.offsets[1:], rig.offsets[1:], atol=1e-5)
    found = file.posed()[1] / 100
    order = [file.names.index(name.removeprefix("mixamorig:")) for name in MIXAMO.values()]
    assert np.linalg.norm(found[:, order] - truth[:, list(MIXAMO)], axis=-1).max() < 0.002


def test_a_bvh_rig_of_another_size_and_world_goes_as_far_as_its_legs(tmp_path):
    """z up, a unit of its own, and twice as large: the path is twice as long."""
    world = TURN.T  # y to z
    standing(tmp_path / "rig.bvh", world=world)
    given, truth = motion()
    tall = replace(BODY, **{name: getattr(BODY, name) / 2 for name in ("J", "J_shapedirs", "template", "basis")})
    half = given[0], None, given[2] / 2
    export.save_bvh(tmp_path / "walk.bvh", tall, *half, 30, rig=tmp_path / "rig.bvh")
    file = Bvh(tmp_path / "walk.bvh")
    order = [file.names.index(name.removeprefix("mixamorig:")) for name in MIXAMO.values()]
    found = file.posed()[1][:, order] / 100 @ world
    assert np.linalg.norm(found - truth[:, list(MIXAMO)], axis=-1).max() < 0.002


@pytest.mark.parametrize(("seed", "matrices"), [(0, False), (1, True)])
def test_a_glb_rig_of_any_axes_moves_as_the_body(tmp_path, seed, matrices):
    character(tmp_path / "rig.glb", random_axes(seed), matrices=matrices)
    given, truth = motion()
    export.save_glb(tmp_path / "walk.glb", BODY, *given, 30, rig=tmp_path / "rig.glb")
    assert_plays(tmp_path / "walk.glb", truth)
    with pytest.raises(AssertionError):
        assert_plays(tmp_path / "walk.glb", truth[::-1])


def test_a_glb_rig_of_another_size(tmp_path):
    character(tmp_path / "rig.glb", random_axes(2), scale=1.5)
    given, truth = motion()
    export.save_glb(tmp_path / "walk.glb", BODY, *given, 30, rig=str(tmp_path / "rig.glb"))
    assert_plays(tmp_path / "walk.glb", truth, scale=1.5)


def test_a_glb_rig_as_bvh(tmp_path):
    character(tmp_path / "rig.glb", random_axes(0))
    given, truth = motion()
    export.save_bvh(tmp_path / "walk.bvh", BODY, *given, 30, rig=tmp_path / "rig.glb")
    file = Bvh(tmp_path / "walk.bvh")
    found = file.posed()[1][:, [file.names.index(name) for name in MIXAMO.values()]]
    assert np.linalg.norm(found - truth[:, list(MIXAMO)], axis=-1).max() < 0.002


def test_a_world_on_a_rig_begins_when_somebody_comes(tmp_path):
    character(tmp_path / "rig.glb", random_axes(0))
    (rotations, _, translation), truth = motion()
    translation = torch.from_numpy(translation).clone()
    translation[:5] = torch.nan
    frames = len(rotations)
    world = kinlmr.World(torch.from_numpy(rotations), translation, torch.zeros(frames, 10), torch.zeros(frames, 2, 2),
                         torch.zeros(frames, 3))  # fmt: skip
    export.save_glb(tmp_path / "walk.glb", BODY, [world, world], fps=30, rig=tmp_path / "rig.glb")
    for name in ("walk1.glb", "walk2.glb"):
        found, times = played(tmp_path / name)
        assert times[0] == pytest.approx(5 / 30)
        assert np.linalg.norm(found["mixamorig:LeftFoot"] - truth[5:, INDEX["left_ankle"]], axis=-1).max() < 0.002


@pytest.mark.parametrize(
    ("rig", "message"),
    [
        ("mixam", "rig is 'mixam', expected mixamo, unreal, vrm, or a .bvh, .glb or .vrm file.*mixamo"),
        ("rig.fbx", r"rig\.fbx: a rig is a file of \.bvh, \.glb, \.vrm"),
        ("none.glb", r"none\.glb: no such file"),
        ("short.glb", r"short\.glb: not binary glTF 2\.0, or cut short"),
        ("text.glb", r"text\.glb: not binary glTF"),
        ("loop.glb", r"loop\.glb: its nodes are damaged"),
        ("huge.glb", r"huge\.glb: its nodes are damaged"),
        ("flat.glb", r"flat\.glb: its nodes are damaged .*flat"),
        ("long.glb", r"long\.glb: its nodes are damaged"),
        ("text2.glb", r"text2\.glb: its nodes are damaged"),
        ("bones.glb", r"bones\.glb: its joints are not named as this body's"),
    ],
)
def test_a_bad_rig_is_named(tmp_path, monkeypatch, rig, message):
    monkeypatch.chdir(tmp_path)
    whole = character(tmp_path / "whole.glb", random_axes(0)).read_bytes()
    (tmp_path / "short.glb").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.glb").write_text("HIERARCHY")
    made = {"loop": [{"children": [1]}, {"children": [0]}], "bones": [{"name": "a"}, {"name": "b"}],
            "huge": [{"translation": [1e300, 0, 0], "scale": [1e300] * 3, "children": [1]}, {"scale": [1e300] * 3}],
            "flat": [{"scale": [0, 1, 1]}], "long": [{"matrix": [10**400] * 16}], "text2": "nodes"}  # fmt: skip
    for name, nodes in made.items():
        (tmp_path / f"{name}.glb").write_bytes(glb.Buffer({"nodes": nodes}).packed())
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export.save_glb(tmp_path / "out.glb", BODY, *motion()[0], 30, rig=rig)
    assert sorted(tmp_path.iterdir()) == before


def test_units_and_meshes_that_do_not_fit(tmp_path):
    standing(tmp_path / "rig.bvh")
    given, _ = motion()
    with pytest.raises(
        ValueError, match=r"no\.glb: the rig .*rig\.bvh has no mesh; give a \.glb or \.vrm, or save_bvh"
    ):
        export.save_glb(tmp_path / "no.glb", BODY, *given, 30, rig=tmp_path / "rig.bvh")
    with pytest.raises(ValueError, match=r"the unit is that of the rig .*rig\.bvh: leave out scale=100"):
        export.save_bvh(tmp_path / "no.bvh", BODY, *given, 30, rig=tmp_path / "rig.bvh", scale=100)
    with pytest.raises(ValueError, match="scale is 0, expected units a metre"):
        export.save_bvh(tmp_path / "no.bvh", BODY, *given, 30, scale=0)


def test_what_a_rig_has_and_the_body_has_not_stays_as_it_rests(tmp_path):
    """Ancestors of the hips, and bones between and after those that the body has."""
    rig = rigs.read(character(tmp_path / "rig.glb", random_axes(0)), BODY)
    given, _ = motion()
    rotations, _ = rigs.posed(rig, BODY, torch.from_numpy(given[0]), torch.from_numpy(given[2]))
    others = [i for i in range(len(rig.names)) if i not in rig.joints.values()]
    assert [rig.names[i] for i in others] == ["Armature"]
    assert np.allclose(rotations[:, others], rig.rest[others])
