"""Bulk recovery: the numbers of one video alone, whatever stands beside it; nothing lost, nothing done twice."""

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

import kinlmr
from kinlmr import rotations
from kinlmr.keypoints import convert

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))
import recover_many  # noqa: E402

DEMO = np.load(ROOT / "kinlmr/video/data/demo.npz")["keypoints"]
RATES = 30, 25, 30, 30, 25, 30, 30
LENGTHS = 40, 12, 66, 20, 7, 70, 64


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """Seven videos of the man of the clip in several formats, lengths and rates, and a small model."""
    lines = []
    for i, (fps, length) in enumerate(zip(RATES, LENGTHS, strict=True)):
        rows = DEMO[1, i : i + length].astype(np.float32)
        if i == 1:
            np.save(tmp_path / "clip1.npy", rows)
        elif i == 2:
            people = [{"image_id": t, "category_id": 1, "keypoints": frame.ravel().tolist()}
                      for t, frame in enumerate(rows)]  # fmt: skip
            (tmp_path / "clip2.json").write_text(json.dumps(people))
        else:
            np.savez(tmp_path / f"clip{i}.npz", keypoints=rows, set="coco17")
        ending = {1: "npy", 2: "json"}.get(i, "npz")
        lines.append({"keypoints": f"clip{i}.{ending}", "fps": fps, "name": f"video{i}"})
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    torch.manual_seed(0)
    model = kinlmr.build("smpl.yaml", keypoints="coco17", hidden=4, shape_hidden=4, iterations=2, body="anny24_lo369")
    kinlmr.save(model, tmp_path / "model.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return tmp_path / "manifest.jsonl"


def line(out="out", *more):
    return ["manifest.jsonl", "--out", out, "--model", "model.npz", "--device", "cpu", *more]


def assert_results(out, tolerance=1e-4):
    """Every video's result is what it has alone, and nothing else is there."""
    model = kinlmr.load("model.npz")
    for i, (fps, length) in enumerate(zip(RATES, LENGTHS, strict=True)):
        with np.load(Path(out) / f"video{i}.npz") as found:
            assert float(found["fps"]) == fps
            assert found["pose"].shape == (1, length, 24, 3)
            alone, _ = kinlmr.recover(model, DEMO[1, i : i + length], fps)
            turns = rotations.axis_angle_to_matrix(torch.from_numpy(found["pose"][0]))
            assert torch.allclose(turns, alone.rotations, atol=tolerance)
            for name in ("shape", "camera", "box"):
                assert torch.allclose(torch.from_numpy(found[name][0]), getattr(alone, name), atol=tolerance, rtol=1e-4)
    assert sorted(path.name for path in Path(out).iterdir()) == [f"video{i}.npz" for i in range(len(RATES))]


@pytest.mark.parametrize("rows", ["1", "3", "64"])
def test_side_by_side_as_alone(manifest, capsys, rows):
    assert recover_many.main(line("out", "--rows", rows)) == 0
    assert f"7 sequences, {sum(LENGTHS)} frames in " in capsys.readouterr().out
    assert_results("out")
    with pytest.raises(AssertionError):
        assert_results("out", 1e-12)


def test_processes_share_the_lines_and_another_number_goes_on(manifest, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    assert recover_many.main(line()) == 0  # lines 1 and 4
    assert "rank 1 of 3: 2 sequences to do" in capsys.readouterr().out
    before = {path.name: path.stat().st_ino for path in Path("out").iterdir()}
    assert sorted(before) == ["video1.npz", "video4.npz"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert recover_many.main(line()) == 0
    assert_results("out")
    assert {name: (Path("out") / name).stat().st_ino for name in before} == before


BAD = {
    "video0.error": ('{"keypoints": "none.npz", "fps": 30, "name": "video0"}', "none.npz: no such file"),
    "line-2.error": ('{"keypoints": "clip1.npy"}', "line-2: expected .*keypoints.*fps"),
    "line-3.error": ("[}", "line-3: expected "),
    "clip3.error": ('{"keypoints": "clip3.npz", "fps": 0}', "line-4: fps is 0"),
    "line-5.error": ('{"keypoints": "clip3.npz", "fps": 30, "name": "../away"}', "names no file"),
    "line-6.error": ('{"keypoints": "clip5.npz", "fps": 30, "name": "clip3"}', "a second 'clip3'"),
    "small.error": ('{"keypoints": "small.npy", "fps": 30}', "as if they were normalised"),
    "empty.error": ('{"keypoints": "empty.npy", "fps": 30}', "nobody is seen in its 9 frames"),
    "wild.error": ('{"keypoints": "wild.npz", "fps": 30}', "wild.npz: not an .npz archive"),
}


def test_what_is_bad_is_told_and_passed_over(manifest, capsys):
    np.save("small.npy", DEMO[1, :9] / [640, 360, 1])
    np.save("empty.npy", 0 * DEMO[1, :9])
    Path("wild.npz").write_bytes(b"PK\3\4" + bytes(40))
    good = manifest.read_text().splitlines()
    manifest.write_text("\n".join([text for text, _ in BAD.values()] + good[1:]))
    assert recover_many.main(line()) == 1
    said = capsys.readouterr()
    assert "6 sequences, " in said.out
    assert "9 failed, out/*.error say why" in said.out
    assert {path.name for path in Path("out").glob("*.error")} == BAD.keys()
    for name, (_, message) in BAD.items():
        text = (Path("out") / name).read_text()
        assert len(text.splitlines()) == 1
        with pytest.raises(ValueError, match=message):
            raise ValueError(text)
    manifest.write_text("\n".join(good))
    assert recover_many.main(line()) == 0
    assert not (Path("out") / "video0.error").exists()


LONG = {
    "latin": "a" * 251,
    "chinese": "\u6f22" * 83,
    "too long": "\u6f22" * 84,
    "surrogate": "\ud800",
    "newline": "a\nb",
}


def test_no_name_ends_a_run(manifest, capsys):
    """Names of a result of 255 bytes are written; of longer ones, and those that are none, the error is."""
    lines = [{"keypoints": "clip0.npz", "fps": 30, "name": name} for name in LONG.values()]
    lines += [{"keypoints": name * 9, "fps": 30, "name": f"from {kind}"} for kind, name in LONG.items()]
    lines += [{"keypoints": "none.npz", "fps": 30, "name": "\u6f22" * 82}]
    good = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*map(json.dumps, lines), *good]))
    assert recover_many.main(line()) == 1
    assert "10 sequences, " in capsys.readouterr().out
    for kind in ("latin", "chinese", "newline"):
        assert (Path("out") / f"{LONG[kind]}.npz").is_file()
    errors = {path.name for path in Path("out").glob("*.error")}
    assert {"line-3.error", "line-4.error", *(f"from {kind}.error" for kind in LONG)} <= errors
    assert len(errors) == 8
    (Path("out") / f".{hashlib.sha256(os.fsencode(LONG['latin'] + '.npz')).hexdigest()}.12345678.part").write_bytes(b"")
    (Path("out") / f"{LONG['latin']}.npz").unlink()
    recover_many.main(line())
    assert not [path for path in Path("out").iterdir() if path.suffix == ".part"]


