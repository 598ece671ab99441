"""Presets: edit them, or copy this file and pass --config.

Each preset holds settings of one sampler by the names of its flags (`--learning-rate` is
`learning_rate`). A flag on the command line and the environment win over what stands here; what
does not stand here has the default that `--help` shows. An unknown key is an error.
"""

from typing import Any

Preset = dict[str, Any]

CONFIG_SGLD: Preset = {
    "learning_rate": 1e-3,
    "temperature": 0.01,
}

CONFIG_SGHMC: Preset = {
    "learning_rate": 0.0224,
    "friction": 22.4,
    "temperature": 0.01,
}

CONFIG_BAOA: Preset = {
    "learning_rate": 0.0224,
    "friction": 22.4,
    "temperature": 0.01,
}

CONFIG_SGNHT: Preset = {}

CONFIG_SGLRW: Preset = {}

CONFIG_EKF: Preset = {}

CONFIG_LAPLACE: Preset = {}

CONFIG_VI: Preset = {}

CONFIG_MAP: Preset = {}

CONFIG_BASELINE: Preset = {}
