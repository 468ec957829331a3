"""Drawing: the z-buffer against a slow one, laws of pictures, and PNG files read back."""

import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kinlmr
from kinlmr.body import closed, volume
from kinlmr.video import draw, raster, sheets

H, W = 21, 27
PLAIN = np.full((H, W, 3), 90, np.uint8)
TRIANGLE = np.array([[3.0, 2, 5], [22, 4, 5], [9, 18, 5]])
FARTHER = TRIANGLE + np.array([0, 0, 1])
ONE = np.array([[0, 1, 2]])


@pytest.fixture(scope="module")
def body():
    return kinlmr.load_body("anny24_lo369")


@pytest.fixture(scope="module")
def posed(body):
    """Vertices (N, 3) of a body with a bent arm and leg that faces the viewer, in the camera's frame, and its faces."""
    vectors = torch.zeros(24, 3)
    vectors[0, 0] = torch.pi
    vectors[body.joints.index("left_shoulder")] = torch.tensor([0.0, -1.4, -0.5])
    vectors[body.joints.index("right_hip")] = torch.tensor([-1.2, 0.0, 0.0])
    rotations = kinlmr.ROTATIONS["axis_angle"].to_matrix(vectors)
    return body(rotations, want=("vertices",)).vertices.double().numpy(), body.faces.numpy()


# -------------------------------------------------------------------------------------------------------- the z-buffer


def slow(points, faces, height, width):
    """Each face at each pixel's middle, by its corners' shares: depth (F, H, W), infinite outside; how near an edge."""
    depth = np.full((len(faces), height, width), np.inf)
    margin = np.full((len(faces), height, width), -np.inf)
    py, px = np.mgrid[0.5:height, 0.5:width]
    for f, face in enumerate(faces):
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = points[face]
        double = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(double) < 1e-6:
            continue
        a = ((bx - px) * (cy - py) - (by - py) * (cx - px)) / double
        b = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) / double
        c = ((ax - px) * (by - py) - (ay - py) * (bx - px)) / double
        margin[f] = np.minimum(np.minimum(a, b), c)
        depth[f] = np.where(margin[f] >= 0, a * az + b * bz + c * cz, np.inf)
    return depth, margin


