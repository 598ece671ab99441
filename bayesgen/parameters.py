"""Module <-> θ: the layout of one flat float32 vector, and which parameters are Bayesian.

θ holds the *Bayesian* parameters of a module, raveled in `named_parameters()` order. Everything
else in the module (other parameters, buffers) stays frozen where it is.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from bayesgen.errors import UserError

KEYWORDS = ("all", "last-layer", "head", "layers=-2:", "lora")
ADAPTER = "lora_"
"""What the names of adapters' parameters hold: PEFT's own mark."""

Subset = str | Callable[[str, nn.Parameter], bool]


@dataclass(frozen=True)
class ParameterSpec:
    """Where one named parameter lies in θ."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @cached_property
    def numel(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The recorded order of θ: names, shapes and offsets.

    `to_json` is the key `parameters` of a run's `run.json`, so that anyone can turn a row of draws
    back into a state dict.
    """

    entries: tuple[ParameterSpec, ...]

    @classmethod
    def of(cls, named: Iterable[tuple[str, Tensor]]) -> Layout:
        entries, offset = [], 0
        for name, tensor in named:
            entries.append(ParameterSpec(name, tuple(tensor.shape), offset))
            offset += tensor.numel()
        return cls(tuple(entries))

    @cached_property
    def size(self) -> int:
        """P, the length of θ."""
        return sum(entry.numel for entry in self.entries)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries)

    def views(self, theta: Tensor) -> dict[str, Tensor]:
        """Named views into `theta` of shape [..., P]; leading dimensions are kept."""
        return {
            e.name: theta[..., e.offset : e.offset + e.numel].view(theta.shape[:-1] + e.shape)
            for e in self.entries
        }

    def ravel(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The float32 vector [P] that holds `tensors` in this layout (a copy)."""
        return torch.cat([tensors[e.name].detach().reshape(-1).float() for e in self.entries])

    def to_json(self) -> list[dict[str, Any]]:
        return [{"name": e.name, "shape": list(e.shape), "offset": e.offset} for e in self.entries]

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> Layout:
        return cls(tuple(ParameterSpec(r["name"], tuple(r["shape"]), r["offset"]) for r in rows))


def names_adapters(subset: Subset) -> bool:
    """Whether `subset` asks for adapters by name."""
    return isinstance(subset, str) and "lora" in (part.strip() for part in subset.split(","))


def select(module: nn.Module, subset: Subset = "all") -> list[str]:
    """Names of the parameters that `subset` makes Bayesian, in `named_parameters()` order.

    `subset` is a predicate of name and parameter, or one or more of these, separated by commas:

    - `all`;
    - `last-layer`: the last registered module that owns parameters;
    - `head`: what turns hidden states into outputs: of a Hugging Face model, everything outside its
      base model, else the last layer. Where the head is tied to an embedding, that shared weight;
    - `layers=SLICE`: blocks by Python index or slice, such as `layers=-2:` or `layers=0`; in each
      stack of blocks where there are several (an encoder and a decoder);
    - `lora`: the adapters;
    - a shell pattern over the names, such as `transformer.h.3.*`.

    A tied weight is listed once, under its first name.

    Raises:
        UserError: a part selects no parameter, or nothing at all is selected.
    """
    named = dict(module.named_parameters())
    if callable(subset):
        chosen = {name for name, parameter in named.items() if subset(name, parameter)}
    else:
        parts = [part.strip() for part in subset.split(",")]
        if not all(parts):
            raise UserError(f"`parameters='{subset}'`: nothing stands between two commas")
        chosen = set().union(*(_part(module, list(named), part) for part in parts))
    if not chosen:
        raise UserError("`parameters` selects nothing: at least one parameter must be Bayesian")
    return [name for name in named if name in chosen]


def stacks(module: nn.Module) -> dict[str, nn.ModuleList]:
    """Stacks of blocks of one kind, such as a transformer's layers, by name.

    There may be several (an encoder's and a decoder's), but none inside a block of another.
    """
    found: dict[str, nn.ModuleList] = {}
    for name, child in module.named_modules():
        inner = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(child, nn.ModuleList) and len(set(map(type, child))) == 1 and not inner:
            found[name] = child
    return found


def base_of(module: nn.Module) -> str:
    """Prefix of the names of what a Hugging Face model is without its head; else empty."""
    prefix = str(getattr(module, "base_model_prefix", ""))
    return prefix if prefix and hasattr(module, prefix) else ""


def _part(module: nn.Module, names: list[str], part: str) -> set[str]:
    """Names of the parameters that one part of a subset selects: at least one."""
    hint = ""
    if part == "all":
        found = set(names)
    elif part == "last-layer":
        found = _outside(module, "")
    elif part == "head":
        found = _outside(module, base_of(module))
        hint = ": the model has no head"
    elif part == "lora":
        found = {name for name in names if ADAPTER in name}
        hint = ": the model has no adapters"
    elif part.startswith("layers="):
        known = stacks(module)
        blocks = _blocks(known, part.removeprefix("layers="))
        found = {name for name in names if name.startswith(blocks)}
        have = " and ".join(f"{len(stack)} blocks in '{name}'" for name, stack in known.items())
        hint = f"; the model has {have or 'no stack of blocks'}"
    else:
        found = set(fnmatch.filter(names, part))
        nearest = difflib.get_close_matches(part.lower(), KEYWORDS, n=1, cutoff=0.8) or (
            difflib.get_close_matches(part, names, n=1, cutoff=0.0)
        )
        hint = f"; the nearest name is '{nearest[0]}'" if nearest else ""
    if not found:
        raise UserError(
            f"`parameters`: '{part}' matches no parameter{hint}"
            " (all, last-layer, head, layers=-2:, lora, or shell patterns over the names)"
        )
    return found


def _outside(module: nn.Module, base: str) -> set[str]:
    """Parameters outside the part `base`, adapters left out; without one, of the last layer."""
    if base:
        # under every name it has, so that a head that is tied to the base model is found, too
        every = module.named_parameters(remove_duplicate=False)
        own = [p for n, p in every if not n.startswith(f"{base}.") and ADAPTER not in n]
    else:
        layers = [[*layer.parameters(recurse=False)] for layer in module.modules()]
        own = next(filter(None, reversed(layers)), [])
    found = set(map(id, own))
    return {name for name, parameter in module.named_parameters() if id(parameter) in found}


def _blocks(known: Mapping[str, nn.ModuleList], index: str) -> tuple[str, ...]:
    """Prefixes of the names in the blocks at `index`, an index or a slice."""
    try:
        if ":" in index:
            where = slice(*(int(n) if n.strip() else None for n in index.split(":")))
        else:
            where = slice(int(index), int(index) + 1 or None)  # empty where there is none
        return tuple(f"{name}.{i}." for name in known for i in range(len(known[name]))[where])
    except (TypeError, ValueError):
        raise UserError(
            f"`parameters`: 'layers={index}' is no index or slice; such as layers=-2: or layers=0"
        ) from None


def widest(device: torch.device) -> torch.dtype:
    """For sums over many numbers on `device`: float64, but float32 on MPS, which has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


class FlatModule:
    """A module whose Bayesian parameters are views into one vector.

    Loading a new θ is one copy into `theta` [P], of `dtype`; after backward passes, `gradient`
    gathers what they accumulated. The module is put in evaluation mode (a log posterior has no
    dropout), all its other parameters are frozen, and its own parameter tensors are re-pointed: it
    is owned by this object from here on.

    Args:
        dtype: what θ, all other parameters and the statistics of batch norms are rounded to; other
            buffers stay as they are. None leaves float32.
    """

    def __init__(
        self, module: nn.Module, names: Sequence[str], dtype: torch.dtype | None = None
    ) -> None:
        self.module = module.eval()
        for layer in module.modules():
            # these compute in one type, that of their statistics
            if dtype is not None and isinstance(layer, nn.modules.batchnorm._NormBase):
                layer.to(dtype)
        named = dict(module.named_parameters())
        self.layout = Layout.of((name, named[name]) for name in names)
        self.theta = self.layout.ravel(named).to(dtype)
        for parameter in named.values():
            parameter.data = parameter.data.to(dtype)  # itself, where no dtype is given
            parameter.requires_grad_(False)
            parameter.grad = None
        self._parameters = [named[name] for name in names]
        for name, view in self.layout.views(self.theta).items():
            named[name].data = view
            named[name].requires_grad_(True)

    def gradient(self) -> Tensor:
        """The gradient [P] of the backward passes since the last call.

        Autograd leaves a buffer of its own at each parameter without a copy; one concatenation is
        cheaper than having it add to views of a vector that must be zeroed first.
        """
        pieces = []
        for p in self._parameters:
            pieces.append(torch.zeros_like(p).view(-1) if p.grad is None else p.grad.reshape(-1))
            p.grad = None
        return torch.cat(pieces)
