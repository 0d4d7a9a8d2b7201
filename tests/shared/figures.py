"""Figures that are saved without being drawn, where a test is about something else."""

from pathlib import Path

from matplotlib.figure import Figure


def undrawn(monkeypatch) -> None:
    """Save figures as empty files: drawing is half of what train, evaluate and compare do on small data.

    `tests/reports`, `tests/entrypoints/test_evaluate.py` and `tests/e2e` draw them.
    """

    def save(figure, target, **options):
        if hasattr(target, "write"):
            target.write(b"<svg/>")
        else:
            Path(target).touch()

    monkeypatch.setattr(Figure, "savefig", save)
