"""The per-datum log posterior and its gradient, in the coordinates φ that samplers move.

    ℓ(θ; batch) = mean_i log p(y_i | x_i, θ) + (1/N) log p(θ),   θ = θ₀ + D ⊙ φ

with N observations in the data set and a sampler at temperature T/N: the scale that `posteriors`
recommends (https://normal-computing.github.io/posteriors/log_posteriors).

The *ordinary* way to it drives the loop: one `torch.autograd.Function` whose forward runs plain
forward and backward passes, so that what functorch forbids is allowed (autocast, gradient
accumulation and checkpointing), called by `posteriors` under `torch.func.grad_and_value`. The
*functional* way is the same number as a pure function, for vmap. Neither has second derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from bayesgen.models.functional import Batch, FunctionalModel
from bayesgen.priors.base import Prior

CHUNK = 524_288
"""Elements of θ that `posteriors` sees at a time: few Python calls, and each update stays in the
cache (2 MiB of float32)."""

Precision = Literal["fp32", "bf16"]
Chunks = tuple[Tensor, ...]
"""φ [P] cut into pieces: what `posteriors` moves."""
Step = tuple[Sequence[Tensor], float]
"""A velocity in the pieces of φ, and how long it is followed."""


def chunks(theta: Tensor, size: int = CHUNK) -> Chunks:
    """`theta` [P] cut into views of at most `size` elements."""
    return tuple(theta.split(size))


@dataclass(frozen=True)
class Affine:
    """θ = θ₀ + D ⊙ φ with D = `scale` [P], positive; or θ = φ where it is None. φ starts at
    θ₀ = `origin` [P].

    This is preconditioning without a change to the transforms of `posteriors`, or to the target on
    θ: a constant Jacobian drops out of the density.
    """

    origin: Tensor
    scale: Tensor | None = None

    def start(self) -> Chunks:
        """φ at θ₀, in chunks that own their memory."""
        phi = self.origin if self.scale is None else torch.zeros_like(self.origin)
        return tuple(chunk.clone() for chunk in chunks(phi))

    def theta(self, phi: Sequence[Tensor]) -> Tensor:
        """θ [P] of `phi`: a new tensor; differentiable, fit for vmap."""
        flat = torch.cat(tuple(phi))
        return flat if self.scale is None else torch.addcmul(self.origin, self.scale, flat)

    def load(self, phi: Sequence[Tensor], out: Tensor, step: Step | None = None) -> None:
        """Write θ of `phi` into `out` [P]; with a step, that of where it leads."""
        targets = chunks(out)
        if step is not None:
            velocity, length = step
            for piece, v, target in zip(phi, velocity, targets, strict=True):
                torch.add(piece, v, alpha=length, out=target)
            phi = targets
        if self.scale is not None:
            pieces = zip(chunks(self.origin), chunks(self.scale), phi, targets, strict=True)
            for origin, scale, piece, target in pieces:
                torch.addcmul(origin, scale, piece, out=target)
        elif step is None:
            for piece, target in zip(phi, targets, strict=True):
                target.copy_(piece)

    def pull_back_(self, grad: Tensor) -> Chunks:
        """∇_φ from ∇_θ = `grad` [P], in place: the chunks are views of `grad`."""
        if self.scale is not None:
            for g, d in zip(chunks(grad), chunks(self.scale), strict=True):
                g.mul_(d)
        return chunks(grad)


class LogPosterior:
    """ℓ of φ and a batch, for `posteriors`: `(ℓ, [NLL, log p(θ)/N, clipped])`.

    NLL and prior are per observation, in nats, and logged apart, because the normaliser of a prior
    over millions of weights drowns a loss; `clipped` is 1 where the gradient was cut, else 0.

    Args:
        model: gives the network, of which a private copy is taken, and the layout of θ.
        num_observations: N, counted from the data set (not the batch).
        affine: the identity from the model's weights, by default.
        max_norm: length of ∇_φ ℓ to which the ordinary way cuts a longer one: one step off a cliff
            of the loss can throw a chain out of its mode for good (Pascanu et al. 2013,
            https://arxiv.org/abs/1211.5063).
        precision: `bf16` runs the network under autocast; θ, the likelihood and the prior stay
            float32.
        accumulation: micro-batches that a batch is split into; the result is the same mean.
        checkpointing: whether the ordinary way computes activations again in its backward pass.
    """

    def __init__(
        self,
        model: FunctionalModel,
        prior: Prior,
        num_observations: int,
        *,
        affine: Affine | None = None,
        max_norm: float = math.inf,
        precision: Precision = "fp32",
        accumulation: int = 1,
        checkpointing: bool = False,
    ) -> None:
        self.model = model
        self.prior = prior
        self.num_observations = num_observations
        self.likelihood = model.likelihood
        self.affine = affine or Affine(model.theta)
        self.max_norm = max_norm
        self.precision = precision
        self.accumulation = accumulation
        self.checkpointing = checkpointing
        self.flat = model.bind(checkpointing=checkpointing)

    def __call__(
        self, phi: Chunks, batch: Batch, step: Step | None = None
    ) -> tuple[Tensor, Tensor]:
        """ℓ at φ, or where `step` leads from there."""
        evaluate = partial(self._value_and_grad, step=step)
        value, terms, *_ = _Ordinary.apply(evaluate, batch, *phi)  # type: ignore[no-untyped-call]
        return value, terms

    def loss(self, phi: Chunks, batch: Batch) -> tuple[Tensor, Tensor]:
        """−ℓ and the terms, for an optimizer."""
        value, terms = self(phi, batch)
        return -value, terms

    def functional(self, phi: Chunks, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same number in float32 as a pure function of φ, for vmap over draws."""
        theta, labels = self.affine.theta(phi), batch["labels"]
        mean = self.likelihood.total(self.model(theta, batch), labels)
        mean = mean / self.likelihood.count(labels)
        log_prior = self.prior.log_prob(theta) / self.num_observations
        return mean + log_prior, torch.stack([-mean, log_prior, torch.zeros_like(mean)])

    def per_sequence(self, phi: Chunks, batch: Batch) -> tuple[Tensor, Tensor]:
        """log p(batch row | θ) of each row: `([B], [])`, in nats; no prior. Under `jacrev` it costs
        one forward and backward pass a row, and the memory of the Jacobian [B, P]."""
        if phi[0].requires_grad:  # inside a functorch transform
            values, *_ = _Ordinary.apply(self._rows_and_jacobian, batch, *phi)  # type: ignore[no-untyped-call]
        else:
            self.affine.load(phi, self.flat.theta)
            with torch.no_grad():
                values = self.likelihood.per_sequence(self._logits(batch), batch["labels"])
        return values, values.new_empty(0)

    def log_likelihood_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean log-likelihood of `batch` at `theta` [P], and its gradient [P]."""
        self.flat.theta.copy_(theta)
        return self._accumulate(batch)

    def _logits(self, batch: Batch) -> Tensor:
        with torch.autocast(
            self.flat.theta.device.type,
            torch.bfloat16,
            enabled=self.precision == "bf16",
            # a weight that a block rounded without a graph must not be found again with one
            cache_enabled=not self.checkpointing,
        ):
            return self.model.call(self.flat.module, batch)

    def _accumulate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean log-likelihood and its gradient [P], from micro-batches."""
        mean = torch.zeros((), device=self.flat.theta.device)
        with torch.enable_grad():
            for micro in split(batch, self.accumulation):
                total = self.likelihood.total(self._logits(micro), micro["labels"])
                share = total / self.likelihood.count(batch["labels"])
                share.backward()
                mean += share.detach()
        return mean, self.flat.gradient()

    def _value_and_grad(self, phi: Chunks, batch: Batch, step: Step | None) -> tuple[Tensor, ...]:
        self.affine.load(phi, self.flat.theta, step)
        mean, gradient = self._accumulate(batch)
        weight = 1.0 / self.num_observations
        log_prior = weight * self.prior.accumulate(self.flat.theta, gradient, weight)
        pieces = self.affine.pull_back_(gradient)
        clipped = clip_(pieces, self.max_norm)
        return (mean + log_prior, torch.stack([-mean, log_prior, clipped]), *pieces)

    def _rows_and_jacobian(self, phi: Chunks, batch: Batch) -> tuple[Tensor, ...]:
        self.affine.load(phi, self.flat.theta)
        values, rows = [], []
        for row in split(batch, len(batch["labels"])):
            with torch.enable_grad():
                value = self.likelihood.total(self._logits(row), row["labels"])
                value.backward()
            values.append(value.detach())
            rows.append(self.flat.gradient())
            self.affine.pull_back_(rows[-1])
        stacked, jacobian = torch.stack(values), torch.stack(rows)
        return (stacked, stacked.new_empty(0), *jacobian.split([len(p) for p in phi], dim=1))


class _Ordinary(torch.autograd.Function):
    """A function of φ that computes its own derivative in the forward pass.

    `evaluate(phi, batch)` returns `(value, terms, *derivatives)`: `value` is a scalar or [B], each
    derivative has its shape followed by that of its chunk.
    """

    @staticmethod
    def forward(evaluate: Any, batch: Batch, *phi: Tensor) -> tuple[Tensor, ...]:
        return evaluate(phi, batch)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, terms, *derivatives = output
        ctx.mark_non_differentiable(terms, *derivatives)
        ctx.save_for_backward(*derivatives)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if cotangent.dim():
            return (None, None, *(cotangent @ d for d in ctx.saved_tensors))
        # ℓ itself is differentiated: no pass over memory (where looking makes no one wait)
        if cotangent.device.type == "cpu" and bool(cotangent == 1):
            return (None, None, *ctx.saved_tensors)
        return (None, None, *(cotangent * d for d in ctx.saved_tensors))


def clip_(pieces: Chunks, max_norm: float) -> Tensor:
    """Cut a vector, in pieces, in place to length `max_norm`: 1 where it was longer, else 0."""
    if max_norm == math.inf:
        return pieces[0].new_zeros(())
    norm = sum((torch.dot(p, p) for p in pieces), start=pieces[0].new_zeros(())).sqrt()
    clipped = norm > max_norm
    # a look at a number costs nothing on the CPU, and a pass over memory elsewhere little
    if norm.device.type != "cpu" or bool(clipped):
        shorter = torch.where(clipped, max_norm / norm, 1.0)
        for piece in pieces:
            piece.mul_(shorter)
    return clipped.to(norm.dtype)


def split(batch: Batch, pieces: int) -> list[dict[str, Tensor]]:
    """`batch` cut along its rows into `pieces` parts (fewer where there are fewer rows)."""
    if pieces <= 1:
        return [dict(batch)]
    parts = {name: tensor.tensor_split(min(pieces, len(tensor))) for name, tensor in batch.items()}
    return [dict(zip(parts, rows, strict=True)) for rows in zip(*parts.values(), strict=True)]
