"""The end of an upstream run: what SWAG or Laplace learned, as the file of a prior."""

from __future__ import annotations

from pathlib import Path

from bayesgen.inference.job import Job
from bayesgen.priors.learned import FILE, LearnedPrior
from bayesgen.runs import Run
from bayesgen.samplers.base import Learned


def prior_name(chain: int) -> str:
    """File of the prior that a chain learned, in the folder of its run."""
    return FILE if chain == 0 else f"prior-c{chain}.safetensors"


def write_prior(job: Job, run: Run, chain: int, learned: Learned) -> Path:
    """Put the prior that chain `chain` learned into the folder of its run."""
    record = run.record()
    info, settings = job.model.info, record["settings"]
    mean = learned.mean.cpu()
    start = job.model.theta.cpu()
    kept = (
        "learning_rate", "optimizer", "weight_decay", "epochs", "prior", "prior_std", "temperature",
        "batch_size", "seed", "precision",
    )  # fmt: skip
    upstream = {
        "method": learned.method,
        "task": info.task,
        "data": record["data"],
        "block_size": record["block_size"],
        "num_observations": job.num_observations,
        "steps": job.plan.steps,
        "collected": learned.collected,
        "settings": {name: settings[name] for name in kept if name in settings},
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
        learned.variance.cpu(),
        learned.deviations.cpu(),
        job.model.layout,
        {"model": model, "upstream": upstream},
    ).write(path)
    return path
