"""Samplers: thin adapters over `posteriors`, one per file. `build_sampler` is the door."""

from __future__ import annotations

from bayesgen.config import (
    ChainSettings,
    MAPSettings,
    PassSettings,
    SWAGSettings,
    TrainSettings,
    VISettings,
)
from bayesgen.inference import baoa, ekf, laplace, map, sghmc, sgld, sglrw, sgnht, swag, vi
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.inference.sampler import Langevin, Registry, Sampler, State, leaves, restore
from bayesgen.inference.schedules import Plan, chain_plan, pass_plan, swag_plan

__all__ = [
    "REGISTRY", "Langevin", "Plan", "Sampler", "State", "build_sampler", "leaves", "make_plan",
    "restore",
]  # fmt: skip

REGISTRY: Registry = {
    "sgld": sgld.build,
    "sghmc": sghmc.build,
    "baoa": baoa.build,
    "sgnht": sgnht.build,
    "sglrw": sglrw.build,
    "ekf": ekf.build,
    "laplace": laplace.build,
    "vi": vi.build,
    "swag": swag.build,
    "map": map.build,
}
"""Each sampler's builder, by the name that `--sampler` takes."""


def make_plan(settings: TrainSettings, steps_per_epoch: int) -> Plan:
    """The run that `settings` describe, step by step."""
    if isinstance(settings, ChainSettings):
        return chain_plan(settings)
    if isinstance(settings, SWAGSettings):
        return swag_plan(settings)
    assert isinstance(settings, PassSettings)
    last = settings.final_fraction if isinstance(settings, MAPSettings | VISettings) else 1.0
    return pass_plan(
        settings.epochs,
        steps_per_epoch,
        settings.learning_rate,
        settings.temperature,
        final_fraction=last,
    )


def build_sampler(
    name: str, log_posterior: LogPosterior, settings: TrainSettings, plan: Plan
) -> Sampler:
    """The sampler called `name`, ready to run `plan`."""
    return REGISTRY[name](log_posterior, settings, plan)
