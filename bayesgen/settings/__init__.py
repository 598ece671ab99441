"""Every setting, once: these dataclasses are the command line, the presets and a run's `run.json`.

A field's annotation carries its help text and its default is the product's default. Classes are
combined by inheritance into one flat set of names for each sampler; importing this package imports
nothing heavy, so that `--help` answers at once.
"""

from bayesgen.settings.fields import Count, Seed, Setting, Steps, check_ranges, described
from bayesgen.settings.jobs import (
    GPU_RECIPE,
    BaselineSettings,
    CheckPriorSettings,
    DecodingSettings,
    EvaluateSettings,
    ExportSettings,
    FinetuneSettings,
    GenerateSettings,
    SimilaritySettings,
)
from bayesgen.settings.labelled import labelled_defaults
from bayesgen.settings.priors import PriorImportSettings, PriorShowSettings
from bayesgen.settings.samplers import (
    SAMPLERS,
    BAOASettings,
    ChainSettings,
    EKFSettings,
    GaussianSettings,
    LaplaceSettings,
    MAPSettings,
    MomentumSettings,
    PassSettings,
    PerExampleSettings,
    SGHMCSettings,
    SGLDSettings,
    SGLRWSettings,
    SGNHTSettings,
    SWAGSettings,
    TrainSettings,
    VISettings,
    validate,
    without_effect,
)
from bayesgen.settings.shared import (
    LABELS,
    DataSettings,
    EvalSettings,
    PriorSettings,
    ScoringSettings,
    check_prior_settings,
    tasks_with,
)

__all__ = [
    "GPU_RECIPE",
    "LABELS",
    "SAMPLERS",
    "BAOASettings",
    "BaselineSettings",
    "ChainSettings",
    "CheckPriorSettings",
    "Count",
    "DataSettings",
    "DecodingSettings",
    "EKFSettings",
    "EvalSettings",
    "EvaluateSettings",
    "ExportSettings",
    "FinetuneSettings",
    "GaussianSettings",
    "GenerateSettings",
    "LaplaceSettings",
    "MAPSettings",
    "MomentumSettings",
    "PassSettings",
    "PerExampleSettings",
    "PriorImportSettings",
    "PriorSettings",
    "PriorShowSettings",
    "SGHMCSettings",
    "SGLDSettings",
    "SGLRWSettings",
    "SGNHTSettings",
    "SWAGSettings",
    "ScoringSettings",
    "Seed",
    "Setting",
    "SimilaritySettings",
    "Steps",
    "TrainSettings",
    "VISettings",
    "check_prior_settings",
    "check_ranges",
    "described",
    "labelled_defaults",
    "tasks_with",
    "validate",
    "without_effect",
]
