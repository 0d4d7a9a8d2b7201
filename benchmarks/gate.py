"""How often does the gate pass a model that it should not? Simulated experiments whose true drop is known.

An experiment has test genomes of different sizes, most of them with a relative in training, which makes their frames
easier; two sides, each trained several times, with trainings that differ as a whole and in single calls; and a true
drop of accuracy, that over all genomes and all trainings. The program counts how often the two rules on the drop hold
(its value, and the upper end of its interval, below the margin) and how often the interval contains the true drop. For
comparison, it does the same with one training a side, where only genomes are resampled. Sizes are those measured on the
example genomes: 13 frames a genome, a drop that varies by 1.6 points between pairs of trainings and by 1.2 points
between sets of genomes.

    python -m benchmarks.gate --repeats 2000
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import norm

from virnuc.evaluation.crossed import crossed_drop
from virnuc.evaluation.intervals import draw_genomes

MARGIN = 0.05
RELATIVES = 0.7  # share of genomes with a relative in training
LEVELS = (0.72, 0.86)  # accuracy of the baseline on genomes without and with a relative
GENOME, FRAME, OWN, CALL = 0.5, 1.0, 0.35, 0.45  # standard deviations of the terms in `simulate`
TRAINING = 0.05  # standard deviation of a training's quality; with CALL it gives 1.6 points between pairs
TOTAL = float(np.sqrt(GENOME**2 + FRAME**2 + OWN**2 + CALL**2 + TRAINING**2))


def accuracy(level: float, worse: float) -> float:
    """Return the true accuracy of a side that is worse by `worse`, on frames where the baseline reaches `level`."""
    return float(norm.cdf(norm.ppf(level) - worse / TOTAL))


def true_drop(worse: float) -> float:
    """Return the true drop over all genomes; a relative in training halves the candidate's deficit."""
    lost = [LEVELS[0] - accuracy(LEVELS[0], worse), LEVELS[1] - accuracy(LEVELS[1], worse / 2)]
    return (1 - RELATIVES) * lost[0] + RELATIVES * lost[1]


def simulate(
    rng: np.random.Generator, drop: float, genomes: int, frames: float, replicates: int
) -> tuple[pd.Series, np.ndarray, pd.DataFrame]:
    """Return genome and label of each frame, and the candidate's loss on it in each pair of trainings (-1, 0 or 1).

    A call is right if the sum of these normal variables is above zero: the frame's level, the difficulties of its
    genome and of the frame itself (all three shared by both sides), the side's affinity to the genome, the training's
    error on the frame, and the training's quality.
    """
    worse = brentq(lambda shift: true_drop(shift) - drop, -3, 3)
    sizes = rng.geometric(1 / frames, size=genomes)
    codes = np.repeat(np.arange(genomes), sizes)
    related = rng.random(genomes) < RELATIVES
    level = np.where(related, norm.ppf(LEVELS[1]), norm.ppf(LEVELS[0])) * TOTAL
    shared = (level + rng.normal(scale=GENOME, size=genomes))[codes] + rng.normal(scale=FRAME, size=len(codes))
    right = []
    for lacking in (0.0, worse):
        own = rng.normal(scale=OWN, size=genomes) - lacking * np.where(related, 0.5, 1.0)
        noise = rng.normal(scale=CALL, size=(replicates, len(codes)))
        quality = rng.normal(scale=TRAINING, size=(replicates, 1))
        right.append((shared + own[codes] + noise + quality > 0).astype(int))
    lost = pd.DataFrame((right[0] - right[1]).T, columns=[f"seed_{seed}" for seed in range(replicates)])
    return pd.Series(codes), (codes % 2).astype(np.int8), lost


def experiment(seed: int, drop: float, genomes: int, frames: float, replicates: int, draws: int) -> dict[str, float]:
    """Return the results of both methods on one simulated experiment."""
    names, labels, lost = simulate(np.random.default_rng([3, seed]), drop, genomes, frames, replicates)
    found = crossed_drop(names, labels, lost, seed, draws)
    first = lost["seed_0"].to_numpy(dtype=float)
    resampled = draw_genomes(names, labels, seed, draws)
    single = resampled.interval(first.mean(), resampled.means(first))
    return {
        "passes": found.value < MARGIN and found.high < MARGIN,
        "covers": found.low <= drop <= found.high,
        "single passes": single.value < MARGIN and single.high < MARGIN,
        "single covers": single.low <= drop <= single.high,
        "training spread": 100 * found.training_spread,
        "sampling error": 100 * found.sampling_error,
    }


def main() -> None:
    """Print a table of passes and coverages and, last, one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="simulated experiments a row of the table")
    parser.add_argument("--draws", type=int, default=2000, help="draws of each bootstrap")
    parser.add_argument("--frames", type=float, default=13, help="mean frames a genome")
    parser.add_argument("--genomes", type=int, nargs="+", default=[60, 110, 400], help="test genomes")
    parser.add_argument("--replicates", type=int, default=5, help="trainings of each side")
    parser.add_argument("--drops", type=float, nargs="+", default=[0, 1, 2, 3, 4, 5], help="true drops, points")
    options = parser.parse_args()
    started, results = time.perf_counter(), []
    for genomes in options.genomes:
        for drop in options.drops:
            given = (drop / 100, genomes, options.frames, options.replicates, options.draws)
            found = pd.DataFrame([experiment(seed, *given) for seed in range(options.repeats)]).mean().round(4)
            results.append({"genomes": genomes, "true drop": drop, **found.to_dict()})
    print(f"shares of {options.repeats:,} simulated experiments; a true drop of 5 points must not pass")
    print(pd.DataFrame(results).to_string(index=False))
    seconds = round(time.perf_counter() - started)
    print(json.dumps({"gate": results, "repeats": options.repeats, "draws": options.draws, "seconds": seconds}))


if __name__ == "__main__":
    main()
