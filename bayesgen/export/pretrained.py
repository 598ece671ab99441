"""A posterior as a model of transformers: a mixture that generates, classifies, saves and loads.

`logits` are the mixture's log-probabilities, logsumexp_s log p(y | x, θ_s) − log S, so that
temperature, top-k, top-p and beams act on the mixture.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.func import functional_call
from transformers.modeling_outputs import CausalLMOutputWithPast, SequenceClassifierOutput
from transformers.utils import can_return_tuple

from bayesgen.draws import Draws
from bayesgen.errors import UserError
from bayesgen.export import description
from bayesgen.likelihoods import IGNORED
from bayesgen.models import FunctionalModel
from bayesgen.models.lora import add_adapters
from bayesgen.models.networks import as_gpt2
from bayesgen.parameters import Layout
from bayesgen.predictive.mixture import Uncertainty, decomposed, mixture_of
from bayesgen.runs.files import RunRecord


class EnsembleCache(transformers.Cache):  # type: ignore[misc]
    """The layers of all draws' caches, one draw after the other.

    What is done to a cache as a whole (reordering beams, cropping, repeating or choosing rows) is
    done by transformers layer by layer, so that it reaches every draw; each draw's network is given
    its own part of the same layers. Lengths are those of the first draw, as of any other.
    """

    def __init__(self, count: int, config: Any) -> None:
        self.draws = [transformers.DynamicCache(config=config) for _ in range(count)]
        super().__init__(layers=[layer for cache in self.draws for layer in cache.layers])


@dataclass(frozen=True)
class TokenUncertainty(Uncertainty):
    """Entropies of the mixture for every token of a text but the first, [B, T − 1].

    NaN where a token or the one before it is padding.

    Attributes:
        log_prob: log p(token | tokens before it) under the mixture, nats.
    """

    log_prob: Tensor


class BayesianModel(transformers.PreTrainedModel):  # type: ignore[misc]
    """A network of transformers with S draws of (a part of) its parameters.

    Attributes:
        network: it has the weights that the draws' chains started from; what no draw covers is read
            from here.
        draws: [S, P], float32 unless the model was loaded in another dtype.
        layout: names, shapes and offsets of a draw.
    """

    config_class: Any = description.BayesianConfig
    auto_class: ClassVar[Any]
    """Makes the network from its configuration."""

    # the network decides which attention it has
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: description.BayesianConfig) -> None:
        super().__init__(config)
        self.layout = Layout.from_json(config.parameters)
        self.network = self.auto_class.from_config(config.text_config)
        if config.adapters:
            from peft import PeftConfig

            add_adapters(self.network, PeftConfig.from_peft_type(**config.adapters))
        self.register_buffer("draws", torch.zeros(config.num_draws, self.layout.size))
        self.post_init()

    @classmethod
    def from_posterior(
        cls,
        model: FunctionalModel,
        posterior: Draws,
        run_record: RunRecord | None = None,
        evaluation: Mapping[str, Any] | None = None,
    ) -> Self:
        """The posterior with copies of the model's network and of all draws, in memory.

        Args:
            model: a Hugging Face model, or a nanoGPT, which becomes the same function as a GPT-2.
            run_record, evaluation: of the run, and what one of its evaluation files holds, for the
                model card.

        Raises:
            UserError: this kind of model cannot become one of transformers.
        """
        if model.layout != posterior.layout:
            raise ValueError("the posterior's parameters are not the model's")
        module: Any = model.module
        layout, draws = model.layout, iter(posterior)
        if model.info.family == "nanogpt":
            module, layout, draws = as_gpt2(model, posterior)
        cls.check(module)
        config = cls.config_class(
            text_config=copy.deepcopy(module.config),
            parameters=layout.to_json(),
            num_draws=len(posterior),
            adapters=_adapters(module),
            run=description.facts(run_record, evaluation) if run_record else {},
            id2label=module.config.id2label,
            label2id=module.config.label2id,
        )
        with torch.device("meta"):
            made: Self = cls(config)
        if made.network.state_dict().keys() != module.state_dict().keys():
            raise UserError(
                f"this {type(module).__name__} has modules that its configuration does not know and"
                " could not be loaded again; export the architecture that transformers makes"
            )
        made.network = copy.deepcopy(module)
        config.text_config = made.network.config
        made.draws = torch.empty(len(posterior), layout.size, device=model.device)
        for row, theta in zip(made.draws, draws, strict=True):
            row.copy_(theta)
        if made.can_generate():
            made.generation_config = copy.deepcopy(module.generation_config)
        made.eval()
        return made

    @classmethod
    def check(cls, module: Any) -> None:
        """Refuse a network that this class cannot hold, with a `UserError`."""
        if not _made_by(cls.auto_class, module):
            raise UserError(
                f"a {type(module).__name__} is no model of {cls.auto_class.__name__}: causal"
                " language models and sequence classifiers can be exported"
            )

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write configuration, weights and draws, and a model card where there is none yet."""
        super().save_pretrained(save_directory, **kwargs)
        card = Path(save_directory) / "README.md"
        if not card.exists():
            text = description.model_card(self.config, type(self).__name__)
            card.write_text(str(text), encoding="utf-8")

    def _each(self, caches: Iterable[Any] | None = None, **inputs: Any) -> Iterator[Tensor]:
        """log-probabilities under each draw in turn: [B, T, V] or [B, C], float32."""
        refused = [k for k in ("output_attentions", "output_hidden_states") if inputs.get(k)]
        if refused:
            raise ValueError(f"{refused[0]}: a mixture has none of its own; ask model.network")
        given = {name: value for name, value in inputs.items() if value is not None}
        for theta, cache in zip(self.draws, caches or [None] * len(self.draws), strict=True):
            own = {} if cache is None else {"past_key_values": cache, "use_cache": True}
            # on views of the row: nothing is copied, and tied weights stay tied
            weights = self.layout.views(theta)
            output = functional_call(self.network, weights, (), {**given, **own})
            yield output.logits.float().log_softmax(-1)


