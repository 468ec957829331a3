import pickle
from dataclasses import replace

import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_given_come_earlier, assert_partition, assert_restores, assert_tree_of_parts
from strategies import skeletons

import kinlmr.plan
from kinlmr import compile, load_skeleton
from kinlmr.skeleton import Part, Skeleton, installed


@given(skeletons())
def test_the_laws_of_a_plan(skeleton):
    plan = compile(skeleton)
    assert_partition(plan)
    assert_restores(plan)
    assert_given_come_earlier(plan)


@given(skeletons())
def test_order_and_reads_equal_the_plain_reference(skeleton):
    plan = compile(skeleton)
    assert list(plan.parts) == reference.plan_order(skeleton)
    for part, name in enumerate(plan.parts):
        assert {plan.parts[g] for g in plan.given(part)} == reference.given(skeleton)[name]
        assert plan.reads[part][:2] == (part, len(plan.parts))
    every = tuple(range(len(plan.parts)))
    assert plan.reads[-2:] == ((*every, len(every)), (*every, len(every), len(every) + 1))


@given(skeletons(connected=True))
def test_connected_parts_form_a_tree(skeleton):
    assert_tree_of_parts(compile(replace(skeleton, given="parents")))


@given(skeletons(), st.randoms())
def test_permuting_the_joints_permutes_the_plan(skeleton, random):
    pairs = list(zip(skeleton.joints, skeleton.parents, strict=True))
    random.shuffle(pairs)
    joints, parents = zip(*pairs, strict=True)
    plan, moved = compile(skeleton), compile(replace(skeleton, joints=joints, parents=parents))
    name = lambda p: [[p.skeleton.joints[j] for j in part] for part in p.joints]  # noqa: E731
    assert name(plan) == name(moved)
    assert (plan.parts, plan.levels, plan.reads) == (moved.parts, moved.levels, moved.reads)


@given(skeletons(connected=True))
def test_ancestors_contain_parents_and_are_closed(skeleton):
    near, far = (compile(replace(skeleton, given=mode)) for mode in ("parents", "ancestors"))
    assert near.levels == far.levels
    for part in range(len(far.parts)):
        closed = set(near.given(part)).union(*(far.given(g) for g in near.given(part)))
        assert set(far.given(part)) == closed


@given(skeletons())
def test_plans_are_values(skeleton):
    plan = compile(skeleton)
    assert hash(plan) == hash(compile(skeleton))
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_the_laws_can_fail():
    plan = compile(load_skeleton("smpl.yaml"))
    broken = replace(plan, joints=(*plan.joints[:-1], plan.joints[-2]))
    with pytest.raises(AssertionError):
        assert_partition(broken)
    with pytest.raises(AssertionError):
        assert_restores(replace(plan, restore=plan.order))
    with pytest.raises(AssertionError):
        assert_given_come_earlier(replace(plan, levels=((0, 1, 2), (3, 4, 5))))
    with pytest.raises(AssertionError):
        assert_tree_of_parts(compile(load_skeleton("smpl_ktd.yaml")))


def test_smpl_printed():
    assert str(compile(load_skeleton("smpl.yaml"))).splitlines() == [
        "smpl: 24 joints, 6 parts, 2 levels",
        "  level 0   root        4 joints  given -",
        "  level 1   head        2 joints  given root",
        "            left_arm    5 joints  given root",
        "            right_arm   5 joints  given root",
        "            left_leg    4 joints  given root",
        "            right_leg   4 joints  given root",
        "  then      shape                 given every part",
        "            camera                given every part, shape",
    ]


def test_mermaid_draws_every_edge():
    text = compile(load_skeleton("smpl.yaml")).mermaid()
    assert text.startswith("graph LR\n")
    assert text.count("-->") == 5
    assert 'p1["head (2)"]' in text


@pytest.mark.parametrize("name", installed())
def test_installed_skeletons_compile(name):
    plan = compile(load_skeleton(name))
    assert_partition(plan)
    levels = {"smpl_single.yaml": 1, "smpl_independent.yaml": 1, "smpl_ktd.yaml": 9, "smplh.yaml": 3, "smplx.yaml": 3}
    assert len(plan.levels) == levels.get(name, {"smpl_chain.yaml": 4}.get(name, 2))


def test_ten_thousand_parts_compile():
    names = [f"j{i}" for i in range(10_000)]
    chain = Skeleton("chain", tuple(names), (None, *names[:-1]), tuple(Part(n, (n,)) for n in names))
    plan = compile(chain)
    assert plan.levels == tuple((i,) for i in range(10_000))


@given(skeletons(connected=True))
def test_ancestors_are_counted_exactly(skeleton):
    skeleton = replace(skeleton, given="ancestors")
    plan = compile(skeleton)
    pairs = sum(len(plan.given(part)) for part in range(len(plan.parts)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinlmr.plan, "MAX_PAIRS", pairs)
        assert compile(skeleton) == plan
        patch.setattr(kinlmr.plan, "MAX_PAIRS", pairs - 1)
        with pytest.raises(ValueError, match=f"are given {pairs} ancestors in all, more than {pairs - 1}; write"):
            compile(skeleton)


def test_what_is_no_skeleton_is_refused():
    with pytest.raises(TypeError, match=r"takes a Skeleton, not 'smpl\.yaml'; kinlmr\.load_skeleton reads one"):
        compile("smpl.yaml")
