"""A shard is read as it was written; other files are refused with the names of file and row."""

import os
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc.errors import DataError
from virnuc.features.shards import read_shard, write_shard


def good(**changes):
    return {"ids": ["a", "b", "c"], "data": torch.arange(6.0).reshape(3, 2), "labels": [1]} | changes


def save(tmp_path, document):
    path = tmp_path / "output_1_merged.pt"
    torch.save(document, path)
    return path


PRINTABLE = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1)


@settings(max_examples=25, deadline=None)
@given(
    ids=st.lists(PRINTABLE, min_size=1, max_size=20, unique=True),
    label=st.integers(0, 1),
    width=st.integers(1, 5),
)
def test_round_trip(tmp_path_factory, ids, label, width):
    path = tmp_path_factory.mktemp("shard") / "deep" / "output_00000_merged.pt"
    data = torch.randn(len(ids), width, generator=torch.Generator().manual_seed(width))
    write_shard(path, ids, data, label)
    shard = read_shard(path)
    assert (shard.ids, shard.label, shard.path) == (ids, label, path)
    assert torch.equal(shard.data, data)


def test_same_content_same_bytes(tmp_path):
    whole = torch.randn(8, 4)
    write_shard(tmp_path / "a.pt", ["x", "y"], whole[2:4], 0)
    write_shard(tmp_path / "b.pt", ["x", "y"], whole[2:4].clone(), 0)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.pt"]


def test_virnucpro_file(tmp_path):
    path = save(tmp_path, good())  # torch.save with a name, as VirNucPro does it
    assert read_shard(path).ids == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([1, 2], "not a feature shard"),
        ({"ids": ["a"], "data": torch.zeros(1, 2)}, "not a feature shard"),
        (good(labels=[2]), "labels are"),
        (good(labels=[1, 1]), "labels are"),
        (good(labels=[True]), "labels are"),
        (good(labels=torch.tensor([1])), "labels are"),
        (good(data=torch.zeros(3, 2, dtype=torch.float64)), "float64"),
        (good(data=torch.zeros(6)), r"shape \[6\]"),
        (good(data=torch.zeros(0, 2), ids=[]), r"shape \[0, 2\]"),
        (good(data=[[1.0, 2.0]]), "not a dense tensor"),
        (good(data=torch.zeros(3, 2).to_sparse()), "not a dense tensor"),
        (good(data=torch.zeros(1, 1).expand(3, 2)), "holds fewer"),
        (good(ids=["a", "b"]), "2 ids for 3 rows"),
        (good(ids=("a", "b", "c")), "not a list"),
        (good(ids=["a", 7, "c"]), "row 1: the id is 7"),
        (good(ids=["a", "b", "a"]), "row 2: the id a is already that of row 0"),
    ],
)
def test_wrong_content_is_named(tmp_path, document, words):
    path = save(tmp_path, document)
    with pytest.raises(DataError, match=words) as caught:
        read_shard(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_cut_short(tmp_path, kept):
    path = save(tmp_path, good(data=torch.randn(3, 500)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError, match="cut short"):
        read_shard(path)


def test_missing(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_shard(tmp_path / "nothing.pt")


class Command:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("save_with", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_hostile_pickle_runs_nothing(tmp_path, save_with):
    path, marker = tmp_path / "evil.pt", tmp_path / "ran"
    save_with(good(ids=Command(marker)), path)
    with pytest.raises(DataError):
        read_shard(path)
    assert not marker.exists()


def test_nothing_wrong_is_written(tmp_path):
    with pytest.raises(DataError, match="2 ids for 3 rows"):
        write_shard(tmp_path / "x.pt", ["a", "b"], torch.zeros(3, 2), 1)
    assert list(tmp_path.iterdir()) == []
