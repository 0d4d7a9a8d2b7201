"""Extractions that are killed, or shared by several processes, write the same bytes."""

import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace

import pytest

from tests.shared.extraction import content, settings
from virnuc.features.extraction import extract
from virnuc.features.workers import extract_together


def _start(frames, out):
    """Extract in a forked process, as a new interpreter takes seconds to load torch; return process and steps."""
    steps, told = multiprocessing.Pipe(duplex=False)
    wanted = settings(frames, out, protein_encoder="esm2_tiny", batch_tokens=200)
    process = multiprocessing.get_context("fork").Process(target=extract, args=(wanted, lambda *step: told.send(step)))
    process.start()
    return process, steps


@pytest.fixture(scope="module")
def undisturbed(frames, tmp_path_factory):
    """The output of `_start` without interruption."""
    out = tmp_path_factory.mktemp("undisturbed")
    extract(settings(frames, out, protein_encoder="esm2_tiny", batch_tokens=200))
    return content(out)


def test_killed_anywhere_and_resumed_gives_the_same_bytes(frames, undisturbed, tmp_path):
    killed = tmp_path / "killed"
    generator = random.Random(1)
    for steps in (3, 20):
        process, told = _start(frames, killed)
        for _ in range(steps):
            told.recv()
        time.sleep(generator.uniform(0, 0.01))
        process.kill()
        process.join()
    extract(settings(frames, killed, protein_encoder="esm2_tiny", batch_tokens=200))
    assert content(killed) == undisturbed
    assert not list(killed.rglob(".*.partial"))


def test_two_processes_share_the_work_and_write_each_shard_once(frames, undisturbed, tmp_path):
    shared = tmp_path / "shared"
    processes = [_start(frames, shared)[0] for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert content(shared) == undisturbed


@pytest.mark.e2e
def test_workers_give_the_same_bytes_and_a_killed_ones_shards_are_made_again(frames, tmp_path):
    alone, together = (settings(frames, tmp_path / name, protein_encoder="esm2_tiny") for name in ("one", "two"))
    extract(alone)
    seen = []

    def kill_one(*step):
        if not seen:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        seen.append(step)

    manifest = extract_together(replace(together, device="cpu", workers=2), kill_one)
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert manifest.counts["out"] == {"vectors": 150}
    assert {what for what, _, _ in seen} == {"tetranucleotide", "esm2_tiny", "merge"}
    assert all(done <= total == 150 for _, done, total in seen)
    assert not multiprocessing.active_children()
