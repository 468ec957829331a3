import itertools
from dataclasses import replace

import bodies
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import assert_same
from strategies import trees

import kinlmr
from kinlmr.body import kinematics as room
from kinlmr.body import skinning
from kinlmr.body.assembly import assemble
from kinlmr.rotations import axis_angle_to_matrix

EVERY = ("joints", "vertices", "keypoints")


def small(seed=0, pose=True, dtype=torch.float64, parents=(-1, 0, 1, 1, 0)):
    """A body of a few joints and vertices, with points."""
    torch.set_default_dtype(dtype)
    try:
        body = assemble({"name": np.array("body"), **bodies.arrays(parents, 11, 3, seed, pose)}, "small")
    finally:
        torch.set_default_dtype(torch.float32)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(4, 11, generator=generator, dtype=torch.float64)
    joints = torch.tensor([[0.0] * 5, [1.0, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0], [0.0] * 5])
    return body.with_keypoints("abcd", rows, joints)


def posed(body, *batch, seed=0, scale=0.5):
    """Random (rotations, shape, translation) for a body."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    vectors, shape, translation = scale * draw(len(body.joints), 3), draw(body.shape_width), draw(3)
    kind = body.template.dtype
    return axis_angle_to_matrix(vectors).to(kind), shape.to(kind), translation.to(kind)


def assert_kinematics(parents, rotations, offsets):
    """The fronts' batched products equal a loop over the joints."""
    tree = room.fronts(parents)
    assert_same(room.forward_kinematics(rotations, offsets, tree), bodies.chained(rotations, offsets, parents), 1e-12)


@given(trees(), st.integers(0, 2**16))
def test_kinematics_of_any_tree(tree, seed):
    joints, above = tree
    parents = [-1 if p is None else joints.index(p) for p in above]
    generator = torch.Generator().manual_seed(seed)
    rotations = axis_angle_to_matrix(torch.randn(2, len(parents), 3, generator=generator, dtype=torch.float64))
    assert_kinematics(parents, rotations, torch.randn(2, len(parents), 3, generator=generator, dtype=torch.float64))


def test_the_law_of_kinematics_can_fail(monkeypatch):
    rotations = axis_angle_to_matrix(torch.randn(2, 3, 3, dtype=torch.float64))
    monkeypatch.setattr(room, "fronts", lambda parents: fronts([-1, 0, 0]))
    with pytest.raises(AssertionError):
        assert_kinematics([-1, 0, 1], rotations, torch.ones(2, 3, 3, dtype=torch.float64))


fronts = room.fronts


@pytest.mark.parametrize("name", bodies.FAMILIES)
def test_equal_to_smplx_for_every_family(name):
    lbs = pytest.importorskip("smplx.lbs").lbs
    arrays = bodies.family(name)
    body = assemble(arrays, name).to(torch.float64)  # in float32 the two differ by rounding, up to 2e-6 m
    f = lambda key: torch.from_numpy(arrays[key]).double()  # noqa: E731
    posedirs = f("posedirs").flatten(0, 1).T
    theirs = dict(v_template=f("v_template"), shapedirs=f("shapedirs"), posedirs=posedirs, J_regressor=f("J_regressor"))
    generator = torch.Generator().manual_seed(0)
    vectors, shape = (torch.randn(3, *n, generator=generator) for n in ((len(body.joints), 3), (body.shape_width,)))
    inputs = (0.3 * vectors).double().requires_grad_(), shape.double().requires_grad_()
    mesh = body(axis_angle_to_matrix(inputs[0]), inputs[1], want=("joints", "vertices"))
    other = lbs(inputs[1], inputs[0].flatten(1), **theirs, parents=torch.tensor(body.parents), lbs_weights=f("weights"))
    assert_same((mesh.vertices, mesh.joints), other, 2e-7)  # smplx adds 1e-8 to every axis-angle
    weights = [torch.randn(x.shape, generator=generator).double() for x in other]
    ours = torch.autograd.grad((mesh.vertices, mesh.joints), inputs, weights)
    expected = torch.autograd.grad(other, inputs, weights)
    for one, two in zip(ours, expected, strict=True):
        assert (one - two).abs().max() < 1e-5 * two.abs().max()


