"""Order, full memory and finite values, with a small network whose outputs can be computed by hand."""

import pytest
import torch

from tests.shared.golden import CASES
from virnuc.encoders import EncoderProvenance, load_encoder
from virnuc.encoders.batching import is_out_of_memory
from virnuc.encoders.language_model import LanguageModelEncoder
from virnuc.encoders.network import Network
from virnuc.encoders.packing import mean_of_sequences
from virnuc.encoders.tokens import tokenise_proteins
from virnuc.errors import EncoderError, MemoryShortageError, UsageError


class Echo(Network):
    """The mean of the token ids; `memory` tokens fit, and with `broken` token 20 (M) gives infinity."""

    dimension, vocabulary = 1, 33

    def __init__(self, memory=10**9, broken=False):
        super().__init__()
        self.memory, self.broken, self.sizes = memory, broken, []

    def slots(self):
        return {}

    def flops(self, lengths):
        return 0

    def forward(self, tokens, packing):
        self.sizes.append(len(tokens))
        if len(tokens) > self.memory:
            raise torch.OutOfMemoryError("full")
        values = tokens.float()[:, None]
        if self.broken:
            values = values.where(values != 20, torch.inf)
        return mean_of_sequences(values, packing, skip_ends=True)


def encoder_of(network):
    provenance = EncoderProvenance("echo", "protein", 1, "none", "", "fp32", "MIT")
    network.broken, broken = False, network.broken
    network.memory, memory = 10**9, network.memory
    encoder = LanguageModelEncoder(network, lambda s, ids: tokenise_proteins(s, ids, None), provenance, "cpu")
    network.broken, network.memory = broken, memory
    return encoder


SEQUENCES = ["A" * length + "L" for length in (3, 50, 7, 50, 1, 20)]


def test_order_is_restored():
    expected = torch.tensor([[(5 * (len(s) - 1) + 4) / len(s)] for s in SEQUENCES])
    torch.testing.assert_close(encoder_of(Echo()).embed(SEQUENCES, batch_tokens=60), expected)


def test_full_memory_halves_the_batch_and_changes_nothing():
    network = Echo(memory=60)
    encoder = encoder_of(network)
    halved = encoder.embed(SEQUENCES, batch_tokens=1000)
    assert max(network.sizes) > 60
    torch.testing.assert_close(halved, encoder_of(Echo()).embed(SEQUENCES))


def test_a_reduced_budget_is_kept_and_grows_until_little_is_left_to_learn():
    network = Echo(memory=600)
    encoder = encoder_of(network)
    network.sizes.clear()
    sequences = ["A" * 48] * 3000  # of 50 tokens
    vectors = encoder.embed(sequences, batch_tokens=1000)
    failed = [size for size in network.sizes if size > 600]
    assert 1 <= len(failed) <= 3  # every batch of 1,000 failed before
    assert max(size for size in network.sizes[-20:]) > 500
    network.sizes.clear()
    assert torch.equal(encoder.embed(sequences, batch_tokens=1000), vectors)
    assert max(network.sizes) <= 600  # learned before, and kept


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ...")]
)
def test_full_memory_has_several_names(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_a_single_frame_that_does_not_fit_is_named():
    ids = [f"frame_{row}" for row in range(6)]
    with pytest.raises(MemoryShortageError, match=r"frame_1 \(53 tokens\) does not fit"):
        encoder_of(Echo(memory=30)).embed(SEQUENCES, ids=ids)


def test_a_vector_that_is_not_finite_is_named():
    with pytest.raises(EncoderError, match="not finite for sequence frame_b"):
        encoder_of(Echo(broken=True)).embed(["AL", "AM", "LL"], ids=["frame_a", "frame_b", "frame_c"])


def test_progress_counts_every_sequence_once():
    counted = []
    encoder, sequences = load_encoder(CASES["esm2"].encoder), CASES["esm2"].sequences
    encoder.embed(sequences, batch_tokens=300, progress=lambda *told: counted.append(told))
    steps = [done for _, done, _ in counted]
    assert len(steps) > 1 and steps == sorted(set(steps))
    assert counted[-1] == (encoder.name, len(sequences), len(sequences))


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_lower_precisions_stay_close(precision):
    case = CASES["esm2"]
    encoder = load_encoder(case.encoder, precision=precision)
    assert encoder.provenance.precision == precision
    cosine = torch.nn.functional.cosine_similarity(encoder.embed(case.sequences), case.expected)
    assert cosine.min() > 0.999


@pytest.mark.parametrize("name", ["dnabert_s", CASES["dnabert_s"].encoder])
def test_int8_is_refused_where_it_loses_too_much(name):
    with pytest.raises(UsageError, match=r"--precision int8: .* use one of fp32, bf16, fp16"):
        load_encoder(name, precision="int8", weights={"dnabert_s": "random"})


def test_alibi_in_blocks_is_the_same_as_at_once(monkeypatch):
    case = CASES["dnabert_s"]
    from virnuc.encoders import packing

    monkeypatch.setattr(packing, "_MAX_BIASES", 12 * 1000 * 10)
    torch.testing.assert_close(load_encoder(case.encoder).embed(case.sequences), case.expected, atol=1e-5, rtol=0)
