"""`promote`: a verdict to a champion."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from entrypoints.command import say, stage
from virnuc.settings import PromoteSettings

if TYPE_CHECKING:
    from model_registry.promotion import Promotion
    from virnuc.tracking import Tracker


@stage(PromoteSettings)
def promote(settings: PromoteSettings, tracker: Tracker) -> Promotion:
    """Make a model virnuc@champion if its comparison passed and is still valid; the old one becomes virnuc@previous.

    A refusal (exit code 3) lists the rules that failed. Only --override "reason" promotes against the gate; the reason
    stays on the version permanently.
    """
    from model_registry.gate import Policy
    from model_registry.promotion import promote as promote_version
    from model_registry.promotion import rollback

    if settings.rollback:
        done = rollback(settings.alias, getpass.getuser())
    else:
        policy = Policy.read(Path(settings.policy))
        done = promote_version(settings.candidate, settings.alias, policy, settings.override, getpass.getuser())
    tracker.tags({"production": done.version, "promoted_from": done.source, "replaced": done.replaced or ""})
    if done.overridden:
        tracker.tags({"override": settings.override})
        say(f"promote    AGAINST THE GATE ({'; '.join(done.overridden)}): {settings.override}")
    now = f"virnuc@{settings.alias} is version {done.version}, from {done.source}"
    say(f"promote    {now}" + ("" if done.changed else ", as before"))
    return done


if __name__ == "__main__":
    promote.main()
