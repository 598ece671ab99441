"""Low-rank adapters as the Bayesian parameters, by PEFT.

W' = W + (α/r) B A with B [out, r] starting at zero (Hu et al. 2021,
https://arxiv.org/abs/2106.09685): at the start the network is the one that was loaded.
"""

from __future__ import annotations

import copy
import textwrap
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bayesgen.errors import UserError
from bayesgen.models.functional import FunctionalModel
from bayesgen.parameters import ADAPTER


@dataclass(frozen=True)
class Lora:
    """Adapters to add.

    Attributes:
        r: their rank.
        alpha: α; B A is multiplied by α/r.
        targets: ends of the names of the layers that get one; by default PEFT's choice for the
            architecture, or all linear layers where it has none.
    """

    r: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | None = None

    def config(self, module: nn.Module, *default: str) -> Any:
        """PEFT's configuration of these adapters in `module`, by default on layers called
        `default`; UserError where they cannot be."""
        try:
            from peft import LoraConfig
            from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as CHOICES
        except ImportError as error:
            raise UserError(
                "`parameters=lora`: adapters need PEFT; pip install 'bayesgen[hf]'"
            ) from error
        if self.r < 1:
            raise UserError(f"`lora_r={self.r}`: must be at least 1")
        every = [id(p) for _, p in module.named_parameters(remove_duplicate=False)]
        targets = list(self.targets or default)
        for target in targets:
            named = ((f".{name}", layer) for name, layer in module.named_modules() if name)
            layers = [layer for name, layer in named if name.endswith(f".{target}")]
            if not layers:
                raise UserError(
                    f"`lora_targets`: no layer of the model is called '{target}'; name ends of the"
                    f" names of linear layers, such as {_linear_layers(module)}"
                )
            if any(every.count(id(getattr(layer, "weight", None))) > 1 for layer in layers):
                raise UserError(
                    f"`lora_targets`: '{target}' shares its weight with another layer, so that its"
                    " adapter could not be merged into it; name other layers"
                )
        base = getattr(module, "base_model", module)  # around an encoder: that encoder
        kind = getattr(getattr(base, "config", None), "model_type", None)
        chosen: Any = targets or CHOICES.get(kind, "all-linear")
        alpha: Any = self.alpha
        return LoraConfig(r=self.r, lora_alpha=alpha, target_modules=chosen)


def add_adapters(
    module: nn.Module, config: Any, new: Collection[str] = (), folder: str | None = None
) -> set[str]:
    """Put the adapters that `config` (read in `folder`) describes into `module`, on its device.

    Returns names of parameters that no training has seen yet: those of the adapters, and `new`, by
    the names that these have beside adapters; UserError where PEFT cannot adapt the layers.
    """
    from peft import inject_adapter_in_model

    untrained = {id(p) for name, p in module.named_parameters() if name in new}
    device = next(module.parameters()).device
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), device:
        torch.manual_seed(0)  # the same adapters at every load
        # PEFT transposes for GPT-2's layers by itself, and says so
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        try:
            inject_adapter_in_model(config, module)
        except Exception as error:  # of a damaged configuration, nearly any
            reason = textwrap.shorten(str(error), 160, placeholder=" ...")
            raise UserError(
                f"`lora_targets`: {reason}; name ends of the names of linear layers, such as"
                f" {_linear_layers(module)}"
                if folder is None
                else f"`model`: the adapters in '{folder}' do not fit their model: {reason}"
            ) from error
    return {n for n, p in module.named_parameters() if ADAPTER in n or id(p) in untrained}


def merged(model: FunctionalModel, theta: Tensor) -> nn.Module:
    """A copy of the network as it was before the adapters were added, with those of `theta` [P]
    merged into its weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    module = copy.deepcopy(model.module)
    for name, value in model.layout.views(theta).items():
        module.get_parameter(name).data.copy_(value)
    for name, layer in list(module.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            module.set_submodule(name, layer.get_base_layer())
        elif isinstance(layer, ModulesToSaveWrapper):  # a head that was trained with the adapters
            module.set_submodule(name, layer.modules_to_save[layer.active_adapter])
    # by these transformers would save adapters alone, and under the names of PEFT
    for mark in ("peft_config", "_hf_peft_config_loaded", "_weight_conversions"):
        vars(module).pop(mark, None)
    return module


def _linear_layers(module: nn.Module) -> str:
    """Last parts of the names of layers that hold a matrix."""
    found = {
        name.rsplit(".", 1)[-1]
        for name, child in module.named_modules()
        if getattr(child, "weight", None) is not None and child.weight.dim() == 2
    }
    return ", ".join(sorted(found)[:8])
