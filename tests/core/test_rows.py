"""People as rows of a state: whoever comes or goes, each one's numbers are what they are alone."""

import copy
import gc
import io
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_same
from models import MODEL, small, walker

import kinlmr
from kinlmr import RecoveryState, State, concat, recover

PEOPLE = 4
FRAMES = 8
SEEN = {fps: walker(FRAMES, fps, PEOPLE) for fps in (12.5, 30, 50)}
FEATURES = torch.randn(PEOPLE, FRAMES, 51, generator=torch.Generator().manual_seed(0))


def streamed(rows, frames, fps, state):
    """Keypoints of these people in these frames -> recovered, and the state after."""
    return recover(MODEL, SEEN[fps][rows][:, frames], fps, state)


@torch.no_grad()
def stepped(rows, frames, fps, state):
    """The same of the model alone."""
    return MODEL(FEATURES[rows][:, frames], state=state or MODEL.initial_state(len(rows)))


KINDS = {"stream": (streamed, lambda n: RecoveryState.initial(MODEL, n)), "state": (stepped, MODEL.initial_state)}


def assert_rows_are_people(kind, fps, presence):
    """presence: who is there in each frame, in which order; each one's numbers are those of his frames alone."""
    run, fresh = KINDS[kind]
    here, state, found = [], fresh(0), {p: [] for p in range(PEOPLE)}
    for frame, now in enumerate(presence):
        new = [p for p in now if p not in here]
        state = concat([state.select([here.index(p) for p in now if p in here]), fresh(len(new))])
        here = [*(p for p in now if p in here), *new]
        if now:
            out, state = run(here, slice(frame, frame + 1), fps, state)
        for row, p in enumerate(here):
            found[p].append(([x[row, 0] for x in out], frame))
        for p in set(range(PEOPLE)) - set(here):
            assert_stay(run, fps, p, found.pop(p))
            found[p] = []
    for p, parts in found.items():
        assert_stay(run, fps, p, parts)


def assert_stay(run, fps, person, parts):
    """What was found of a person between coming and going is what is found of him alone in these frames."""
    if parts:
        alone, _ = run([person], slice(parts[0][1], parts[-1][1] + 1), fps, None)
        for k, (one, _) in enumerate(parts):
            assert_same([x[0, k] for x in alone], one, 1e-5)


crowds = st.lists(
    st.permutations(range(PEOPLE)).flatmap(lambda p: st.integers(0, 4).map(lambda n: p[:n])), max_size=FRAMES
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6)
@given(st.sampled_from(list(SEEN)), crowds)
def test_people_come_and_go_and_know_nothing_of_one_another(kind, fps, presence):
    assert_rows_are_people(kind, fps, presence)


def test_who_comes_between_the_ticks_of_others():
    """At 12.5 frames a second a frame has two or three ticks of those who are there, and one of somebody new."""
    assert_rows_are_people("stream", 12.5, [[0], [0, 1], [0, 1], [1, 2, 0], [2, 0], [2, 0]])


def test_the_law_of_people_can_fail(monkeypatch):
    monkeypatch.setitem(globals(), "concat", lambda states: kinlmr.concat(states[::-1]))
    with pytest.raises(AssertionError):
        assert_rows_are_people("stream", 50, [[0], [0], [0, 1], [1, 0]])


def states(seed=0):
    """A state of each kind with random numbers, of `PEOPLE`."""
    generator = torch.Generator().manual_seed(seed)
    fill = lambda x: (100 * torch.rand(x.shape, generator=generator)).to(x.dtype)  # noqa: E731
    return [type(s)(*map(fill, s)) for s in (MODEL.initial_state(PEOPLE), RecoveryState.initial(MODEL, PEOPLE))]


