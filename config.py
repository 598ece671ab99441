"""Presets: edit them, or copy this file and pass --config.

Each preset holds settings of one sampler by the names of its flags (`--learning-rate` is
`learning_rate`). A flag on the command line and the environment win over what stands here; what
does not stand here has the default that `--help` shows. An unknown key is an error.

These are the presets of language models. Those of labelled data (`--task
sequence-classification` and the like) have the same names with `_LABELLED` behind; none stand here,
because their defaults depend on the task.
"""

from typing import Any

Preset = dict[str, Any]

CONFIG_SGLD: Preset = {
    "learning_rate": 2.5,
    "temperature": 0.01,
}

CONFIG_SGHMC: Preset = {
    "learning_rate": 1.4,
    "friction": 0.35,
    "temperature": 0.01,
}

CONFIG_BAOA: Preset = {
    "learning_rate": 1.4,
    "friction": 0.35,
    "temperature": 0.01,
}

CONFIG_SGNHT: Preset = {
    "learning_rate": 1.4,
    "friction": 0.35,
    "temperature": 0.01,
}

CONFIG_SGLRW: Preset = {
    "learning_rate": 1.0,
    "temperature": 0.1,
}

CONFIG_EKF: Preset = {}

CONFIG_LAPLACE: Preset = {}

CONFIG_VI: Preset = {}

CONFIG_SWAG: Preset = {}

CONFIG_MAP: Preset = {}

CONFIG_BASELINE: Preset = {}