def plain(body, rotations, shape, translation):
    """The docstring's equations, one after another, with autograd's own gradients."""
    template, pose = body.template.view(3, -1), body.pose_width
    others = [j for j, p in enumerate(body.parents) if p >= 0]
    factors = [(rotations[:, others] - torch.eye(3).to(shape)).flatten(1), shape] if pose else [shape]
    v = template + (torch.cat(factors, -1) @ body.basis).unflatten(-1, (3, -1))
    rest = (body.J + shape @ body.J_shapedirs).unflatten(-1, (-1, 3))
    offsets = torch.stack([rest[:, j] - (rest[:, p] if p >= 0 else 0) for j, p in enumerate(body.parents)], 1)
    turns, places = bodies.chained(rotations, offsets, body.parents)
    places = places + translation[:, None]
    shifts = places - (turns @ rest[..., None])[..., 0]
    vertices = torch.einsum("kn,bkij,bjn->bni", body.weights, turns, v) + torch.einsum(
        "kn,bki->bni", body.weights, shifts
    )
    return places, vertices


@pytest.mark.parametrize("pose", [True, False])
@pytest.mark.parametrize("tiles", [(1, 1), (70, 140), (10**6, 10**6)])
def test_values_and_gradients_of_tiles_of_any_size(monkeypatch, pose, tiles):
    monkeypatch.setattr(skinning, "TILES_CPU", tiles)
    body = small(pose=pose)
    inputs = [x.requires_grad_() for x in posed(body, 7)]
    mesh, expected = body(*inputs, want=("joints", "vertices")), plain(body, *inputs)
    assert_same(mesh[:2], expected, 1e-12)
    weights = [torch.randn_like(x) for x in expected]
    assert_same(torch.autograd.grad(mesh[:2], inputs, weights), torch.autograd.grad(expected, inputs, weights), 1e-11)


@pytest.mark.parametrize("strip", [1, 5, 33])
def test_strips_of_any_width_and_no_gradient_change_nothing(monkeypatch, strip):
    body = small()
    inputs = posed(body, 7)
    expected = plain(body, *inputs)
    for name, value in (("ROWS", 1), ("LARGE", 1), ("STRIP", strip)):
        monkeypatch.setattr(skinning, name, value)
    assert_same(body(*inputs, want=("joints", "vertices"))[:2], expected, 1e-12)
    with torch.no_grad():
        assert_same(body(*inputs, want=("joints", "vertices"))[:2], expected, 1e-12)
        many = torch.vmap(lambda *x: body(*x, want=("joints", "vertices"))[:2])(*inputs)
        assert_same(many, expected, 1e-12)


def test_gradients_check_numerically_twice():
    body = small()
    inputs = [x.requires_grad_() for x in posed(body, 2)]
    call = lambda *x: tuple(body(*x, want=EVERY))  # noqa: E731
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_a_body_that_learns_gets_its_gradient():
    body = small()
    body = replace(body, template=body.template.clone().requires_grad_())
    inputs = posed(body, 2)
    weight = torch.randn(2, 11, 3, dtype=torch.float64)
    ours = torch.autograd.grad((body(*inputs, want=("vertices",)).vertices * weight).sum(), body.template)
    expected = torch.autograd.grad((plain(body, *inputs)[1] * weight).sum(), body.template)
    assert_same(ours, expected, 1e-12)


@pytest.mark.parametrize("which", range(3))
def test_gradients_of_one_input_alone_twice(which):
    body = small()
    inputs = list(posed(body, 1))
    call = lambda x: body(*inputs[:which], x, *inputs[which + 1 :], want=EVERY)[:3]  # noqa: E731
    x = inputs[which].requires_grad_()
    assert torch.autograd.gradcheck(call, x)
    assert torch.autograd.gradgradcheck(call, x)


def test_autocast_does_not_coarsen_a_body():
    body = small(dtype=torch.float32)
    inputs = [x.requires_grad_() for x in posed(body, 3)]
    expected = body(*inputs, want=EVERY)
    with torch.autocast("cpu", torch.bfloat16):
        mesh = body(*inputs, want=EVERY)
    assert_same(mesh, expected, 0.0)
    gradients = torch.autograd.grad(sum(x.sum() for x in mesh), inputs)
    assert_same(gradients, torch.autograd.grad(sum(x.sum() for x in expected), inputs), 1e-5)


def test_bodies_of_one_joint_and_of_one_shape():
    for parents, shape in (((-1,), 3), ((-1, 0, 0), 0)):
        arrays = bodies.arrays(parents, 9, shape)
        body = assemble(arrays, "small")
        assert body.shape_width == shape
        mesh = body(*posed(body, 4), want=("joints", "vertices"))
        assert_same(mesh[:2], plain(body, *posed(body, 4)), 1e-5)


