"""The rules of the gate: one record each, in one list, from which policy file, verdict, schema and report follow.

To add a rule, add its record here and, if it has limits, their values to policy.yaml. A rule whose evidence is missing
does not hold.
"""

from __future__ import annotations

import math

from model_registry.cases import REQUIRED, WARN, Case, Finding, Limit, Rule
from virnuc.evaluation.intervals import effective_genomes
from virnuc.evaluation.speed import unfairness
from virnuc.reports.content import weights_in_words
from virnuc.training.checkpoint import READABLE_VERSIONS

AGREEING = ("model_type", "dna_dim", "protein_dim", "merged_dim")  # of a checkpoint and the features it is used with


def _same_frames(case: Case) -> Finding:
    logged = case.candidate.metrics
    frames, genomes = (logged.get(f"test/count/{name}", math.nan) for name in ("frames", "genomes"))
    observed = "; ".join(case.pair.problems) or f"the same {frames:,.0f} frames of {genomes:,.0f} genomes"
    return Finding(not case.pair.problems, observed, numbers={"frames": frames, "genomes": genomes})


def _unseen_genomes(case: Case) -> Finding:
    limit = case.number("seen_frames_at_most")
    counts = {}
    for side in case.sides:
        assert side.predictions is not None
        for kind, frames in side.predictions["seen"].value_counts().items():
            if kind:
                counts[f"{frames:,} in the training of {kind} ({side.identity})"] = frames / len(side.predictions)
    shares = [float((side.predictions["seen"] != "").mean()) for side in case.sides if side.predictions is not None]
    observed = f"{max(shares):.1%} of the test frames" + (f": {'; '.join(counts)}" if counts else "")
    return Finding(max(shares) <= limit, observed, f"<= {limit:.1%}", {"seen_frames": max(shares)})


def _enough_genomes(case: Case) -> Finding:
    least, effective = case.number("test_genomes_a_class_at_least"), case.number("effective_genomes_at_least")
    by_class = case.predictions.groupby("label")["genome"]
    count, weight = int(by_class.nunique().min()), min(effective_genomes(genomes) for _, genomes in by_class)
    if by_class.ngroups < 2:
        count, weight = 0, 0.0
    return Finding(
        count >= least and weight >= effective,
        f"{count} genomes in the class with fewer, an effective number of {weight:.1f}",
        f">= {least:g}, effective >= {effective:g}",
        {"genomes": count, "effective_genomes": weight},
    )


def _same_training(case: Case) -> Finding:
    least = case.number("replicates_at_least")
    baseline, candidate = case.sides
    unlike = [
        f"{name} {baseline.training.get(name)} against {candidate.training.get(name)}"
        for name in sorted({*baseline.training, *candidate.training})
        if baseline.training.get(name) != candidate.training.get(name)
    ]
    unlike += [f"settings of {side.identity} are not recorded" for side in case.sides if not side.training]
    replicates = case.drop.replicates
    observed = "; ".join(unlike) or "the same settings"
    return Finding(
        not unlike and replicates >= least,
        f"{observed}; {replicates} pairs of trainings that share a seed",
        f"the same settings, >= {least:g} trainings a side",
        {"replicates": replicates},
    )


def _best_baseline(case: Case) -> Finding:
    if len(case.sides) < 2:
        return Finding(False, "not known: there is no baseline")
    baseline = case.sides[0]
    own = baseline.validation.get(baseline.uri, math.nan)
    better = {uri: value for uri, value in baseline.validation.items() if value > own}
    if math.isnan(own):
        return Finding(False, f"the validation accuracy of {baseline.identity} is not recorded")
    if not better:
        versions = len(baseline.validation)
        rank = "its only version" if versions == 1 else f"the best of {versions} versions"
        return Finding(True, f"validation accuracy {own:.4f}, {rank}")
    best = max(better, key=better.__getitem__)
    step = f"Compare with {best}."
    return Finding(False, f"validation accuracy {own:.4f}, but {best} has {better[best]:.4f}", next_step=step)


def _control_gain(case: Case) -> Finding:
    warns = case.limits["control_gain"] == WARN
    limit = "> 0, with its interval" + (" (a warning)" if warns else "")
    control = case.comparison.strongest_control
    if control is None or control.drop is None:
        return Finding(False, "no control was compared", limit, only_warns=warns)
    drop, name = control.drop, control.candidate.evidence.identity
    observed = f"{100 * drop.value:+.2f} points over {name} ({100 * drop.low:+.2f} to {100 * drop.high:+.2f})"
    return Finding(drop.low > 0, observed, limit, {"control_gain": drop.value}, only_warns=warns)


def _drop(case: Case) -> Finding:
    limit, drop = case.number("accuracy_drop_below"), case.drop.value
    return Finding(drop < limit, f"{100 * drop:+.2f} points", f"< {100 * limit:g} points", {"drop": drop})


def _drop_bound(case: Case) -> Finding:
    limit, bound = case.number("accuracy_drop_upper_bound_below"), case.drop.high
    observed = "not known: too few genomes for an interval" if math.isnan(bound) else f"{100 * bound:+.2f} points"
    return Finding(bound < limit, observed, f"< {100 * limit:g} points", {"upper_bound": bound})


