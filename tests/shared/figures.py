"""Saving figures without drawing them, for tests of other things."""

from pathlib import Path
from unittest.mock import MagicMock

from matplotlib.figure import Figure


def undrawn(monkeypatch) -> None:
    """Save figures as empty files, as drawing takes half of the time of stages on small data.

    `tests/reports`, `tests/entrypoints/test_evaluate.py` and `tests/e2e` draw them.
    """

    def save(figure, target, **options):
        if hasattr(target, "write"):
            target.write(b"<svg/>")
        else:
            Path(target).touch()

    monkeypatch.setattr(Figure, "savefig", save)
    monkeypatch.setattr(Figure, "add_subplot", lambda *given, **named: MagicMock())  # axes take most of the time
