"""Files of today load for ever, with the numbers they had: a checkpoint of each format, and the shipped weights.

Numbers are in tests/data/frozen.json. After new weights were shipped, this renews theirs, and theirs alone:

    python tests/core/test_frozen.py
"""

import json
from pathlib import Path

import pytest
import torch

import kinlmr
from kinlmr import checkpoint

DATA = Path(__file__).parents[1] / "data"
FROZEN = DATA / "frozen.json"
TINY = "tiny.npz", "tiny.safetensors"


def numbers(model):
    """The last of eight frames of made-up features: pose, shape and camera in one row."""
    features = torch.sin(torch.arange(8 * model.options.features).double() ** 1.1)
    with torch.no_grad():
        estimate = model(features.to(model.start.pose).view(1, 8, -1))
    return torch.cat([part[0, -1].flatten() for part in estimate])


def assert_frozen(name, model):
    wanted = json.loads(FROZEN.read_text())
    assert name in wanted, f"{name} has no frozen numbers; run python tests/core/test_frozen.py"
    assert torch.allclose(numbers(model), torch.tensor(wanted[name]), atol=1e-4, rtol=0), name


@pytest.mark.parametrize("name", TINY)
def test_a_checkpoint_of_each_format_loads_with_its_numbers(name):
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    model = kinlmr.load(DATA / name)
    assert_frozen(name, model)
    with torch.no_grad():
        model.camera.head.bias += 2e-4
    with pytest.raises(AssertionError):
        assert_frozen(name, model)


@pytest.mark.parametrize("name", checkpoint.shipped())
def test_shipped_weights_have_their_numbers(name):
    assert_frozen(name, kinlmr.load(name))


def renew(names):
    """Freeze the numbers that these models have today."""
    kept = {name: row for name, row in json.loads(FROZEN.read_text()).items() if name in TINY}
    kept |= {name: [round(x, 5) for x in numbers(kinlmr.load(name)).tolist()] for name in names}
    FROZEN.write_text(
        json.dumps(kept, indent=1).replace(",\n  ", ", ").replace("[\n  ", "[").replace("\n ]", "]") + "\n"
    )


if __name__ == "__main__":
    renew(checkpoint.shipped())
