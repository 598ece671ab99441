"""The end of an upstream run: what SWAG learned, as the file of a prior."""

from __future__ import annotations

from pathlib import Path

import torch

from bayesgen.inference.job import Job
from bayesgen.priors.learned import FILE, LearnedPrior
from bayesgen.runs import Run
from bayesgen.samplers.moments import Moments, deviations, variance


def prior_name(chain: int) -> str:
    """File of the prior that a chain learned, in the folder of its run."""
    return FILE if chain == 0 else f"prior-c{chain}.safetensors"


def write_prior(job: Job, run: Run, chain: int, moments: Moments) -> Path:
    """Put the prior that chain `chain` learned into the folder of its run."""
    record = run.record()
    info, settings = job.model.info, record["settings"]
    mean = torch.cat(moments.mean).float().cpu()
    start = job.model.theta.cpu()
    kept = ("learning_rate", "optimizer", "weight_decay", "batch_size", "seed", "precision")
    upstream = {
        "method": "SWAG",
        "task": info.task,
        "data": record["data"],
        "block_size": record["block_size"],
        "num_observations": job.num_observations,
        "steps": job.plan.steps,
        "collected": int(moments.count),
        "settings": {name: settings[name] for name in kept},
        "shift": float((mean - start).norm() / start.norm()),
        "run": str(run.path),
    }
    model = {
        "name": info.name,
        "sha256": info.sha256,
        "family": info.family,
        "type": info.config.get("model_type"),
        "base": job.model.base,
    }
    path = run.path / prior_name(chain)
    LearnedPrior(
        mean,
        variance(moments).cpu(),
        deviations(moments).cpu(),
        job.model.layout,
        {"model": model, "upstream": upstream},
    ).write(path)
    return path
