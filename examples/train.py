"""Train LMR on recorded motion: the recipe of the shipped weights, for your own recordings.

    python examples/train.py --motion FOLDER --validate SUBJECT --leave SUBJECT --out out/train

Clips are seen by detectors of many kinds (--noise), one in four without error. A step is one window of 16 frames, four
to a clip, the state carried from one to the next. Muon takes the recurrent nodes' matrices, AdamW the rest. The rates
are constant, then fall linearly over the last --cooldown steps. --out holds checkpoint.pt (the same command goes on
from it, to the same numbers bit for bit), constant.pt (it before the cooldown: put it in checkpoint.pt's place to train
on with more --steps), the averaged weights (model.npz, or baseline.pt) and the errors on the validation subjects, with
and without noise (curve.csv, curve.png). --start begins with the weights of another model or run, or the mean of
several; with --steps 0 that mean is what model.npz holds. The mean of a run's late checkpoints may err less
than each of them.

SIGTERM, SIGUSR1 and Ctrl-C finish the clip's four steps, save, print the command that goes on, and exit with 143 (130
for Ctrl-C). Whatever else ends the run, checkpoint.pt is whole, and SAVE steps old at most. A step whose numbers are
not finite is left out, and its clips are named; after PATIENCE of them in a row the run ends. A full disk is said, and
the run goes on.

N processes take a part of every batch each, together N times --batch clips (gloo on CPUs, NCCL on GPUs; runs.py says
how srun starts them). If one dies, torchrun ends the others and names its rank. Another N goes on from the same
checkpoint, with a --batch that keeps the total. One process reaches the weights of N if it takes the parts one after
the other, which needs less memory too (--accumulate N). In one part the gradient is the same but for rounding:

    torchrun --nproc-per-node 2 examples/train.py --batch 16 ...
    python examples/train.py --batch 32 --accumulate 2 ...
"""

import argparse
import copy
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import runs
import torch
from networks import Network, PerFrame, begin_with, loss_of, model_of, optimizers_of
from torch import Tensor, nn

import kinlmr
from kinlmr import files, metrics, motion
from kinlmr.motion import clips

VIEWS = (0.0, math.pi / 2, math.pi, -math.pi / 2)
NOISES = {"any": clips.ANY, "wide": clips.WIDE, "usual": clips.USUAL, "off": clips.OFF}
WINDOW, WINDOWS, WARM = 16, 4, 200
AVERAGE, COOL = 0.9995, 0.998  # of the averaged weights, how much stays in a step: before, and in the cooldown
VALIDATE, SAVE = 1000, 200  # steps
CLEAN = 0.25  # of the clips, how many are seen without error
PATIENCE = 20  # steps in a row that are not finite, before the run ends
SCORES = ("mpjpe", "pa_mpjpe", "accel")


def chosen(recordings: Sequence[motion.Motion], who: Sequence[str]) -> list[motion.Motion]:
    """The recordings of these subjects, or where there is no such subject, whose names begin so."""
    found = {name: [m for m in recordings if m.subject == name] or [m for m in recordings if m.name.startswith(name)]
             for name in who}  # fmt: skip
    if lone := [name for name, own in found.items() if not own]:
        subjects = ", ".join(sorted({m.subject or m.name for m in recordings})[:30])
        raise SystemExit(f"no recording of {', '.join(lone)}; the subjects are {subjects}")
    return [m for m in recordings if any(m is other for own in found.values() for other in own)]


