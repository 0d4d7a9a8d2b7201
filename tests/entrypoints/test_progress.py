"""Progress bars of a training are shown on a terminal only."""

import contextlib
import os
import pty
import re
import termios
from concurrent.futures import ThreadPoolExecutor

from tests.entrypoints.test_command import run
from tests.shared.samples import sample_frames, write_features
from virnuc.settings import SplitSettings
from virnuc.splits.assignment import split


def on_terminal(stage, directory, *arguments):
    """Run a command whose stderr is a terminal; return its exit code and what it wrote there."""
    reading, writing = pty.openpty()
    termios.tcsetwinsize(writing, (24, 150))
    with ThreadPoolExecutor(1) as reader, os.fdopen(writing, "w") as terminal:
        shown = reader.submit(read_to_the_end, reading)
        code, _ = run(stage, directory, *arguments, stderr=terminal)
        terminal.close()
        return code, shown.result()


def read_to_the_end(terminal):
    shown = b""
    with contextlib.suppress(OSError):  # nobody has the terminal's other side open any more
        while piece := os.read(terminal, 65536):
            shown += piece
    os.close(terminal)
    return shown.decode()


def test_training_shows_its_batches_on_a_terminal_alone(tmp_path, store, monkeypatch):
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    write_features(tmp_path / "features", *sample_frames(genomes=40))
    split(SplitSettings(source=str(tmp_path / "features"), out=str(tmp_path / "split")))
    options = ["--features=features", "--split=split", "--register=no"]
    code, shown = on_terminal("train", tmp_path, *options, "--epochs=2", "--out=one")
    assert code == 0, shown
    assert re.search(r"epoch 2 .*\d+/320 .* frame/s", shown)
    assert re.search(r"train esm2_tiny.* 2/2 .*accuracy=.*lr=0\.0002", shown)
    code, silent = run("train", tmp_path, *options, "--epochs=1", "--out=two")
    assert code == 0
    assert "epoch 1 " not in silent
    assert "frame/s" not in silent
