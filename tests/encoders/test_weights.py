"""All existing layouts of weights are read, and weights that are not what they claim to be are refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.shared.golden import CASES
from virnuc.encoders import load_encoder
from virnuc.errors import EncoderError, UsageError

QUERY = "esm.encoder.layer.1.attention.self.query.weight"
ROTARY = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"


def _rename(tensors):
    tensors[QUERY + "s"] = tensors.pop(QUERY)


def _reshape(tensors):
    tensors[QUERY] = tensors[QUERY][:, :32].contiguous()


def _poison(tensors):
    tensors[QUERY][3, 5] = float("nan")


def _drop_one_rotary(tensors):
    del tensors[ROTARY.format(1)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_rename, r"1 missing \(encoder.layer.1.attention.self.query.weight\); 1 unexpected"),
        (_reshape, r"query.weight has shape \[64, 32\], but its config.json says \[64, 64\]"),
        (_poison, "query.weight holds values that are not finite"),
        (_drop_one_rotary, r"1 missing \(encoder.layer.1.attention.self.rotary_embeddings.inv_freq\)"),
    ],
)
def test_a_changed_checkpoint_is_refused(esm_copy, change, words):
    with pytest.raises(EncoderError, match=words):
        load_encoder(f"esm:{esm_copy(change)}")


def test_rotary_frequencies_come_from_the_file(esm_copy):
    def slower(tensors):
        for layer in range(3):
            tensors[ROTARY.format(layer)] *= 0.5

    encoder = load_encoder(f"esm:{esm_copy(slower, model_type='fast_esm')}")
    case = CASES["esm2"]
    assert encoder.provenance.rotary == "file"
    assert (encoder.embed(case.sequences) - case.expected).abs().max() > 1e-3


def test_a_file_without_any_rotary_frequency_says_so(esm_copy):
    def without(tensors):
        for layer in range(3):
            del tensors[ROTARY.format(layer)]

    encoder = load_encoder(f"esm:{esm_copy(without)}")
    assert encoder.provenance.rotary == "computed"
    torch.testing.assert_close(
        encoder.embed(["MKV"]), load_encoder(CASES["esm2"].encoder).embed(["MKV"]), atol=1e-2, rtol=0
    )


def test_token_dropout_follows_the_config_and_is_logged(esm_copy):
    assert load_encoder(CASES["esm2"].encoder).provenance.token_dropout_scale == pytest.approx(0.88)
    assert load_encoder(f"esm:{esm_copy(token_dropout=False)}").provenance.token_dropout_scale == 1.0


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 4},
        {"num_hidden_layers": 10**9},
        {"hidden_size": "64"},
        {"num_attention_heads": 5},
        {"model_type": "bert"},
        {"emb_layer_norm_before": True},
        {"vocab_size": 34},
    ],
)
def test_a_config_of_another_model_is_refused(esm_copy, config):
    with pytest.raises(EncoderError):
        load_encoder(f"esm:{esm_copy(**config)}")


def _save_sharded(source, target):
    tensors = sorted(load_file(source / "model.safetensors").items())
    index = {}
    for number in range(3):
        part = dict(tensors[number::3])
        name = f"model-{number + 1:05d}-of-00003.safetensors"
        save_file(part, target / name)
        index |= dict.fromkeys(part, name)
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def _save_pickled(source, target):
    torch.save(load_file(source / "model.safetensors"), target / "pytorch_model.bin")


@pytest.mark.parametrize("save", [_save_sharded, _save_pickled])
def test_layouts_of_the_hub_load_to_the_same_weights(tmp_path, save):
    case = CASES["esm2"]
    save(case.directory, tmp_path)
    shutil.copy(case.directory / "config.json", tmp_path)
    encoder, usual = load_encoder(f"esm:{tmp_path}"), load_encoder(case.encoder)
    assert encoder.provenance.weight_digest == usual.provenance.weight_digest
    assert encoder.name == usual.name
    assert torch.equal(encoder.embed(case.sequences), usual.embed(case.sequences))


def test_an_index_may_not_point_outside_its_directory(tmp_path):
    case = CASES["esm2"]
    shutil.copy(case.directory / "config.json", tmp_path)
    weights = {"a": "../esm2/model.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(EncoderError, match="not in its directory"):
        load_encoder(f"esm:{tmp_path}")


class _Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def test_a_pickle_with_a_command_is_refused_and_not_run(tmp_path):
    shutil.copy(CASES["esm2"].directory / "config.json", tmp_path)
    torch.save({"esm.x": _Command(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="refused, nothing was run"):
        load_encoder(f"esm:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    shutil.copy(CASES["esm2"].directory / "config.json", tmp_path)
    torch.save({"esm.x": torch.zeros(1).expand(10**12)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="more values than the file holds"):
        load_encoder(f"esm:{tmp_path}")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_cut_short_or_missing_is_named(esm_copy, name):
    directory = esm_copy()
    whole = (directory / name).read_bytes()
    (directory / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EncoderError, match=name):
        load_encoder(f"esm:{directory}")
    (directory / name).unlink()
    with pytest.raises(EncoderError, match=name):
        load_encoder(f"esm:{directory}")


def test_dnabert_with_prefix_and_heads_loads_and_needs_its_tokenizer(tmp_path):
    case = CASES["dnabert_s"]
    shutil.copytree(case.directory, tmp_path / "copy")
    state = torch.load(case.directory / "pytorch_model.bin", weights_only=True)
    state = {f"bert.{key}": value for key, value in state.items()} | {"cls.predictions.bias": torch.zeros(128)}
    torch.save(state, tmp_path / "copy" / "pytorch_model.bin")
    encoder = load_encoder(f"mosaicbert:{tmp_path / 'copy'}")
    torch.testing.assert_close(encoder.embed(case.sequences), case.expected, atol=1e-5, rtol=0)
    (tmp_path / "copy" / "tokenizer.json").unlink()
    with pytest.raises(EncoderError, match=r"tokenizer\.json"):
        load_encoder(f"mosaicbert:{tmp_path / 'copy'}")


def test_a_tokenizer_with_ids_beyond_the_network_is_refused(tmp_path):
    shutil.copytree(CASES["dnabert_s"].directory, tmp_path / "copy")
    path = tmp_path / "copy" / "tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["vocab"]["A"] = 5000
    path.write_text(json.dumps(document))
    with pytest.raises(EncoderError, match="tokenizer"):
        load_encoder(f"mosaicbert:{tmp_path / 'copy'}").embed(["ACGTTTGACCA"])


def test_different_weights_never_share_a_name(esm_copy):
    def nudge(tensors):
        tensors[QUERY][0, 0] += 1e-3

    changed, usual = load_encoder(f"esm:{esm_copy(nudge)}"), load_encoder(CASES["esm2"].encoder)
    assert changed.name != usual.name
    assert changed.provenance.weight_digest != usual.provenance.weight_digest


def test_a_named_encoder_refuses_the_files_of_another():
    with pytest.raises(EncoderError, match="64 dimensions, but esm2_8m has 320"):
        load_encoder("esm2_8m", weights={"esm2_8m": str(CASES["esm2"].directory)})


def test_a_directory_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="not a directory"):
        load_encoder("esm2_8m", weights={"esm2_8m": str(tmp_path / "nowhere")})
    with pytest.raises(UsageError, match="not a directory"):
        load_encoder(f"esm:{tmp_path / 'nowhere'}")
