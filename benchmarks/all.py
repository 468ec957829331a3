"""Every table of docs/benchmarks.md, one after another, each by the command that the page names.

    python benchmarks/all.py [--device cpu] [--rounds 9] [--only live body]

Each table says its machine, threads and rounds. All arms of a table run in one process, one after another in every
round; a ratio is the median of the rounds', beside the 5th and 95th percentile of them. With ``--device cuda`` the
tables of a GPU. `benchmarks/engine.py --growth` and ``--compile`` are tables of their own, which no page shows.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
ENGINE = ("--hidden", "512", "--features", "2048"), *(("--hidden", h, "--features", "51") for h in ("256", "128"))
TABLES = {  # by device: a table's name, its script and the script's words
    "cpu": (
        ("body", "body.py", ()), *(("engine", "engine.py", words) for words in ENGINE), ("live", "stream.py", ()),
        ("detector", "detector.py", ()),
    ),
    "cuda": (
        ("body", "body.py", ()), ("engine", "engine.py", ("--hidden", "1024")), ("live", "stream.py", ()),
        ("gpu", "gpu.py", ()),
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=TABLES, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", default="9")
    parser.add_argument("--only", nargs="+", choices=sorted({name for of in TABLES.values() for name, *_ in of}))
    args = parser.parse_args()
    failed = []
    for name, script, words in TABLES[args.device]:
        if args.only and name not in args.only:
            continue
        if name != "detector":
            words = (*words, "--device", args.device, "--rounds", args.rounds)
        print(f"\n## python benchmarks/{script} {' '.join(words)}".rstrip() + "\n", flush=True)
        if subprocess.run([sys.executable, str(HERE / script), *words], check=False).returncode:
            failed.append(script)
    if failed:
        raise SystemExit(f"no table of {', '.join(failed)}")


if __name__ == "__main__":
    main()
