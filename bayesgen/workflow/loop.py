"""The loop: warm-up, sampling, thinning, checkpoint, resume.

The state after step t is a pure function of the settings and t: windows come from (seed, step),
noise from generators whose state is saved with the chain. A run that is killed at any moment and
resumed therefore leaves the same draws, bit for bit, as one that was not (same machine, same
number of threads).
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from bayesgen.errors import Interrupted, UserError
from bayesgen.inference.sampler import State, leaves, restore
from bayesgen.runs import Run, Snapshot
from bayesgen.runs.run import Tracker
from bayesgen.workflow.job import Job, chain_seed
from bayesgen.workflow.prior import keep_learned
from bayesgen.workflow.resuming import gaussian_name, restore_rng, rng_state
from bayesgen.workflow.watching import Best, Watch

CHECK_EVERY = 10
"""Steps between looks at the loss where looking makes the device wait."""


@dataclass
class StopRequest:
    """The signal that arrived, if any: looked at once a step."""

    signum: int | None = field(default=None)


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; the second acts at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(signum: int, _: object) -> None:
        request.signum = signum
        for number, old in before.items():
            signal.signal(number, old)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@dataclass(frozen=True)
class ChainTotals:
    """What one chain did."""

    chain: int
    steps: int
    draws: int
    clipped: int
    nll: float
    seconds: float


def run_chain(
    job: Job,
    run: Run,
    tracker: Tracker,
    chain: int,
    stop: StopRequest,
    watch: Watch | None = None,
) -> ChainTotals:
    """Run, or continue, one chain to the end of its plan; its draws land in `run`.

    Raises:
        UserError: the loss or θ stopped being finite; the last good state is kept.
        Interrupted: a signal arrived; the state was saved.
    """
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
        state = restore(state, _state_tensors(snapshot))
        restore_rng(snapshot.tensors, device)
        total = snapshot.tensors["terms"].to(device)
        first, draws, before = snapshot.step, snapshot.draws, snapshot.seconds
    run.drop_draws(chain, keep=draws)
    nll = tracker.rewind(chain, first)
    best = Best.of(run, chain)

    began = time.monotonic()
    # on an accelerator, looking at a number makes the host wait for it
    every = 1 if device.type == "cpu" else CHECK_EVERY
    bar = tqdm(
        total=plan.steps,
        initial=first,
        desc=_phase(job, chain, first),
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 30,
    )

    def save(step: int) -> None:
        # the loss that was looked at is from before the step: θ itself must be good, too
        if not sampler.theta(state).isfinite().all():
            raise UserError(_diverged(job, run, step, chain))
        tensors = {f"leaf.{i:04d}": t.contiguous() for i, t in enumerate(leaves(state))}
        seconds = before + time.monotonic() - began
        tensors |= {"terms": total, **rng_state(device)}
        run.write_state(chain, Snapshot(tensors, step, draws, seconds))

    with bar:
        if snapshot is None:
            # first: a run that is killed in between begins anew
            if watch is not None and math.isnan(best.last):
                best.look(watch, sampler.theta(state), 0, run, tracker)
            save(0)
        for step in range(first, plan.steps):
            batch = {k: v.to(device, non_blocking=True) for k, v in batches.batch(step).items()}
            state, terms = sampler.update(state, batch)
            total = total + terms
            done = step + 1
            collect = bool(plan.collect[step]) and sampler.gaussian is None
            save_now = (
                done % settings.checkpoint_every == 0
                or done == plan.steps
                or stop.signum is not None
            )
            log_now = done % settings.log_every == 0 or done == plan.steps
            if (done % every == 0 or collect or save_now) and not total.isfinite().all():
                raise UserError(_diverged(job, run, done, chain))
            if collect:
                theta = sampler.theta(state)
                if not theta.isfinite().all():
                    raise UserError(_diverged(job, run, done, chain))
                run.write_draw(chain, draws, theta, done)
                draws += 1
            if log_now:
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
                        "seconds": round(before + time.monotonic() - began, 3),
                    }
                )
                total[:2] = 0
                seen = {"val_nll": f"{best.last:.4f}"} if watch is not None else {}
                bar.set_description(_phase(job, chain, done), refresh=False)
                bar.set_postfix(
                    nll=f"{nll:.4f}",
                    log_prior=f"{log_prior:.3g}",
                    draws=draws,
                    refresh=False,
                    **seen,
                )
            if watch is not None and (done % watch.every == 0 or done == plan.steps):
                best.look(watch, sampler.theta(state), done, run, tracker)
            bar.update()
            if save_now:
                save(done)
            if stop.signum is not None:
                raise Interrupted(stop.signum, run.path, done)
    if sampler.gaussian is not None:
        draws = _sample_gaussian(job, run, chain, state)
    seconds = before + time.monotonic() - began
    return ChainTotals(chain, plan.steps, draws, int(total[2]), nll, seconds)


def _state_tensors(snapshot: Snapshot) -> list[Tensor]:
    return [snapshot.tensors[k] for k in sorted(snapshot.tensors) if k.startswith("leaf.")]


def _sample_gaussian(job: Job, run: Run, chain: int, state: State) -> int:
    """Keep the fitted Gaussian and take the draws that were asked for."""
    assert job.sampler.gaussian is not None
    draws = job.settings.num_draws_at_most
    gaussian = job.sampler.gaussian(state)
    if not (torch.isfinite(gaussian.mean).all() and torch.isfinite(gaussian.variance).all()):
        raise UserError(_diverged(job, run, job.plan.steps, chain))
    if job.sampler.learned is not None:
        keep_learned(job, run, chain, job.sampler.learned(state))
    run.write_tensors(gaussian_name(chain), gaussian.tensors())
    torch.manual_seed(chain_seed(job.settings.seed, chain) + 1)
    for index in range(draws):
        run.write_draw(chain, index, gaussian.sample(), job.plan.steps)
    return draws


def _phase(job: Job, chain: int, step: int) -> str:
    which = f" {chain + 1}/{job.settings.chains}" if job.settings.chains > 1 else ""
    return f"{job.spec.name}{which} {job.settings.phase(step)}".rstrip()


def _diverged(job: Job, run: Run, step: int, chain: int) -> str:
    snapshot = run.read_state(chain)
    kept = f"the state of step {snapshot.step} is kept in '{run.path}'" if snapshot else "no state"
    return f"the loss or θ is not finite after step {step}: {job.settings.if_diverged} ({kept})"