def test_a_name_that_the_file_system_refuses_fails_alone(manifest, monkeypatch, capsys):
    whole = recover_many.files.write_atomic

    def picky(path, data):
        if "video3" in path.name:
            raise OSError(errno.EILSEQ, "Illegal byte sequence")
        whole(path, data)

    monkeypatch.setattr(recover_many.files, "write_atomic", picky)
    assert recover_many.main(line()) == 1
    assert "video3: 'video3.npz' is no name for a file here (Illegal byte sequence)" in capsys.readouterr().err
    assert len(list(Path("out").glob("*.npz"))) == 6


def test_a_lines_rate_size_set_and_frames_reach_the_reader(manifest, capsys):
    """One who is hidden for 0.75 s is one person at any rate; what was assumed is printed."""
    x = DEMO[1, :160]
    people = [{"image_id": t + 1, "keypoints": x[t].ravel().tolist()} for t in range(3, 160) if not 60 <= t < 105]
    (manifest.parent / "clip.json").write_text(json.dumps(people))
    np.save("rows.npy", convert(x[:20], "coco17", "h36m17").numpy())
    lines = [{"keypoints": "clip.json", "fps": 60, "name": "one", "frames": 160},
             {"keypoints": "clip.json", "fps": 30, "name": "two"},
             {"keypoints": "rows.npy", "fps": 30, "name": "three", "set": "h36m17"}]  # fmt: skip
    manifest.write_text("\n".join(map(json.dumps, lines)))
    assert recover_many.main(line()) == 0
    shapes = [np.load(f"out/{name}.npz")["pose"].shape[:2] for name in ("one", "two", "three")]
    assert shapes == [(1, 160), (2, 161), (1, 20)]
    said = capsys.readouterr().err
    assert "two: its first frame with somebody is number 4; taken as counted from 0" in said
    assert "one: " not in said


