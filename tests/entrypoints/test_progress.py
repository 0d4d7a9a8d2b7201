"""Progress bars of a training are shown on a terminal only."""

import contextlib
import os
import pty
import re
import termios

from tests.entrypoints.test_command import run
from tests.shared.processes import forked
from tests.shared.samples import sample_frames, write_features
from virnuc.settings import SplitSettings
from virnuc.splits.assignment import split


def on_terminal(stage, directory, *arguments):
    """Run a command in a process whose stderr is a terminal; return what it wrote there."""
    reading, writing = pty.openpty()
    termios.tcsetwinsize(writing, (24, 150))

    def command():
        with open(writing, "w", closefd=False) as terminal:
            code, _ = run(stage, directory, *arguments, stderr=terminal)
        os._exit(code)

    process = forked(command)
    os.close(writing)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal ends with the process
        while piece := os.read(reading, 65536):
            shown += piece
    os.close(reading)
    process.join()
    assert process.exitcode == 0, shown
    return shown.decode()


def test_training_shows_its_batches_on_a_terminal_alone(tmp_path, store, monkeypatch):
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    write_features(tmp_path / "features", *sample_frames(genomes=40))
    split(SplitSettings(source=str(tmp_path / "features"), out=str(tmp_path / "split")))
    command = ["train", tmp_path, "--features=features", "--split=split", "--register=no"]
    shown = on_terminal(*command, "--epochs=2", "--out=one")
    assert re.search(r"epoch 2 .*\d+/320 .* frame/s", shown)
    assert re.search(r"train esm2_tiny.* 2/2 .*accuracy=.*lr=0\.0002", shown)
    code, silent = run(*command, "--epochs=1", "--out=two")
    assert code == 0
    assert "epoch 1 " not in silent
    assert "frame/s" not in silent
