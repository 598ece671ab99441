"""Activations computed again in the backward pass instead of kept (gradient checkpointing).

Of each block only the inputs are kept; the backward pass runs it once more to get what its
derivative needs (Chen et al. 2016, https://arxiv.org/abs/1604.06174): the same gradient, for about
a third more arithmetic and the memory of one block's activations and all blocks' inputs.

Blocks are those that `--parameters layers=` counts. transformers' own switch works in training mode
alone, where a dropout would act, and loses the gradient of what a block takes by keyword. The kind
is torch's reentrant one; `torch.func` refuses the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import optree
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bayesgen.errors import UserError
from bayesgen.parameters import stacks

PLAIN = (Tensor, bool, int, float, str, type(None))
"""What a block may return, alone or in tuples, lists and dictionaries of these."""
HERE = object()  # stands where a tensor was


def checkpoint_blocks(module: nn.Module) -> None:
    """Make every block of `module`, which is in evaluation mode, compute its activations again."""
    blocks = [block for stack in stacks(module).values() for block in stack]
    if not blocks:
        raise UserError(
            "`gradient_checkpointing`: the model has no stack of equal blocks; leave it out"
        )
    for child in module.modules():
        # a block that is run again would write its keys and values into the cache a second time
        if getattr(getattr(child, "config", None), "use_cache", False):
            child.config.use_cache = False  # type: ignore[union-attr]
    for block in blocks:
        block.forward = _checkpointed(block)


def refuse_idle(module: nn.Module, names: Collection[str]) -> None:
    """Refuse checkpointing where the gradient of the parameters `names` passes through no block."""
    # parameters are registered in the order in which a network uses them
    prefixes = tuple(f"{name}." for name in stacks(module))
    named = [name for name, _ in module.named_parameters()]
    inside = [i for i, name in enumerate(named) if name.startswith(prefixes)]
    if inside and not any(name in names for name in named[: inside[-1] + 1]):
        raise UserError(
            "`gradient_checkpointing` has no effect beside these `parameters`: they come after the"
            " last block, and no block's activations are kept; leave it out"
        )


def _checkpointed(block: nn.Module) -> Callable[..., Any]:
    """The forward pass of `block`, run again for its derivative."""
    plain = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        arguments: Any = (args, kwargs)
        leaves: list[Any]
        leaves, inputs = optree.tree_flatten(arguments, none_is_leaf=True)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        # nothing is kept of a block through which no gradient flows
        differentiable = any(t.requires_grad for t in (*tensors, *block.parameters()))
        if not (torch.is_grad_enabled() and differentiable):
            return plain(*args, **kwargs)
        # from here on torch alone holds the tensors, which it hands back
        leaves = [HERE if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        outputs: Any = None

        def run(_: Tensor, *given: Tensor) -> tuple[Any, ...]:
            nonlocal outputs
            each = iter(given)
            filled: Any = [next(each) if leaf is HERE else leaf for leaf in leaves]
            again: Any = optree.tree_unflatten(inputs, filled)
            found, outputs = optree.tree_flatten(plain(*again[0], **again[1]), none_is_leaf=True)
            opaque = [type(leaf).__name__ for leaf in found if not isinstance(leaf, PLAIN)]
            if opaque:  # a tensor could be hidden in it
                raise UserError(
                    f"`gradient_checkpointing`: the model's blocks ({type(block).__name__}) return"
                    f" a {opaque[0]}, whose gradient would be lost; leave it out"
                )
            return tuple(found)

        # torch differentiates by inputs: where none asks for a gradient, the block's own parameters
        # would get none. No dropout acts: there is no state of generators to bring back.
        anchor = torch.zeros((), requires_grad=True)
        found: Any = checkpoint(run, anchor, *tensors, use_reentrant=True, preserve_rng_state=False)
        return optree.tree_unflatten(outputs, found)

    return forward