def watched(recordings: Sequence[motion.Motion], body: kinlmr.Body, noise: clips.Noise) -> list[clips.Clips]:
    """At most about 60 pieces of 3 to 10 s, each seen from one of four sides; those of one length in one batch."""
    pieces = clips.pieces(recordings, 300, 90)
    together: dict[int, list[clips.Clips]] = {}
    for i, piece in enumerate(pieces[:: max(1, len(pieces) // 60)]):
        seen = clips.whole(piece, body, VIEWS[i % 4], torch.Generator().manual_seed(i), noise)
        together.setdefault(len(piece), []).append(seen)
    return [clips.Clips(*map(torch.cat, zip(*group, strict=True))) for group in together.values()]


@torch.no_grad()
def score(network: Network, seen: list[clips.Clips], body: kinlmr.Body) -> dict[str, float]:
    """MPJPE, PA-MPJPE and Accel, in mm, of clips streamed whole."""
    network.eval()
    estimates = [network(c.features, state=network.initial_state(len(c.shape)))[0] for c in seen]
    joints = [body(network.matrices(e), e.shape).joints for e in estimates]
    return metrics.evaluate(joints, [c.joints for c in seen])


def shown(clip: clips.Clips, confidence: Sequence[float] | None) -> clips.Clips:
    """A clip with the confidences that the network sees."""
    return clip._replace(features=kinlmr.keypoints.reported(clip.features, confidence))


def schedule(step: int, steps: int, cooldown: int) -> tuple[float, float]:
    """The share of the rates that a step takes, and how much of the averaged weights stays after it."""
    left = min(1.0, (steps - step) / cooldown) if cooldown else 1.0
    stays = AVERAGE if step < steps - cooldown else COOL
    return min(1, (step + 1) / WARM) * left, min(stays, (step + 1) / (step + 10))


def unfit(clip: clips.Clips) -> Tensor:
    """The starts of the clips that hold a number that is not finite."""
    fit = [x.flatten(1).isfinite().all(1) for x in clip if x.ndim > 1]
    return clip.start[~torch.stack(fit).all(0)]


class Run:
    """A network in training: its optimizer, averaged weights, step, running loss and curve."""

    def __init__(self, network: Network, settings: dict[str, Any]) -> None:
        self.network, self.average, self.settings = network, copy.deepcopy(network), settings
        self.optimizers = optimizers_of(network)
        self.step, self.loss, self.left_out = 0, math.nan, 0  # left_out: steps in a row
        self.rows: list[dict[str, float]] = []

    def learn(
        self, clip: clips.Clips, source: clips.Bank, body: kinlmr.Body, steps: int, cooldown: int, own: runs.Place,
        accumulate: int = 1,
    ) -> None:  # fmt: skip
        """A step for every window of a clip. Of the batch this process takes the clips of its rank, in equal parts one
        after the other; the step is by the mean of all parts' gradients."""
        batch, parts = len(clip.shape) // own.world, own.world * accumulate
        memory, parameters = self.network.initial_state(batch).memory, list(self.network.parameters())
        for at in range(0, WINDOW * WINDOWS, WINDOW):
            window = clips.Clips(*(x[:, at : at + WINDOW] if x.ndim > 2 else x for x in clip))
            mine = clips.Clips(*(x[own.rank * batch : (own.rank + 1) * batch] for x in window))
            before, norm = memory.detach(), torch.tensor(math.nan)
            wrong = unfit(window)  # the same in every process
            if not len(wrong):
                self.network.zero_grad()
                loss, memories = 0.0, []
                for one, *fields in zip(*(x.chunk(accumulate) for x in (before, *mine)), strict=True):
                    part = clips.Clips(*fields)
                    known = parts * part.keypoints[..., 2].sum() / window.keypoints[..., 2].sum().clamp_min(1)
                    estimate, state = self.network(part.features, state=kinlmr.State(one))
                    of_part = loss_of(self.network, estimate, part, body, known)
                    of_part.backward()
                    loss += of_part.item() / accumulate
                    memories.append(state.memory)
                memory = torch.cat(memories)
                if parts > 1:
                    runs.average_gradients(parameters, parts)
                norm = nn.utils.clip_grad_norm_(parameters, 1.0)
            share, stays = schedule(self.step, steps, cooldown)
            if norm.isfinite():
                for optimizer in self.optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = share * group["rate"]
                    optimizer.step()
                self.loss = loss if math.isnan(self.loss) else 0.99 * self.loss + 0.01 * loss
                self.left_out = 0
            else:
                wrong = wrong if len(wrong) else self.unfit_alone(mine, before, body)
                self.leave_out([source.where(start) for start in wrong.tolist()], own)
            with torch.no_grad():
                for mean, now in zip(self.average.parameters(), parameters, strict=True):
                    mean.lerp_(now, 1 - stays)
            self.step += 1

    def unfit_alone(self, window: clips.Clips, memory: Tensor, body: kinlmr.Body) -> Tensor:
        """The starts of the clips whose gradient is not finite, each clip by itself."""
        wrong, parameters = [], list(self.network.parameters())
        for i, start in enumerate(window.start):
            one = clips.Clips(*(x[i : i + 1] for x in window))
            estimate, _ = self.network(one.features, state=kinlmr.State(memory[i : i + 1]))
            grads = torch.autograd.grad(loss_of(self.network, estimate, one, body), parameters, allow_unused=True)
            if not all(grad.isfinite().all() for grad in grads if grad is not None):
                wrong.append(start)
        return torch.stack(wrong) if wrong else window.start[:0]

    def leave_out(self, names: list[str], own: runs.Place) -> None:
        """Say that a step is left out, and why; end the run where there are too many in a row."""
        self.left_out += 1
        if names or own.rank == 0:
            of = f" of rank {own.rank}" if own.world > 1 else ""
            which = ", ".join(names) or "none by itself"
            print(f"\nstep {self.step}: not finite, so it is left out; clips{of}: {which}", flush=True)
        if self.left_out == PATIENCE:
            raise SystemExit(
                f"{PATIENCE} steps in a row were not finite, up to step {self.step}; the run ends, and the last "
                "checkpoint stays. If the clips named are of one recording, --leave it; if of all, lower RATES in "
                "networks.py"
            )

    def save(self, path: Path) -> None:
        parts = {"network": self.network, "average": self.average}
        own = {"settings": self.settings, "step": self.step, "loss": self.loss, "rows": self.rows}
        own["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        buffer = io.BytesIO()
        torch.save(own | {name: part.state_dict() for name, part in parts.items()}, buffer)
        files.write_atomic(path, buffer.getvalue())

    def resume(self, path: Path, device: str, world: int) -> None:
        saved = torch.load(path, weights_only=True, map_location=device)
        others = [f"{key} {saved['settings'].get(key)}, not {value}" for key, value in self.settings.items()
                  if saved["settings"].get(key) != value]  # fmt: skip
        if others:
            batch = int(saved["settings"].get("batch", 0))
            total = f" (batch is of all processes: --batch {batch // world} for each of {world})"
            mend = total if batch != self.settings["batch"] and batch % world == 0 else ""
            raise SystemExit(f"{path} is of a run with {'; '.join(others)}{mend}; give this one another --out")
        self.network.load_state_dict(saved["network"])
        self.average.load_state_dict(saved["average"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.step, self.loss, self.rows = saved["step"], saved["loss"], saved["rows"]


def write(run: Run, out: Path, options: dict[str, Any]) -> None:
    """The checkpoint, the averaged weights and the curve."""
    run.save(out / "checkpoint.pt")
    if isinstance(run.average, kinlmr.LMR):
        kinlmr.save(run.average, out / "model.npz")
    else:
        buffer = io.BytesIO()
        torch.save({"options": options, "weights": run.average.state_dict()}, buffer)
        files.write_atomic(out / "baseline.pt", buffer.getvalue())
    runs.save_curve(out, run.rows, "validation subjects")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--motion", nargs="+", required=True, help="BVH, AMASS or archives; files or folders")
    parser.add_argument("--validate", nargs="*", default=[], help="subjects or beginnings of names: scored as it goes")
    parser.add_argument("--leave", nargs="*", default=[], help="subjects or beginnings of names: left out")
    parser.add_argument("--start", nargs="+", help="models, or checkpoints of runs, whose mean weights to begin with")
    parser.add_argument("--steps", type=int, default=16000, help="in all, --cooldown's too (%(default)s)")
    parser.add_argument(
        "--cooldown", type=int, default=4000, help="the last of --steps, with a falling learning rate (%(default)s)"
    )
    parser.add_argument("--batch", type=int, default=32, help="clips of every process in a step (%(default)s)")
    parser.add_argument(
        "--accumulate",
        type=int,
        default=1,
        help="take the batch in so many parts, one after the other, to save memory (%(default)s)",
    )
    parser.add_argument("--hidden", type=int, default=256, help="hidden size of every cell (%(default)s)")
    parser.add_argument("--shape-hidden", type=int, default=128, help="width of the shape network (%(default)s)")
    parser.add_argument(
        "--noise",
        default="any",
        choices=NOISES,
        help="of the keypoints: many detectors', a poor one's, a usual one's, or off (%(default)s)",
    )
    parser.add_argument(
        "--confidence",
        nargs=2,
        type=float,
        metavar=("A", "B"),
        help="the network sees A + B c of a confidence c above 0",
    )
    parser.add_argument("--baseline", action="store_true", help="train a per-frame network of that size instead")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of all that is drawn (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s here")
    parser.add_argument(
        "--out", type=Path, default=Path("out/train"), help="the run's folder; started again, it goes on (%(default)s)"
    )
    args = parser.parse_args()
    if args.accumulate < 1 or args.batch < 1 or args.batch % args.accumulate:
        parser.error(f"--batch {args.batch} cannot be divided into --accumulate {args.accumulate} equal parts")
    if args.baseline and (args.start or args.confidence):
        parser.error(
            "--start and --confidence are LMR's, and --baseline is another network, which begins from nothing and sees "
            "confidences as they are: leave one"
        )
    return args


def main() -> None:
    args, own = arguments(), runs.place()
    if args.device == "cuda":
        args.device = f"cuda:{own.local}"
        torch.cuda.set_device(args.device)
    with runs.joined(own, args.device):
        code = train(args, own)
    if code:
        raise SystemExit(code)


def train(args: argparse.Namespace, own: runs.Place) -> int:
    """The whole run of one process -> its exit code."""
    steps, cooldown = (-(-x // WINDOWS) * WINDOWS for x in (args.steps, args.cooldown))  # whole clips
    frames, batch = WINDOW * WINDOWS, args.batch * own.world
    body = kinlmr.load_body("anny24", keypoints="coco17")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        recordings = motion.load_motion(args.motion, body)
        left, validation = chosen(recordings, args.leave), chosen(recordings, args.validate)
        kept = [m for m in recordings if not any(m is other for other in (*left, *validation))]
        source = clips.bank(kept, frames)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None

    torch.manual_seed(args.seed)
    options = {"hidden": args.hidden, "shape_hidden": args.shape_hidden}
    if args.confidence:
        options["confidence"] = tuple(args.confidence)
    model = model_of(options)
    pose = clips.sample(source, body, 512, 1, torch.Generator().manual_seed(0)).rotations.mean((0, 1))
    model.start.pose.copy_(model.rotation.from_matrix(kinlmr.rotations.nearest_rotation(pose)))
    if args.start:
        begin_with(model, args.start)
    body, source = body.to(args.device), source.to(args.device)
    settings = options | {"batch": batch, "noise": args.noise, "seed": args.seed}
    settings |= {
        "start": " ".join(args.start) if args.start else None,
        "baseline": args.baseline,
        "recordings": len(kept),
        "frames": len(source.quaternions),
    }
    network: Network = PerFrame(model) if args.baseline else model
    run = Run(network.to(args.device), settings)
    if (args.out / "checkpoint.pt").is_file():
        run.resume(args.out / "checkpoint.pt", args.device, own.world)
    seen = {}
    if own.rank == 0:
        runs.tidied(args.out)
        seen = {name: [shown(c, args.confidence) for c in watched(validation, body, NOISES[name])]
                for name in ("usual", "off") if validation}  # fmt: skip
        minutes, size = len(source.quaternions) / source.fps / 60, sum(p.numel() for p in network.parameters())
        print(f"{minutes:.1f} minutes, {len(source.count)} actions; {size:,} parameters; from step {run.step}")
        print(f"batches of {batch} clips: {args.batch} in each of {own.world} processes", flush=True)

    def save(write: Callable[[], None]) -> bool:
        return runs.saved(write, args.out, run.step)

    progress, code = runs.Progress(steps, run.step), 0
    with runs.signals() as came:  # a signal lets the clip finish, so that what is saved is whole
        while run.step < steps and not code:
            if run.step == steps - cooldown and own.rank == 0:
                save(lambda: run.save(args.out / "constant.pt"))
            generator = torch.Generator().manual_seed(args.seed * 1_000_003 + run.step)
            clip = clips.sample(source, body, batch, frames, generator, NOISES[args.noise]._replace(clean=CLEAN))
            run.learn(shown(clip, args.confidence), source, body, steps, cooldown, own, args.accumulate)
            if own.rank == 0:
                progress(run.step, run.loss)
                if seen and (run.step % VALIDATE == 0 or run.step == steps):
                    row: dict[str, float] = {"step": run.step, "loss": round(run.loss, 4)}
                    for name, of in seen.items():
                        scores = score(run.average, of, body)
                        row |= {f"{key}, noise {name}": round(scores[key], 2) for key in SCORES}
                    run.rows.append(row)
                    print("\n" + "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
                if run.step % SAVE == 0:
                    save(lambda: write(run, args.out, options))
            code = int(runs.reduced(torch.tensor(max(came, default=0), device=args.device), "MAX"))
        if own.rank == 0:
            if not save(lambda: write(run, args.out, options)):
                return 1
            if run.step < steps:
                print(f"\nstopped at step {run.step}; this goes on: {runs.command(own)}")
            else:
                print(
                    f"\ntrained {run.step} steps; {args.out}/ holds {'baseline.pt' if args.baseline else 'model.npz'}"
                )
    return code if run.step < steps else 0


if __name__ == "__main__":
    main()
