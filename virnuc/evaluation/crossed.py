"""The accuracy drop between two models that were each trained several times, and its uncertainty from two sources.

All replicates are tested on the same genomes, so genomes and replicates are drawn independently, with replacement: a
draw gives weights to genomes (within each class) and to replicates (in pairs of one seed), and the drop is the mean
over both (A. B. Owen, The pigeonhole bootstrap, Ann. Appl. Stat. 2007). With five replicates percentiles are too
narrow, so they are expanded as Student's t is wider than the normal distribution and the standard error of few
replicates than that of many ("expanded percentiles", T. Hesterberg 2015); the degrees of freedom of the sum of both
variances are Satterthwaite's. `benchmarks/gate.py` measures how often the interval contains the true drop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from virnuc.evaluation.intervals import CONFIDENCE, draw_genomes, quantiles
from virnuc.evaluation.weighted import Floats, Labels

DRAWS = 10_000
POWER = 0.8
_BLOCK = 1000  # draws at once


@dataclass(frozen=True)
class Drop:
    """Accuracy of the baseline minus that of the candidate, mean over replicates; NaN where data are too few."""

    value: float
    low: float  # ends of the 95 % interval
    high: float
    replicates: int
    by_replicate: dict[str, float]  # the drop between the two trainings of each seed
    training_spread: float  # standard deviation over replicates
    training_error: float  # standard error of `value` by the choice of replicates
    sampling_error: float  # and by that of test genomes
    detectable: float  # true drop that this test detects in 80 % of cases


def crossed_drop(genomes: pd.Series, labels: Labels, lost: pd.DataFrame, seed: int, draws: int = DRAWS) -> Drop:
    """Return the drop and its interval.

    Args:
        genomes: The genome of each frame, [n].
        labels: 1 viral, 0 non-viral, int8 [n].
        lost: A column for each pair of replicates, named by their seed, [n]: 1 where only the baseline is right, -1
            where only the candidate is, else 0.
        seed: Seed of the draws.
        draws: Number of draws.
    """
    codes, names = pd.factorize(genomes, sort=True)
    own = lost.mean().astype(float)
    columns = [np.bincount(codes, weights=lost[name], minlength=len(names)) for name in lost]
    sums = np.stack(columns, axis=1).astype(float)
    value, replicates = float(own.mean()), lost.shape[1]
    blocks, drawn, (effective, *_) = zip(*_draw(genomes, labels, sums, seed, draws), strict=True)
    by_genomes, crossed = np.concatenate(blocks), np.concatenate(drawn)
    sampling = float(by_genomes.var()) * effective / max(effective - 1, 1e-9)
    training = float(own.var(ddof=1)) / replicates if replicates > 1 else 0.0
    low = high = detectable = np.nan
    if effective >= 2:
        freedom = _freedom({effective - 1: sampling, replicates - 1: training})
        reach = float(stats.t.isf((1 - CONFIDENCE) / 2, freedom))
        error = np.sqrt(sampling + training)
        low, high = quantiles(crossed, reach * error / max(float(crossed.std()), 1e-12))
        detectable = float((reach + stats.norm.ppf(POWER)) * error)
    return Drop(
        value,
        low,
        high,
        replicates,
        {str(name): float(drop) for name, drop in own.items()},
        float(own.std(ddof=1)) if replicates > 1 else np.nan,
        float(np.sqrt(training)) if replicates > 1 else np.nan,
        float(np.sqrt(sampling)),
        detectable,
    )


def _draw(
    genomes: pd.Series, labels: Labels, sums: Floats, seed: int, draws: int
) -> Iterator[tuple[Floats, Floats, float]]:
    """Yield blocks of draws, so that memory does not grow with their number; `sums` is [genomes, replicates].

    A block is the mean over all replicates, [draws], that over the drawn ones, and the effective number of genomes.
    """
    replicates = sums.shape[1]
    for start in range(0, draws, _BLOCK):
        count = min(_BLOCK, draws - start)
        drawn = draw_genomes(genomes, labels, seed + start, count)
        rows = drawn.totals(np.ones((len(genomes), 1)))
        means = drawn.weights @ sums / rows
        rng = np.random.default_rng([seed, start])
        chosen = rng.multinomial(replicates, np.full(replicates, 1 / replicates), size=count) / replicates
        yield means.mean(axis=1), (means * chosen).sum(axis=1), drawn.effective


def _freedom(variances: dict[float, float]) -> float:
    """Return the degrees of freedom of a sum of independent variances, by their own (F. E. Satterthwaite, 1946)."""
    total = sum(variances.values())
    squares = sum(variance**2 / freedom for freedom, variance in variances.items() if variance)
    return float(total**2 / squares) if squares else 1e9
