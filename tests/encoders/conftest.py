"""The golden checkpoints as fixtures."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from tests.shared.golden import CASES


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]


@pytest.fixture
def esm_copy(tmp_path):
    """Return a function that copies the ESM-2 case with its tensors or its config changed."""

    def copy(change_tensors=None, **config):
        target = tmp_path / "copy"
        shutil.copytree(CASES["esm2"].directory, target)
        if change_tensors is not None:
            tensors = load_file(target / "model.safetensors")
            change_tensors(tensors)
            save_file(tensors, target / "model.safetensors")
        if config:
            written = json.loads((target / "config.json").read_text()) | config
            (target / "config.json").write_text(json.dumps(written))
        return target

    return copy
