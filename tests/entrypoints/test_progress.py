"""Progress bars of a training are shown on a terminal only."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import termios

import pytest

from tests.entrypoints.test_command import run
from tests.shared.samples import sample_frames, write_features
from virnuc.settings import SplitSettings
from virnuc.splits.assignment import split


def on_terminal(command, directory):
    """Run a command whose stderr is a terminal; return what it wrote there.

    It is not forked: torch may refuse to train in a fork of a process that has trained.
    """
    reading, writing = pty.openpty()
    termios.tcsetwinsize(writing, (24, 150))
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=writing)
    os.close(writing)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal ends with the process
        while piece := os.read(reading, 65536):
            shown += piece
    os.close(reading)
    assert process.wait() == 0, shown
    return shown.decode()


@pytest.mark.e2e
def test_training_shows_its_batches_on_a_terminal_alone(tmp_path, store, monkeypatch):
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    write_features(tmp_path / "features", *sample_frames(genomes=40))
    split(SplitSettings(source=str(tmp_path / "features"), out=str(tmp_path / "split")))
    options = ["--features=features", "--split=split", "--register=no"]
    command = [sys.executable, "-m", "entrypoints.train", *options, "--epochs=2", "--out=one"]
    shown = on_terminal(command, tmp_path)
    assert re.search(r"epoch 2 .*\d+/320 .* frame/s", shown)
    assert re.search(r"train esm2_tiny.* 2/2 .*accuracy=.*lr=0\.0002", shown)
    code, silent = run("train", tmp_path, *options, "--epochs=1", "--out=two")
    assert code == 0
    assert "epoch 1 " not in silent
    assert "frame/s" not in silent
