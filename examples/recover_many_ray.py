"""recover_many.py as a Ray Data pipeline: actors that each hold the model, on one machine or a cluster.

    pip install -e ".[ray]"
    python examples/recover_many_ray.py MANIFEST --out DIR --workers 2
    ray job submit --working-dir examples -- python recover_many_ray.py /shared/MANIFEST --out /shared/DIR --workers 100

The manifest, the results and what is promised of them are recover_many.py's. Ray does the rest: it hands an actor its
next lines when it is free (IN_FLIGHT batches at most are its own), starts an actor that died again, and has its lines
done again, of which what was written before is left out. A cluster's machines need kinlmr, and the folders by one path.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from manifest import Job, jobs, left
from numpy.typing import NDArray
from recover_many import MODEL, Done, Worker, batches, report

IN_FLIGHT = 2  # batches


class Recover:
    """An actor: lines in, what became of them out."""

    def __init__(self, out: Path, model: str, device: str, rows: int) -> None:
        torch.set_num_threads(1)
        self.worker, self.rows = Worker(out, model, device), rows

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        given = [packed_job(str(text)) for text in batch["job"]]
        todo = [job for job in given if not (self.worker.out / f"{job.name}.npz").exists()]  # of a batch tried again
        for sequences in batches(self.worker, todo, self.rows):
            self.worker.work(sequences)
        return {name: np.array([value]) for name, value in self.worker.timed()._asdict().items()}


def packed_job(text: str) -> Job:
    """A job out of the JSON that it travels as."""
    name, path, *rest = json.loads(text)
    return Job(name, Path(path), *rest)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise SystemExit('this needs Ray: pip install -e ".[ray]"; recover_many.py works without') from None
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    todo = left(jobs(args.manifest.resolve()), out)
    print(f"{len(todo)} sequences to do", flush=True)
    if not todo:
        return 0
    ray.init(log_to_driver=args.verbose)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"job": json.dumps(job, default=str)} for job in todo]
    lines = ray.data.from_items(rows, override_num_blocks=-(-len(todo) // args.rows))
    done = lines.map_batches(
        Recover,
        batch_size=None,  # a block
        fn_constructor_kwargs={"out": out, "model": args.model, "device": args.device, "rows": args.rows},
        compute=ray.data.ActorPoolStrategy(size=args.workers, max_tasks_in_flight_per_actor=IN_FLIGHT),
        num_cpus=1,
        num_gpus=args.gpus if args.device == "cuda" else None,
    )
    total, began = Done(), time.perf_counter()
    for row in done.iter_rows():
        total = Done(*(value + row[name] for name, value in total._asdict().items()))
        print(f"{total.sequences + total.failed:.0f} of {len(todo)}", flush=True)
    print(report(total, time.perf_counter() - began, args.workers, out) + "; the actors' start is in this time")
    ray.shutdown()
    return 1 if total.failed else 0


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="JSON lines, as recover_many.py says")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the results")
    parser.add_argument(
        "--model", default=MODEL, help="a shipped model's name, or a checkpoint with keypoints= (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="actors, each on a CPU core (%(default)s)")
    parser.add_argument(
        "--gpus", type=float, default=1.0, help="for each actor, a fraction too, with --device cuda (%(default)s)"
    )
    parser.add_argument(
        "--rows", type=int, default=64, help="people at once, about (%(default)s): more are faster and take more memory"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s here")
    parser.add_argument("--verbose", action="store_true", help="show the actors' logs")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(str(error))
