"""Training and scoring on a few frames: what is written, what refused, and that a resumed run equals a whole one."""

import csv
import errno
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

import kinlmr
from kinlmr.body.points import keypoint_sets
from kinlmr.motion import clips
from kinlmr.motion.archives import load_motion, save_motion

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))
import evaluate  # noqa: E402
import networks  # noqa: E402
import real  # noqa: E402
import runs  # noqa: E402
import train  # noqa: E402
import train_minimal  # noqa: E402

load_body = functools.cache(functools.partial(kinlmr.load_body, "anny24_lo369"))


@functools.cache
def recordings():
    return load_motion(ROOT / "examples/data/motion.npz", "anny24_lo369")


@pytest.fixture
def motions(tmp_path, monkeypatch):
    """Two short recordings, of a subject each, in motion.npz in a folder of its own; a small mesh."""
    short = [
        replace(
            m, axis_angle=m.axis_angle[:n], translation=m.translation[:n], name=name, subject=f"{name}_01", action=name
        )
        for m, name, n in zip(recordings(), ("held", "kept"), (95, 120), strict=True)
    ]
    save_motion([*short, replace(short[0], name="other", subject="someone")], tmp_path / "motion.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kinlmr, "load_body", lambda name, keypoints: load_body(keypoints=keypoints))
    monkeypatch.setattr(train, "VALIDATE", 4)
    return short


@pytest.fixture
def body():
    return load_body(keypoints="coco17")


@pytest.fixture
def run(motions, monkeypatch):
    """Runs train.py in this process, for twelve steps."""

    def call(*options):
        names = ["--motion", "motion.npz", "--validate", "held_01", "--leave", "someone"]
        sizes = ["--hidden", "4", "--shape-hidden", "4", "--batch", "2", "--steps", "12", "--cooldown", "4"]
        line = ["train.py", *names, *sizes, "--device", "cpu", "--out", "out", *map(str, options)]
        monkeypatch.setattr(sys, "argv", line)
        train.main()

    return call


def assert_same_checkpoint(one, two, tolerance=0.0):
    """Two checkpoints hold the same numbers: weights, averaged weights and the optimizer's moments."""
    left, right = (torch.load(path, weights_only=True) for path in (one, two))
    assert left["step"] == right["step"]
    for name in ("network", "average"):
        assert left[name].keys() == right[name].keys()
        for key, value in left[name].items():
            assert torch.allclose(value, right[name][key], atol=tolerance, rtol=0), key
    pairs = [(one, two) for one, two in zip(left["optimizers"], right["optimizers"], strict=True)]
    for i, state, other in [(i, state, two["state"]) for one, two in pairs for i, state in one["state"].items()]:
        for key, value in state.items():
            assert torch.allclose(value, other[i][key], atol=tolerance, rtol=0), key


@pytest.mark.parametrize("options", [(), ("--baseline",)])
def test_resumed_equals_uninterrupted(run, capsys, monkeypatch, options):
    run("--out", "whole", *options)
    assert "trained 12 steps; whole/ holds" in capsys.readouterr().out
    step, taken = torch.optim.AdamW.step, []

    def interrupted(self, *args, **kwargs):
        taken.append(1)
        if len(taken) == 6:  # in the middle of the second clip
            signal.raise_signal(signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(SystemExit, match="143"):
        run("--out", "parts", *options)
    said = capsys.readouterr().out
    assert "stopped at step 8; this goes on: python train.py --motion motion.npz" in said
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(AssertionError):
        assert_same_checkpoint("whole/checkpoint.pt", "parts/checkpoint.pt")
    run("--out", "parts", *options)
    assert "from step 8" in capsys.readouterr().out
    for name in ("checkpoint.pt", "constant.pt"):
        assert_same_checkpoint(f"whole/{name}", f"parts/{name}")
    assert Path("whole/curve.csv").read_text() == Path("parts/curve.csv").read_text()
    rows = list(csv.DictReader(Path("whole/curve.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    assert all(float(row["pa_mpjpe, noise usual"]) > 0 for row in rows)
    network = networks.load_network("whole/baseline.pt" if options else "whole/model.npz")
    assert isinstance(network, networks.PerFrame if options else kinlmr.LMR)
    saved = torch.load("whole/checkpoint.pt", weights_only=True)["average"]
    assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in more.items()}}


RANK_1 = """
import kinlmr, train
load = kinlmr.load_body
kinlmr.load_body = lambda name, keypoints: load("anny24_lo369", keypoints=keypoints)
train.main()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_equal_one_with_twice_the_batch(run, monkeypatch):
    """By srun's variables: this process is rank 0, and rank 1 one of its own."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    joined = functools.partial(runs.joined, wait=timedelta(seconds=200))
    monkeypatch.setattr(runs, "joined", joined)
    sizes = ["--validate", "--steps", 8, "--cooldown", 0]
    run("--out", "one", *sizes, "--batch", 4)
    run("--out", "parts", *sizes, "--batch", 4, "--accumulate", 2)
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "SLURM_NTASKS": "2"}
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    line = sys.argv[1 : sys.argv.index("parts") - 1]
    line += ["--out", "two", *map(str, sizes)]
    other = subprocess.Popen(
        [sys.executable, "-c", RANK_1, *line],
        env=environment(**place, SLURM_PROCID=1, SLURM_LOCALID=1, PYTHONPATH=path),
        stdout=subprocess.DEVNULL,
    )
    with patch.dict(os.environ, place | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}):
        run("--out", "two", *sizes)
    assert other.wait(200) == 0
    assert_same_checkpoint("two/checkpoint.pt", "parts/checkpoint.pt")
    assert_same_checkpoint("two/checkpoint.pt", "one/checkpoint.pt", 1e-5)
    weights = torch.load("one/checkpoint.pt", weights_only=True)["network"]
    assert weights["camera.head.bias"].abs().min() > 2e-5  # which began at zero, and moved more than the tolerance


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_a_dead_process_ends_the_job_is_named_and_another_number_goes_on(run, capsys):
    """From one process to two, of which one is killed, to one again: always four clips in a batch."""
    sizes = ["--batch", "4", "--validate", "--leave", "someone", "held_01"]
    run(*sizes, "--steps", 4)
    line = sys.argv[1:]
    line[line.index("--steps", line.index("--steps") + 1) + 1] = "1000000"
    line += ["--batch", "2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with open("log", "w") as log:
        script = str(ROOT / "examples/train.py")
        job = subprocess.Popen([*torchrun, script, *line], env=environment(), stdout=log, stderr=log)
    while not ("from step 4" in (said := Path("log").read_text()) and "rank 1" in said):
        assert job.poll() is None, said
        time.sleep(0.05)
    assert "batches of 4 clips: 2 in each of 2 processes" in said
    os.kill(int(re.search(r"rank 1 of 2: process (\d+)", said)[1]), signal.SIGKILL)
    assert job.wait(60) == 1
    cause = Path("log").read_text().split("Root Cause")[1]
    assert re.search(r"rank +: 1 .*\n +exitcode +: -9 ", cause)
    capsys.readouterr()
    run(*sizes, "--steps", 8)
    said = capsys.readouterr().out
    assert re.search(r"from step \d+\nbatches of 4 clips: 4 in each of 1 processes", said)
    with pytest.raises(SystemExit, match=r"a run with batch 4, not 2 \(batch is of all .* --batch 4 for each of 1\)"):
        run("--batch", 2, "--validate", "--leave", "someone", "held_01")


def test_confidences_are_seen_by_the_models_map(run, monkeypatch):
    """The same training as on clips whose confidences were mapped before."""
    run("--out", "mapped", "--steps", 4, "--validate", "--confidence", 0.7, 0.28)
    assert kinlmr.load("mapped/model.npz").options.confidence == (0.7, 0.28)
    sample = clips.sample

    def before(*given):
        clip = sample(*given)
        x = clip.features.clone()
        x[..., 2::3] = torch.where(x[..., 2::3] > 0, 0.7 + 0.28 * x[..., 2::3], 0)
        return clip._replace(features=x)

    run("--out", "plain", "--steps", 4, "--validate")
    monkeypatch.setattr(clips, "sample", before)
    run("--out", "before", "--steps", 4, "--validate")
    plain, mapped, expected = (kinlmr.load(f"{x}/model.npz").state_dict() for x in ("plain", "mapped", "before"))
    assert all(torch.allclose(value, expected[name], atol=1e-7) for name, value in mapped.items())
    assert not torch.equal(plain["camera.head.weight"], mapped["camera.head.weight"])


def test_a_run_begins_with_the_mean_of_models_and_checkpoints(run):
    """A model.npz holds a run's averaged weights, as its checkpoint does; --steps 0 leaves the mean as it is."""
    run("--out", "one", "--steps", 4, "--validate")
    run("--out", "two", "--steps", 4, "--validate", "--seed", 1)
    run("--out", "mean", "--steps", 0, "--validate", "--start", "one/model.npz", "two/checkpoint.pt")
    one, two, mean = (kinlmr.load(f"{name}/model.npz").state_dict() for name in ("one", "two", "mean"))
    for key, value in mean.items():
        assert torch.allclose(value, (one[key] + two[key]) / 2, atol=1e-7), key
    assert not torch.equal(one["camera.head.bias"], two["camera.head.bias"])
    run("--out", "other", "--steps", 0, "--validate", "--start", "one/model.npz", "--shape-hidden", 6)
    other = kinlmr.load("other/model.npz").state_dict()
    assert torch.equal(other["camera.head.bias"], one["camera.head.bias"])
    assert other["shape.fc1.bias"].shape == (6,)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody.npz", "nobody.npz"),
        ("nobody.pt", "--start nobody.pt: .*No such file"),
        ("motion.pt", "--start motion.pt: "),
        ("other.pt", "--start other.pt: no checkpoint of this script"),
        ("frame.pt", "--start frame.pt: .* is not there; give an LMR of smpl.yaml"),
        ("anny24-coco17", "--start anny24-coco17: .* has another size there; give --hidden its hidden size"),
    ],
)
def test_a_start_that_is_no_model_is_refused(run, name, said):
    Path("motion.pt").write_bytes(Path("motion.npz").read_bytes())
    torch.save({"a": 1}, "other.pt")
    torch.save({"average": {"layers.0.weight": torch.zeros(2, 2)}}, "frame.pt")
    with pytest.raises(SystemExit, match=said):
        run("--start", name)


