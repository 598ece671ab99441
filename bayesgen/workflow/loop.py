"""The loop: warm-up, sampling, thinning, checkpoint, resume, and looks at the validation loss.

The state after step t is a pure function of the settings and t: windows come from (seed, step),
noise from generators whose state is saved with the chain. A run that is killed at any moment and
resumed therefore leaves the same draws, bit for bit, as one that was not (same machine, same
number of threads).
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesgen.config import TrainSettings
from bayesgen.errors import Interrupted, UserError
from bayesgen.evaluation.walk import new_bar, nll_of
from bayesgen.inference.sampler import State, leaves, restore
from bayesgen.models import FunctionalModel
from bayesgen.models.networks import save_model
from bayesgen.parameters import ADAPTER
from bayesgen.predictive import Forward, scoring_precision
from bayesgen.runs import Run, Snapshot, Tracker
from bayesgen.workflow.inputs import Inputs
from bayesgen.workflow.job import Job, chain_seed
from bayesgen.workflow.prior import keep_learned
from bayesgen.workflow.resuming import gaussian_name, restore_rng, rng_state

CHECK_EVERY = 10  # steps between looks at the loss where looking makes the device wait


@dataclass
class StopRequest:
    """The signal that arrived, if any: looked at once a step."""

    signum: int | None = None


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; the second acts at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(signum: int, _: object) -> None:
        request.signum = signum
        put_back()

    for number in before:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        put_back()


class Watch:
    """The NLL of a chain's θ on validation data, in nats per observation, the last and the least so
    far; measured `every` so many steps, without random numbers from the global generators."""

    def __init__(self, settings: TrainSettings, inputs: Inputs) -> None:
        chosen = vars(settings)  # only the samplers that a prior is learned with have these
        self.every: int | None = chosen.get("validation_every")
        if self.every:
            self.rows = inputs.validation(chosen["validation_samples"])
            precision = scoring_precision(settings.precision, inputs.model)
            self.forward = Forward(inputs.model, precision)
            self.batch_size = settings.eval_batch_size

    def begin(self, run: Run, tracker: Tracker, chain: int) -> None:
        """Watch `chain`, of which the lines of metrics say what was found."""
        self.run, self.tracker, self.chain = run, tracker, chain
        rows = map(json.loads, run.metrics.read_text("utf-8").splitlines())
        found = [row.get("val_nll") for row in rows if row["chain"] == chain]
        seen: list[float] = [nll for nll in found if nll is not None]
        self.last = seen[-1] if seen else math.nan
        self.least = min(seen, default=math.inf)

    def look(self, theta: Tensor, step: int) -> None:
        """Measure θ [P], log it, and keep it where it is the best."""
        self.last, _ = nll_of(self.forward, theta[None], self.rows, self.batch_size)
        if self.last < self.least:
            self.least = self.last
            self.run.write_tensors(f"best-c{self.chain}.safetensors", {"theta": theta})
        self.tracker.log({"chain": self.chain, "step": step, "val_nll": self.last})


@dataclass(frozen=True)
class ChainTotals:
    """What one chain did."""

    steps: int
    draws: int
    clipped: int
    nll: float
    seconds: float


def run_chain(
    job: Job, run: Run, tracker: Tracker, chain: int, stop: StopRequest, watch: Watch
) -> ChainTotals:
    """Run, or continue, one chain to the end of its plan; its draws land in `run`. A loss or θ that
    is not finite is a UserError, a signal Interrupted; the last good state is kept."""
    settings, plan, sampler = job.settings, job.plan, job.sampler
    device = job.model.device
    batches = job.batches(chain)
    torch.manual_seed(chain_seed(settings.seed, chain))
    state = sampler.init()
    first, draws, before = 0, 0, 0.0
    # NLL and log prior since the last line of metrics, and clipped steps since the start
    total = torch.zeros(3, device=device)
    snapshot = run.resume_state(chain)
    if snapshot is not None:
        kept = sorted(name for name in snapshot.tensors if name.startswith("leaf."))
        state = restore(state, [snapshot.tensors[name] for name in kept])
        restore_rng(snapshot.tensors, device)
        total = snapshot.tensors["terms"].to(device)
        first, draws, before = snapshot.step, snapshot.draws, snapshot.seconds
    run.drop_draws(chain, keep=draws)
    nll = tracker.rewind(chain, first)
    watch.begin(run, tracker, chain)

    began = time.monotonic()
    # on an accelerator, looking at a number makes the host wait for it
    every = 1 if device.type == "cpu" else CHECK_EVERY
    which = f" {chain + 1}/{settings.chains}" if settings.chains > 1 else ""

    def phase(step: int) -> str:
        return f"{job.spec.name}{which} {settings.phase(step)}".rstrip()

    def seconds() -> float:
        return before + time.monotonic() - began

    def finite_theta(step: int) -> Tensor:
        # the loss is from before the step: θ itself must be good, too
        theta = sampler.theta(state)
        if not (total.isfinite().all() and theta.isfinite().all()):
            raise _diverged(job, run, step, chain)
        return theta

    def save(step: int) -> None:
        finite_theta(step)
        tensors = {f"leaf.{i:04d}": t.contiguous() for i, t in enumerate(leaves(state))}
        tensors |= {"terms": total, **rng_state(device)}
        run.write_state(chain, Snapshot(tensors, step, draws, seconds()))

    with new_bar(phase(first), plan.steps, initial=first) as bar:
        if snapshot is None:
            # first: a run that is killed in between begins anew
            if watch.every and math.isnan(watch.last):
                watch.look(sampler.theta(state), 0)
            save(0)
        for step in range(first, plan.steps):
            batch = {k: v.to(device, non_blocking=True) for k, v in batches.batch(step).items()}
            state, terms = sampler.update(state, batch)
            total = total + terms
            done = step + 1
            last = done == plan.steps
            due = last or done % settings.checkpoint_every == 0
            if (due or done % every == 0) and not total.isfinite().all():
                raise _diverged(job, run, done, chain)
            if bool(plan.collect[step]) and sampler.gaussian is None:
                run.write_draw(chain, draws, finite_theta(done), done)
                draws += 1
            if done % settings.log_every == 0 or last:
                since = (done - 1) % settings.log_every + 1
                nll, log_prior = (total[:2] / since).tolist()
                tracker.log(
                    {
                        "chain": chain,
                        "step": done,
                        "nll": nll,
                        "log_prior": log_prior,
                        "log_posterior": log_prior - nll,
                        "learning_rate": float(plan.learning_rate[step]),
                        "temperature": float(plan.temperature[step]),
                        "draws": draws,
                        "clipped_steps": int(total[2]),
                        "seconds": round(seconds(), 3),
                    }
                )
                total[:2] = 0
                shown = {"nll": f"{nll:.4f}", "log_prior": f"{log_prior:.3g}", "draws": draws}
                if watch.every:
                    shown["val_nll"] = f"{watch.last:.4f}"
                bar.set_description(phase(done), refresh=False)
                bar.set_postfix(shown, refresh=False)
            if watch.every and (done % watch.every == 0 or last):
                watch.look(sampler.theta(state), done)
            bar.update()
            signum = stop.signum
            if due or signum is not None:
                save(done)
            if signum is not None:
                raise Interrupted(signum, run.path, done)
    if sampler.gaussian is not None:
        draws = _sample_gaussian(job, run, chain, state)
    return ChainTotals(plan.steps, draws, int(total[2]), nll, seconds())


def _sample_gaussian(job: Job, run: Run, chain: int, state: State) -> int:
    """Keep the fitted Gaussian and take the draws that were asked for; how many."""
    assert job.sampler.gaussian is not None
    draws = job.settings.num_draws_at_most
    gaussian = job.sampler.gaussian(state)
    if not (torch.isfinite(gaussian.mean).all() and torch.isfinite(gaussian.variance).all()):
        raise _diverged(job, run, job.plan.steps, chain)
    if job.sampler.learned is not None:
        keep_learned(job, run, chain, job.sampler.learned(state))
    run.write_tensors(gaussian_name(chain), gaussian.tensors())
    torch.manual_seed(chain_seed(job.settings.seed, chain) + 1)
    for index in range(draws):
        run.write_draw(chain, index, gaussian.sample(), job.plan.steps)
    return draws


def _diverged(job: Job, run: Run, step: int, chain: int) -> UserError:
    snapshot, way_out = run.read_state(chain), job.settings.if_diverged
    kept = f"the state of step {snapshot.step} is kept in '{run.path}'" if snapshot else "no state"
    return UserError(f"the loss or θ is not finite after step {step}: {way_out} ({kept})")


def save_models(run: Run, model: FunctionalModel, chains: int) -> None:
    """Leave in the run's folder, as models: `mean`, where each chain's prior has its centre, and
    `best`, its best weights on the validation data. Not of adapters, which are no model."""
    if any(ADAPTER in name for name in model.layout.names):
        return
    for chain in range(chains):
        best, gaussian = f"best-c{chain}.safetensors", gaussian_name(chain)
        for name, file, key in (("best", best, "theta"), ("mean", gaussian, "mean")):
            found = run.read_tensors(file)
            assert found is not None
            save_model(model, found[key], run.path / (name if chain == 0 else f"{name}-c{chain}"))
