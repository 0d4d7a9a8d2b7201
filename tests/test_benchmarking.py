"""The protocol of the speed benchmark; no test depends on actual speed."""

import json
import random
import weakref
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.shared.golden import CASES
from virnuc import benchmarking
from virnuc.benchmarking import benchmark, draw_sample, estimate_cost
from virnuc.encoders import timing
from virnuc.encoders.language_model import LanguageModelEncoder
from virnuc.encoders.precision import choose_precision
from virnuc.errors import MemoryShortageError, UsageError
from virnuc.evaluation.speed import BenchmarkResult, Timing, lower_end, unfairness
from virnuc.reports.rendering import markdown
from virnuc.reports.speed import speed_page
from virnuc.sequences.frames import FRAME_SCHEMA
from virnuc.settings import BenchmarkSettings
from virnuc.storage.manifest import Manifest, describe_shard

ESM2, FAST = CASES["esm2"].encoder, CASES["fastesm2"].encoder
SIDE_KEYS = {  # of the metrics of each side
    "s",
    "mean_s",
    "spread_s",
    "run1_s",
    "run2_s",
    "tokenise_s",
    "embed_s",
    "frames_per_s",
    "tokens_per_s",
    "peak_memory_gb",
    "gemm_peak_gflops",
    "model_gflops",
    "share_of_gemm_peak",
}


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    directory = tmp_path_factory.mktemp("frames")
    generator = random.Random(0)
    empty = dict.fromkeys(FRAME_SCHEMA.names) | {"label": 1, "group": "viral"}
    rows = []
    for number in range(60):
        protein = "".join(generator.choices("ACDEFGHIKLMNPQRSTVWY", k=generator.randint(5, 40)))
        rows.append(
            empty | {"frame_id": f"V.1_chunk_{number}F1", "protein": protein, "nucleotide": "ACG" * len(protein)}
        )
    path = directory / "viral-00000.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=FRAME_SCHEMA), path)
    Manifest("frames", {}, {}, {}, (describe_shard(directory, path, 60),)).write(directory)
    return directory


def page_text(result):
    """Return the page of a benchmark as Markdown."""
    return markdown(speed_page(result))


def settings(frames, **changes):
    values = {"baseline": ESM2, "candidate": FAST, "sample": 20, "runs": 2, "warmup": 1, "device": "cpu"}
    return BenchmarkSettings(frames=str(frames), **(values | changes))


@pytest.fixture(scope="module")
def result(frames):
    fresh = benchmarking.peak_in_fresh_process
    with pytest.MonkeyPatch.context() as patch:  # what takes most of the time: large products, and a second process
        patch.setitem(timing._ROWS, "cpu", 8)
        here = benchmarking._embed_largest_batch
        patch.setattr(benchmarking, "peak_in_fresh_process", lambda job: (fresh if job.name == ESM2 else here)(job))
        return benchmark(settings(frames))


@pytest.fixture
def no_peaks(monkeypatch):
    """No measurement of peaks, which takes most of the time, for tests of other things."""
    monkeypatch.setattr(benchmarking, "gemm_peak", lambda *given: 1e11)
    monkeypatch.setattr(benchmarking, "peak_in_fresh_process", lambda *given: 0.5)


def test_both_sides_have_the_same_keys_and_the_ratio_is_of_their_medians(result):
    metrics = result.metrics
    wanted = {f"bench/{side}_{key}" for side in ("baseline", "candidate") for key in SIDE_KEYS}
    assert set(metrics) == wanted | {f"bench/speedup{end}" for end in ("", "_low", "_run1", "_run2")}
    ratios = [metrics[f"bench/baseline_run{n}_s"] / metrics[f"bench/candidate_run{n}_s"] for n in (1, 2)]
    assert [metrics["bench/speedup_run1"], metrics["bench/speedup_run2"]] == pytest.approx(ratios)
    assert metrics["bench/speedup"] == pytest.approx(sum(ratios) / 2)
    assert metrics["bench/speedup_low"] == pytest.approx(min(ratios))  # two runs allow no bound
    assert all(value > 0 for key, value in metrics.items() if "spread" not in key)