@pytest.mark.parametrize("option", [("--start", "anny24-coco17"), ("--confidence", 0.7, 0.28)])
def test_the_baseline_has_no_start_and_no_map(run, capsys, option):
    with pytest.raises(SystemExit, match="2"):
        run("--baseline", *option)
    assert "--start and --confidence are LMR's, and --baseline is another network" in capsys.readouterr().err


def test_a_batch_is_divided_into_equal_parts(motions, run, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("--batch", 3, "--accumulate", 2)
    assert "--batch 3 cannot be divided into --accumulate 2 equal parts" in capsys.readouterr().err


def test_the_rate_warms_up_stays_and_falls():
    rates = [train.schedule(step, 1000, 400)[0] for step in range(1000)]
    assert rates[0] == pytest.approx(1 / train.WARM)
    assert set(rates[train.WARM : 600]) == {1.0}
    assert rates[800] == pytest.approx(1 / 2)
    assert rates[999] == pytest.approx(1 / 400)
    stays = [train.schedule(step, 100_000, 400)[1] for step in (0, 1000, 99_599, 99_600)]
    assert stays == pytest.approx([0.1, 1001 / 1010, train.AVERAGE, train.COOL])


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGUSR1", 143), ("SIGINT", 130)])
def test_a_signal_finishes_the_clip_saves_and_says_how_to_go_on(run, monkeypatch, capsys, number, code):
    step = torch.optim.AdamW.step

    def signalled(self, *args, **kwargs):
        signal.raise_signal(getattr(signal, number))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", signalled)
    with pytest.raises(SystemExit) as end:
        run("--validate")
    assert end.value.code == code
    assert "stopped at step 4; this goes on: python train.py --motion motion.npz" in capsys.readouterr().out
    assert torch.load("out/checkpoint.pt", weights_only=True)["step"] == 4


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(run, monkeypatch, capsys):
    run("--validate", "--steps", 4)
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    monkeypatch.setattr(train, "SAVE", 4)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sync = os.fsync
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit, match="1"):
        run("--validate", "--steps", 12, "--cooldown", 0)
    monkeypatch.setattr(os, "fsync", sync)
    said = capsys.readouterr()
    assert "No space left on device: 'out/checkpoint.pt'; every file in out is whole" in said.err
    assert [line.split()[1] for line in said.err.splitlines() if line.startswith("step")] == ["8", "12", "12"]
    assert "trained" not in said.out.split("from step 4")[1]
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    (Path("out") / ".checkpoint.pt.0badcafe.part").write_bytes(b"of a process that was killed")
    run("--validate", "--steps", 8)
    assert "from step 4" in capsys.readouterr().out
    assert torch.load("out/checkpoint.pt", weights_only=True)["step"] == 8
    assert not list(Path("out").glob(".*"))


