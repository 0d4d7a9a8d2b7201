"""A hub cache in the layout of downloads, with random weights."""

import json

from safetensors.torch import save_file

from virnuc.encoders import ENCODERS
from virnuc.encoders.esm import EsmNetwork, EsmShape
from virnuc.encoders.weights import RandomWeights

PINNED = ENCODERS["esm2_8m"].revision
OTHER = "f" * 40


def fill_hub_cache(cache, name, seeds):
    """Write a hub cache with random weights, by the seeds in `seeds` for each commit; `main` is the last commit."""
    spec = ENCODERS[name]
    repository = cache / f"models--{spec.hub_id.replace('/', '--')}"
    shapes = {
        key: slot.shape
        for key, slot in EsmNetwork(EsmShape.from_config(spec.architecture, name), 0.88, "layers").slots().items()
    }
    for commit, seed in seeds.items():
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        checkpoint = RandomWeights(name, shapes, seed)
        save_file({f"esm.{key}": checkpoint.read(key) for key in shapes}, snapshot / "model.safetensors")
        (snapshot / "config.json").write_text(json.dumps(spec.architecture))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
