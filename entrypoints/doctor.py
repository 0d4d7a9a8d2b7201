"""`doctor`: is everything here that an experiment needs?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from entrypoints.command import say, stage
from virnuc.errors import DataError
from virnuc.settings import DoctorSettings

if TYPE_CHECKING:
    from model_registry.health import Check


@stage(DoctorSettings, tracked=False)
def doctor(settings: DoctorSettings) -> list[Check]:
    """Check Python, torch and its device, attention, the encoders' weights, the MLflow store and the champion.

    It also lists what --data holds: kind, size, and what deleting it would cost.

    Exit code 4 if a check fails; a warning says what to expect.
    """
    from model_registry.checks import examine
    from model_registry.health import FAIL

    checks = examine(settings)
    width = max(len(check.name) for check in checks)
    for check in checks:
        say(f"{check.outcome:4}  {check.name:{width}}  {check.detail}")
    failed = [check.name for check in checks if check.outcome == FAIL]
    if failed:
        raise DataError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")
    return checks


if __name__ == "__main__":
    doctor.main()