@pytest.fixture
def drawn(monkeypatch):
    """The clips that training drew; what is in ``spoil`` is done to each of them."""
    draw, seen, spoil = clips.sample, [], []

    def watched(*args, **kwargs):
        clip = draw(*args, **kwargs)
        if args[3] > 1:  # not where the mean pose is taken
            seen.append((args[0], clip))
            for change in spoil:
                change(clip)
        return clip

    monkeypatch.setattr(clips, "sample", watched)
    return seen, spoil


def assert_finite(path):
    saved = torch.load(path, weights_only=True)
    assert all(value.isfinite().all() for name in ("network", "average") for value in saved[name].values())


@pytest.mark.parametrize("what", ["features", "rotations", "loss"])
def test_a_step_that_is_not_finite_is_left_out_and_its_clips_named(run, monkeypatch, drawn, capsys, what):
    seen, spoil = drawn
    if what == "loss":
        loss, calls = train.loss_of, []

        def spoiled(network, estimate, clip, *rest):
            calls.append(len(clip.start))
            whole = len(clip.start) == 2 and len(calls) == 2  # in the second window, and then the clip by itself
            alone = len(clip.start) == 1 and clip.start == seen[0][1].start[1]
            return loss(network, estimate, clip, *rest) * (torch.nan if whole or alone else 1)

        monkeypatch.setattr(train, "loss_of", spoiled)
    else:
        spoil.append(lambda clip: getattr(clip, what)[1, 20:32].fill_(torch.nan))
    run("--validate", "--steps", 4)
    source, clip = seen[0]
    said = [line for line in capsys.readouterr().out.splitlines() if "not finite" in line]
    assert said == [f"step 1: not finite, so it is left out; clips: {source.where(int(clip.start[1]))}"]
    assert_finite("out/checkpoint.pt")