def test_figures_follow_from_the_runs(result):
    side = replace(result.sides["baseline"], runs=tuple(Timing(0.5, total) for total in (9.5, 0.5, 1.5)), flops=300)
    side = replace(side, gemm_flops_per_s=400.0, frames=20, tokens=500)
    figures = side.metrics("baseline")
    assert (figures["bench/baseline_s"], figures["bench/baseline_spread_s"]) == (2.0, 9.0)
    assert figures["bench/baseline_mean_s"] == pytest.approx(13 / 3)
    assert (figures["bench/baseline_frames_per_s"], figures["bench/baseline_tokens_per_s"]) == (10.0, 250.0)
    assert figures["bench/baseline_share_of_gemm_peak"] == pytest.approx(0.5)


def test_the_record_comes_back_from_its_file_as_it_was(result):
    again = BenchmarkResult.from_dict(json.loads(json.dumps(result.asdict())))
    assert again == result and again.metrics == result.metrics


@pytest.mark.parametrize(
    ("ratios", "low"),
    [
        ((3.0,) * 5, 3.0),
        ((3.0, 3.0, 1.5, 3.0, 3.0), 4.5**0.5),  # one run beside a noisy neighbour
        ((3.0, 1.5, 1.5, 3.0, 3.0), 1.5),  # two of five
        ((1.9, 1.9, 1.9, 9.0, 9.0), 1.9),  # the baseline disturbed
        ((2.0, 4.0), 2.0),
    ],
)
def test_the_lower_end_is_the_bound_of_wilcoxons_signed_ranks(ratios, low):
    assert lower_end(ratios) == pytest.approx(low)
    if len(ratios) == 5:  # the third smallest of the means of pairs: 3 of the 32 sign patterns lie at or below it
        means = sorted((ratios[i] * ratios[j]) ** 0.5 for i in range(5) for j in range(i, 5))
        assert lower_end(ratios) == pytest.approx(means[2])


def test_sides_are_timed_in_turns_and_never_held_together(frames, monkeypatch, no_peaks):
    loaded, order, peaks = [], [], []
    load, take = benchmarking.load_encoder, benchmarking.seconds
    monkeypatch.setattr(benchmarking, "peak_in_fresh_process", lambda job: peaks.append(job.name) or 0.5)

    def watched(name, **options):
        assert all(reference() is None for reference in loaded)
        encoder = load(name, **options)
        loaded.append(weakref.ref(encoder))
        order.append(name)
        return encoder

    monkeypatch.setattr(benchmarking, "load_encoder", watched)
    monkeypatch.setattr(benchmarking, "seconds", lambda work, device: order.append("run") or take(work, device))
    benchmark(settings(frames, runs=3))
    assert peaks == [ESM2, FAST]  # a process for each side, not for each turn
    turns = [name for name in order if name != "run"]
    assert turns == [ESM2, FAST, ESM2, FAST]
    assert order.count("run") == 4 + 2 * 2 * 3  # a warm-up batch each time one is loaded


def test_a_run_of_given_seconds_has_whole_batches_of_the_sample_repeated_and_is_compared_frame_by_frame(
    frames, monkeypatch, no_peaks
):
    embedded, speeds = [], {"esm-": 100, "esm2_tiny": 200}  # frames/s, by the start of the name
    embed = LanguageModelEncoder.embed_tokens

    def watched(self, tokens, **options):
        embedded.append((next(speed for name, speed in speeds.items() if self.name.startswith(name)), tokens))
        return embed(self, tokens, **options)

    def by_frames(work, device):
        before = len(embedded)
        work()
        return sum(len(tokens) / speed for speed, tokens in embedded[before:])  # nothing for tokenising

    monkeypatch.setattr(benchmarking, "seconds", by_frames)
    monkeypatch.setattr(LanguageModelEncoder, "embed_tokens", watched)
    timed = benchmark(settings(frames, candidate="esm2_tiny", sample=20, runs=1, seconds=2))
    assert timed.ratios == pytest.approx([2.0])  # although the candidate embeds twice as many frames
    for side, speed in zip(timed.sides.values(), speeds.values(), strict=True):
        run = max((tokens for own, tokens in embedded if own == speed), key=len)
        batch = 1024 // run.lengths.mean()
        assert side.frames == len(run) and abs(len(run) - 2 * speed) <= batch / 2 + 1
        times = [run.ids.count(name) for name in set(run.ids)]
        assert len(times) == 20 and max(times) - min(times) <= 1