def test_one_that_does_not_go_with_the_others_is_told_alone(manifest, monkeypatch, capsys):
    whole = recover_many.recovered

    def refused(model, tracks, fps):
        if any(len(track) == LENGTHS[3] for track in tracks):
            raise RuntimeError("too strange")
        return whole(model, tracks, fps)

    monkeypatch.setattr(recover_many, "recovered", refused)
    assert recover_many.main(line()) == 1
    assert "video3: RuntimeError: too strange" in capsys.readouterr().err
    assert len(list(Path("out").glob("*.npz"))) == 6


def test_who_was_away_starts_afresh(manifest):
    rows = np.concatenate([np.zeros((5, 17, 3)), DEMO[1, :20], np.zeros((40, 17, 3)), DEMO[1, 60:90]])
    np.savez("clip0.npz", keypoints=np.stack([rows, np.concatenate([np.zeros((3, 17, 3)), rows[:-3]])]))
    assert recover_many.main(line()) == 0
    with np.load("out/video0.npz") as found:
        pose = found["pose"]
    model = kinlmr.load("model.npz")
    for person, start in ((0, 5), (1, 8)):
        seen = np.zeros(len(rows), bool)
        for begin, part in ((start, DEMO[1, :20]), (start + 60, DEMO[1, 60:90])):
            part = part[: len(rows) - begin]
            alone, _ = kinlmr.recover(model, part, 30)
            turns = rotations.axis_angle_to_matrix(torch.from_numpy(pose[person, begin : begin + len(part)]))
            assert torch.allclose(turns, alone.rotations, atol=1e-4)
            seen[begin : begin + len(part)] = True
        assert np.isnan(pose[person, ~seen]).all()


def test_a_full_disk_ends_it(manifest, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"out/video\d\.npz is not written .*No space left on device.*start the same again"
    ):
        recover_many.main(line())
    assert not list(Path("out").iterdir())


KILLING = """
import os, random, signal, sys, time
from pathlib import Path
import recover_many

argv, random_, before, kills = sys.argv[1:], random.Random(0), {}, 0
while True:
    child = os.fork()
    if not child:
        os._exit(recover_many.main(argv))
    time.sleep(random_.uniform(0, 0.4))
    os.kill(child, signal.SIGKILL)
    code = os.waitpid(child, 0)[1]
    there = {path.name: path.stat().st_ino for path in Path("out").glob("*.npz")} if Path("out").is_dir() else {}
    assert before.items() <= there.items(), "a result was lost, or done again"
    before = there
    if code == 0:
        break
    kills += 1
    if kills > 15:
        sys.exit(recover_many.main(argv))
assert kills
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_killed_again_and_again_nothing_is_lost_or_done_twice(manifest):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples")]), "OMP_NUM_THREADS": "1"}
    argv = line("out", "--rows", "1")
    subprocess.run([sys.executable, "-c", KILLING, *argv], env=env, check=True, stdout=subprocess.DEVNULL)
    assert_results("out")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_processes_add_up_and_fail_as_a_whole_at_the_end(manifest, monkeypatch, capsys):
    """By torchrun's variables: this process is rank 0, and rank 1 one of its own."""
    manifest.write_text('{"keypoints": "none.npz", "fps": 30}\n' + manifest.read_text())
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    env = {**os.environ, **place, "RANK": "1", "LOCAL_RANK": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    other = subprocess.Popen([sys.executable, str(ROOT / "examples/recover_many.py"), *line()], env=env)
    joined = recover_many.runs.joined
    monkeypatch.setattr(recover_many.runs, "joined", lambda *own: joined(*own[:2], timedelta(seconds=200)))
    with patch.dict(os.environ, place):
        code = recover_many.main(line())
    assert (code, other.wait(200)) == (1, 1)
    said = capsys.readouterr().out
    assert f"7 sequences, {sum(LENGTHS)} frames in " in said
    assert "by 2 processes" in said
    (Path("out") / "none.error").unlink()
    assert_results("out")


def test_ray(manifest, monkeypatch, capfd):
    pytest.importorskip("ray")
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",
    }
    script = str(ROOT / "examples/recover_many_ray.py")
    command = [sys.executable, script, *line("out", "--rows", "2", "--workers", "2")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"7 sequences, {sum(LENGTHS)} frames in " in done.stdout
    assert_results("out")
