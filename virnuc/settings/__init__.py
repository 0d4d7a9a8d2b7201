"""The parameters of each stage: one frozen dataclass a stage, the only place where a default is written.

Nothing heavy is imported here, so that `--help` answers at once. The command-line options are made from the fields,
and a test holds the MLproject file to them. Wrong values raise a `UsageError` when the settings are made, before
anything is read.
"""

from virnuc.settings.experiments import (
    CONTROLS,
    LATEST,
    PIPELINE_STAGES,
    MainSettings,
    PipelineSettings,
    RehearseSettings,
)
from virnuc.settings.options import (
    COLLECTIONS,
    MIN_CHUNK_SIZE,
    REFSEQ_DIVISIONS,
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
    DownloadSettings,
    EvaluateSettings,
    ExtractSettings,
    ImportModelSettings,
    PredictSettings,
    PrepareSettings,
    PromoteSettings,
    SplitSettings,
    TrainSettings,
)

# By the name of the stage, in the order of the data.
STAGES: dict[str, type[Settings]] = (
    {"download": DownloadSettings}
    | PIPELINE_STAGES
    | {
        "predict": PredictSettings,
        "import_model": ImportModelSettings,
        "doctor": DoctorSettings,
        "pipeline": PipelineSettings,
        "main": MainSettings,
        "rehearse": RehearseSettings,
    }
)