def test_too_many_steps_that_are_not_finite_end_the_run(run, monkeypatch, drawn):
    monkeypatch.setattr(train, "PATIENCE", 7)
    run("--validate", "--steps", 4)
    drawn[1].append(lambda clip: clip.features.fill_(torch.nan))
    with pytest.raises(SystemExit, match="^7 steps in a row were not finite, up to step 10; the run ends"):
        run("--validate", "--steps", 100)
    assert_finite("out/checkpoint.pt")


SAVING = """
import os, random, signal, sys, time, torch
from pathlib import Path
import networks
import train

path, random_ = Path("out/checkpoint.pt"), random.Random(0)
run = train.Run(networks.model_of({"hidden": 8, "shape_hidden": 8}), {})
left = last = 0
for _ in range(400):
    child = os.fork()
    while not child:  # it saves until it is killed; every number of a save is its step's
        run.step += 1
        with torch.no_grad():
            for parameter in run.network.parameters():
                parameter.fill_(run.step)
        run.save(path)
    while not (saving := list(path.parent.glob(".*.part"))) and path.exists():
        pass  # a moment within a save; the first save is waited for
    time.sleep(0.002 * random_.random() if saving else 0.3)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    left += len(list(path.parent.glob(".*.part")))
    train.runs.tidied(path.parent)
    if path.exists():
        saved = torch.load(path, weights_only=True)
        assert saved["step"] >= last
        assert all((saved["network"][name] == saved["step"]).all() for name, _ in run.network.named_parameters())
        last = run.step = saved["step"]
    if left >= 20:
        break
assert left >= 20 and last, f"{left} saves were interrupted, step {last}"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_killed_while_saving_twenty_times(tmp_path):
    (tmp_path / "out").mkdir()
    env = environment(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "examples")]))
    subprocess.run([sys.executable, "-c", SAVING], cwd=tmp_path, env=env, check=True, timeout=200)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--validate", "nobody"], "no recording of nobody; the subjects are held_01, kept_01, someone"),
        (["--leave", "kept", "someone"], "no recordings to draw clips from"),
        (["--motion", "nothing"], "nothing: no such motion file or folder"),
        (["--out", "motion.npz/deeper"], "motion.npz"),
    ],
)
def test_what_cannot_be_done_is_said_before_training(run, options, message):
    with pytest.raises(SystemExit, match=message):
        run(*options)


def test_a_checkpoint_of_another_run_is_refused(run):
    run("--steps", 4, "--validate")
    with pytest.raises(SystemExit, match="out/checkpoint.pt is of a run with hidden 4, not 5; give this one another"):
        run("--hidden", 5, "--validate")


def test_the_small_example_trains_and_compares(motions, monkeypatch, capsys):
    monkeypatch.setattr(train_minimal, "BATCH", 2)
    monkeypatch.setattr(train_minimal, "VIEWS", (0.0,))
    build = kinlmr.build
    monkeypatch.setattr(kinlmr, "build", lambda *names, **sizes: build(*names, **{**sizes, "hidden": 32}))
    monkeypatch.setattr(sys, "argv", ["train_minimal.py", "--motion", "motion.npz", "--test", "held", "--steps", "48"])
    train_minimal.main()
    out = capsys.readouterr().out
    figures = {line[:20].strip(): [float(x) for x in line[20:].split()] for line in out.splitlines()
               if line.startswith(("mean pose", "one frame", "LMR  ", "LMR,"))}  # fmt: skip
    names = ["mean pose", "one frame at a time", "LMR", "LMR, shipped weights"]
    assert {name: len(row) for name, row in figures.items()} == dict.fromkeys(names, 3)
    assert figures["LMR, shipped weights"][0] < figures["LMR"][0] < figures["mean pose"][0]
    assert kinlmr.load("out/lmr.npz").options["features"] == 51
    monkeypatch.setattr(sys, "argv", ["train_minimal.py", "--motion", "motion.npz", "--test", "nobody"])
    with pytest.raises(SystemExit, match="--test nobody: 0 recordings to test on and 3 to train on"):
        train_minimal.main()


@pytest.fixture(scope="module")
def once():
    """The files of both networks, trained once."""
    return {}


@pytest.fixture
def trained(run, capsys, once):
    if not once:
        run("--steps", 4)
        run("--steps", 4, "--baseline", "--out", "base")
        once |= {name: Path(name).read_bytes() for name in ("out/model.npz", "base/baseline.pt")}
    for name, content in once.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)
    capsys.readouterr()


def evaluated(monkeypatch, *options):
    line = ["evaluate.py", "out/model.npz", "--motion", "motion.npz", "--against", "base/baseline.pt", *options]
    monkeypatch.setattr(sys, "argv", line)
    evaluate.main()
    return json.loads(Path("evaluation.json").read_text())


def test_it_scores_two_models_by_action_part_and_view(trained, monkeypatch, capsys):
    found = evaluated(monkeypatch, "--subjects", "held_01", "kept", "--noise", "usual", "off")
    out = capsys.readouterr().out
    assert found["recordings"] == ["held", "kept"]
    assert list(found["results"]) == ["model", "against baseline"]
    for noises in found["results"].values():
        assert list(noises) == ["usual", "off"]
        for result in noises.values():
            assert set(result["views"]) == set(evaluate.SIDES)
            assert set(result["actions"]) == {"held", "kept"}
            assert set(result["parts"]) == {"root", "head", "left_arm", "right_arm", "left_leg", "right_leg"}
            for key in ("actions", "views"):  # a whole is the mean of its parts, frame by frame
                own = result[key].values()
                whole = sum(x["mpjpe"] * x["frames"] for x in own) / sum(x["frames"] for x in own)
                assert whole == pytest.approx(result["overall"]["mpjpe"])
            assert f"{result['overall']['pve']:.1f}" in out
    for title in ("### Overall", "### By action", "### By view", "### By part", "| model, noise off |"):
        assert title in out


def test_pieces_between_cuts_are_scored_as_recordings_of_their_own(trained, motions, monkeypatch):
    (whole, _) = motions
    halves = [replace(whole, name=f"held{i}", axis_angle=whole.axis_angle[a:b], translation=whole.translation[a:b])
              for i, (a, b) in enumerate(((0, 40), (40, 95)))]  # fmt: skip
    save_motion([replace(whole, cuts=(40,))], "motion.npz")
    cut = evaluated(monkeypatch, "--noise", "wide")["results"]["model"]["wide"]
    save_motion(halves, "motion.npz")
    apart = evaluated(monkeypatch, "--noise", "wide")["results"]["model"]["wide"]
    assert cut["overall"] == apart["overall"]
    save_motion([whole], "motion.npz")
    assert evaluated(monkeypatch, "--noise", "wide")["results"]["model"]["wide"]["overall"] != cut["overall"]


def test_shapes_are_compared_with_the_mean_shape_of_the_same_people(trained, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "SHAPED", 0.4)
    monkeypatch.setattr(evaluate, "SOME", 2)
    found = evaluated(monkeypatch, "--subjects", "held_01", "--noise", "usual", "off", "--shapes", "3")["shapes"]
    assert list(found) == [
        f"{who}, noise {noise}" for who in ("model", "against baseline") for noise in ("usual", "off")
    ]
    assert len({str(run["mean shape"]) for run in found.values()}) == 1
    for run in found.values():
        assert all(value > 0 for row in run.values() for value in row.values())
    assert "### Shape" in capsys.readouterr().out
    for wrong in ("--shapes=-1", "--shapes=3"):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "out/model.npz", "--video", "none.npz", wrong])
        with pytest.raises(SystemExit):
            evaluate.main()
        assert "give how many people, 1 or more, and recordings with --motion" in capsys.readouterr().err
    monkeypatch.setattr(evaluate, "SHAPED", 60.0)
    with pytest.raises(SystemExit, match="--shapes takes 60 seconds of a recording"):
        evaluated(monkeypatch, "--subjects", "held_01", "--noise", "off", "--shapes", "3")


@pytest.mark.parametrize("script", [evaluate, real])
def test_a_folder_for_the_figures_is_refused_before_anything_is_scored(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script.__file__, "anny24-coco17", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert f"--out {tmp_path} is a folder; give a file in it, such as {tmp_path}/" in capsys.readouterr().err


def test_a_stream_in_chunks_is_the_whole(monkeypatch):
    model = kinlmr.build(features=51, hidden=8).eval()
    features = torch.randn(2, 30, 51)
    monkeypatch.setattr(evaluate, "LONGEST", 7)
    with torch.no_grad():
        for one, two in zip(evaluate.stream(model, features), model(features), strict=True):
            assert torch.allclose(one, two, atol=1e-5)


def test_what_cannot_be_scored_is_said(trained, monkeypatch):
    with pytest.raises(SystemExit, match="no recording of nobody; the subjects are held_01, kept_01, someone"):
        evaluated(monkeypatch, "--subjects", "nobody")
    with pytest.raises(SystemExit, match="nowhere.npz: no such checkpoint"):
        evaluated(monkeypatch, "--against", "nowhere.npz")
    kinlmr.save(kinlmr.build(features=34, hidden=4), "other.npz")
    with pytest.raises(SystemExit, match="against other has 34 features and 24 joints; a model of coco17 has 51"):
        evaluated(monkeypatch, "--against", "other.npz")


@pytest.fixture
def video(motions, body):
    """A made-up video.npz: pictures of a recording, and as the detector's own 3D what the model makes of them."""
    clip = clips.whole(motions[0], body, 0.7, torch.Generator(), clips.OFF)
    points = body(clip.rotations[:, :30], clip.shape[:, None], want=("keypoints",)).keypoints[0]
    image = 1000 * points[..., :2] / (points[..., 2:] + 4) + 800
    keypoints = torch.cat([image, torch.ones_like(image[..., :1])], -1)

    def write(model=None, **others):
        own = points
        if model is not None:
            recovery, _ = kinlmr.recover(model, keypoints, 25)
            own = body(recovery.rotations, recovery.shape, want=("keypoints",)).keypoints
        names = keypoint_sets()["mediapipe33"]
        world = torch.full((len(own), 33, 3), 0.5)
        for k, name in enumerate(body.keypoints.names):
            world[:, names.index(name)] = own[:, k]
        arrays = {"coco17": keypoints.numpy(), "world33": world.numpy(), "fps": np.array(25.0)} | others
        np.savez("video.npz", **{key: x for key, x in arrays.items() if x is not None})
        return arrays

    return write


