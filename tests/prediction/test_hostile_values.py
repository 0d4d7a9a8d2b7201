"""Values that parsers read differently, or not at all, are refused with one line."""

import pandas as pd
import pytest
import torch

from model_registry.gate import PROJECT_POLICY, Policy
from virnuc.errors import DataError, UsageError
from virnuc.features.shards import read_shard
from virnuc.prediction.prediction import predict
from virnuc.reports.rendering import escape_markdown
from virnuc.sequences.reading import checked_dna
from virnuc.settings import PromoteSettings


def policies():
    text = PROJECT_POLICY.read_text()
    yield pytest.param(text + "\nmin_speedup: 0.1\nmin_speedup: 0.2\n", id="a key twice")
    yield pytest.param(text + "\nx: " + "[" * 5000, id="deep")
    yield pytest.param(text + "\nx: " + "9" * 5000, id="digits")


@pytest.mark.parametrize("text", policies())
def test_a_policy_that_can_be_read_in_two_ways_is_refused(tmp_path, text):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"policy\.yaml: "):
        Policy.read(path)


def test_a_policy_that_is_a_directory_or_gives_a_limit_twice(tmp_path):
    with pytest.raises(UsageError, match="not readable as YAML"):
        Policy.read(tmp_path)
    path, text = tmp_path / "policy.yaml", PROJECT_POLICY.read_text()
    last = next(line for line in reversed(text.splitlines()) if ":" in line and not line.startswith("#"))
    path.write_text(f"{text}\n{last}\n")
    with pytest.raises(UsageError, match=f"{last.split(':')[0]} occurs twice"):
        Policy.read(path)


@pytest.mark.parametrize("alias", ["", "1", "v1/x", "a b", "latest", "previous", "previous-x", "x" * 200, "ü"])
def test_aliases_that_a_registry_does_not_take(alias):
    with pytest.raises(UsageError, match="--alias"):
        PromoteSettings(candidate="models:/a/1", alias=alias)


@pytest.mark.parametrize(
    ("ids", "data"),
    [
        (["a\ud800"], torch.zeros(1, 4)),
        (["a"], torch.zeros(1, 4, device="meta")),
        (["a\n"], torch.zeros(1, 4)),
    ],
)
def test_shards_with_surrogates_or_tensors_without_values(tmp_path, ids, data):
    torch.save({"ids": ids, "data": data, "labels": [0]}, tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"a\.pt"):
        read_shard(tmp_path / "a.pt")


@pytest.mark.parametrize("letters", ["ACGT\xdf", "ACGT\u017f", "ACGT\xb5", "\u0410CGT"])
def test_letters_whose_upper_case_would_be_bases_are_no_dna(tmp_path, letters):
    with pytest.raises(DataError, match="is not an IUPAC base"):
        checked_dna(letters, tmp_path, "a")


def test_names_that_begin_like_formulas_are_text_in_tables_and_themselves_in_parquet(scorer, tmp_path):
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "plain"]
    (tmp_path / "a.fa").write_text("".join(f">{name}\n{'ACGT' * 30}\n" for name in names))
    predict([str(tmp_path / "a.fa")], scorer, "m", tmp_path / "calls")
    for file, column in (("sequences.tsv", "sequence"), ("calls.tsv", "sequence"), ("calls.tsv", "Sequence_ID")):
        table = pd.read_csv(tmp_path / "calls" / file, sep="\t", dtype=str)
        assert [value[0] for value in table[column]] == ["'"] * 4 + ["p"]
    short = pd.read_csv(tmp_path / "calls" / "prediction_results_highestscore.csv", sep="\t", dtype=str)
    assert [value[0] for value in short["Modified_ID"]] == ["'"] * 4 + ["p"]
    assert pd.read_parquet(tmp_path / "calls" / "sequences.parquet")["sequence"].tolist() == names


def test_markdown_sees_no_link_image_code_or_html():
    hostile = "![x](http://a) <b>`c`\n# d **e**"
    assert escape_markdown(hostile) == r"!\[x\](http://a) &lt;b>\`c\` # d \*\*e\*\*"
