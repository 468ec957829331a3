import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import BODY, walker

import kinlmr
from kinlmr import metrics, motion
from kinlmr.rotations import axis_angle_to_matrix
from kinlmr.world import World, WorldState, floor, lock, network, path, pose, settle
from kinlmr.world.standing import stand_of

MOTION = Path(__file__).parents[2] / "examples/data/motion.npz"
JUMP = motion.load_motion(MOTION, BODY)[0]
SIZE, FOCAL = (1280, 720), 1200.0
LEGS = lock.legs_of(BODY)


def recorded(frames=60, first=300, fps=30.0, pitch=0.2, roll=0.0, noise=0.0, seed=0, far=5.0):
    """A recording in a camera's axes: rotations (T, 24, 3, 3), translation (T, 3), shape (T, 10), the true joints
    (T, 24, 3) in the world, and up (3) in the camera's axes."""
    whole = motion.resampled(JUMP, fps)
    part = slice(round(first * fps / 30), round(first * fps / 30) + frames)
    rotations, origin = axis_angle_to_matrix(whole.axis_angle[part]), whole.origin(BODY)[part]
    shape = torch.zeros(frames, 10)
    joints = BODY(rotations, shape, origin).joints
    camera = axis_angle_to_matrix(torch.tensor([[0, 0, roll], [math.pi + pitch, 0, 0]]))
    camera = camera[0] @ camera[1]
    middle = origin.mean(0)
    turned, moved = BODY.rotate_root(rotations, shape, origin - middle, camera)
    generator = torch.Generator().manual_seed(seed)
    moved = moved + torch.tensor([0, 0, far]) + noise * torch.randn(frames, 3, generator=generator)
    return turned, moved, shape, joints, camera @ torch.tensor([0.0, 1.0, 0.0])


def pixels(rotations, translation, shape):
    """coco17's keypoints (T, 17, 3) in pixels."""
    points = BODY(rotations, shape, want=("keypoints",)).keypoints
    image = kinlmr.camera.perspective(points, translation, FOCAL) + torch.tensor(SIZE) / 2
    return torch.cat([image, torch.ones_like(image[..., :1])], -1)


def joints_of(world):
    return BODY(world.rotations, world.shape, world.translation).joints


def chunks(fps, cuts, *inputs, **options):
    """What live calls make of pieces that end at these frames; inputs (B, T, ...)."""
    frames, state, found = inputs[0].shape[1], WorldState.initial(len(inputs[0])), []
    options = dict(options)
    for low, high in zip((0, *cuts), (*cuts, frames), strict=True):
        some = {key: x[:, low:high] if key == "keypoints" else x for key, x in options.items()}
        one, state = settle(BODY, *(x[:, low:high] for x in inputs), fps, state=state, **some)
        found.append(one)
    return World(*(torch.cat(x, 1) for x in zip(*found, strict=True))), state


def assert_near(one, two, tolerance=1e-4):
    for name, a, b in zip(World._fields, one, two, strict=True):
        assert a.shape == b.shape
        assert torch.equal(a.isnan(), b.isnan()), name
        assert (a - b).nan_to_num().abs().max() <= tolerance, name


# ----------------------------------------------------------------------------------------------------------------- path


