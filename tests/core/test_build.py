import copy
import json
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kinlmr
from kinlmr import Estimate, Rotation
from kinlmr.engine.cells import CELLS
from kinlmr.files import checked_rate

SMALL = dict(features=5, hidden=4, shape=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rotation="6D"), "unknown rotation '6D'; there are axis_angle, 6d, .*did you mean '6d'"),
        (dict(cell="rnn"), "unknown cell 'rnn'; there are gru, lstm"),
        (dict(cell=torch.nn.GRU), "unknown cell <class .*GRU'>; there are gru, lstm"),
        (dict(camera_input="first"), "unknown camera_input 'first'; there are previous, initial"),
        (dict(shape_input="initial"), "unknown shape_input 'initial'; there are previous, mean"),
        (dict(features=0), "features must be a whole number of at least 1, not 0"),
        (dict(iterations=2.0), r"iterations must be a whole number of at least 1, not 2\.0"),
        (dict(layers=True), "layers must be a whole number"),
        (dict(shape=-1), "shape must be a whole number of at least 0"),
        (dict(hidden=0), "hidden of root must be a whole number of at least 1"),
        (dict(hidden=2**25), "hidden of root must be at most 16,777,216, not 33,554,432"),
        (dict(iterations=101), "iterations must be at most 100, not 101"),
        (dict(layers=10**9), "layers must be at most 100, not 1,000,000,000"),
        (dict(keypoints="coco17", fps=1001), "not 1001; expected 0.1 to 1,000"),
        (dict(keypoints="coco17", fps=10**400), "fps must be a positive number .* not 1000.*; expected 0.1 to"),
        (dict(keypoints="coco17", body=["anny24"]), r"body must be the name or the path of one, not \['anny24'\]"),
        (dict(hidden={"root": 4}), "hidden lacks head, left_arm"),
        (dict(hidden={"rot": 4}), r"hidden names \['rot'\], the parts are root, head"),
        (dict(dropout=1.0), r"dropout must lie in \[0, 1\), not 1\.0"),
        (dict(rotation=None), "unknown rotation None"),
        (dict(cell=["gru"]), r"unknown cell \['gru'\]"),
        (dict(dropout="0.1"), "dropout must lie"),
        (dict(start=(torch.full((24, 6), torch.nan), torch.zeros(10), torch.zeros(3))), r"start\.pose is not finite"),
        (dict(start=Estimate(torch.zeros(24, 3), torch.zeros(10), torch.zeros(3))), r"start\.pose has shape \(24, 3\)"),
    ],
)
def test_unknown_names_and_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        kinlmr.build(**options)


def test_a_skeleton_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"no skeleton 'smp\.yaml'.*smpl_ktd\.yaml.*did you mean 'smpl\.yaml'"):
        kinlmr.build("smp.yaml")


def test_swapping_is_passing_an_object():
    mine = Rotation("mine", 3, (0.0, 0.0, 0.0), *kinlmr.ROTATIONS["axis_angle"][3:])
    model = kinlmr.build(kinlmr.load_skeleton("mano.yaml"), rotation=mine, cell=CELLS["lstm"], **SMALL)
    assert model.rotation is mine
    assert model.cell is CELLS["lstm"]
    assert model.parts["thumb"].rnn.weight_hh_l0.shape == (16, 4)
    assert model.options.cell == "lstm"


def test_hidden_sizes_by_part():
    sizes = {"wrist": 3, "index": 4, "middle": 5, "pinky": 6, "ring": 7, "thumb": 8}
    model = kinlmr.build("mano.yaml", features=5, hidden=sizes)
    assert {name: part.rnn.weight_hh_l0.shape[1] for name, part in model.parts.items()} == sizes
    assert model.camera.rnn.weight_hh_l0.shape[1] == 8
    assert kinlmr.build("mano.yaml", features=5, hidden={**sizes, "camera": 2}).camera.rnn.weight_hh_l0.shape[1] == 2
    odd = kinlmr.Skeleton("odd", ("a",), (None,), (kinlmr.Part("camera", ("a",)),))
    with pytest.raises(ValueError, match="cannot tell part 'camera' from the camera's cell"):
        kinlmr.build(odd, hidden={"camera": 3})