@given(st.lists(st.integers(0, PEOPLE - 1), max_size=6), st.integers(0, PEOPLE))
def test_select_and_concat_undo_one_another(rows, cut):
    for state in states():
        people = list(range(PEOPLE))
        assert_same(concat([state.select(people[:cut]), state.select(people[cut:])]), state, 0)
        assert_same(concat([state.select([p]) for p in rows] or [state.select([])]), state.select(rows), 0)
        mask = [p in rows for p in people]
        for same in (mask, np.array(mask), torch.tensor(mask), sorted(set(rows)), np.array(sorted(set(rows)), int)):
            assert_same(state.select(same), state.select(torch.tensor(sorted(set(rows)), dtype=torch.long)), 0)


WHOLE = [np.dtype(code) for code in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">u2")]


@given(st.lists(st.integers(0, PEOPLE - 1), max_size=6), st.sampled_from(WHOLE), st.booleans(), st.booleans())
def test_whole_numbers_of_any_type_are_rows(rows, kind, reverse, tensor):
    """Of any width and byte order, also as many as there are people, also of a view."""
    given = np.array(rows[::-1], kind)[::-1] if reverse else np.array(rows, kind)
    given = torch.from_numpy(given.astype(kind.newbyteorder("="))) if tensor else given
    for state in states():
        for same in (given, list(given)):
            assert_same(state.select(same), state.select(rows), 0)


@given(st.lists(st.booleans(), min_size=PEOPLE, max_size=PEOPLE))
def test_only_bools_are_a_mask(mask):
    for state in states():
        for same in (mask, np.array(mask), list(np.array(mask)), torch.tensor(mask)):
            assert_same(state.select(same), state.select([p for p, here in enumerate(mask) if here]), 0)


@pytest.mark.parametrize(
    "rows",
    [[4], [-1], [0.5], [True], [[0]], 1, torch.ones(5, dtype=torch.bool), np.zeros(0, bool), np.array([4], np.uint8),
     np.array([2**64 - 1], np.uint64), torch.zeros(2, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.complex64)],
)  # fmt: skip
def test_rows_that_are_not_there(rows):
    for state in states():
        with pytest.raises(ValueError, match=r"^rows .* 4|^rows .* 0 \.\. 3, the people of the state"):
            state.select(rows)


@pytest.mark.parametrize(
    ("joined", "error", "message"),
    [
        (lambda s, t: [], ValueError, "concat joins at least one state"),
        (
            lambda s, t: s,
            TypeError,
            r"State with State or RecoveryState with RecoveryState; states\[0\] is of type Tensor",
        ),
        (lambda s, t: [s, t], TypeError, r"states\[1\] is of type RecoveryState, states\[0\] of type State"),
        (lambda s, t: [t, None], TypeError, r"states\[1\] is of type NoneType"),
        (lambda s, t: [t, tuple(t)], TypeError, r"states\[1\] is of type tuple"),
        (
            lambda s, t: [s, kinlmr.build("smpl.yaml", features=51, hidden=9).initial_state(1)],
            ValueError,
            r"the memory of states\[1\] is \(B, 3, 63\) torch.float32 on cpu, of states\[0\] \(B, 2, 56\) .*one model",
        ),
        (lambda s, t: [s, s.to(torch.float64)], ValueError, r"float64 on cpu.*with \.to\(\)"),
        (lambda s, t: [t, t.to("meta")], ValueError, r"float32 on meta"),
        (
            lambda s, t: [t, RecoveryState.initial(small("mediapipe33"), 1)],
            ValueError,
            r"the keypoints of states\[1\] is \(B, 33",
        ),
    ],
)
def test_states_that_cannot_be_joined(joined, error, message):
    with pytest.raises(error, match=message):
        concat(joined(*states()))


def test_two_streams_go_on_from_one_state():
    for run, state in ((stepped, None), (streamed, None)):
        _, state = run([0, 1], slice(0, 5), 50, None)
        kept = copy.deepcopy(state)
        other = copy.copy(state)
        left, _ = run([0, 1], slice(5, 8), 50, state)
        run([2, 3], slice(5, 8), 50, other)
        again, _ = run([0, 1], slice(5, 8), 50, state)
        assert_same(left, again, 0)
        assert_same(state, kept, 0)


