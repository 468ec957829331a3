"""The tests under other versions: `pipx run nox -f .ci/noxfile.py` (each session makes an environment of its own).

-l lists the sessions, -s "tests-3.12" runs one, what follows -- goes to pytest. A Python that is not installed is
passed over. Each session fetches a torch of its own: `TORCH_INDEX` may name an index of builds without CUDA.
"""

import os
from pathlib import Path

import nox

ROOT = Path(__file__).parents[1]
OLDEST = (
    "torch==2.6.0",
    "numpy==1.26.0",
    "networkx==3.2",
    "einops==0.8.0",
    "pyyaml==6.0.1",
)  # 6.0 does not build today
LEAN = ".[test,safetensors,video]"  # without ONNX's packages, which the README's snippets need
SKIPPED = ("--deselect", "tests/apps/test_package.py::test_the_readmes_snippets_run")
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["tests"]


def checked(session: nox.Session, *install: str, skip: tuple[str, ...] = ()) -> None:
    """Install, say what came, and run the tests of the checkout against it."""
    session.chdir(ROOT)
    index = ["--extra-index-url", os.environ["TORCH_INDEX"]] if "TORCH_INDEX" in os.environ else []
    session.install(*index, *install)
    session.run("python", "-c", "import numpy, sys, torch; print(sys.version, torch.__version__, numpy.__version__)")
    session.run("pytest", *skip, *session.posargs)


@nox.session(python=["3.10", "3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """The versions that kinlmr is developed with (constraints.txt), on every Python that torch has."""
    checked(session, "-c", str(ROOT / "constraints.txt"), "-e", ".[dev]")


@nox.session(python=["3.10", "3.12"])
def oldest(session: nox.Session) -> None:
    """The oldest versions that pyproject.toml claims. 3.12 is the newest Python of numpy 1.26."""
    checked(session, *OLDEST, "-e", LEAN, skip=SKIPPED)


@nox.session(python=["3.11", "3.14"])
def newest(session: nox.Session) -> None:
    """The newest versions that there are, those before a release too."""
    checked(session, "--upgrade", "--pre", "torch", "numpy", "networkx", "einops", "pyyaml", "-e", ".[dev]")


@nox.session(python="3.11")
def old_numpy(session: nox.Session) -> None:
    """The oldest of everything but torch: no large download where torch is already in pip's cache."""
    checked(session, *OLDEST[1:], "torch==2.13.0", "-e", LEAN, skip=SKIPPED)
