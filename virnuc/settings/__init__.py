"""The parameters of each stage: one frozen dataclass a stage, the only place where a default is written.

Nothing heavy is imported here, so that `--help` answers at once. The command-line options are made from the fields,
and a test holds the MLproject file to them. Wrong values raise a `UsageError` when the settings are made, before
anything is read.
"""

from virnuc.settings.experiments import MainSettings, PipelineSettings, RehearseSettings
from virnuc.settings.options import (
    PARSERS,
    SHORTEST_CHUNK,
    FeatureSource,
    Settings,
    default_of,
    flag_name,
    parse_features,
    parse_pairs,
    plain,
)
from virnuc.settings.stages import (
    BenchmarkSettings,
    CompareSettings,
    DoctorSettings,
    EvaluateSettings,
    ExtractSettings,
    ImportModelSettings,
    PredictSettings,
    PrepareSettings,
    PromoteSettings,
    SplitSettings,
    TrainSettings,
)

__all__ = [
    "PARSERS",
    "SHORTEST_CHUNK",
    "BenchmarkSettings",
    "CompareSettings",
    "DoctorSettings",
    "EvaluateSettings",
    "ExtractSettings",
    "FeatureSource",
    "ImportModelSettings",
    "MainSettings",
    "PipelineSettings",
    "PredictSettings",
    "PrepareSettings",
    "PromoteSettings",
    "RehearseSettings",
    "Settings",
    "SplitSettings",
    "TrainSettings",
    "default_of",
    "flag_name",
    "parse_features",
    "parse_pairs",
    "plain",
]