def test_zero_pose_and_shape_give_the_template():
    body = small()
    mesh = body(torch.eye(3, dtype=torch.float64).expand(5, 3, 3), want=EVERY)
    assert torch.allclose(mesh.vertices, body.template.view(3, -1).T, atol=1e-14)
    assert torch.allclose(mesh.joints, body.J.view(-1, 3), atol=1e-14)


@given(st.permutations(range(5)), st.booleans(), st.integers(0, 99))
def test_the_order_of_joints_plays_no_part(order, pose, seed):
    """The root first or not: the same body, whose joints stand otherwise, has the same mesh."""
    arrays = bodies.arrays((-1, 0, 1, 1, 0), 11, 3, seed, pose)
    one, two = (assemble(x, "small").to(torch.float64) for x in (arrays, bodies.reordered(arrays, order)))
    assert two.root == order.index(0)
    rotations, *others = posed(one, 3, seed=seed)
    here = one(rotations, *others, want=("joints", "vertices"))
    there = two(rotations[:, order], *others, want=("joints", "vertices"))
    assert_same((there.joints, there.vertices), (here.joints[:, order], here.vertices), 1e-6)  # of float32's numbers


@pytest.mark.parametrize("parents", [(-1, 0, 1, 1, 0), (1, -1, 1, 0, 2), (2, 3, 3, -1, 0), (4, 4, 1, 0, -1)])
def test_turning_the_root_turns_everything_rigidly(parents):
    body = small(parents=parents)
    rotations, shape, translation = posed(body, 3)
    turn = axis_angle_to_matrix(torch.randn(3, 3, dtype=torch.float64))
    before = body(rotations, shape, translation, want=EVERY)
    turned, moved = body.rotate_root(rotations, shape, translation, turn)
    after = body(turned, shape, moved, want=EVERY)
    assert_same(after[:2], [(turn[:, None] @ x[..., None])[..., 0] for x in before[:2]], 1e-12)
    many, _ = body.rotate_root(rotations[0], None, None, turn)
    assert torch.allclose(many[:, body.root], turn @ rotations[0, body.root], atol=1e-12)
    with pytest.raises(TypeError, match=r"rotations must be a torch\.Tensor, not ndarray"):
        body(rotations.numpy())
    turned, moved = body.rotate_root(rotations, None, None, turn[0])
    still = body(rotations, want=("vertices",)).vertices
    assert torch.allclose(body(turned, None, moved, want=("vertices",)).vertices, still @ turn[0].mT, atol=1e-12)


@settings(max_examples=20)
@given(st.sampled_from([(), (0,), (3,), (2, 3), (2, 0, 3)]), st.integers(0, 7))
def test_leading_shapes_broadcast(lead, which):
    body = small()
    full = posed(body, *lead)
    single = posed(body)
    mixed = [x if which >> i & 1 else y for i, (x, y) in enumerate(zip(full, single, strict=True))]
    mesh = body(*mixed, want=EVERY)
    lead = lead if which else ()
    widths = [(5, 3, 3), (3,), (3,)]
    flat = [x.expand(*lead, *w).reshape(-1, *w) for x, w in zip(mixed, widths, strict=True)]
    assert_same(mesh, [x.reshape(*lead, *x.shape[1:]) for x in body(*flat, want=EVERY)], 1e-14)


def test_fewer_shape_numbers_are_padded_and_more_are_refused():
    body = small()
    rotations, shape, _ = posed(body, 2)
    padded = torch.cat([shape[:, :1], torch.zeros(2, 2)], -1)
    assert_same(body(rotations, shape[:, :1], want=EVERY), body(rotations, padded, want=EVERY), 1e-13)
    with pytest.raises(ValueError, match="4 shape numbers for body 'body', which knows 3"):
        body(rotations, torch.zeros(2, 4).double())


def test_only_what_is_wanted_is_there():
    body = small()
    mesh = body(*posed(body, 2))
    assert [x.shape for x in mesh] == [(2, 5, 3), (2, 0, 3), (2, 0, 3)]
    mesh = body(*posed(body, 2, 3), want=("keypoints",))
    assert [x.shape for x in mesh] == [(2, 3, 0, 3), (2, 3, 0, 3), (2, 3, 4, 3)]