def assert_sees_the_nearest(rasterise, points, faces, height=H, width=W):
    """At every pixel that no edge touches, the face seen is as near as the nearest, and its corners mix to it."""
    pixel, face, share = rasterise(points, faces, height, width)
    assert (np.diff(pixel) > 0).all()
    seen = np.full(height * width, -1)
    seen[pixel] = face
    depth, margin = slow(points, faces, height, width)
    clear = (np.abs(margin) > 1e-6).all(0).ravel()
    nearest = depth.min(0).ravel()
    assert ((seen >= 0) == np.isfinite(nearest))[clear].all()
    place = np.einsum("km,mkd->md", share, points[faces[face]])
    assert np.allclose(place[:, 0], pixel % width + 0.5, atol=1e-6)
    assert np.allclose(place[:, 1], pixel // width + 0.5, atol=1e-6)
    kept = clear[pixel]
    assert np.allclose(place[kept, 2], nearest[pixel][kept], atol=1e-6)


@st.composite
def soups(draw_from):
    """Triangles anywhere, in part or wholly outside the picture, flat ones among them."""
    count = draw_from(st.integers(3, 9))
    rng = np.random.default_rng(draw_from(st.integers(0, 10**6)))
    points = rng.uniform([-15, -15, -5], [W + 15, H + 15, 5], (count, 3))
    if draw_from(st.booleans()):
        points[:, :2] = np.round(points[:, :2] * 2) / 2  # corners and edges on pixels' middles
    return points, rng.integers(0, count, (draw_from(st.integers(1, 8)), 3))


@given(soups())
def test_the_nearest_face_is_seen(soup):
    assert_sees_the_nearest(raster.rasterise, *soup)


def test_that_law_can_fail():
    def farthest(points, faces, height, width):
        return raster.rasterise(points * [1, 1, -1], faces, height, width)

    points = np.concatenate([TRIANGLE, FARTHER])
    faces = np.array([[0, 1, 2], [3, 4, 5]])
    assert_sees_the_nearest(raster.rasterise, points, faces)
    with pytest.raises(AssertionError):
        assert_sees_the_nearest(farthest, points, faces)


def test_a_body_is_drawn_as_slowly(posed):
    vertices, faces = posed
    points = draw.weak(vertices, (0.85, 0, -0.2), (16, 20, 38))
    assert_sees_the_nearest(raster.rasterise, points, faces, 40, 32)


def test_faces_that_share_an_edge_leave_no_gap():
    for turn in np.linspace(0, np.pi, 23):
        corners = 9 * np.array([[np.cos(turn + a), np.sin(turn + a)] for a in np.arange(4) * np.pi / 2]) + [13.4, 10.3]
        points = np.column_stack([corners, np.zeros(4)])
        whole = np.zeros(H * W, bool)
        whole[raster.rasterise(points, np.array([[0, 1, 2], [0, 2, 3]]), H, W)[0]] = True
        other = np.zeros(H * W, bool)
        other[raster.rasterise(points, np.array([[0, 1, 3], [1, 2, 3]]), H, W)[0]] = True
        assert (whole == other).all()
        assert whole.sum() == pytest.approx(162, abs=12)


@pytest.mark.parametrize("rise", [0.0, 1e-310, 1e-17, 1e-13, 1e-9])
def test_edges_that_are_nearly_level(rise):
    points = np.array(
        [[-1e9, 4.25, 0], [1e12, 4.25 + rise, 0], [1e3, 15.25, 0], [13, -7.0, 1], [0, -rise, 1], [9, rise, 1]]
    )
    assert_sees_the_nearest(raster.rasterise, points[3:], ONE)
    assert len(raster.rasterise(points[:3], ONE, H, W)[0]) > 0
    level = np.array([[2.0, 4.25, 0], [20, 4.25 + rise, 0], [11, 15.25, 0]])
    assert_sees_the_nearest(raster.rasterise, level, ONE)


def test_work_in_pieces_is_the_same_work(posed, monkeypatch):
    points = draw.weak(posed[0], (0.9, 0, 0), (32, 32, 64))
    whole = raster.rasterise(points, posed[1], 64, 64)
    monkeypatch.setattr(raster, "FRAGMENTS", 50)
    for one, two in zip(whole, raster.rasterise(points, posed[1], 64, 64), strict=True):
        assert (one == two).all()


def test_a_mesh_without_a_rim_is_told():
    solid = np.array([[0, 1, 2], [0, 3, 1], [1, 3, 2], [2, 3, 0]])
    assert closed(solid, 4)
    assert not closed(solid[:3], 4)
    assert not closed(np.concatenate([solid[:3], solid[3:, ::-1]]), 4)
    points = np.array([[0.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    assert volume(points, solid) == pytest.approx(1)
    assert volume(points, solid[:, ::-1]) == pytest.approx(-1)


# ---------------------------------------------------------------------------------------------------------- the picture


def changed(picture, before=PLAIN):
    return (picture != before).any(2)


def test_what_looks_away_is_hidden_anyway(posed):
    """A closed mesh is drawn by half its faces; with a face more it is not closed, and is drawn by all of them."""
    vertices, faces = posed
    points = draw.weak(vertices, (0.9, 0, 0), (40, 40, 80))
    plain = np.zeros((80, 80, 3), np.uint8)
    further = np.concatenate([points, TRIANGLE - 99])  # a face outside the picture
    more = np.concatenate([faces, ONE + len(points)])
    assert closed(faces, len(points))
    assert not closed(more, len(further))
    half, all_of_them = draw.mesh(plain, points, faces), draw.mesh(plain, further, more)
    assert changed(half, plain).sum() > 500
    assert (half == all_of_them).all()


@given(st.integers(-8, 8), st.integers(-8, 7), st.integers(1, 3))  # one lower, and its lowest row is out of the picture
def test_a_mesh_moves_with_its_vertices(dx, dy, samples):
    small = TRIANGLE * [0.3, 0.3, 1] + [9, 8, 0]
    here = draw.mesh(PLAIN, small, ONE, samples=samples)
    there = draw.mesh(PLAIN, small + np.array([dx, dy, 0]), ONE, samples=samples)
    assert changed(here).any()
    assert np.abs(np.roll(here, (dy, dx), (0, 1)).astype(int) - there).max() <= 1


def test_the_order_of_faces_does_not_matter(posed):
    vertices, faces = posed
    points = draw.weak(vertices, (0.9, 0, 0), (40, 40, 80))
    plain = np.zeros((80, 80, 3), np.uint8)
    shuffled = np.random.default_rng(0).permutation(faces)
    assert np.abs(draw.mesh(plain, points, faces).astype(int) - draw.mesh(plain, points, shuffled)).max() <= 1


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
@pytest.mark.parametrize("focal", [None, 30.0])
def test_the_nearer_triangle_wins(order, focal):
    points = np.concatenate([TRIANGLE, FARTHER])
    color = np.repeat([[1.0, 0, 0], [0, 0, 1]], 3, 0)
    faces = np.array([[0, 1, 2], [3, 4, 5]])[order]
    picture = draw.mesh(PLAIN, points, faces, color, opacity=1, focal=focal)
    assert (picture[changed(picture)].astype(int) @ [1, 0, -1] > 0).all()


def test_opacity_mixes_with_what_was_there():
    noise = np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8)
    assert (draw.mesh(noise, TRIANGLE, ONE, opacity=0) == noise).all()
    solid, half = (draw.mesh(noise, TRIANGLE, ONE, opacity=opacity).astype(float) for opacity in (1, 0.5))
    assert np.abs(half - (noise + solid) / 2).max() <= 1
    where = changed(draw.mesh(PLAIN, TRIANGLE, ONE))
    assert (solid[where] == draw.mesh(PLAIN, TRIANGLE, ONE, opacity=1)[where]).all()
    assert (solid[~where] == noise[~where]).all()


def test_more_samples_cover_what_the_triangle_covers():
    white = np.zeros((H, W, 3), np.uint8)
    area = abs(float(raster.area(TRIANGLE, ONE)[0])) / 2
    full = draw.mesh(white, TRIANGLE, ONE, opacity=1, samples=1)[8, 11].astype(float)
    for samples, tolerance in ((1, 0.06), (2, 0.02), (4, 0.005), (8, 0.003)):
        picture = draw.mesh(white, TRIANGLE, ONE, opacity=1, samples=samples)
        assert (picture / full).mean(2).sum() == pytest.approx(area, rel=tolerance)


def test_either_side_of_a_face_is_lit():
    there, back = (draw.mesh(PLAIN, TRIANGLE, ONE[:, ::step]) for step in (1, -1))
    assert changed(there).any()
    assert (there == back).all()


def test_light_comes_from_above_and_does_not_depend_on_the_size(posed):
    vertices, faces = posed
    pictures = []
    for size in (60, 120):
        plain = np.zeros((size, size, 3), np.uint8)
        pictures.append(
            draw.mesh(plain, draw.weak(vertices, (0.9, 0, 0), (size / 2, size / 2, size)), faces, samples=2)
        )
    small, large = pictures
    halved = large.reshape(60, 2, 60, 2, 3).mean((1, 3))
    assert np.abs(halved - small).mean() < 2
    tent = np.array([[4.0, 10, 0], [22, 10, 0], [13, 2, 8], [13, 18, 8]])  # its edge towards the viewer
    picture = draw.mesh(PLAIN, tent, [[0, 2, 1], [0, 1, 3]])
    assert picture[7, 13].sum() > picture[13, 13].sum() + 60


# ------------------------------------------------------------------------------------------------------------- cameras


def cast(origin, ray, a, b, c):
    """How far along a ray a triangle is met; None where it is not."""
    normal = np.cross(b - a, c - a)
    if abs(normal @ ray) < 1e-9:
        return None
    t = normal @ (a - origin) / (normal @ ray)
    hit = origin + t * ray
    inside = all(np.cross(q - p, hit - p) @ normal > 1e-9 for p, q in ((a, b), (b, c), (c, a)))
    return t if inside and t > 0 else None


def test_a_pinhole_sees_what_its_rays_meet():
    """Two triangles that cross, far nearer at one end: where they cut each other is right only with depth as 1 / z."""
    solid = np.array([[-1.0, -1, 1.2], [1, -1, 6], [0, 1.2, 3], [-1, -1, 4], [1, -1, 2.5], [0, 1, 2]])
    faces, focal = np.array([[0, 1, 2], [3, 4, 5]]), 18.0
    color = np.repeat([[1.0, 0, 0], [0, 0, 1]], 3, 0)
    points = draw.pinhole(solid, (0, 0, 0), focal, (H, W))
    picture = draw.mesh(PLAIN, points, faces, color, opacity=1, focal=focal).astype(int)
    both = 0
    for y in range(H):
        for x in range(W):
            ray = np.array([(x + 0.5 - W / 2) / focal, (y + 0.5 - H / 2) / focal, 1.0])
            far = [cast(np.zeros(3), ray, *solid[face]) for face in faces]
            both += None not in far
            if None not in far and abs(far[0] - far[1]) > 1e-3:
                assert (picture[y, x, 0] > picture[y, x, 2]) == (far[0] < far[1])
            elif far != [None, None] and None in far:
                assert changed(picture)[y, x]
    assert both > 40


def test_what_is_behind_the_camera_is_left_out():
    solid = np.concatenate([TRIANGLE * [0.1, 0.1, 1], TRIANGLE * [0.1, 0.1, -1], TRIANGLE * [0.1, 0.1, 0]])
    solid[-1, 2] = 3  # the third triangle reaches from the camera's plane forward
    points = draw.pinhole(solid, (-1, -1, 0), 20.0, (H, W))
    ahead = draw.mesh(PLAIN, points, ONE, focal=20.0)
    assert changed(ahead).any()
    assert (draw.mesh(PLAIN, points, [[0, 1, 2], [3, 4, 5], [6, 7, 8]], focal=20.0) == ahead).all()
    assert changed(draw.mesh(PLAIN, TRIANGLE * [1, 1, -1], ONE)).any()  # weak perspective has no behind


def test_places_are_the_cameras(posed):
    vertices = torch.from_numpy(posed[0])
    camera, box = torch.tensor([0.8, 0.1, -0.2]).double(), torch.tensor([50.0, 70, 90]).double()
    there = kinlmr.camera.from_crop(kinlmr.project(vertices, camera), box).numpy()
    points = draw.weak(vertices, camera, box)
    assert np.allclose(points[:, :2], there)
    assert np.allclose(np.ptp(points[:, 2]) / np.ptp(points[:, 0]), np.ptp(posed[0][:, 2]) / np.ptp(posed[0][:, 0]))
    translation = torch.tensor([0.2, -0.1, 4.0]).double()
    there = kinlmr.camera.perspective(vertices, translation, 500.0).numpy() + np.array([160, 120])
    points = draw.pinhole(vertices, translation, 500.0, (240, 320))
    assert np.allclose(points[:, :2], there)
    assert np.allclose(points[:, 2], vertices[:, 2].numpy() + 4)


def test_both_cameras_agree_from_afar(posed):
    vertices, faces = posed
    plain = np.zeros((90, 90, 3), np.uint8)
    near = draw.mesh(plain, draw.weak(vertices, (0.9, 0, 0), (45, 45, 90)), faces)
    focal, depth = 4e4, 4e4 / (0.9 * 45)
    far = draw.mesh(plain, draw.pinhole(vertices, (0, 0, depth), focal, (90, 90)), faces, focal=focal)
    assert (changed(near, plain) != changed(far, plain)).mean() < 0.003
    both = changed(near, plain) & changed(far, plain)
    assert np.abs(near[both].astype(int) - far[both]).mean() < 2


# ---------------------------------------------------------------------------------------------- side view and skeleton


def red(picture):
    return picture[..., 0] - picture[..., 2].astype(int) > 60


def test_the_side_view_shows_depth(posed):
    vertices, faces = posed
    empty = draw.side_view(vertices, np.zeros((0, 3), int), (200, 200), span=2.5)
    for turn, axis in ((0, 0), (90, 2)):
        picture = draw.side_view(vertices, faces, (200, 200), turn, span=2.5, color=(1.0, 0.0, 0.0))
        columns = np.flatnonzero(red(picture).any(0))
        assert np.ptp(columns) + 1 == pytest.approx(np.ptp(vertices[:, axis]) * 200 / 2.5, abs=2.5)
        assert changed(picture, empty).any()
    fitted = draw.side_view(vertices, faces, (150, 60))
    assert fitted.shape == (150, 60, 3)
    moved = draw.side_view(vertices + np.array([3, -1, 9]), faces, (150, 60))
    assert np.abs(fitted.astype(int) - moved).max() <= 3  # where the body was does not matter


def test_the_body_that_faced_the_viewer_looks_to_the_right():
    nose = np.array([[0.0, 0, 0], [0, 0.1, 0], [0, 0.05, -0.6]])  # z runs away from the viewer
    picture = draw.side_view(nose, [[0, 1, 2]], (60, 60), span=1.0, color=(1.0, 0, 0))
    tall = red(picture).sum(0)
    tall = tall[tall > 0]
    assert tall[0] > tall[-1]  # broad at the left, where the face is; its point at the right


def test_a_skeleton_is_where_its_points_are():
    points = [[5.5, 5.5], [20.5, 5.5], [20.5, 15.5]]
    picture = draw.skeleton(PLAIN, points, [(0, 1), (1, 2)], color=(1.0, 0, 0), width=2)
    for x, y in points:
        assert (picture[int(y), int(x)] == [255, 0, 0]).all()
    assert (picture[5, 12] == [255, 0, 0]).all()
    where = changed(picture)
    ys, xs = np.nonzero(where)
    near = np.minimum(np.abs(ys + 0.5 - 5.5) + 99 * (xs > 24), np.abs(xs + 0.5 - 20.5))
    assert near.max() <= 4
    fades = draw.skeleton(PLAIN, [[5.5, 5.5, 0.5]], [], color=(1.0, 0, 0))[5, 5].astype(int)
    assert 90 < fades[0] < 255
    assert fades[1] > 0


def test_a_skeletons_edges_are_smooth():
    black = np.zeros((40, 40, 3), np.uint8)
    picture = draw.skeleton(black, [[-20.0, 3], [60, 31]], [(0, 1)], color=(1.0, 1, 1), width=4)
    length = np.hypot(80, 28) * 40 / 80
    assert picture[..., 0].sum() / 255 == pytest.approx(4 * length, rel=0.02)
    assert ((picture > 0) & (picture < 255)).any()


def test_unseen_points_are_not_drawn():
    points = [[5.0, 5, 1], [np.nan, np.nan, 0], [15, 9, 1]]
    picture = draw.skeleton(PLAIN, points, [(0, 1), (1, 2)])
    assert (picture == draw.skeleton(PLAIN, [points[0], points[2]], [])).all()
    assert (draw.skeleton(PLAIN, [[-50.0, 5], [500, 999]], []) == PLAIN).all()


# --------------------------------------------------------------------------------------------------- sheets and files


def decoded(data):
    """The picture in a PNG of eight-bit RGB with filters 0 to 2, by the standard."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, kinds, body = 8, [], b""
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        kind, content = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        assert struct.unpack(">I", data[place + 8 + size : place + 12 + size])[0] == zlib.crc32(kind + content)
        kinds.append(kind)
        if kind == b"IHDR":
            width, height, *rest = struct.unpack(">IIBBBBB", content)
            assert rest == [8, 2, 0, 0, 0]
        body += content if kind == b"IDAT" else b""
        place += 12 + size
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, 1 + 3 * width)
    out = np.zeros((height, width, 3), np.uint8)
    for y, (way, *row) in enumerate(rows.tolist()):
        plain = np.array(row, np.uint8).reshape(width, 3)
        if way == 1:
            plain = np.cumsum(plain, 0, dtype=np.uint8)
        elif way == 2 and y:
            plain = plain + out[y - 1]
        out[y] = plain
    return out


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6), st.booleans())
def test_png_files_are_read_back(tmp_path_factory, height, width, seed, smooth):
    path = tmp_path_factory.mktemp("png") / "picture.png"
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    if smooth:
        picture[:] = np.arange(height)[:, None, None] * 20 + np.arange(width)[:, None] * 3
    draw.write_png(path, picture)
    assert (decoded(path.read_bytes()) == picture).all()


def test_another_library_reads_the_png(tmp_path, posed):
    image = pytest.importorskip("PIL.Image")
    picture = draw.side_view(*posed, (120, 90))
    draw.write_png(tmp_path / "body.png", picture)
    with image.open(tmp_path / "body.png") as file:
        assert (np.asarray(file) == picture).all()


def test_a_png_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.png"):
        draw.write_png(tmp_path / "picture.jpg", PLAIN)
    with pytest.raises(ValueError, match="0 x 4"):
        draw.write_png(tmp_path / "picture.png", np.zeros((4, 0, 3), np.uint8))
    with pytest.raises(ValueError, match="does not exist"):
        draw.write_png(tmp_path / "no" / "picture.png", PLAIN)
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_holds_its_pictures():
    pictures = [np.full((8, 10, 3), 10 * k, np.uint8) for k in range(5)]
    page = draw.sheet(pictures, columns=3, gap=2)
    assert page.shape == (2 * 8 + 3 * 2, 3 * 10 + 4 * 2, 3)
    for k, picture in enumerate(pictures):
        y, x = 2 + k // 3 * 10, 2 + k % 3 * 12
        assert (page[y : y + 8, x : x + 10] == picture).all()
    mixed = draw.sheet([np.zeros((4, 4, 3), np.uint8), np.zeros((9, 2, 3), np.uint8)], gap=0)
    assert mixed.shape == (9, 8, 3)
    assert (mixed == 0).all(2).sum() == 16 + 18


def test_labels_differ_and_stay_in_their_picture():
    dark = np.zeros((24, 200, 3), np.uint8)
    every = {letter: draw.label(dark, letter) for letter in sheets.LETTERS}
    seen = {picture.tobytes() for picture in every.values()}
    assert len(seen) == len(every) - 1  # 0 and O look alike
    assert (draw.label(dark, "a b") == draw.label(dark, "A B")).all()
    assert (draw.label(dark, "é~") == dark).all()
    page = draw.sheet([dark, dark], labels=["one", "two"])
    assert (page == draw.sheet([draw.label(dark, "one"), draw.label(dark, "two")])).all()


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (0, 5)])
def test_any_size_of_picture(size):
    picture = np.full((*size, 3), 7, np.uint8)
    for samples in (1, 2):
        out = draw.mesh(picture, [[-9.0, -9, 0], [900, -9, 0], [-9, 900, 0]], ONE, samples=samples)
        assert out.shape == picture.shape
        assert (out != 7).all()
    assert draw.skeleton(picture, [[0.0, 0.0], [5, 5]], [(0, 1)]).shape == picture.shape


def test_nothing_to_draw_leaves_the_picture():
    for vertices, faces in (
        (TRIANGLE, []),
        (np.zeros((0, 3)), []),
        (TRIANGLE + np.array([0, 99, 0]), ONE),
        (TRIANGLE, [[0, 0, 1]]),
    ):
        out = draw.mesh(PLAIN, vertices, faces)
        assert (out == PLAIN).all()
        assert out is not PLAIN
    assert draw.side_view(np.zeros((0, 3)), [], (20, 30)).shape == (20, 30, 3)


def test_pictures_given_are_not_written_to():
    before = PLAIN.copy()
    before.flags.writeable = False
    draw.mesh(before, TRIANGLE, ONE)
    draw.skeleton(before, TRIANGLE[:, :2], [(0, 1)])
    draw.label(before, "A")
    assert (before == PLAIN).all()


BROKEN = np.where(np.arange(9).reshape(3, 3) == 4, np.nan, TRIANGLE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw.mesh(PLAIN, BROKEN, ONE), "vertices has a number that is not finite in row 1"),
        (lambda: draw.mesh(PLAIN, TRIANGLE[:, :2], ONE), r"vertices has shape \(N, 3\), not \(3, 2\)"),
        (lambda: draw.mesh(PLAIN, TRIANGLE, [[0, 1, 3]]), r"faces name vertices 0 \.\. 3, there are 3"),
        (lambda: draw.mesh(PLAIN, TRIANGLE, [[-1, 1, 2]]), r"faces name vertices -1 \.\. 2"),
        (lambda: draw.mesh(PLAIN, TRIANGLE, [[0.0, 1, 2]]), "whole numbers"),
        (lambda: draw.mesh(PLAIN / 255, TRIANGLE, ONE), "uint8"),
        (lambda: draw.mesh(PLAIN[..., 0], TRIANGLE, ONE), r"\(H, W, 3\)"),
        (lambda: draw.mesh(PLAIN, TRIANGLE, ONE, color=(1, 0)), r"color has shape \(3,\) or \(3, 3\)"),
        (lambda: draw.mesh(PLAIN, TRIANGLE, ONE, opacity=1.5), "opacity is between 0 and 1"),
        (lambda: draw.mesh(PLAIN, TRIANGLE, ONE, samples=0), "samples is 1 to 8"),
        (lambda: draw.mesh(PLAIN, TRIANGLE, ONE, focal=0.0), "focal is more than 0"),
        (lambda: draw.weak(TRIANGLE, (1, 0), (0, 0, 1)), "camera is three finite numbers"),
        (lambda: draw.weak(BROKEN, (1, 0, 0), (0, 0, 1)), "not finite in row 1"),
        (lambda: draw.side_view(TRIANGLE, ONE, (0, 5)), r"size is \(height, width\)"),
        (lambda: draw.side_view(TRIANGLE, ONE, span=-1.0), "span is more than 0"),
        (lambda: draw.skeleton(PLAIN, BROKEN[:, :2], []), "points has a number that is not finite in row 1"),
        (lambda: draw.skeleton(PLAIN, [[1.0, 2, 3]], []), "point 0 has 3.0"),
        (lambda: draw.skeleton(PLAIN, [[1.0, 2]], [(0, 1)]), r"bone \(0, 1\) does not join two of the points 0 \.\. 0"),
        (lambda: draw.skeleton(PLAIN, [1.0, 2], []), r"points has shape"),
        (lambda: draw.sheet([]), "no pictures"),
        (lambda: draw.sheet([PLAIN], labels=["a", "b"]), "2 labels for 1 pictures"),
        (lambda: draw.sheet([PLAIN], columns=-1), "columns is at least 1"),
    ],
)
def test_bad_input_is_refused_with_its_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
