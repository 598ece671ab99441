"""The end of an upstream run: what SWAG or Laplace learned, as the file of a prior."""

from __future__ import annotations

from pathlib import Path

from bayesgen.config import EvalSettings, LoopSettings, described
from bayesgen.inference.sampler import Learned
from bayesgen.priors.learned import LearnedPrior
from bayesgen.priors.prior_file import FILE, write_prior
from bayesgen.runs import Run
from bayesgen.workflow.job import Job

ASIDE = {*described(LoopSettings), *described(EvalSettings)}
"""Settings that a prior does not depend on."""


def prior_name(chain: int) -> str:
    """File of the prior that a chain learned, in the folder of its run."""
    return FILE if chain == 0 else f"prior-c{chain}.safetensors"


def keep_learned(job: Job, run: Run, chain: int, learned: Learned) -> Path:
    """Put the prior that chain `chain` learned into the folder of its run."""
    record = run.record()
    info, idle = job.model.info, {*ASIDE, *job.spec.without_effect(job.settings)}
    mean = learned.mean.cpu()
    start = job.model.loaded.cpu()
    upstream = {
        "method": learned.method,
        "task": info.task,
        "data": record.data.to_json(),
        "block_size": record.block_size,
        "num_observations": job.num_observations,
        "steps": job.plan.steps,
        "collected": learned.collected,
        "settings": {
            name: value
            for name, value in vars(job.settings).items()
            if value is not None and name not in idle
        },
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
    prior = LearnedPrior(
        mean,
        learned.variance.cpu(),
        learned.deviations.cpu(),
        job.model.layout,
        {"model": model, "upstream": upstream},
    )
    path = run.path / prior_name(chain)
    write_prior(prior, path)
    return path
