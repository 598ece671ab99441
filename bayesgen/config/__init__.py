"""Every setting, once: these dataclasses are the command line, the presets and a run's `run.json`.

A field's annotation carries its help text and its default is the product's default. Classes are
combined by inheritance into one flat set of names for each sampler; importing this package imports
nothing heavy, so that `--help` answers at once.
"""

# ruff: noqa: I001  (isort would give every "A as A" a line of its own)
from bayesgen.config.fields import check_ranges as check_ranges, described as described
from bayesgen.config.sampling import (
    ChainSettings as ChainSettings,
    GaussianSettings as GaussianSettings,
    MomentumSettings as MomentumSettings,
    PassSettings as PassSettings,
    PerExampleSettings as PerExampleSettings,
    TrainSettings as TrainSettings,
)
from bayesgen.config.shared import (
    PRIORS as PRIORS,
    DataSettings as DataSettings,
    EvalSettings as EvalSettings,
    LabelledSettings as LabelledSettings,
    LoopSettings as LoopSettings,
    PriorSettings as PriorSettings,
    PriorSpec as PriorSpec,
    ScoringSettings as ScoringSettings,
    idle_unless as idle_unless,
)