class BayesianCausalLM(BayesianModel, transformers.GenerationMixin):  # type: ignore[misc]
    """A posterior over the weights of a causal language model."""

    config_class = description.BayesianCausalLMConfig
    auto_class = transformers.AutoModelForCausalLM

    @classmethod
    def check(cls, module: Any) -> None:
        super().check(module)
        if module._is_stateful:
            raise UserError(
                f"a {type(module).__name__} keeps something else than keys and values between"
                " tokens and cannot be exported; 'bayesgen generate' reads it"
            )

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any
    ) -> None:
        """Where `generate` makes its cache; one that is there already is left as it is."""
        if generation_config.use_cache is not False:
            model_kwargs.setdefault("past_key_values", self._new_cache())
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)

    def _new_cache(self) -> EnsembleCache:
        return EnsembleCache(len(self.draws), self.config.text_config)

    def _accepted(self, **optional: Any) -> dict[str, Any]:
        """Those of `optional` that the network's forward pass takes."""
        taken = inspect.signature(self.network.forward).parameters
        return {name: value for name, value in optional.items() if name in taken}

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: EnsembleCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool = False,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """The mixture's log-probabilities [B, T, V] of the token after each one, float32.

        Args:
            past_key_values: what every draw has read, from an earlier output.
            labels: [B, T], shifted here; `loss` is then the mixture's mean NLL, −100 left out.
            use_cache: keep what is read.
            logits_to_keep: how many positions from the end, or which; 0 for all.
        """
        if past_key_values is None and use_cache:
            past_key_values = self._new_cache()
        if not isinstance(past_key_values, EnsembleCache | None):
            raise ValueError("past_key_values: every draw needs a cache of its own, EnsembleCache")
        optional = self._accepted(position_ids=position_ids, logits_to_keep=logits_to_keep)
        each = self._each(
            past_key_values and past_key_values.draws,
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            **{"use_cache": False, **kwargs, **optional},
        )
        if "logits_to_keep" not in optional:
            last = isinstance(logits_to_keep, int)
            kept = slice(-logits_to_keep, None) if last else logits_to_keep
            each = (log_probs[:, kept] for log_probs in each)
        logits = mixture_of(each)
        loss = None if labels is None else _nll(logits[:, :-1], labels[:, 1:])
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    @torch.no_grad()
    def uncertainty(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> TokenUncertainty:
        """How probable each token of `input_ids` [B, T] was, and how sure the posterior."""
        there = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        positions = None if attention_mask is None else (there.cumsum(-1) - 1).clamp(min=0)
        each = self._each(
            input_ids=input_ids,
            attention_mask=attention_mask,
            use_cache=False,
            **self._accepted(position_ids=positions),
        )
        log_probs, entropies = decomposed(p[:, :-1] for p in each)
        log_prob = log_probs.gather(-1, input_ids[:, 1:, None]).squeeze(-1)
        found = {**vars(entropies), "log_prob": log_prob}
        padding = (there[:, 1:] * there[:, :-1]) == 0
        return TokenUncertainty(
            **{name: value.masked_fill(padding, torch.nan) for name, value in found.items()}
        )


class BayesianForSequenceClassification(BayesianModel):
    """A posterior over the weights of a classifier of texts."""

    config_class = description.BayesianForSequenceClassificationConfig
    auto_class = transformers.AutoModelForSequenceClassification

    @classmethod
    def check(cls, module: Any) -> None:
        super().check(module)
        if module.config.num_labels < 2:
            raise UserError("a regression has no mixture of classes; export a classifier")

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """The mixture's log-probabilities [B, C], float32; with `labels` [B] its mean NLL."""
        each = self._each(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        logits = mixture_of(each)
        loss = None if labels is None else _nll(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def uncertainty(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Tensor
    ) -> Uncertainty:
        """How sure the posterior is of the class of each of `input_ids` [B, T]: [B]."""
        each = self._each(input_ids=input_ids, attention_mask=attention_mask, **inputs)
        return decomposed(each)[1]


def bayesian_class(module: nn.Module) -> type[BayesianModel]:
    """The class that holds a posterior over the weights of `module`.

    A nanoGPT is a causal language model; so is what neither class can hold, which then says so.
    """
    kind = BayesianForSequenceClassification
    return kind if _made_by(kind.auto_class, module) else BayesianCausalLM


def _made_by(auto_class: Any, module: nn.Module) -> bool:
    """Whether `auto_class` makes such a network from its configuration."""
    made = auto_class._model_mapping.get(type(getattr(module, "config", None)), ())
    return type(module) in (made if isinstance(made, tuple) else (made,))


def _nll(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Mean NLL of `labels` [...] under `log_probs` [..., C]."""
    targets = labels.flatten().to(log_probs.device)
    return F.nll_loss(log_probs.flatten(0, -2), targets, ignore_index=IGNORED)


def _adapters(module: nn.Module) -> dict[str, Any]:
    """PEFT's configuration of the adapters in `module` as plain data; empty where it has none."""
    found: Any = dict(getattr(module, "peft_config", {}))
    config = found.pop("default", None)
    if found:
        raise UserError("a network with several adapters cannot be exported; merge all but one")
    # sets, such as the targets, become lists
    return json.loads(json.dumps(config.to_dict(), default=sorted)) if config else {}
