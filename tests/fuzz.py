"""Damages sound files at random and hands them to their readers, for a given time:

    python tests/fuzz.py --seconds 300 --reader motion --reader body --seed 1

A reader may answer or refuse with a ValueError that names the file. Anything else, five seconds
of computing, or 512 MB more memory than at the start is a finding: its file is kept in ``--out``, and the run fails.
Not part of the tests; what it finds becomes a case of `hostile.py`, or a test beside the reader. Linux.
"""

import argparse
import contextlib
import io
import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
import zipfile
import zlib
from pathlib import Path

import hostile
import numpy as np
import torch

TOKENS = (
    *b"nan -1 0 1e999 -1e-320 99999999999999999999 2147483648 1e9 null true [] {}".split(),
    *b"[ } *a &a !!x << R. ( t b u s 2".split(),
    *(b'""', b"\n", b"\0", b"\xff", b"\x93", b"\x81", b"\x85", b"\x86", b"h\0", b"q\0", b"cos\nsystem\n"),
    *(b"a: b", b"End Site", b"{\n", b"JOINT x\n{\n"),
)
NUMBERS = (0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 10**30)
FLOATS = (0.5, -0.0, 1e-320, 1e30, 1e308, float("inf"), float("nan"))
VALUES = (*NUMBERS, *FLOATS, None, True, "", "a", "0", [], {}, [1], {"a": 1})


class Slow(BaseException):
    """Five seconds of computing are over. No reader catches this."""


def damaged_bytes(r, data):
    """A few bytes changed, left out, doubled, moved or put in."""
    data = bytearray(data)
    for _ in range(r.choice((1, 1, 1, 2, 4, 8))):
        at, count = r.randrange(len(data) + 1), min(int(2 ** r.uniform(0, 8)), len(data))
        how = r.randrange(8)
        if how == 0 and at < len(data):
            data[at] ^= 1 << r.randrange(8)
        elif how == 1 and at < len(data):
            data[at] = r.randrange(256)
        elif how == 2:
            del data[at : at + count]
        elif how == 3:
            data[at:at] = data[at : at + count] * r.choice((1, 1, 5, 50))
        elif how == 4:
            data[at:at] = r.choice(TOKENS)
        elif how == 5:
            size = r.choice((1, 2, 4, 8))
            number = r.choice(NUMBERS) % 256**size
            data[at : at + size] = number.to_bytes(size, r.choice(("little", "big")))
        elif how == 6:
            other = r.randrange(len(data) + 1)
            data[at : at + count] = data[other : other + count]
        elif r.random() < 0.2:
            del data[at:]
    return bytes(data)


def damaged_text(r, text):
    """A word or a line replaced, left out or doubled."""
    lines = text.split("\n")
    for _ in range(r.choice((1, 1, 2, 5))):
        at = r.randrange(len(lines))
        words = lines[at].split(" ")
        word = r.randrange(len(words))
        how = r.randrange(5)
        if how == 0:
            words[word] = r.choice(TOKENS).decode("latin1")
        elif how == 1:
            words[word] = r.choice(r.choice(lines).split(" "))
        elif how == 2:
            del words[word]
        lines[at] = " ".join(words)
        if how == 3:
            del lines[at]
            lines = lines or [""]
        elif how == 4:
            lines[at:at] = [r.choice(lines)] * r.choice((1, 1, 30))
    return "\n".join(lines)


def damaged_json(r, value):
    """One place of a JSON changed, left out or doubled."""
    if isinstance(value, dict | list) and value and r.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = r.choice(keys)
        if r.random() < 0.1:
            return (
                {k: v for k, v in value.items() if k != key}
                if isinstance(value, dict)
                else value[:key] + value[key + 1 :]
            )
        if r.random() < 0.1 and isinstance(value, list):
            return value + [value[key]] * r.choice((1, 3, 300))
        changed = dict(value) if isinstance(value, dict) else list(value)
        changed[key] = damaged_json(r, value[key])
        return changed
    if isinstance(value, str) and r.random() < 0.5:
        return damaged_text(r, value)
    return r.choice(VALUES)