def test_joints_compile_and_vmap_and_export():
    body = small(dtype=torch.float32)
    rotations, shape, translation = posed(body, 3)
    expected = body(rotations, shape, translation).joints
    call = lambda *x: body(*x).joints  # noqa: E731
    assert torch.allclose(torch.func.vmap(call)(rotations, shape, translation), expected, atol=1e-6)
    jacobian = torch.func.jacrev(lambda r: body(r, shape).joints.sum(0))(rotations)
    assert jacobian.shape == (5, 3, *rotations.shape)
    compiled = torch.compile(call, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(rotations, shape, translation), expected, atol=1e-6)
    whole = torch.compile(lambda *x: body(*x, want=EVERY), backend="eager", fullgraph=True)
    assert_same(whole(rotations, shape, translation), body(rotations, shape, translation, want=EVERY), 1e-6)


def assert_vmaps(call, inputs):
    """Mapped over bodies, a function gives what it gives body by body; its gradients too."""
    one_by_one = [torch.stack(x) for x in zip(*(call(*each) for each in zip(*inputs, strict=True)), strict=True)]
    assert_same(torch.func.vmap(call)(*inputs), one_by_one, 1e-12)
    score = lambda *x: sum((y**2).sum() for y in call(*x))  # noqa: E731
    gradients = torch.func.vmap(torch.func.grad(score, argnums=(0, 1, 2)))(*inputs)
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(sum(score(*each) for each in zip(*leaves, strict=True)), leaves)
    assert_same(gradients, expected, 1e-11)


@pytest.mark.parametrize("want", [("joints",), ("vertices",), ("keypoints",), EVERY])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_vmap(want, lead):
    body = small()
    assert_vmaps(lambda *x: body(*x, want=want), posed(body, 3, *lead))


def test_the_law_of_vmap_can_fail():
    calls = itertools.count()
    drifting = lambda r, s, t: (r, s, t + next(calls))  # noqa: E731
    with pytest.raises(AssertionError):
        assert_vmaps(drifting, posed(small(), 3))


