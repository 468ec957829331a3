"""What the command `kinlmr` takes."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import kinlmr

VMC_PORT = 39539  # where receivers of the protocol listen
DATA = Path(__file__).parent / "data"
# fmt: off
ENDINGS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mts", ".ts",
           ".ogv")
# fmt: on
ABOUT = """\
The people of a video as bodies: overlay.mp4, contact.png, body.glb (animated,
with everybody), a .bvh each, and recovery.npz. Without arguments: of a clip
that comes along. Keypoints are found by MoveNet, which comes along too, or by
--detector, or read from a file. Ctrl-C ends the video and finishes the files.
"""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Checked: videos (paths), or camera; the rest by name. SystemExit: 2 of what does not fit, 0 after --help."""
    parser = _parser()
    args = parser.parse_intermixed_args(argv)
    for name in ("show", "vmc"):
        if (path := vars(args)[name]) and Path(path).exists():  # no port, no host: it is the video
            args.videos, vars(args)[name] = [Path(path), *args.videos], ""
    try:
        args.show, args.vmc = _port(args.show), _address(args.vmc)
    except ValueError as error:
        parser.error(str(error))
    if args.videos and args.camera is not None:
        parser.error("videos or a camera, not both")
    if args.keypoints and (args.detector or args.camera is not None):
        parser.error("--keypoints are in the place of --detector, --fast and --camera; give one of them")
    if not args.keypoints and (args.keypoints_size or args.keypoints_set):
        parser.error("--keypoints-size and --keypoints-set say what --keypoints are; give these too")
    if not args.videos and args.camera is None:
        args.videos = [DATA / "demo.mp4"]
        if not args.detector:
            args.keypoints = args.keypoints or DATA / "demo.npz"
    args.videos = [film for path in args.videos for film in _films(path, parser)]
    if len(args.videos) > 1 and args.keypoints:
        parser.error(f"--keypoints are those of one video, not of {len(args.videos)}")
    if len(args.videos) > 1 and (args.show is not None or args.vmc):
        parser.error(f"--show and --vmc are for one video or a camera, not for {len(args.videos)} videos")
    return args


def _films(path: Path, parser: argparse.ArgumentParser) -> list[Path]:
    """The videos of a folder, by name; a file itself."""
    if not path.is_dir():
        return [path]
    films = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.name[0] != ".")
    if not films:
        parser.error(f"{path}: a folder without a video; known are {' '.join(ENDINGS)}")
    return films


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "kinlmr",
        "kinlmr [options] [VIDEO ...]",
        ABOUT,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=26),
    )
    add, lens = parser.add_argument, parser.add_mutually_exclusive_group().add_argument
    # fmt: off
    add("videos", nargs="*", type=Path, metavar="VIDEO",
        help="files, or folders of them; of several, each has a folder in --out")
    add("--version", action="version", version=f"kinlmr {kinlmr.__version__}")
    add("--camera", metavar="C", help="a camera instead: its number, or its name")
    add("--show", nargs="?", const="", metavar="PORT", help="live, on a page for a browser of this machine")
    add("--vmc", nargs="?", const="", metavar="HOST:PORT", help="live, to a VMC receiver (127.0.0.1:39539)")
    add("--out", type=Path, default=Path("out"), help="where the files go (%(default)s)")
    add("--no-overlay", action="store_true", help="all but overlay.mp4; faster")
    add("--size", type=_from(16, 16384, int), default=1280, metavar="N",
        help="the overlay's picture's longest side, at most (%(default)s)")
    add("--seconds", type=_from(0, 10**9), metavar="S", help="stop after so many")
    add("--height", type=_from(0.3, 3), metavar="METRES",
        help="how tall the people are (else as estimated)")
    add("--rig", metavar="RIG",
        help="bones of mixamo, unreal or vrm, or those of a .glb, .vrm or .bvh file (else the body's)")
    add("--scale", type=_from(1e-6, 1e6), metavar="UNITS",
        help="units a metre in .bvh files (else 1, or the rig's)")
    lens("--fov", type=_from(1, 179), metavar="DEGREES",
         help="the camera's field of view across the picture's diagonal (else 53)")
    lens("--focal", type=_from(1, 10**9), metavar="PIXELS",
         help="the same as a focal length (else the diagonal)")
    add("--keypoints", type=Path, metavar="PATH",
        help="a file or folder of another detector's, of the picture as it is stored")
    add("--keypoints-size", type=_size, metavar="WxH", help="of the picture that they were found in")
    add("--keypoints-set", metavar="SET", help="such as body25b, if their number does not tell")
    which = parser.add_mutually_exclusive_group().add_argument
    which("--detector", metavar="NAME",
          help="mediapipe, onnx:FILE (top-down), or module:function (else movenet)")
    which("--fast", dest="detector", action="store_const", const="movenet-fast", help="less exact, for live use")
    add("--people", type=_from(1, 1000, int), default=4, metavar="N",
        help="at once, at most: the largest (%(default)s)")
    add("--model", default="anny24-coco17",
        help="a shipped model's name, or a checkpoint with keypoints= (%(default)s)")
    # fmt: on
    return parser


def _from(low: float, high: float, kind: type[int] | type[float] = float) -> Callable[[str], float]:
    """A type of argument: a number in these bounds."""

    def number(text: str) -> float:
        with contextlib.suppress(ValueError):
            if low <= (value := kind(text)) <= high:
                return value
        what = "whole number" if kind is int else "number"
        raise argparse.ArgumentTypeError(f"{text!r} is not a {what} from {low:,} to {high:,}")

    return number


def _port(text: str | None) -> int | None:
    """The port of --show; 0 is a free one."""
    if text is None:
        return None
    if text and not (text.isdigit() and int(text) < 1 << 16):
        raise ValueError(f"--show {text}: a port is a number up to 65535, and there is no such file")
    return int(text or 0)


def _address(text: str | None) -> tuple[str, int] | None:
    """Host and port of --vmc, each with its default."""
    if text is None:
        return None
    host, _, port = (f":{text}" if text.isdigit() else text).partition(":")
    if port and not (port.isdigit() and 0 < int(port) < 1 << 16):
        raise ValueError(f"--vmc {text}: expected HOST:PORT, HOST or PORT, such as 127.0.0.1:{VMC_PORT}")
    return host or "127.0.0.1", int(port or VMC_PORT)


def _size(text: str) -> tuple[float, float]:
    width, _, height = text.lower().partition("x")
    try:
        size = float(width), float(height)
    except ValueError:
        size = 0.0, 0.0
    if not all(0 < side < 1e6 for side in size):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT in pixels, such as 1920x1080")
    return size
