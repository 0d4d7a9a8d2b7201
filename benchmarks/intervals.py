"""Do 95 % intervals contain the true value in 95 % of cases? Coverage over simulated test sets with known metrics.

Genomes of a test set differ in size and difficulty, so that calls on frames of one genome are correlated. For each
simulated set, intervals are computed by a bootstrap over genomes and, as is usual, by one over rows. The program counts
how often each contains the true value, which comes from a very large set.

    python -m benchmarks.intervals --repeats 1000
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import pandas as pd
from scipy.special import expit

from virnuc.evaluation.intervals import draw_genomes
from virnuc.evaluation.metrics import binary_metrics

SHOWN = ("accuracy", "precision", "recall", "f1", "mcc", "roc_auc", "pr_auc", "brier", "log_loss")
DROP = "accuracy drop"


def simulate(
    rng: np.random.Generator, genomes: int, frames: float
) -> tuple[pd.Series, np.ndarray, np.ndarray, np.ndarray]:
    """Return the genome, the label and two models' scores of each row.

    The number of rows of a genome is geometric with mean `frames`. A row's margin is the sum of its class, difficulties
    of genome and row that both models share, and errors of each model on genome and row; the second model is a little
    worse.
    """
    sizes = rng.geometric(1 / frames, size=genomes)
    codes = np.repeat(np.arange(genomes), sizes)
    labels = (codes % 2).astype(np.int8)
    shared = rng.normal(scale=1.2, size=genomes)[codes] + rng.normal(size=len(codes))
    scores = []
    for strength in (1.6, 1.45):
        own = rng.normal(scale=0.4, size=genomes)[codes] + rng.normal(scale=0.7, size=len(codes))
        scores.append(expit(strength * (2 * labels - 1) + shared + own))
    return pd.Series(codes), labels, scores[0], scores[1]


def truths(frames: float) -> dict[str, float]:
    """Return the metrics on a test set of 100,000 genomes, and the drop from the first model to the second."""
    _, labels, first, second = simulate(np.random.default_rng(1), 100_000, frames)
    known = binary_metrics(labels, first)
    return {**known, DROP: known["accuracy"] - binary_metrics(labels, second)["accuracy"]}


def covers(
    seed: int, genomes: int, frames: float, resamples: int, true: dict[str, float], per_row: bool
) -> dict[str, bool]:
    """Return for each metric whether its interval from one simulated test set contains the true value."""
    names, labels, first, second = simulate(np.random.default_rng([2, seed]), genomes, frames)
    drawn_from = pd.Series(range(len(names))) if per_row else names
    draws = draw_genomes(drawn_from, labels, seed, resamples)
    drawn, values = draws.of(labels, first), binary_metrics(labels, first)
    found = {name: draws.interval(values[name], drawn[name]) for name in SHOWN}
    right = [((scores >= 0.5) == (labels == 1)).astype(float) for scores in (first, second)]
    found[DROP] = draws.interval((right[0] - right[1]).mean(), draws.means(right[0] - right[1]))
    return {name: bool(ends.low <= true[name] <= ends.high) for name, ends in found.items()}


def main() -> None:
    """Print a table of coverages and, last, one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="simulated test sets a row of the table")
    parser.add_argument("--resamples", type=int, default=1000, help="draws of the bootstrap")
    parser.add_argument("--frames", type=float, default=13, help="mean frames a genome; the embedded test set has 13")
    parser.add_argument("--genomes", type=int, nargs="+", default=[20, 110, 400], help="genomes of a test set")
    options = parser.parse_args()
    true, started = truths(options.frames), time.perf_counter()
    results = []
    for genomes in options.genomes:
        for unit in ("genome", "row"):
            given = (genomes, options.frames, options.resamples, true, unit == "row")
            held = pd.DataFrame([covers(seed, *given) for seed in range(options.repeats)]).mean()
            results.append({"genomes": genomes, "bootstrap over": f"{unit}s", **held.round(3).to_dict()})
    error = np.sqrt(0.95 * 0.05 / options.repeats)
    print(f"share of {options.repeats:,} intervals that hold the true value; nominal 0.95, standard error {error:.3f}")
    print(pd.DataFrame(results).to_string(index=False))
    print(
        json.dumps({"coverage": results, "repeats": options.repeats, "seconds": round(time.perf_counter() - started)})
    )


if __name__ == "__main__":
    main()
