"""Saving figures without drawing them, for tests of other things."""

from pathlib import Path


class Nothing:
    """Axes that take every call and keep nothing; a mock of each takes longer than the axes' own tests."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *given, **named):
        return self

    def __getitem__(self, place):
        return self

    def __iter__(self):
        return iter(())


def undrawn(monkeypatch) -> None:
    """Save figures as empty files, as drawing takes half of the time of stages on small data.

    `tests/reports`, `tests/entrypoints/test_evaluate.py` and `tests/e2e` draw them.
    """

    from matplotlib.figure import Figure  # not for workers, which import the modules of tests

    def save(figure, target, **options):
        if hasattr(target, "write"):
            target.write(b"<svg/>")
        else:
            Path(target).touch()

    monkeypatch.setattr(Figure, "savefig", save)
    monkeypatch.setattr(Figure, "add_subplot", lambda *given, **named: Nothing())  # axes take most of the time
    monkeypatch.setattr(Figure, "legend", lambda *given, **named: None)  # it would find nothing to name
