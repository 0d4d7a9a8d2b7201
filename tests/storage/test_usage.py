import pytest

from virnuc.errors import DataError
from virnuc.storage.directory import OutputDirectory
from virnuc.storage.usage import usage


def written(directory, kind, size):
    output = OutputDirectory(directory, kind, {})
    with output.alone():
        (directory / "a.bin").write_bytes(bytes(size))
        return output.complete({"a.bin": 1}, {})


def test_what_stages_wrote_is_listed_with_its_size_and_what_would_be_lost(tmp_path):
    written(tmp_path / "frames", "frames", 5000)
    written(tmp_path / "frames" / "chunks", "chunks", 700)
    written(tmp_path / "features" / "esm2_tiny", "embeddings", 30)
    with OutputDirectory(tmp_path / "features" / "a+b", "features", {}).alone():
        (tmp_path / "features" / "a+b" / "b.bin").write_bytes(bytes(400))
    (tmp_path / "link").symlink_to(tmp_path / "frames")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("not of a stage")
    found = {one.directory.relative_to(tmp_path).as_posix(): one for one in usage(tmp_path)}
    assert {name: one.kind for name, one in found.items()} == {
        "features/a+b": "unfinished",
        "features/esm2_tiny": "embeddings",
        "frames": "frames",
    }
    for name, one in found.items():
        assert one.bytes == sum(path.stat().st_size for path in (tmp_path / name).rglob("*") if path.is_file())
    assert found["frames"].bytes > 5700
    assert "finishes it" in found["features/a+b"].lost
    assert "only `extract` reads them" in found["features/esm2_tiny"].lost
    assert list(usage(tmp_path / "nothing")) == []


def test_a_damaged_manifest_is_an_error(tmp_path):
    written(tmp_path / "frames", "frames", 10)
    (tmp_path / "frames" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="not readable as JSON"):
        list(usage(tmp_path))