def watched(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "model.npz", "--video", "video.npz", *options])
    evaluate.main()
    return json.loads(Path("evaluation.json").read_text())["video"]["model"]["video.npz"]


def test_agreement_with_a_detectors_own_3d_is_up_to_place_turn_and_size(video, body, monkeypatch, capsys):
    torch.manual_seed(0)
    model = kinlmr.build(keypoints="coco17", hidden=4, shape_hidden=4)
    kinlmr.save(model, "model.npz")
    turn = kinlmr.rotations.axis_angle_to_matrix(torch.tensor([0.3, -2.0, 1.0]))
    world = video(model)["world33"]
    video(model, world33=(3 * torch.from_numpy(world) @ turn.T + 1).numpy())
    row = watched(monkeypatch)
    assert row["frames"] == len(world)
    assert row["pa_mpjpe"] < 0.01 < row["mean pose"]
    mirrored = world * np.float32([-1, 1, 1])
    video(model, world33=mirrored)
    assert watched(monkeypatch)["pa_mpjpe"] > 1
    video()
    other = watched(monkeypatch)
    assert other["pa_mpjpe"] == pytest.approx(sum(other[name] for name in evaluate.COMPARED) / 12)
    assert other["pa_mpjpe"] > 10
    out = capsys.readouterr().out
    assert "agreement with the detector's own 3D, not truth" in out
    assert f"| model | {other['pa_mpjpe']:.1f} | {other['pa_mpjpe']:.1f} |" in out


