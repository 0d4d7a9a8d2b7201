"""A few of the example genomes."""

import gzip

import pytest


@pytest.fixture
def small(genomes, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("vertebrate_other", "vertebrate_mammalian", "invertebrate"):
        file = f"{name}.1.genomic.gbff.gz"
        (source / file).symlink_to(genomes / file)
    text = gzip.decompress((genomes / "viral.1.genomic.gbff.gz").read_bytes()).decode()
    (source / "viral.1.genomic.gbff").write_text("//\n".join(text.split("//\n")[3:20]) + "//\n")
    return source