def damaged_array(r, array):
    """Another shape, type or value."""
    with np.errstate(all="ignore"), contextlib.suppress(ValueError, TypeError, OverflowError, IndexError):
        if array.dtype.kind == "U" and array.size == 1:
            text = str(array.reshape(-1)[0])
            with contextlib.suppress(ValueError):
                return np.array(json.dumps(damaged_json(r, json.loads(text))))
            return np.array(damaged_text(r, text))
        how = r.randrange(9)
        if how == 0:
            return array.astype(
                r.choice(("f2", "f4", "f8", "i1", "i8", "u4", "u8", "b1", "c8", "U3", "S2", ">f8", "O"))
            )
        if how == 1:
            return array[None] if r.random() < 0.5 else array[..., None]
        if how == 2:
            return array.reshape(-1) if r.random() < 0.5 else array.reshape(-1)[: r.choice((0, 1))]
        if how == 3 and array.ndim:
            return array.take(range(r.randrange(array.shape[-1] + 1)), -1)
        if how == 4 and array.ndim:
            return array[: r.randrange(len(array) + 1)]
        if how == 5 and array.ndim and array.size:
            return np.concatenate([array] * r.choice((2, 3, 20)), r.randrange(array.ndim))
        if how == 6:
            return np.array(r.choice((0, -1, np.nan, np.inf, 1e300, 2**62, "a", "", 1e-300)))
        if how == 7:
            return np.zeros(r.choice(((0,), (0, 0), (1,), (3, 0), (0, 3), (1, 0, 3), (5, 5))), array.dtype)
        array = array.copy()
        array.reshape(-1)[r.randrange(array.size)] = r.choice((0, -1, np.nan, np.inf, 1e300, 2**31, 2**62, 1e-300))
    return array


def damaged_npy(r, data):
    if r.random() < 0.3:
        return damaged_bytes(r, data)
    try:
        return hostile.npy(damaged_array(r, np.load(io.BytesIO(data))))
    except Exception:  # numpy cannot: it was damaged before
        return damaged_bytes(r, data)


def damaged(r, suffix, data):
    """A file damaged at one of its layers."""
    if r.random() < 0.25:
        return damaged_bytes(r, data)
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        for _ in range(r.choice((1, 1, 2, 3))):
            name = r.choice(list(members))
            if r.random() < 0.1:
                del members[name]
                members = members or {"a.npy": b""}
            elif r.random() < 0.05:
                members[r.choice(list(members))] = members[name]
            else:
                members[name] = (damaged_npy if name.endswith(".npy") else damaged_bytes)(r, members[name])
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", r.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return buffer.getvalue()
    if data[:1] == b"x":
        return zlib.compress(damaged_bytes(r, zlib.decompress(data)), 1)
    if data[:6] == b"\x93NUMPY":
        return damaged_npy(r, data)
    if suffix == ".json":
        return json.dumps(damaged_json(r, json.loads(data))).encode()
    if suffix in (".yaml", ".bvh"):
        return damaged_text(r, data.decode()).encode("latin1", "replace")
    return damaged_bytes(r, data)


def tried(reader, path):
    """What is wrong with what a reader makes of a file, and where; None where nothing is."""
    signal.setitimer(signal.ITIMER_VIRTUAL, hostile.SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            hostile.READERS[reader](path)
    except ValueError as error:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if type(error) is not ValueError:
            return f"{type(error).__name__}: {error}", traceback.extract_tb(error.__traceback__)[-1]
        if reader != "video" and hostile.starved(error):  # ffmpeg has a limit of its own, 2 GB a block
            return f"memory ran out: {error}", traceback.extract_tb(error.__traceback__)[-1]
        named = path.name in str(error) or (reader == "plan" and "skeleton" in str(error))
        return None if named else (f"no file named: {error}", traceback.extract_tb(error.__traceback__)[-1])
    except BaseException as error:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if isinstance(error, KeyboardInterrupt):
            raise
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if "/fuzz.py" not in frame.filename]
        return f"{type(error).__name__}: {error}", own[-1]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all readers together")
    parser.add_argument("--reader", action="append", choices=sorted(hostile.READERS), help="all of them, if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="where findings are kept")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    files = [file for file in hostile.sound() if not args.reader or file[0] in args.reader]
    files += [("plan", suffix, data) for reader, suffix, data in files if reader == "skeleton"]
    r, counts, findings = random.Random(args.seed), dict.fromkeys((file[0] for file in files), 0), {}

    def over(*_):
        raise Slow

    signal.signal(signal.SIGVTALRM, over)
    hostile.grown(hostile.MEMORY)
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        for reader, suffix, data in files:
            path = args.out / f"now{suffix}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                path.write_bytes(damaged(r, suffix, data))
            counts[reader] += 1
            wrong = tried(reader, path)
            if wrong is not None:
                what, at = wrong
                key = (reader, what.split(":")[0], at.filename, at.lineno)
                if key not in findings:
                    kept = args.out / f"{reader}-{len(findings)}{suffix}"
                    os.replace(path, kept)
                    findings[key] = kept
                    print(f"{kept}: {what[:300]}  ({Path(at.filename).name}:{at.lineno})", flush=True)
    print(", ".join(f"{reader} {count:,}" for reader, count in counts.items()) + f" files; {len(findings)} findings")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
