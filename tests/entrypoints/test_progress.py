"""Progress bars of a training are shown on a terminal only."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import termios

from tests.shared.samples import sample_frames, write_features
from virnuc.settings import SplitSettings
from virnuc.splits.assignment import split


def on_terminal(command, **options):
    """Run a command whose stderr is a terminal; return what it wrote there."""
    reading, writing = pty.openpty()
    termios.tcsetwinsize(writing, (24, 150))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=writing, **options)
    os.close(writing)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal ends with the process
        while piece := os.read(reading, 65536):
            shown += piece
    os.close(reading)
    assert process.wait() == 0, shown
    return shown.decode()


def test_training_shows_its_batches_on_a_terminal_alone(tmp_path, store):
    write_features(tmp_path / "features", *sample_frames(genomes=40))
    split(SplitSettings(source=str(tmp_path / "features"), out=str(tmp_path / "split")))
    command = [sys.executable, "-m", "entrypoints.train", "--features=features", "--split=split", "--register=no"]
    options = {"cwd": tmp_path, "env": {**os.environ, "TQDM_MININTERVAL": "0"}}
    shown = on_terminal([*command, "--epochs=2", "--out=one"], **options)
    assert re.search(r"epoch 2 .*\d+/320 .* frame/s", shown)
    assert re.search(r"train esm2_tiny.* 2/2 .*accuracy=.*lr=0\.0002", shown)
    silent = subprocess.run(
        [*command, "--epochs=1", "--out=two"], capture_output=True, text=True, check=True, **options
    )
    assert "epoch 1 " not in silent.stderr
    assert "frame/s" not in silent.stderr