def test_the_transforms_of_torch_func_reach_vertices():
    body = small()
    rotations, shape, translation = posed(body, 2)
    of = lambda s: body(rotations, s, translation, want=("vertices",)).vertices  # noqa: E731
    expected = torch.autograd.functional.jacobian(of, shape)
    assert torch.allclose(torch.func.jacrev(of)(shape), expected, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(torch.func.jacrev(of)(shape), expected, atol=1e-12)
        assert torch.allclose(torch.func.vmap(lambda x: x * of(shape))(torch.ones(3).double())[1], of(shape))
    twice = torch.func.jacrev(torch.func.jacrev(lambda s: of(s).square().sum()))(shape)
    assert torch.allclose(twice, torch.autograd.functional.hessian(lambda s: of(s).square().sum(), shape), atol=1e-11)
    templates = torch.stack([body.template, 2 * body.template])
    many = torch.func.vmap(lambda t: replace(body, template=t)(rotations, want=("vertices",)).vertices)(templates)
    one_by_one = [replace(body, template=t)(rotations, want=("vertices",)).vertices for t in templates]
    assert torch.allclose(many, torch.stack(one_by_one), atol=1e-12)


def assert_a_nan_stays_in_its_body(call, inputs, row):
    """A body with a NaN spoils no other: not its joints, vertices and points, not its gradients."""
    others = [i for i in range(len(inputs[0])) if i != row]
    for which in range(3):
        odd = [x.clone() for x in inputs]
        odd[which][row].view(-1)[0] = torch.nan
        found = []
        for x in (inputs, odd):
            leaves = [y.clone().requires_grad_() for y in x]
            values = call(*leaves)
            gradients = torch.autograd.grad(sum(v.square().sum() for v in values), leaves)
            found.append([x[others] for x in (*values, *gradients)])
            spoiled = values[0][row].isnan().any()
        assert spoiled
        assert_same(*found, 1e-12)


@pytest.mark.parametrize("tiles", [(1, 1), (70, 140), (10**6, 10**6)])
@given(seed=st.integers(0, 99), row=st.integers(0, 4))
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_nan_stays_in_its_body(monkeypatch, tiles, seed, row):
    monkeypatch.setattr(skinning, "TILES_CPU", tiles)
    body = small()
    assert_a_nan_stays_in_its_body(lambda *x: body(*x, want=EVERY), posed(body, 5, seed=seed), row)


def test_the_law_of_nans_can_fail():
    body = small()
    centred = lambda r, s, t: [x - x.mean(0) for x in body(r, s, t)]  # noqa: E731
    with pytest.raises(AssertionError):
        assert_a_nan_stays_in_its_body(centred, posed(body, 5), 2)


def test_moving_a_body():
    body = small().to(torch.float32)
    assert body.template.dtype == body.keypoints.basis.dtype == torch.float32
    assert body.faces.dtype == body.fronts.order.dtype == torch.int64
    assert body.to("meta").keypoints.owner.device.type == "meta"
    assert repr(body).startswith(
        "Body(body: 5 joints, 11 vertices, 3 shape numbers, with pose directions, 4 keypoints;"
    )


def test_points_are_keypoints_under_their_old_name():
    body = small()
    inputs, old = posed(body, 2), pytest.warns(FutureWarning, match="is now .*keypoints")
    mesh = body(*inputs, want=("joints", "keypoints"))
    with old:
        assert_same(body(*inputs, want=("points", "joints")), mesh, 0.0)
    with old:
        assert mesh.points is mesh.keypoints
    with old:
        assert body.points is body.keypoints
    rows = torch.rand(1, 11)
    with old:
        again = body.with_points("a", rows)
    assert torch.equal(again.keypoints.template, body.with_keypoints("a", rows).keypoints.template)
    with pytest.warns(FutureWarning, match=r"load_body\(points=\) is now keypoints="):
        assert kinlmr.load_body("anny24_lo369", points="coco17").keypoints.names[0] == "nose"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cuda_equals_cpu():
    body = small()
    inputs = [x.requires_grad_() for x in posed(body, 70)]
    there = [x.detach().cuda().requires_grad_() for x in inputs]
    mesh, other = body(*inputs, want=EVERY), body.to("cuda")(*there, want=EVERY)
    assert_same([x.cpu() for x in other], mesh, 1e-12)
    weights = [torch.randn_like(x) for x in mesh]
    theirs = torch.autograd.grad(other, there, [w.cuda() for w in weights])
    assert_same([x.cpu() for x in theirs], torch.autograd.grad(mesh, inputs, weights), 1e-11)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b, r, s, t: b(r[:, :4], s), r"takes rotation matrices \(\.\.\., 5, 3, 3\), not \(2, 4, 3, 3\)"),
        (lambda b, r, s, t: b(r, s, t[:, :2]), r"translation has shape \(\.\.\., 3\), not \(2, 2\)"),
        (lambda b, r, s, t: b(r.float(), s), r"rotations are torch\.float32 on cpu, body 'body' is torch\.float64"),
        (lambda b, r, s, t: b(r, s.to("meta")), r"shape are torch\.float64 on meta"),
        (lambda b, r, s, t: b(r, s[:1].expand(3, 3)), r"leading shapes \(2,\), \(3,\) do not broadcast"),
        (lambda b, r, s, t: b(r, s, want=("joint",)), r"want has \['joint'\]; a Mesh has joints, vertices, keypoints"),
        (lambda b, r, s, t: replace(b, keypoints=None)(r, s, want=("keypoints",)), "has no keypoints"),
        (lambda b, r, s, t: b(r, s, want="joints"), r"want is a tuple of names, like \('joints',\)"),
        (lambda b, r, s, t: b(r, s[0, 0]), "shape has at least one axis"),
        (lambda b, r, s, t: b.rotate_root(r, s, t, r[:, 0, :2]), r"turn has shape \(\.\.\., 3, 3\), not \(2, 2, 3\)"),
        (lambda b, r, s, t: b.with_keypoints((), torch.zeros(0, 11)), "keypoints need names"),
        (lambda b, r, s, t: b.with_keypoints("a"), "keypoints need names, and rows over the vertices"),
        (lambda b, r, s, t: b.with_keypoints("a", torch.zeros(1, 10)), r"shape \(1, 10\), expected \(1, 11\)"),
        (lambda b, r, s, t: b.with_keypoints("a", torch.zeros(1, 11)), "point 'a' is given by no vertex and no joint"),
        (lambda b, r, s, t: b.with_keypoints("a", torch.full((1, 11), torch.nan)), "rows over vertices are not finite"),
    ],
)
def test_bad_input(call, message):
    body = small()
    with pytest.raises(ValueError, match=message):
        call(body, *posed(body, 2))
