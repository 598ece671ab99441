"""Settings from flags, environment, config.py and defaults, in this order of precedence."""

from __future__ import annotations

import os
import runpy
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from bayesgen.config import BaselineSettings, Setting, described
from bayesgen.errors import UserError, nearest

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

ENVIRONMENT = {
    "base_dir": "BASE_DIR",
    "model": "MODEL_PATH",
    "meta_path": "META_PATH",
    "data_dir": "DATA_DIR",
    "device": "DEVICE",
    "wandb": "WANDB_AVAILABLE",
}
"""Settings that an environment variable can give."""

TRUE, FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


@dataclass(frozen=True)
class Chosen(Generic[T_co]):
    """Settings, and where each value that is not the default came from."""

    settings: T_co
    sources: dict[str, str]


def combine(
    cls: type[T],
    flags: Mapping[str, Any],
    config: Mapping[str, Any],
    config_name: str,
    base: Mapping[str, Any] | None = None,
    without: Container[str] = (),
) -> Chosen[T]:
    """Flags over the environment over config.py over `base` over the defaults.

    Args:
        without: settings that no environment variable gives.
    """
    known = described(cls)
    environment = {
        name: _from_text(os.environ[variable], known[name].kind, variable)
        for name, variable in ENVIRONMENT.items()
        if name in known and name not in without and os.environ.get(variable)
    }
    given = {name: value for name, value in flags.items() if name in known}
    settings = cls(**{**(base or {}), **config, **environment, **given})
    sources = (
        dict.fromkeys(config, config_name)
        | {name: f"environment {ENVIRONMENT[name]}" for name in environment}
        | by_flag(given)
    )
    usual = {name: (base or {}).get(name, known[name].default) for name in sources}
    changed = {n: s for n, s in sources.items() if getattr(settings, n) != usual[n]}
    return Chosen(settings, changed)


def by_flag(names: Iterable[str]) -> dict[str, str]:
    """The source of settings that were given as flags."""
    return {name: f"flag --{name.replace('_', '-')}" for name in names}


def read_config(
    path: str | None, samplers: Mapping[str, type]
) -> tuple[dict[str, dict[str, Any]], str]:
    """The presets of `path`, or of config.py in the working directory: name -> settings.

    Args:
        samplers: the settings class of each.

    Raises:
        UserError: the file is missing or broken, or holds a preset or a key that does not exist.
    """
    file = Path(path or "config.py")
    if not file.is_file():
        if path is not None:
            raise UserError(f"`config`: no file at '{path}'")
        return {}, ""
    try:
        content = runpy.run_path(str(file))
    except Exception as error:  # whatever the user's own file raises
        line = getattr(error, "lineno", None)
        where = f" line {line}" if line else ""
        raise UserError(f"'{file}'{where}: {type(error).__name__}: {error}") from error
    presets = {k: v for k, v in content.items() if k.startswith("CONFIG_")}
    classes: dict[str, type] = {f"CONFIG_{name.upper()}": cls for name, cls in samplers.items()}
    classes |= {f"{name}_LABELLED": cls for name, cls in classes.items()}
    classes["CONFIG_BASELINE"] = BaselineSettings
    for name, preset in presets.items():
        if name not in classes:
            raise UserError(f"'{file}': unknown preset {name}{nearest(name, classes)}")
        if not isinstance(preset, dict):
            raise UserError(f"'{file}': {name} must be a dict of settings, not {preset!r}")
        known = described(classes[name])
        for key, value in preset.items():
            if key not in known:
                hint = nearest(str(key), known)
                raise UserError(f"'{file}': {name} has no setting '{key}'{hint}")
            preset[key] = _checked(value, known[key], f"'{file}': {name}['{key}']")
    return presets, file.name


def _checked(value: Any, setting: Setting, where: str) -> Any:
    """`value` as config.py gave it, if it has the setting's type."""
    kind = setting.kind
    if (value is None and setting.optional) or value in setting.words:
        return value
    if setting.many:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} must be a list, not {value!r}")
        value = tuple(value)
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    elif not setting.choices and (
        not isinstance(value, kind) or (kind is not bool and isinstance(value, bool))
    ):
        raise UserError(f"{where} must be of type {kind.__name__}, not {value!r}")
    refusal = setting.refusal(value)
    if refusal:
        raise UserError(f"{where} {refusal}")
    return value


def _from_text(text: str, kind: Any, variable: str) -> Any:
    """An environment variable's value."""
    if kind is not bool:
        return text
    if text.lower() not in TRUE | FALSE:
        raise UserError(f"{variable} must be true or false, not '{text}'")
    return text.lower() in TRUE
