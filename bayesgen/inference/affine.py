"""Preconditioning as an affine map: θ = θ₀ + D ⊙ φ with D fixed.

Every `posteriors` transform then moves φ and needs no change, and the target on θ is unchanged:
a constant Jacobian drops out of the density.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesgen.parameters import chunks

Chunks = tuple[Tensor, ...]
"""φ [P] cut into pieces: what `posteriors` moves."""
Step = tuple[Sequence[Tensor], float]
"""A velocity in the pieces of φ, and how long it is followed."""


@dataclass(frozen=True)
class Affine:
    """θ = origin + scale ⊙ φ, or the identity where `scale` is None.

    Args:
        origin: θ₀ [P].
        scale: D [P], positive; None for the identity (then `origin` is only where φ starts).
    """

    origin: Tensor
    scale: Tensor | None = None

    def start(self) -> Chunks:
        """φ at θ₀, in chunks that own their memory: zeros, or θ₀ itself under the identity."""
        phi = self.origin.clone() if self.scale is None else torch.zeros_like(self.origin)
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
        if self.scale is None:
            if step is None:
                for piece, target in zip(phi, targets, strict=True):
                    target.copy_(piece)
            return
        pieces = zip(chunks(self.origin), chunks(self.scale), phi, targets, strict=True)
        for origin, scale, piece, target in pieces:
            torch.addcmul(origin, scale, piece, out=target)

    def pull_back_(self, grad: Tensor) -> Chunks:
        """∇_φ from ∇_θ = `grad` [P], in place: the chunks are views of `grad`."""
        if self.scale is not None:
            for g, d in zip(chunks(grad), chunks(self.scale), strict=True):
                g.mul_(d)
        return chunks(grad)
