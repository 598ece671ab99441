"""Every setting, once: these dataclasses are the command line, the presets and a run's `run.json`.

A field's annotation carries its help text and its default is the product's default. Classes are
combined by inheritance into one flat set of names for each sampler; importing this package imports
nothing heavy, so that `--help` answers at once.
"""

from bayesgen.config.fields import Count, Seed, Setting, Steps, check_ranges, described
from bayesgen.config.jobs import (
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
from bayesgen.config.prior_spec import PRIORS, PriorSpec
from bayesgen.config.priors import PriorImportSettings, PriorShowSettings
from bayesgen.config.sampling import (
    ChainSettings,
    GaussianSettings,
    MomentumSettings,
    PassSettings,
    PerExampleSettings,
    TrainSettings,
    idle_unless,
)
from bayesgen.config.shared import (
    DataSettings,
    EvalSettings,
    LoopSettings,
    PriorSettings,
    ScoringSettings,
    check_prior_settings,
    idle_prior_settings,
)

__all__ = [
    "GPU_RECIPE",
    "PRIORS",
    "BaselineSettings",
    "ChainSettings",
    "CheckPriorSettings",
    "Count",
    "DataSettings",
    "DecodingSettings",
    "EvalSettings",
    "EvaluateSettings",
    "ExportSettings",
    "FinetuneSettings",
    "GaussianSettings",
    "GenerateSettings",
    "LoopSettings",
    "MomentumSettings",
    "PassSettings",
    "PerExampleSettings",
    "PriorImportSettings",
    "PriorSettings",
    "PriorShowSettings",
    "PriorSpec",
    "ScoringSettings",
    "Seed",
    "Setting",
    "SimilaritySettings",
    "Steps",
    "TrainSettings",
    "check_prior_settings",
    "check_ranges",
    "described",
    "idle_prior_settings",
    "idle_unless",
]
