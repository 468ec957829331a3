"""Threads, torch's own threads, and spawned processes: one model and one body, many users, the same numbers."""

import contextlib
import functools
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from laws import assert_same

import kinlmr
from kinlmr.motion import clips
from kinlmr.motion.archives import load_motion
from kinlmr.rotations import axis_angle_to_matrix

DATA = Path(__file__).parents[2] / "examples/data/motion.npz"
BODY = kinlmr.load_body("anny24_lo369", keypoints="coco17")


@contextlib.contextmanager
def torch_threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def model():
    torch.manual_seed(0)
    made = kinlmr.build("smpl.yaml", keypoints="coco17", body="anny24_lo369", hidden=48, shape_hidden=64).eval()
    for node in made.nodes().values():
        node.head.weight.data.mul_(3)
    return made


def drawn(seed, *size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def forward(seed):
    return model()(drawn(seed, 2, 12, 51))


def step(seed):
    frames, state = [], None
    for frame in drawn(seed, 2, 6, 51).unbind(1):
        estimate, state = model().step(frame, state)
        frames.append(estimate.pose)
    return (*frames, *state)


def recover(seed, fps=30):
    keypoints = (200 + 50 * drawn(seed, 6, 17, 3)).abs()
    found, state = kinlmr.recover(model(), keypoints, fps)
    return (*found, state.pixels_per_metre, state.phase)


def pose(seed):
    rotations, shape = axis_angle_to_matrix(0.3 * drawn(seed, 3, 24, 3)), drawn(seed + 1, 3, 10)
    return BODY(rotations, shape, want=("joints", "vertices", "keypoints"))


def train(seed):
    """A loss and its gradient of the features: backward passes share the weights too."""
    features = drawn(seed, 2, 5, 51).requires_grad_()
    loss = model()(features).pose.square().sum()
    return loss.detach(), *torch.autograd.grad(loss, features)


WORKS = (forward, step, recover, pose, train)


def assert_shared(work, seeds, threads=8):
    """Threads that work at the same time each get what they get alone, bit for bit. Each is told how many threads torch
    may use in it: MKL's products keep that number for each thread."""
    alone = [work(seed) for seed in seeds]
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for one, many in zip(alone, pool.map(work, seeds), strict=True):
            assert all(map(torch.equal, one, many))


@pytest.mark.parametrize(
    "work", [*WORKS, functools.partial(recover, fps=25)], ids=lambda work: getattr(work, "__name__", "recover at 25")
)
def test_eight_threads_share_a_model_bit_for_bit(work):
    with torch_threads(1):
        assert_shared(work, range(8))


def test_the_law_of_sharing_can_fail():
    kept = {}

    def leaky(seed):  # keeps its input on a shared object, and is slow to use it
        kept["seed"] = seed
        for _ in range(20):
            drawn(seed, 100, 100) @ drawn(seed, 100, 100)
        return (drawn(kept["seed"], 3),)

    with pytest.raises(AssertionError):
        assert_shared(leaky, range(32))


@pytest.mark.parametrize("work", WORKS)
def test_one_and_two_threads_of_torch_agree(work):
    found = []
    for count in (1, 2):
        with torch_threads(count):
            found.append([x.double() / max(1.0, float(x.abs().max())) for x in map(torch.Tensor.detach, work(3))])
    assert_same(*found, 1e-6)


# ------------------------------------------------------------------------------------------------------------ processes


@functools.cache
def bank():
    return clips.bank(load_motion(DATA, BODY), 8)


def draw(bank, body, seed):
    """What a worker does. It and its arguments go to a spawned process, so this stays a plain function of a module."""
    return tuple(clips.sample(bank, body, 1, 8, torch.Generator().manual_seed(seed)))


class Drawn(torch.utils.data.Dataset):
    """Clips by number, as a user's dataset would draw them in a worker."""

    def __init__(self, bank, body):
        self.bank, self.body = bank, body

    def __len__(self):
        return 4

    def __getitem__(self, seed):
        return draw(self.bank, self.body, seed)


def test_spawned_workers_draw_the_same_clips():
    dataset = Drawn(bank(), BODY)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    found = list(loader)
    assert len(found) == 4
    with torch_threads(1):
        for seed, clip in enumerate(found):
            assert_same(clip, draw(bank(), BODY, seed), 1e-6)


def test_what_a_process_is_given_can_be_pickled():
    """Every value that the library makes, and comes back as it was."""
    skeleton = kinlmr.load_skeleton("smpl.yaml")
    plan = kinlmr.compile(skeleton)
    assert pickle.loads(pickle.dumps((skeleton, plan))) == (skeleton, plan)
    for name, rotation in kinlmr.ROTATIONS.items():
        assert pickle.loads(pickle.dumps(rotation)) == rotation, name
    body, motion, source = pickle.loads(pickle.dumps((BODY, load_motion(DATA, BODY)[0], bank())))
    assert torch.equal(body(torch.eye(3).expand(24, 3, 3)).joints, BODY(torch.eye(3).expand(24, 3, 3)).joints)
    assert torch.equal(motion.axis_angle, load_motion(DATA, BODY)[0].axis_angle)
    assert torch.equal(source.quaternions, bank().quaternions)
    found, state = kinlmr.recover(model(), (200 + 50 * drawn(0, 4, 17, 3)).abs(), 25)
    again, after = pickle.loads(pickle.dumps((found, state)))
    assert_same(found, again, 0.0)
    later = (200 + 50 * drawn(1, 4, 17, 3)).abs()
    assert_same(*(kinlmr.recover(pickle.loads(pickle.dumps(model())), later, 25, s)[0] for s in (state, after)), 0.0)
