"""The registered model in Spark's workers answers as `predict` does."""

from __future__ import annotations

import shutil

import mlflow
import pytest

from tests.model_registry.test_scoring_model import SEQUENCES, predicted, registered  # noqa: F401


@pytest.mark.e2e
def test_a_spark_data_frame_is_scored_in_its_workers(registered, predicted):  # noqa: F811
    """The code is that of docs/operating.md."""
    pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'virnuc[scale]'")
    if not shutil.which("java"):
        pytest.skip("pyspark needs Java")
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import struct

    session = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        score = mlflow.pyfunc.spark_udf(
            session,
            registered,
            result_type="struct<id:string,probability:double,label:string,status:string,error:string>",
            env_manager="local",
            params={"threshold": 0.5},
        )
        rows = [(f"s{number}", sequence) for number, sequence in enumerate(SEQUENCES)] + [("bad", "ACGTZ!")]
        reads = session.createDataFrame(rows, "id string, sequence string").repartition(2)
        found = reads.withColumn("call", score(struct("id", "sequence"))).select("id", "call.*").collect()
    finally:
        session.stop()
    answers = {row[0]: row for row in found}
    assert len(answers) == len(rows) and answers["bad"]["error"]
    told = [answers[f"s{number}"] for number in range(len(SEQUENCES))]
    assert [row["label"] for row in told] == predicted["label"].tolist()
    probabilities = [float("nan") if row["probability"] is None else row["probability"] for row in told]
    assert probabilities == pytest.approx(predicted["probability"].tolist(), abs=1e-6, nan_ok=True)