def test_runs_of_unequal_frames_decide_nothing(result):
    uneven = replace(result, sides=result.sides | {"candidate": replace(result.sides["candidate"], frames=10)})
    found = unfairness(uneven, [{}, {}])
    assert "runs of 10 and 20 frames" in found and "runs of" not in " ".join(unfairness(result, [{}, {}]))


def test_what_the_figures_hold_for_is_logged(result):
    facts = result.parameters
    fastest = choose_precision("auto", "cpu").name  # depends on the processor
    assert facts["bench/baseline_precision"] == facts["bench/candidate_precision"] == fastest
    assert facts["bench/same_precision"] == "yes"
    assert facts["bench/baseline_weights"] == "local"
    assert facts["bench/baseline_warmup_batches"] == "1"
    assert len(facts["bench/sample_digest"]) == 64
    assert {"bench/processor", "bench/threads", "bench/torch"} <= facts.keys()
    assert all(facts[key] in page_text(result) for key in ("bench/sample_digest", "bench/processor"))


def test_a_sample_is_seeded_and_in_order(frames):
    first, again, other = (draw_sample(frames, 20, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.digest != other.digest
    assert len(set(first.ids)) == 20
    numbers = [int(name.split("_")[2][:-2]) for name in first.ids]
    assert numbers == sorted(numbers)
    assert len(draw_sample(frames, 1000, 1).ids) == 60


def test_different_precisions_are_marked_everywhere(frames, no_peaks):
    mixed = benchmark(settings(frames, precision=("fp32", "bf16")))
    assert mixed.parameters["bench/same_precision"] == "no"
    assert "(differs)" in page_text(mixed)
    assert "does not compare the models" in page_text(mixed)


def test_random_weights_are_marked(frames, no_peaks):
    timed = benchmark(settings(frames, candidate="esm2_8m", weights={"esm2_8m": "random"}, sample=3))
    assert timed.parameters["bench/candidate_weights"] == "random"
    assert "Random weights" in page_text(timed)


def test_one_side_that_does_not_fit_leaves_the_other(frames, monkeypatch, no_peaks):
    load = benchmarking.load_encoder

    def small_machine(name, **options):
        if name == ESM2:
            raise MemoryShortageError("needs 11 GB")
        return load(name, **options)

    monkeypatch.setattr(benchmarking, "load_encoder", small_machine)
    timed = benchmark(settings(frames))
    assert set(timed.sides) == {"candidate"}
    assert timed.speedup is None
    assert timed.parameters["bench/baseline_failure"] == "needs 11 GB"
    assert "was not timed: needs 11 GB" in page_text(timed)
    with pytest.raises(MemoryShortageError, match="neither side"):
        benchmark(settings(frames, candidate=ESM2))


def test_encoders_of_two_kinds_are_not_compared(frames):
    with pytest.raises(UsageError, match="one reads DNA, the other proteins"):
        benchmark(settings(frames, candidate="tetranucleotide"))


def test_the_cost_of_a_full_run():
    cost = estimate_cost(
        frames=7_200_000, frames_per_s={"dna": 4000.0, "protein": 1000.0}, dimensions={"dna": 768, "protein": 1280}
    )
    assert cost.hours == pytest.approx(0.5 + 2.0)
    assert cost.disk_gb == pytest.approx(7.2e6 * 2 * 2048 * 4 / 1e9, rel=0.05)