def test_states_are_plain_tuples_of_tensors():
    """They are pickled, copied, moved, and kept by torch.save without a class of kinlmr in the file."""
    for run, kind in ((stepped, State), (streamed, RecoveryState)):
        _, state = run([0, 1], slice(0, 5), 50, None)
        assert type(state) is kind
        buffer = io.BytesIO()
        torch.save(tuple(state), buffer)
        buffer.seek(0)
        loaded = kind(*torch.load(buffer, weights_only=True))
        for same in (pickle.loads(pickle.dumps(state)), copy.copy(state), copy.deepcopy(state), loaded):
            assert type(same) is kind
            assert_same(run([0, 1], slice(5, 8), 50, same)[0], run([0, 1], slice(5, 8), 50, state)[0], 0)
        moved = state.to("meta")
        assert {x.device.type for x in moved} == {"meta"}
        assert [x.shape for x in moved] == [x.shape for x in state]
        assert [x.dtype for x in moved.select([1])] == [x.dtype for x in state]


def test_a_state_of_another_type_fits_a_model_of_that_type():
    model = copy.deepcopy(MODEL).double()
    keypoints = SEEN[50].double()
    _, state = recover(MODEL, SEEN[50][:, :6], 50)
    wide, after = recover(model, keypoints[:, 6:], 50, state.to(torch.float64))
    assert_same(wide, [x.double() for x in recover(MODEL, SEEN[50][:, 6:], 50, state)[0]], 1e-4)
    assert {x.dtype for x in after if x.is_floating_point()} == {torch.float64}
    assert after.to(torch.float32).phase.dtype == torch.float64


def test_a_fresh_stream_is_no_stream():
    for fps in (24, 30, 50):
        fresh = recover(MODEL, walker(6, fps), fps, RecoveryState.initial(MODEL, 1))
        none = recover(MODEL, walker(6, fps), fps)
        assert_same(fresh[0], none[0], 0)
        assert_same(fresh[1], none[1], 0)
    with pytest.raises(ValueError, match="does not say which keypoints"):
        RecoveryState.initial(kinlmr.build(features=51, hidden=4), 1)


def test_nobody_is_a_crowd_too():
    recovery, state = recover(MODEL, torch.zeros(0, 3, 17, 3), 50, RecoveryState.initial(MODEL, 0))
    assert recovery.rotations.shape == (0, 3, 24, 3, 3)
    assert len(state.memory) == 0


def grown(job, frames):
    """Tensors that are alive after so many frames more than after the first fifty, and the last state."""

    def alive():
        gc.collect()
        return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())

    state, before = None, 0
    for frame in range(frames):
        state = job(frame, state)
        if frame == 50:
            before = alive()
    return alive() - before, state


SMALLEST = kinlmr.build("smpl_single.yaml", features=51, hidden=4, shape_hidden=4, iterations=1)


def step(frame, state):
    return SMALLEST.step(FEATURES[:1, frame % FRAMES], state)[1]


def test_steps_leave_nothing_behind():
    with torch.inference_mode():
        assert grown(step, 150)[0] == 0
    _, state = grown(step, 60)  # without inference_mode, autograd keeps it all
    assert state.memory.grad_fn is not None
    kept = []
    assert grown(lambda frame, state: kept.append(state) or step(frame, None), 60)[0] > 0  # the law can fail


@pytest.mark.parametrize("fps", [30, 50])
def test_a_stream_of_people_who_come_and_go_leaves_nothing_behind(fps):
    def job(frame, state):
        if frame % 10 == 9:
            state = concat([state.select([1]), RecoveryState.initial(MODEL, 1)])
        return recover(MODEL, SEEN[fps][:2, frame % FRAMES][:, None], fps, state)[1]

    more, state = grown(job, 80)
    assert more == 0
    assert all(x.grad_fn is None for x in state)
    tracemalloc.start()
    try:
        for frame in range(10):
            state = job(frame, state)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for frame in range(20):
            state = job(frame, state)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()