def test_frames_without_keypoints_or_without_3d_are_not_compared(video, monkeypatch):
    kinlmr.save(kinlmr.build(keypoints="coco17", hidden=4, shape_hidden=4), "model.npz")
    arrays = video()
    whole = watched(monkeypatch)
    arrays["world33"][10:20], arrays["world33"][20] = 0, np.nan
    arrays["coco17"][:3] = 0
    np.savez("video.npz", **arrays)
    assert watched(monkeypatch)["frames"] == whole["frames"] - 14


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"fps": None}, "video.npz has coco17, world33; it lacks fps"),
        ({"world33": np.zeros((5, 33, 3))}, r"world33 is float64 of \(5, 33, 3\); expected are numbers \(T, 33, 3\)"),
        ({"world33": np.zeros((30, 33, 3))}, "no frame has both keypoints and world33"),
        ({"fps": np.array("fast")}, "fps is <U4 .*expected is one number"),
        ({"fps": np.array(-1.0)}, "fps is -1.0; give the keypoints' frames per second"),
    ],
)
def test_a_video_that_cannot_be_compared_is_said(video, monkeypatch, others, message):
    kinlmr.save(kinlmr.build(keypoints="coco17", hidden=4, shape_hidden=4), "model.npz")
    video(**others)
    with pytest.raises(SystemExit, match=message):
        watched(monkeypatch)
    assert not Path("evaluation.json").exists()


def test_nothing_to_score_is_said(motions, monkeypatch):
    kinlmr.save(kinlmr.build(keypoints="coco17", hidden=4, shape_hidden=4), "model.npz")
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "model.npz"])
    with pytest.raises(SystemExit, match="give --motion, --video or both"):
        evaluate.main()
