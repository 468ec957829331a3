"""How fast torch's operators multiply R rows by a large weight on this CPU, and what kinlmr/engine/matmul.py takes.

    python benchmarks/products.py [--hidden 512] [--features 2048] [--rows 1 2 4 8 16] [--rounds 9] [--threads 1]

Microseconds, medians over rounds; for weights in main memory (many of them, one after another) and in the cache (one).
"""

import argparse
import functools
import statistics
import time

import torch
from torch import Tensor

from kinlmr.engine.matmul import product


def ways(x: Tensor, bias: Tensor) -> dict:
    """Operators that multiply rows x (R, in) by a weight (out, in)."""
    found = {
        "addmm": lambda w: torch.addmm(bias, x, w.mT),
        "left": lambda w: torch.addmm(bias[:, None], w, x.mT),
        "halves": lambda w: torch.baddbmm(bias.view(2, -1, 1), w.unflatten(0, (2, -1)), x.mT.expand(2, -1, -1)),
        "kinlmr": lambda w: product(x, w, bias),
    }
    if torch.backends.mkldnn.is_available():
        found["oneDNN"] = lambda w: torch.ops.mkldnn._linear_pointwise(x, w, bias, "none", [], "")
        found["arranged"] = lambda w: torch.ops.mkldnn._linear_pointwise(x, arranged(w), bias, "none", [], "")
    return found


@functools.cache
def arranged(weight: Tensor) -> Tensor:
    """A weight as oneDNN reads it, made once for all products."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, 4)


def measure(jobs: dict, weights: list[Tensor], rounds: int) -> list[float]:
    """Microseconds of each job for one weight: medians over rounds, in which the jobs follow one another."""
    times: dict = {name: [] for name in jobs}
    repeat = max(1, 20 // len(weights))
    for _ in range(rounds):
        for name, job in jobs.items():
            job(weights[-1])
            began = time.perf_counter()
            for _ in range(repeat):
                for weight in weights:
                    job(weight)
            times[name].append((time.perf_counter() - began) / repeat / len(weights) * 1e6)
    return [statistics.median(t) for t in times.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    hidden, inputs = args.hidden, args.features + 160
    sizes = {"recurrent": (3 * hidden, hidden), "shape network": (1024, 1024), "input": (3 * hidden, inputs)}
    print(f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {args.threads} threads")
    for name, (out, size) in sizes.items():
        bias = torch.randn(out)
        for place, number in (("memory", max(4, 150_000_000 // (4 * out * size))), ("cache", 1)):
            weights = [torch.randn(out, size) for _ in range(number)]
            for rows in args.rows:
                jobs = ways(torch.randn(rows, size), bias)
                with torch.no_grad():
                    figures = measure(jobs, weights, args.rounds)
                told = "  ".join(f"{job} {t:6.0f}" for job, t in zip(jobs, figures, strict=True))
                print(f"{name:14}{out} x {size:<6}{place:8}{rows:3} rows  {told}")


if __name__ == "__main__":
    main()