def _speedup(case: Case) -> Finding:
    limit, frames, runs = (
        case.number(name) for name in ("speedup_at_least", "benchmark_frames_at_least", "benchmark_runs_at_least")
    )
    shown = f">= {limit:g}, over >= {frames:g} frames and >= {runs:g} runs"
    speed = case.candidate.speed
    if speed is None or speed.speedup is None or speed.speedup_low is None:
        return Finding(False, "not known: no benchmark run has timed both encoders", shown)
    unfair = unfairness(speed, [side.features for side in case.sides])
    timed = min(side.frames for side in speed.sides.values())
    if timed < frames:
        unfair.append(f"{timed} frames are too few")
    if len(speed.ratios) < runs:
        unfair.append(f"{len(speed.ratios)} runs are too few")
    observed = (
        f"{speed.speedup:.2f} times as fast, lower bound over the runs {speed.speedup_low:.2f} "
        f"(run by run {', '.join(f'{ratio:.2f}' for ratio in speed.ratios)})"
    )
    observed += f", but not comparable: {', '.join(unfair)}" if unfair else ""
    numbers = {"speedup": speed.speedup, "speedup_low": speed.speedup_low}
    step = "Run benchmark again, with the precision and on frames of the features." if unfair else ""
    return Finding(speed.speedup_low >= limit and not unfair, observed, shown, numbers, step)


def _known_origin(case: Case) -> Finding:
    random = [f"{name} of {s.identity} has random weights" for s in case.sides for name in s.random_weights]
    silent = [f"the weights of {side.identity} are not recorded" for side in case.sides if not side.weights]
    untold = [f"{side.identity}: {side.unrecorded}" for side in case.sides if side.unrecorded]
    wrong = random + silent + untold
    if len(case.sides) < 2:
        wrong.append("not known: there is no baseline")
    kinds = ", ".join(sorted({weights_in_words(kind) for side in case.sides for kind in side.weights.values()}))
    return Finding(not wrong, "; ".join(wrong) or f"weights: {kinds}; both trained in this store")


def _checkpoint_agrees(case: Case) -> Finding:
    checkpoint, features = case.candidate.checkpoint, case.candidate.features
    unlike = [
        f"{key} {checkpoint.get(key)} in the checkpoint, {features.get(key)} in the features"
        for key in AGREEING
        if key not in checkpoint or checkpoint[key] != features.get(key)
    ]
    trained, found = checkpoint.get("encoders", {}), features.get("encoders", {})
    for kind in trained.keys() & found.keys():
        for key, what in (("weight_digest", "other weights"), ("config", "another config.json")):
            if trained[kind].get(key) != found[kind].get(key):
                unlike.append(f"{what} of the {kind} encoder than in training")
    version = checkpoint.get("checkpoint_version")
    if version not in READABLE_VERSIONS:
        unlike.append(f"checkpoint version {version}, not {' or '.join(READABLE_VERSIONS)}")
    return Finding(not unlike, "; ".join(unlike) or f"version {version}, {checkpoint['merged_dim']} dimensions")


RULES = (
    Rule(
        "same_frames",
        "Both sides evaluated on the same split and the same frames",
        _same_frames,
        "Train and evaluate both sides on one split, then compare again.",
        needs_pair=False,
    ),
    Rule(
        "unseen_genomes",
        "Test frames whose genome was in any training, of a classifier or of an encoder",
        _unseen_genomes,
        "Split by genome or cluster, and use encoders that have not seen the test genomes.",
        (Limit("seen_frames_at_most", 0, 1),),
    ),
    Rule(
        "enough_genomes",
        "Test genomes of each class",
        _enough_genomes,
        "Test on more genomes; more frames of the same genomes add little.",
        (Limit("test_genomes_a_class_at_least", 2), Limit("effective_genomes_at_least", 2)),
    ),
    Rule(
        "same_training",
        "Both sides trained with the same settings, several times each",
        _same_training,
        "Train both sides with the same settings and --replicates 5, then evaluate and compare again.",
        (Limit("replicates_at_least", 2),),
    ),
    Rule(
        "best_baseline",
        "The baseline is the best version of its encoder on this split, by validation",
        _best_baseline,
        "Train the baseline in this store, so that its validation accuracy is known.",
        needs_pair=False,
    ),
    Rule(
        "control_gain",
        "The baseline beats the strongest control",
        _control_gain,
        "The control does as well: train longer, use a better encoder, or use no protein language model.",
        (Limit("control_gain", choices=(WARN, REQUIRED)),),
    ),
    Rule(
        "accuracy_drop",
        "Accuracy drop, baseline minus candidate, mean over trainings",
        _drop,
        "See which groups only the baseline classifies correctly, and tune training on the validation part.",
        (Limit("accuracy_drop_below", 0, 1),),
    ),
    Rule(
        "accuracy_drop_upper_bound",
        "Upper end of the drop's 95 % interval, bootstrapped over genomes and trainings",
        _drop_bound,
        "Test on more genomes, or train more replicates: both make the interval narrower.",
        (Limit("accuracy_drop_upper_bound_below", 0, 1),),
    ),
    Rule(
        "speedup",
        "Embedding speed-up, with the precision, device and frames of the features",
        _speedup,
        "Run benchmark with both encoders; if the ratio is too low, try a smaller encoder or another device.",
        (Limit("speedup_at_least", 1e-9), Limit("benchmark_frames_at_least", 1), Limit("benchmark_runs_at_least", 1)),
        needs_pair=False,
    ),
    Rule(
        "known_origin",
        "Weights and training data of both sides are known, and no weights are random",
        _known_origin,
        "Get the encoders' weights, train in this store, and evaluate again.",
        needs_pair=False,
    ),
    Rule(
        "checkpoint_agrees",
        "Candidate's checkpoint agrees with its features: encoder, dimensions, version",
        _checkpoint_agrees,
        "Train the candidate on the features that it is evaluated on.",
        needs_pair=False,
    ),
)
