"""The keys that stand for genomes, and the parts of the data that they belong to."""

import pytest

from examples.corpus.keys import gene_key, partition


@pytest.mark.parametrize(
    ("header", "kind", "key"),
    [
        (">GeneID:1234567", "viral", "GeneID:1234"),
        ("GeneID:999", "viral", "GeneID:0"),
        (">gi|327400|ref|NC_015954.1|:c1336247-1335993", "prokaryote", "NC_015954"),
        (">gi|1|ref|NZ_ABCD01000012.1|:25-921", "prokaryote", "NZ_ABCD"),
        (">gi|1|ref|NZ_KB890217.1|:25-921", "prokaryote", "NZ_KB890"),
        (">gi|1|ref|XM_001350208.1|:1-414", "eukaryote", "XM_135"),
        (">gi|1|ref|NM_001350208.1|:1-414", "eukaryote", "NM_135"),
    ],
)
def test_a_header_gives_class_and_key(header, kind, key):
    found = gene_key(header)
    assert (found.kind, found.key) == (kind, key)


@pytest.mark.parametrize("header", [">", ">lcl|something", ">gi|1|ref|", ">geneid:7"])
def test_another_form_of_header_has_no_key(header):
    assert gene_key(header) is None


@pytest.mark.parametrize(  # with the last digit of the SHA-256 read as a number
    ("key", "part"),
    [
        ("GeneID:7", "pretraining"),  # 0
        ("GeneID:13", "pretraining"),  # 4
        ("GeneID:23", "miniature"),  # 3
        ("GeneID:4", "held_out"),  # 5
        ("GeneID:51", "reserved"),  # 7
    ],
)
def test_a_key_belongs_to_one_part_by_its_digest(key, part):
    assert partition(key) == part
