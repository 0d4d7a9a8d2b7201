"""Which units a split keeps whole, and which of them are for testing and validation.

Units are taken in the order of a hash of the seed and the unit's name, each only if that brings the part nearer
to its share of the stratum (the frames of one label and group). A stratum of three or more units has one in every part,
whatever their sizes. A unit with frames of several strata counts in the stratum that most of its frames belong to, so
that it is never divided. The assignment depends on ids and seed alone, not on file order, shards or a random state.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import numpy as np
import pandas as pd

from virnuc.errors import UsageError
from virnuc.settings import SplitSettings
from virnuc.storage.draws import draw

PARTS = ("train", "val", "test")
LEFT_OUT = "left_out"  # in the table, in no part: frames of a genome that lies on both sides
WHOLE_GENOMES = ("genome", "cluster", "lineage")  # units that never divide a genome


def assign(
    table: pd.DataFrame,
    settings: SplitSettings,
    deposited: Mapping[str, str] | None = None,
    testable: np.ndarray | None = None,
) -> None:
    """Fill the column `part` of a table of frames in place.

    Args:
        table: rows of frames, with `frame_id`, `record`, `genome`, `cluster`, `organism`, `lineage`, `group`, `label`,
            `file` as far as the unit needs them.
        settings: unit, fractions and seed.
        deposited: date of each genome, for `--after`.
        testable: which frames may be for validation or testing, bool `[n]`; a unit with others is for training.

    Raises:
        UsageError: a part would hold no frame of one of the classes, or nothing fits `--clade` or `--after`.
    """
    column = {"lineage": "genome", "frame": "frame_id"}.get(settings.unit, settings.unit)
    codes, names = pd.factorize(table[column], sort=True)
    strata, labels = _strata(table)
    units = pd.DataFrame({"name": names, "stratum": _majority(codes, strata, len(names))})
    units["label"] = labels[units["stratum"].to_numpy()]
    units["size"] = np.bincount(codes, minlength=len(names))
    units["part"] = "train"
    units["testable"] = True if testable is None else np.bincount(codes, ~testable, len(names)) == 0
    held = _held_out(table, settings, deposited or {})
    if held is not None:
        units.loc[np.unique(codes[held]), "part"] = "test"
    for part, fraction in (("test", settings.test_fraction), ("val", settings.val_fraction)):
        if part == "test" and held is not None:
            without = ~units["label"].isin(units.loc[units["part"] == "test", "label"])
        else:
            without = pd.Series(True, index=units.index)
        _cut(units, without, part, fraction, settings)
    table["part"] = units["part"].to_numpy()[codes]
    if settings.unit == "file" and settings.straddling == "drop":
        table.loc[_straddling(table), "part"] = LEFT_OUT
    _check_classes(table, settings)


def _strata(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the stratum of each frame, int64 `[n]`, and the label of each stratum."""
    groups = table.groupby(["label", "group"], sort=True, observed=True)
    return groups.ngroup().to_numpy(), np.array([label for label, _ in groups.groups])


def _majority(codes: np.ndarray, strata: np.ndarray, count: int) -> np.ndarray:
    """Return for each unit the stratum of most of its frames, the first of equals, int64 `[count]`."""
    frames = pd.DataFrame({"unit": codes, "stratum": strata}).value_counts().reset_index()
    frames = frames.sort_values(["unit", "count", "stratum"], ascending=[True, False, True])
    return frames.drop_duplicates("unit")["stratum"].to_numpy()[:count]


def _cut(units: pd.DataFrame, allowed: pd.Series, part: str, fraction: float, settings: SplitSettings) -> None:
    """Move units of each stratum from training to `part`."""
    for _, stratum in units[allowed].groupby("stratum", sort=True):
        free = stratum[(stratum["part"] == "train") & stratum["testable"]]
        order = _order(free["name"], f"{settings.seed}/{part}", by_folder=settings.unit == "file")
        target = fraction * stratum["size"].sum()
        kept = 2 if part == "test" and len(stratum) >= 3 else 1  # for validation and training, if there are enough
        chosen = _nearest(free.loc[order, "size"], target, len(free) - kept, needed=len(stratum) >= 3)
        units.loc[chosen, "part"] = part


def _order(names: pd.Series, salt: str, *, by_folder: bool) -> pd.Index:
    """Return the units in their random order; of files, one of each folder comes before a second one of any.

    VirNucPro draws its test files like this: about one of each folder, as many as make up the group's share.
    """
    drawn = names.map(lambda name: draw(salt, name)).sort_values(kind="stable")
    if not by_folder:
        return drawn.index
    folders = names.loc[drawn.index].str.rpartition("/")[0]
    turn = folders.groupby(folders).cumcount()
    return turn.sort_values(kind="stable").index


def _nearest(sizes: pd.Series, target: float, most: int, *, needed: bool) -> list[int]:
    """Take at most `most` units in their order, each only if it brings the sum of sizes nearer to the target.

    If one is needed and none does, the smallest is taken.
    """
    chosen: list[int] = []
    total = 0
    for unit, size in sizes.items():
        if len(chosen) < most and abs(total + size - target) < abs(total - target):
            chosen.append(unit)
            total += size
    if needed and not chosen and most > 0:
        chosen.append(sizes.index[int(np.argmin(sizes.to_numpy()))])
    return chosen


def _held_out(table: pd.DataFrame, settings: SplitSettings, deposited: Mapping[str, str]) -> np.ndarray | None:
    """Return which frames are held out for testing because of their lineage or date; None for other units."""
    if settings.unit != "lineage":
        return None
    if settings.after:
        dates = table["genome"].map(lambda genome: deposited.get(genome, ""))
        if not dates.any():
            raise UsageError("--after: none of the genomes has a date; add the column deposited to genomes.tsv")
        held = (dates > settings.after).to_numpy()
        if not held.any():
            raise UsageError(f"--after {settings.after}: the last genome was deposited on {dates.max()}")
        return held
    taxa = table["lineage"] + ";" + table["organism"]
    names = {text: {name.strip().lower() for name in text.split(";")} for text in taxa.unique()}
    held = taxa.map(lambda text: settings.clade.lower() in names[text]).to_numpy()
    if not held.any():
        known = sorted({name for found in names.values() for name in found if name})
        nearest = difflib.get_close_matches(settings.clade.lower(), known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "no lineage has a similar name"
        raise UsageError(f"--clade {settings.clade}: no genome belongs to it; {hint}")
    return held


def _straddling(table: pd.DataFrame) -> np.ndarray:
    """Return which frames are of a genome that a part further from training has too, bool `[n]`."""
    rank = table["part"].map({"train": 0, "val": 1, "test": 2})
    return (rank < rank.groupby(table["genome"]).transform("max")).to_numpy()


def _check_classes(table: pd.DataFrame, settings: SplitSettings) -> None:
    for part in PARTS:
        labels = set(table.loc[table["part"] == part, "label"])
        if labels != {0, 1}:
            which = "any frames" if not labels else "viral frames" if 0 in labels else "non-viral frames"
            raise UsageError(
                f"these fractions leave the {part} part without {which}: "
                f"change --test-fraction {settings.test_fraction}, --val-fraction {settings.val_fraction} "
                f"or --unit {settings.unit}, or add genomes of both classes"
            )
