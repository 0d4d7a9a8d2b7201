"""VirNucPro's pickled modules are read without running them; anything else is refused."""

import json
import os
import pickle
import sys
import types
from collections import OrderedDict

import pytest
import torch
from torch import nn

from tests.shared.samples import MLPClassifier
from virnuc.errors import DataError, IncompatibleCheckpointError, UsageError
from virnuc.evaluation.metrics import KEYS
from virnuc.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from virnuc.training.classifier import Classifier
from virnuc.training.virnucpro import convert_checkpoint, read_external_metrics, read_model


@pytest.fixture(params=["__main__", "train"])
def saved_as(request, monkeypatch):
    """Move the classifier's class to a module of the name that is returned, which pickles then contain."""
    home = sys.modules[request.param] if request.param in sys.modules else types.ModuleType(request.param)
    monkeypatch.setitem(sys.modules, request.param, home)
    monkeypatch.setattr(home, "MLPClassifier", MLPClassifier, raising=False)
    monkeypatch.setattr(MLPClassifier, "__module__", request.param)
    return request.param


def trained(width=3328, hidden=8):
    torch.manual_seed(1)
    model = MLPClassifier(width, hidden, 2)
    model(torch.randn(16, width))  # moves the running statistics
    return model


def test_pickled_module_scores_the_same(saved_as, tmp_path):
    model, vectors = trained().eval(), torch.randn(5, 3328)
    torch.save(model, tmp_path / "model.pth")
    checkpoint = convert_checkpoint(tmp_path / "model.pth")
    save_checkpoint(tmp_path / "converted.pth", checkpoint)
    again = load_checkpoint(tmp_path / "converted.pth")
    assert torch.equal(again.build()(vectors), model(vectors))
    metadata = again.metadata
    assert (metadata["checkpoint_version"], metadata["model_type"]) == ("1.0.0", "esm2_3b")
    assert (metadata["dna_dim"], metadata["protein_dim"], metadata["hidden_dim"]) == (768, 2560, 8)


@pytest.mark.parametrize(("dna", "width", "names"), [(768, 2048, ["dnabert_s", "fastesm650"]), (20, 100, None)])
def test_checkpoint_without_a_record_of_its_encoders(tmp_path, dna, width, names):
    sizes = {"dna_dim": dna, "protein_dim": width - dna, "merged_dim": width, "input_dim": width}
    metadata = {"checkpoint_version": "2.0.0", "model_type": "fastesm650", "hidden_dim": 4, "num_class": 2, **sizes}
    save_checkpoint(tmp_path / "model.pth", Checkpoint(Classifier(width, 4).state_dict(), metadata))
    if names is None:
        with pytest.raises(IncompatibleCheckpointError, match="takes 100 values a frame"):
            read_model(tmp_path / "model.pth")
        return
    encoders = read_model(tmp_path / "model.pth").metadata["encoders"]
    assert [(encoders[kind]["name"], encoders[kind]["weights"]) for kind in ("dna", "protein")] == [
        (name, "unrecorded") for name in names
    ]


def test_other_width(saved_as, tmp_path):
    torch.save(trained(width=100), tmp_path / "model.pth")
    with pytest.raises(IncompatibleCheckpointError, match="takes 100 values a frame"):
        convert_checkpoint(tmp_path / "model.pth")


class Command:
    def __init__(self, marker):
        self.command = f"touch {marker}"

    def __reduce__(self):
        return os.system, (self.command,)


def hide_in_attribute(model, command):
    model.extra = command


def hide_in_layer(model, command):
    model.hidden_layer.weight_norm = command


def hide_in_hooks(model, command):
    model._forward_hooks = OrderedDict(hook=command)


@pytest.mark.parametrize("hide", [hide_in_attribute, hide_in_layer, hide_in_hooks])
def test_hostile_module_runs_nothing(saved_as, tmp_path, hide):
    model = trained()
    hide(model, Command(tmp_path / "ran"))
    torch.save(model, tmp_path / "model.pth")
    with pytest.raises(DataError, match=r"refused, nothing was run: .*posix\.system"):
        convert_checkpoint(tmp_path / "model.pth")
    assert not (tmp_path / "ran").exists()


class Builtin:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "value",
    [
        Builtin(eval, "open('ran', 'w')"),
        Builtin(getattr, "x", "upper"),
        Builtin(__import__, "os"),
        nn.LSTM(2, 2),
        MLPClassifier(2, 2, 2).hidden_layer,
        {"model_state_dict": {}},
        torch.zeros(3),
        [Builtin(print, "x")],
    ],
)
@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_other_files_are_refused(tmp_path, monkeypatch, value, save):
    monkeypatch.chdir(tmp_path)
    save(value, tmp_path / "model.pth")
    with pytest.raises(DataError):
        convert_checkpoint(tmp_path / "model.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_weights_that_are_not_finite(saved_as, tmp_path):
    model = trained()
    model.bn1.running_var[3] = float("nan")
    torch.save(model, tmp_path / "model.pth")
    with pytest.raises(DataError, match=r"bn1\.running_var holds NaN"):
        convert_checkpoint(tmp_path / "model.pth")


def test_missing_and_cut_short(saved_as, tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        convert_checkpoint(tmp_path / "nothing.pth")
    torch.save(trained(), tmp_path / "model.pth")
    os.truncate(tmp_path / "model.pth", 3000)
    with pytest.raises(DataError, match="cut short"):
        convert_checkpoint(tmp_path / "model.pth")


def test_external_metrics(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"accuracy": 0.902, "mcc": -0.1, "f1": 1}))
    assert read_external_metrics(path, KEYS) == {"accuracy": 0.902, "mcc": -0.1, "f1": 1.0}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"accuracy": "0.9"}', '{"accuracy": NaN}', '{"accuracy": 90.2}', '{"f1": true}', '{"acc": 0.9}'],
)
def test_wrong_external_metrics_are_refused(tmp_path, text):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"metrics\.json"):
        read_external_metrics(path, KEYS)
