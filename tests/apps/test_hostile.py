"""Files that mean harm: every case of `hostile.py` is refused by name, in time, within memory; and nothing runs."""

import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import hostile
import pytest

from kinlmr.files.pickles import read_pickle
from kinlmr.skeleton import parse


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What one child process with a memory limit of its own made of every case."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("the limit of memory is Linux's")
    folder = tmp_path_factory.mktemp("hostile")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, hostile.__file__, str(folder)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_refused(found):
    """A ValueError that names the file and what is wrong; in time, within memory, inert."""
    assert found["error"] == "ValueError", found
    assert "hostile" in found["text"], found
    assert re.search(found["says"], found["text"]), found
    assert len(found["text"]) < 3000, found
    assert not found["starved"], found
    assert not found["ran"], found
    assert found["seconds"] < hostile.SECONDS, found


def test_every_hostile_file_is_refused(outcomes):
    assert len(outcomes) > 250
    for found in outcomes:
        assert_refused(found)


def test_the_law_of_refusals_can_fail(tmp_path):
    good = {"what": "body: a", "error": "ValueError", "text": "hostile.npz: cut", "says": "cut", "starved": False,
            "ran": False, "seconds": 0.1}  # fmt: skip
    assert_refused(good)
    for change in ({"error": "KeyError"}, {"text": "cut"}, {"says": "shape"}, {"starved": True}, {"ran": True},
                   {"seconds": 5.1}, {"error": ""}):  # fmt: skip
        with pytest.raises(AssertionError):
            assert_refused({**good, **change})


def test_the_child_sees_what_goes_wrong(tmp_path, monkeypatch):
    """Memory that ran out is seen behind a ValueError too."""

    def hides(path):
        try:
            raise MemoryError
        except MemoryError:
            raise ValueError("a.npz: damaged") from None

    monkeypatch.setitem(hostile.READERS, "body", hides)
    assert hostile.outcome("body", tmp_path / "a.npz")["starved"]
    monkeypatch.setitem(hostile.READERS, "body", lambda path: None)
    assert hostile.outcome("body", tmp_path / "a.npz")["error"] == ""


def test_the_sound_files_are_sound(tmp_path):
    kinds = set()
    for number, (reader, suffix, data) in enumerate(hostile.sound()):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(data)
        if reader != "video":  # tests/apps/test_video.py reads it
            hostile.READERS[reader](path)
        kinds.add(reader)
    assert kinds >= set(hostile.READERS) - {"plan", "video"}


def test_bombs_are_refused_in_little_memory():
    for bomb in hostile.yaml_bombs():
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"^bomb\.yaml"):
            parse(bomb, "bomb.yaml")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64_000_000


def test_nothing_in_a_pickle_runs_or_takes_memory(tmp_path, monkeypatch):
    before = set(sys.modules)
    for what, data in hostile.pickles(tmp_path):
        path = tmp_path / "evil.pkl"
        path.write_bytes(data)
        monkeypatch.setattr(os, "system", lambda command: pytest.fail("os.system was called"))
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"evil\.pkl: refused, nothing in it was run"):
            read_pickle(path, ["J"])
        assert tracemalloc.get_traced_memory()[1] < 64_000_000, what
        tracemalloc.stop()
        monkeypatch.undo()
        assert not (tmp_path / "ran").exists(), what
    assert "antigravity" not in set(sys.modules) - before