def system(frames, people=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rand = lambda *size: torch.rand(people, frames, *size, generator=generator, dtype=torch.float64)  # noqa: E731
    factor = rand(3, 3) - 0.5
    certainty = 1e3 * (factor @ factor.mT + 0.1 * torch.eye(3))
    seen = torch.ones(people, frames, dtype=torch.bool)
    return path.Terms(rand(3), certainty, rand(4, 3), 1e4 * rand(4), 1e4 * rand(), 0.01 * rand(3), seen)


def dense(terms, seconds):
    """The same system as one matrix: p_{-2}, p_{-1}, then the frames."""
    place, certainty, feet, still, calm, gravity, _ = (x[0] for x in terms)
    frames = len(place)
    matrix, right = torch.zeros(frames + 2, 3, frames + 2, 3).double(), torch.zeros(frames + 2, 3).double()
    eye, speed = torch.eye(3).double(), 1 / (path.FASTEST * seconds) ** 2

    def add(at, weight, target):
        for i, a in at.items():
            right[i] += weight * a * target
            for j, b in at.items():
                matrix[i, :, j, :] += weight * a * b * eye

    add({0: -1.0, 1: 1.0}, speed, torch.zeros(3))
    add({0: 1.0}, path.FAINT, torch.zeros(3))
    add({1: 1.0}, path.FAINT, torch.zeros(3))
    for t in range(frames):
        matrix[t + 2, :, t + 2, :] += certainty[t]
        right[t + 2] += certainty[t] @ place[t]
        add({t: 1.0, t + 1: -2.0, t + 2: 1.0}, calm[t], gravity[t])
        for n in range(4 if t else 0):
            add({t + 1: -1.0, t + 2: 1.0}, still[t, n], feet[t - 1, n] - feet[t, n])
    size = 3 * (frames + 2)
    return torch.linalg.solve(matrix.view(size, size), right.view(size)).view(-1, 3)[2:]


@settings(max_examples=8)
@given(st.integers(1, 12), st.integers(0, 99))
def test_the_path_is_that_of_the_dense_system(frames, seed):
    terms, seconds = system(frames, seed=seed), 1 / 30
    live, gone, state = path.forward(terms, seconds, path.start(1, 4, torch.zeros(0)))
    expected = dense(terms, seconds)
    assert (path.backward(gone, state)[0] - expected).abs().max() < 1e-6
    assert (live[0, -1] - expected[-1]).abs().max() < 1e-6  # the filter has seen as much at the end
    broken, _, _ = path.forward(terms._replace(still=terms.still / 2), seconds, path.start(1, 4, torch.zeros(0)))
    assert frames == 1 or (broken[0, -1] - expected[-1]).abs().max() > 1e-6


def test_the_path_of_a_long_clip_takes_memory_in_proportion():
    terms = system(1000)
    _, gone, state = path.forward(terms, 1 / 30, path.start(1, 4, torch.zeros(0)))
    assert gone.numel() == 1000 * 21
    assert path.backward(gone, state).isfinite().all()


# ----------------------------------------------------------------------------------------------------------------- lock


@settings(max_examples=15)
@given(st.integers(0, 999), st.floats(0, 0.1))
def test_bent_legs_bring_feet_there_and_keep_bones_and_sides(seed, size):
    generator = torch.Generator().manual_seed(seed)
    turns = 0.2 * torch.randn(5, 24, 3, generator=generator)
    for leg in LEGS.joints:
        turns[:, leg[1], 0] = 0.5 + 0.5 * torch.rand(5, generator=generator)  # knees bend backwards
    rotations = axis_angle_to_matrix(turns)
    before = BODY(rotations).joints
    offset = torch.zeros(5, 2, 2, 3)
    offset[:, 0] = size * torch.nn.functional.normalize(torch.randn(5, 1, 3, generator=generator), dim=-1)
    bent = lock.bend(LEGS, rotations, before, offset)
    after = BODY(bent).joints
    hip, knee, ankle, foot = LEGS.joints[0]
    reach = (before[:, knee] - before[:, hip]).norm(dim=-1) + (before[:, ankle] - before[:, knee]).norm(dim=-1)
    near = (before[:, ankle] + offset[:, 0, 0] - before[:, hip]).norm(dim=-1) < 0.99 * reach
    wanted = before[:, [ankle, foot]] + offset[:, 0]
    assert ((after[:, [ankle, foot]] - wanted).norm(dim=-1)[near] < 1e-4).all()
    others = [j for j in range(24) if j not in LEGS.joints[0][1:]]
    assert (after[:, others] - before[:, others]).abs().max() < 1e-5
    side = lambda j: torch.linalg.cross(j[:, knee] - j[:, hip], j[:, ankle] - j[:, knee])[:, 0]  # noqa: E731
    assert (side(before)[near] * side(after)[near] > 0).all() or size > 0.05
    assert torch.equal(lock.bend(LEGS, rotations, before, torch.zeros_like(offset)), rotations)


def test_held_feet_stand_still_and_come_back():
    points = torch.randn(1, 60, 2, 2, 3, generator=torch.Generator().manual_seed(0)) * 0.01
    contact = torch.zeros(1, 60, 2, 2)
    contact[:, 20:40, 0] = 1
    for moved in (
        points + lock.hold(points, contact, 30),
        points
        + lock.follow(points, contact, 30, lock.Held(points[:, 0], 0 * points[:, 0]), contact[..., 0, 0] >= 0)[0],
    ):
        assert (moved[:, 21:40, 0] - moved[:, 20:39, 0]).norm(dim=-1).max() < 1e-4
        assert (moved[:, :, 1] - points[:, :, 1]).abs().max() == 0
        assert (moved - points)[:, -1].norm(dim=-1).max() < 1e-3


# ---------------------------------------------------------------------------------------------------------------- whole


@pytest.mark.parametrize(("pitch", "roll"), [(0.0, 0.0), (0.5, 0.0), (-0.3, 0.1)])
def test_a_recording_stands_on_the_floor_whatever_the_camera(pitch, roll):
    *seen, truth, up = recorded(90, pitch=pitch, roll=roll, noise=0.02)
    world = settle(BODY, *seen, 30)
    joints = joints_of(world)
    feet = LEGS.feet
    before = BODY(*(seen[i] for i in (0, 2, 1))).joints
    assert metrics.foot_slide(joints[:, feet], truth[:, feet]) < 0.3 * metrics.foot_slide(
        before[:, feet], truth[:, feet]
    )
    assert torch.rad2deg(torch.acos((world.up @ up).clamp(-1, 1))).max() < 10
    soles = joints[:, feet, 1] - stand_of(BODY).sole
    assert soles.amin(1).median().abs() < 0.05
    assert world.contact.shape == (90, 2, 2)
    assert ((world.contact >= 0) & (world.contact <= 1)).all()


def test_rates_agree():
    answers = []
    for fps in (24, 60, 120):
        *seen, _, _ = recorded(2 * fps, fps=float(fps))
        world = settle(BODY, *seen, fps)
        answers.append((joints_of(world)[:: fps // 12], world.up[0]))
    for joints, up in answers[1:]:
        assert metrics.w_mpjpe(joints, answers[0][0], len(joints), whole=True).mean() < 30
        assert torch.rad2deg(torch.acos((up @ answers[0][1]).clamp(-1, 1))) < 4


def test_somebody_who_just_stands_stays():
    rotations, translation, shape, _, _ = recorded(1, first=0)
    still = [x.expand(60, *x.shape[1:]) for x in (rotations, translation, shape)]
    joints = joints_of(settle(BODY, *still, 30))
    assert (joints - joints[:1]).abs().max() < 1e-3
    live, _ = chunks(30, (), *(x[None] for x in still))
    moved = joints_of(World(*(x[0] for x in live)))[:, LEGS.feet]
    assert (moved[1:] - moved[:-1]).norm(dim=-1).max() <= 1e-3 + 1e-5


def test_nobody_is_nowhere_until_seen():
    *seen, _, _ = recorded(50)
    late = [x.clone() for x in seen]
    late[1][:20] = torch.nan
    world = settle(BODY, *late, 30)
    assert world.translation[:20].isnan().all()
    assert world.translation[20:].isfinite().all()
    assert (world.contact[:20] == 0).all()
    own = settle(BODY, *(x[20:] for x in late), 30)
    assert (world.translation[20:] - own.translation).abs().max() < 1e-3
    never = settle(BODY, seen[0], torch.full_like(seen[1], torch.nan), seen[2], 30)
    assert never.translation.isnan().all()
    assert never.rotations.isfinite().all()


def test_height_scales_everything():
    *seen, _, _ = recorded(40)
    one, two = (settle(BODY, *seen, 30, height=height) for height in (1.6, 1.76))
    rest = torch.eye(3).expand(24, 3, 3)
    for height, world in ((1.6, one), (1.76, two)):
        y = BODY(rest, world.shape[0], want=("vertices",)).vertices[:, 1]
        assert abs(float(y.max() - y.min()) - height) < 0.01
    away = [w.translation[:, [0, 2]].norm(dim=-1).mean() for w in (one, two)]
    assert away[1] / away[0] == pytest.approx(1.1, abs=0.03)


def test_the_world_turns_with_the_camera_about_up():
    """With the network's answer held, a path and its lock are the same from every side."""
    terms = system(12)
    turn = axis_angle_to_matrix(0.7 * torch.tensor([0.1, -0.9, 0.3], dtype=torch.float64))
    _, gone, state = path.forward(terms, 1 / 30, path.start(1, 4, torch.zeros(0)))
    moved = path.Terms(
        terms.place @ turn.mT, turn @ terms.certainty @ turn.mT, terms.feet @ turn.mT, terms.still, terms.calm,
        terms.gravity @ turn.mT, terms.seen,
    )  # fmt: skip
    _, gone_too, state_too = path.forward(moved, 1 / 30, path.start(1, 4, torch.zeros(0)))
    assert (path.backward(gone, state) @ turn.mT - path.backward(gone_too, state_too)).abs().max() < 1e-8


def test_several_stand_on_one_floor():
    one, two = recorded(40, first=300)[:3], recorded(40, first=500)[:3]
    both = settle(BODY, *(torch.stack(x) for x in zip(one, two, strict=True)), 30)
    assert both.translation.shape == (2, 40, 3)
    assert (both.up[0] - both.up[1]).abs().max() == 0
    alone = settle(BODY, *two, 30)
    assert (both.contact[1] - alone.contact).abs().max() < 1e-5


# ----------------------------------------------------------------------------------------------------------------- live


@settings(max_examples=4)
@given(st.lists(st.integers(1, 39), max_size=3, unique=True), st.sampled_from((24.0, 30.0, 60.0)))
def test_chunks_are_the_whole(cuts, fps):
    one, two = recorded(40, noise=0.02, fps=fps)[:3], recorded(40, first=500, noise=0.02, fps=fps)[:3]
    both = [torch.stack(x) for x in zip(one, two, strict=True)]
    both[1][1, :15] = torch.nan
    keypoints = torch.stack([pixels(one[0], one[1], one[2]), pixels(two[0], two[1], two[2])])
    more = {"keypoints": keypoints, "size": SIZE, "focal": FOCAL}
    whole, _ = chunks(fps, (), *both, **more)
    found, _ = chunks(fps, sorted(cuts), *both, **more)
    assert_near(found, whole)
    with pytest.raises(AssertionError):
        assert_near(found._replace(contact=found.contact + 1e-3), whole)


def test_rows_know_nothing_of_others_but_the_common_floor():
    one, two = recorded(40, noise=0.02)[:3], recorded(40, first=500, noise=0.02)[:3]
    both = [torch.stack(x) for x in zip(one, two, strict=True)]
    _, state = settle(BODY, *(x[:, :20] for x in both), 30, state=WorldState.initial(2))
    picked = state.select([1])
    again = kinlmr.concat([picked, WorldState.initial(1)])
    world, _ = settle(BODY, *(torch.stack([x[1, 20:], x[0, :20]]) for x in both), 30, state=again)
    alone, _ = settle(BODY, *(x[1:, 20:] for x in both), 30, state=picked)
    assert (world.contact[0] - alone.contact[0]).abs().max() < 1e-5
    others = [j for j in range(24) if j != BODY.root and j not in [k for leg in LEGS.joints for k in leg[:3]]]
    assert (world.rotations[0, :, others] - alone.rotations[0, :, others]).abs().max() < 1e-5


def test_refinement_moves_no_standing_foot_by_more_than_a_millimetre():
    generator = torch.Generator().manual_seed(0)
    feet = torch.tensor([[0.2, 1.0, 4.0], [0.2, 1.1, 3.9], [-0.2, 1.0, 4.2], [-0.2, 1.1, 4.1]])
    feet = torch.stack([feet, feet + torch.tensor([2.0, 0.3, 1.0])])[:, None].expand(2, 80, 4, 3)
    up = torch.tensor([0.1, -1.0, 0.3]) + 0.5 * torch.randn(2, 80, 3, generator=generator)
    up[:, 40:] += torch.tensor([0.5, 0.0, 0.0])
    on = torch.ones(2, 80, 4)
    seen = torch.ones(2, 80, dtype=torch.bool)
    ups, origin, _ = floor.refine(up, feet, torch.zeros(4), on, seen, 30, floor.unknown(2, feet))
    world = feet @ floor.to_world(ups).mT + origin[:, :, None]
    assert (world[:, 1:] - world[:, :-1]).norm(dim=-1).max() <= 1e-3
    assert (ups[-1] - ups[0]).norm() > 1e-3


@pytest.mark.parametrize("sure", [0.0, 1.0])
def test_first_frames_that_are_far_off_set_no_floor(sure):
    """Whose first two frames are 1.3 m too low is at 0 once they jumped, whether they seemed to stand there or not."""
    feet = torch.tensor([[0.2, 1.0, 4.0], [0.2, 1.0, 3.9], [-0.2, 1.0, 4.2], [-0.2, 1.0, 4.1]]).repeat(1, 90, 1, 1)
    feet[:, :2, :, 1] += 1.3
    on, seen, up = torch.ones(1, 90, 4), torch.ones(1, 90, dtype=torch.bool), torch.tensor([0.0, -1.0, 0.0])
    on[:, :2], on[:, 20:65] = sure, 0
    _, origin, _ = floor.refine(up.expand(1, 90, 3), feet, torch.zeros(4), on, seen, 30, floor.unknown(1, feet))
    assert (origin[0, 65:, 1] - 1.0).abs().max() < floor.SAME_FLOOR
    assert (origin[0, :20, 1] - 1.0).abs().min() > 1.0


def test_who_comes_later_and_lower_stands_on_the_floor_and_the_others_over_it():
    """One stands on a roof, jumps in frames 60 to 80; another comes in frame 30 and stands 0.4 m lower."""
    generator, frames = torch.Generator().manual_seed(0), 500
    feet = torch.tensor([[0.2, 1.0, 4.0], [0.2, 1.0, 3.9], [-0.2, 1.0, 4.2], [-0.2, 1.0, 4.1]])
    feet = torch.stack([feet, feet + torch.tensor([1.0, 0.4, 0.5])])[:, None].repeat(1, frames, 1, 1)
    feet[..., 1] += 0.002 * torch.randn(2, frames, 1, generator=generator)
    up = torch.tensor([0.0, -1.0, 0.0]).expand(2, frames, 3)
    seen, on = torch.ones(2, frames, dtype=torch.bool), torch.ones(2, frames, 4)
    seen[1, :30], on[0, 60:80] = False, 0
    whole = floor.refine(up, feet, torch.zeros(4), on, seen, 30, floor.unknown(2, feet))
    heights = whole[1][..., 1] - feet[:, :, :2, 1].mean(-1)
    assert heights[0, :30].abs().max() < 0.02
    assert heights[1, 30:].abs().max() < 0.02
    assert (heights[0, -30:] - 0.4).abs().max() < 0.02
    moved = (whole[1][:, 1:] - whole[1][:, :-1]).norm(dim=-1)
    moved[0, 59:80], moved[1, :30] = 0, 0  # who does not stand may rise faster
    assert moved.max() <= 1e-3
    alone = floor.refine(up[1:], feet[1:], torch.zeros(4), on[1:], seen[1:], 30, floor.unknown(1, feet))
    assert (alone[1][0, 30:, 1] - whole[1][1, 30:, 1]).abs().max() < 0.02


def test_who_goes_down_forgets_the_higher_floor():
    feet = torch.zeros(1, 200, 4, 3)
    feet[:, 100:, :, 1] = 0.5  # y is down
    up, on = torch.tensor([0.0, -1.0, 0.0]).expand(1, 200, 3), torch.ones(1, 200, 4)
    _, _, evidence = floor.refine(up, feet, torch.zeros(4), on, on[..., 0] > 0, 30, floor.unknown(1, feet))
    assert float(evidence.feet_sum[0, 1] / evidence.weight[0]) == pytest.approx(0.5, abs=0.02)
    _, _, evidence = floor.refine(up[:, :50], feet[:, :50], torch.zeros(4), on[:, :50], on[:, :50, 0] > 0, 30, evidence)
    assert float(evidence.feet_sum[0, 1] / evidence.weight[0]) == pytest.approx(0.5, abs=0.02)  # back on the roof


def test_to_world_takes_what_recover_answers():
    model = kinlmr.load("anny24-coco17")
    keypoints = walker(30)[0]
    recovery, _ = kinlmr.recover(model, keypoints, 30)
    world = kinlmr.to_world(recovery, 30, (640, 480), 800.0, keypoints=keypoints)
    assert isinstance(world, World)
    assert world.translation.isfinite().all()
    many = kinlmr.Recovery(*(x[None] for x in recovery))
    live, state = kinlmr.to_world(many, 30, (640, 480), 800.0, keypoints=keypoints[None], state=WorldState.initial(1))
    assert live.rotations.shape == (1, 30, 24, 3, 3)
    assert float(state.frames[0]) == 30
    turned = kinlmr.to_world(
        recovery, 30, (640, 480), 800.0, keypoints=keypoints, camera_rotation=torch.eye(3).expand(30, 3, 3)
    )
    assert_near(turned, world)


# ------------------------------------------------------------------------------------------------------------ refusals


def test_bad_input_is_refused_by_name():
    rotations, translation, shape, _, _ = recorded(8)
    good = (rotations, translation, shape)
    for call, words in {
        lambda: settle(BODY, *good, 0): "fps must be a positive number",
        lambda: settle(BODY, *good, 30, height=9): "height is 9",
        lambda: settle(BODY, rotations[:, :3], translation, shape, 30): "expected",
        lambda: settle(BODY, *good, 30, keypoints=torch.zeros(8, 17, 3)): "give size=",
        lambda: settle(BODY, *good, 30, keypoints=torch.zeros(7, 17, 3), size=SIZE, focal=1e3): "keypoints have shape",
        lambda: settle(BODY, *good, 30, keypoints=torch.zeros(8, 5, 3), size=SIZE, focal=1e3): "keypoints of 5 points",
        lambda: settle(BODY, *good, 30, camera_rotation=torch.zeros(8, 3, 3)): "no rotations",
        lambda: settle(BODY, rotations * torch.nan, translation, shape, 30): "finite",
        lambda: settle(BODY, *(x[None] for x in good), 30, state=WorldState.initial(2)): "the state is of 2 people",
        lambda: network.load(Path(kinlmr.__file__).parent / "weights/anny24-coco17.npz"): "not a network of contacts",
    }.items():
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match="WorldState"):
        settle(BODY, *good, 30, state=3)


def test_a_body_without_legs_is_refused():
    class Hand:
        name, joints, parents, root = "mano", ("wrist", "index1"), (-1, 0), 0

    with pytest.raises(ValueError, match="mano.*left_hip"):
        lock.legs_of(Hand())


def test_what_is_doubtful_is_said():
    model = kinlmr.load("anny24-coco17")
    keypoints = walker(12)[0]
    recovery, _ = kinlmr.recover(model, keypoints, 30)
    with pytest.warns(UserWarning, match="a view of 1"):
        kinlmr.to_world(recovery, 30, (640, 480), 60.0)
    with pytest.warns(UserWarning, match="diagonal, 800 pixels"):
        kinlmr.to_world(recovery, 30, (640, 480), None)
    keypoints[:, 13:, 2] = 0
    with pytest.warns(UserWarning, match="feet of the person are never seen"):
        kinlmr.to_world(recovery, 30, (640, 480), 800.0, keypoints=keypoints)
    for focal in (0.0, -3.0, math.nan):
        with pytest.raises(ValueError, match="focal"):
            kinlmr.to_world(recovery, 30, (640, 480), focal)


@pytest.mark.parametrize("fps", [7, 240])
def test_slow_and_fast_rates(fps):
    *seen, _, _ = recorded(30, fps=float(fps))
    assert settle(BODY, *seen, fps).translation.isfinite().all()


def test_the_networks_file_is_small_and_of_its_own_kind(tmp_path):
    file = Path(kinlmr.__file__).parent / "weights/world.npz"
    assert file.stat().st_size <= 300_000
    assert kinlmr.checkpoint.shipped() == ("anny24-coco17", "anny24-coco17@1")
    with pytest.raises(ValueError, match="not a kinlmr checkpoint"):
        kinlmr.load(file)
    net = network.load(file)
    network.save(net, tmp_path / "again.npz")
    again = network.load(tmp_path / "again.npz")
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))


def test_poses_are_smoothed_both_ways():
    rotations = recorded(40)[0][None]
    seen = torch.ones(1, 40, dtype=torch.bool)
    forth = pose.smoothed(rotations, seen, 30)
    back = pose.smoothed(rotations.flip(1), seen, 30).flip(1)
    assert (forth - back).abs().max() < 1e-5
