"""Where the figures of a model version come from: its runs, their digests, and the commands that repeat them."""

from __future__ import annotations

import shlex
from contextlib import suppress

from mlflow.entities import Run

from virnuc.errors import DataError
from virnuc.settings import flag_name
from virnuc.tracking import find_finished, get_run, model_version

_DIGESTS = ("features_digest", "split_digest", "commit", "dirty")


def provenance(stage: str, run: Run) -> dict[str, str]:
    """Return a run's id and the digests of its inputs, with the name of its `stage` in each key."""
    tags = run.data.tags
    found = {f"{stage} run": run.info.run_id}
    return found | {f"{stage} {name}": tags[f"virnuc.{name}"] for name in _DIGESTS if f"virnuc.{name}" in tags}


def runs_before(training: Run) -> list[Run]:
    """Return the newest known runs that made the inputs of a training, from frames to companion."""
    tags, companion = training.data.tags, training.data.params.get("config/companion")
    split = find_finished("split", {"split_digest": tags.get("virnuc.split_digest", "")})[:1]
    extract = find_finished("extract", {"features_digest": tags.get("virnuc.features_digest", "")})[:1]
    frames = extract[0].data.tags.get("virnuc.frames_digest", "") if extract else ""
    found = [*find_finished("prepare", {"frames_digest": frames})[:1], *split, *extract]
    with suppress(DataError):  # it was deleted; the model contains it, and the command of its training names it
        found += [get_run(model_version(companion).run_id)] if companion else []
    return found


def command_of(run: Run) -> str:
    """Return the shell command that repeats a run, from its logged settings."""
    given = {name: value for name, value in run.data.params.items() if name.startswith("config/") and value}
    options = [f"{flag_name(name.removeprefix('config/'))}={value}" for name, value in given.items()]
    return shlex.join(["python", "-m", f"entrypoints.{run.data.tags.get('virnuc.stage', '')}", *options])