def test_a_start_of_arrays():
    start = (np.zeros((24, 6)), np.zeros(10), np.array([0.5, 0, 0]))
    assert kinlmr.build("smpl.yaml", features=5, hidden=4, start=start).start.camera[0] == 0.5


SEEN = dict(keypoints="coco17", fps=25, body="anny24_lo369", confidence=(0.5, 0.25))


@pytest.mark.parametrize("more", [{}, SEEN])
def test_options_are_one_frozen_record(more):
    options = kinlmr.build("mano.yaml", hidden=4, **more).options
    assert pickle.loads(pickle.dumps(options)) == copy.deepcopy(options) == replace(options)
    assert hash(options) == hash(replace(options, fps=options.fps))
    assert options != replace(options, iterations=2)
    with pytest.raises(FrozenInstanceError):
        options.iterations = 2
    for wrong, message in (
        (dict(iterations=0), "iterations must be a whole number"),
        (dict(cells=1), "unexpected keyword argument 'cells'"),
        (dict(keypoints="coco17", fps=None), "with keypoints, fps and body are needed, not fps None"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            replace(options, **wrong)
    said = json.loads(json.dumps(options.as_json()))
    assert kinlmr.build("mano.yaml", **said).options == options


@pytest.mark.parametrize("more", [{}, SEEN])
def test_options_still_read_as_the_dict_that_they_were(more):
    options = kinlmr.build("mano.yaml", hidden=4, **more).options
    assert dict(options) == {**options} == options.as_json()
    assert options["features"] == options.features
    assert ("fps" in options, options.get("fps")) == (bool(more), options.fps)
    assert options.get("confidence", 3) == more.get("confidence", 3)
    if not more:
        with pytest.raises(KeyError):
            options["keypoints"]


RATES = st.floats(0.1, 1000) | st.integers(1, 1000) | st.fractions("1/10", 1000)


@given(RATES, st.sampled_from([lambda x: x, float, np.float64, np.float32]))
def test_a_rate_is_any_number_of_frames_a_second(fps, kind):
    fps = kind(fps)
    if 0.1 <= fps <= 1000:  # float32 may have rounded it past a bound
        assert (type(checked_rate(fps)), checked_rate(fps)) == (float, float(fps))


@pytest.mark.parametrize(
    "fps", [0, -30, 0.09, 1001, 10**400, float("nan"), float("inf"), True, np.bool_(True), "30", None, 30j, [30]]
)
def test_what_is_no_rate_is_refused(fps):
    with pytest.raises(ValueError, match=r"fps must be a positive number .*, not .*; expected 0\.1 to 1,000"):
        checked_rate(fps)


def test_default_dtype_is_respected():
    torch.set_default_dtype(torch.float64)
    try:
        model = kinlmr.build("smpl.yaml", **SMALL)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float64}


def test_mean_parameters_in_spins_order(tmp_path):
    matrices = kinlmr.rotations.axis_angle_to_matrix(torch.randn(24, 3, dtype=torch.float64))
    pose = matrices[..., :2].reshape(144)
    path = tmp_path / "mean.npz"
    np.savez(path, pose=pose, shape=np.arange(10.0), cam=np.array([0.8, 0.1, -0.1]))
    for name in kinlmr.ROTATIONS:
        model = kinlmr.build("smpl.yaml", features=5, hidden=4, rotation=name, start=path)
        start = Estimate(model.start.pose, model.start.shape, model.start.camera)
        assert torch.allclose(model.matrices(start), matrices.float(), atol=2e-6)
        assert torch.equal(start.shape, torch.arange(10.0))
        assert torch.allclose(start.camera, torch.tensor([0.8, 0.1, -0.1]))
    np.savez(path, pose=pose)
    with pytest.raises(ValueError, match=r"mean\.npz: no numbers under 'shape'; it has pose"):
        kinlmr.build("smpl.yaml", start=path)
    for junk in (b"", b"hello", b"\x93NUMPY"):
        path.write_bytes(junk)
        with pytest.raises(ValueError, match=r"mean\.npz: not an \.npz archive"):
            kinlmr.build("smpl.yaml", start=path)
    np.savez(path, pose=pose[:-1], shape=np.zeros(10), cam=np.zeros(3))
    with pytest.raises(ValueError, match="pose has 143 numbers"):
        kinlmr.build("smpl.yaml", start=path)
