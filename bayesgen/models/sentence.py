"""Sentence models: an encoder, the mean of its token vectors, and what is read from that mean.

    e = Σ_t m_t h_t / Σ_t m_t

with h [T, H] the encoder's last hidden states and m [T] the attention mask (Reimers & Gurevych
2019, https://arxiv.org/abs/1908.10084, section 3, "MEAN"). Classes are read from e by a head; the
score of two texts is a line in the cosine of their two e.

Importing this module registers its classes with transformers' Auto classes, so that `AutoModel`
loads a folder that `save_pretrained` wrote.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from bayesgen.data.examples import Embedded, Examples, cache_folder
from bayesgen.errors import UserError
from bayesgen.models.functional import weights_sha256
from bayesgen.parameters import Layout
from bayesgen.tasks import TASKS

ACTIVATIONS: Mapping[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
UNREAD = {
    "_name_or_path", "architectures", "dtype", "id2label", "label2id", "problem_type",
    "transformers_version",
}  # fmt: skip
"""What an encoder's configuration says beside what it computes."""


class SentenceConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of a `SentenceModel`.

    Attributes:
        text_config: of the encoder, or the dictionary of it.
        task: `sentence-classification` (the default) or `sentence-similarity`.
        head_hidden_size, head_activation, head_dropout: see `bayesgen.models.Head`.
        score_range: scores of texts at cosine 0 and 1; None where no training has set them: the
            score is then the cosine.
    """

    model_type = "bayesgen-sentence"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}

    def __init__(self, text_config: Any = None, **settings: Any) -> None:
        if isinstance(text_config, Mapping):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config
        self.task = "sentence-classification"
        self.head_hidden_size, self.head_activation, self.head_dropout = 0, "tanh", 0.1
        self.score_range: list[float] | None = None
        super().__init__(**settings)


class SentenceModel(PreTrainedModel):  # type: ignore[misc]
    """An encoder whose mean token vector is classified, or compared with that of another text.

    `encoder` has no pooler where it can do without, `hidden` is the head's own layer or None, and
    `classifier` leads from there to the classes; it is None where texts are compared.
    """

    config_class = SentenceConfig
    base_model_prefix = "encoder"

    # which attention kernel is used is up to the encoder
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: SentenceConfig) -> None:
        super().__init__(config)
        inner = config.text_config
        self.encoder = AutoModel.from_config(inner, **without_pooler(inner))
        self.supports_gradient_checkpointing = self.encoder.supports_gradient_checkpointing
        self.dropout = nn.Dropout(config.head_dropout)
        self.hidden: nn.Linear | None = None
        self.classifier: nn.Linear | None = None
        if TASKS[config.task].labels == "class":
            width = config.head_hidden_size
            if width:
                self.hidden = nn.Linear(inner.hidden_size, width)
                self.activation = ACTIVATIONS[config.head_activation]()
            self.classifier = nn.Linear(width or inner.hidden_size, config.num_labels)
        self.post_init()

    @classmethod
    def around(cls, encoder: Any, config: SentenceConfig) -> Self:
        """A model of `encoder` itself, with a new head."""
        with torch.device("meta"):
            made = cls(config)
        made.encoder = encoder
        made.config.text_config = encoder.config
        for layer in filter(None, (made.hidden, made.classifier)):
            layer.to_empty(device=encoder.device)
            made._init_weights(layer)
        return made

    def train(self, mode: bool = True) -> Self:
        """The same as for any module, but an encoder that is frozen keeps its dropout off."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.encoder.parameters()):
            self.encoder.eval()
        return self

    def embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """The embedding [..., H] of each text of `input_ids` [..., T]."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        texts = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": token_type_ids}
        rows = {name: ids.flatten(0, -2) for name, ids in texts.items() if ids is not None}
        hidden = self.encoder(**rows).last_hidden_state
        there = rows["attention_mask"].bool().unsqueeze(-1)
        total: Tensor = hidden.masked_fill(~there, 0).sum(1)
        mean = total / there.sum(1).clamp(min=1).to(total.dtype)
        each: Tensor = mean.unflatten(0, input_ids.shape[:-1])
        return each

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        sentence_embedding: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits [B, C], or scores [B, 1] of pairs.

        Args:
            input_ids: [B, T]; of pairs [B, 2, T], and so the two others.
            sentence_embedding: [B, H] or [B, 2, H], in place of these three.
            labels: [B]; `loss` is then the mean cross-entropy (nats), or squared error.
        """
        if sentence_embedding is None:
            assert input_ids is not None
            embedding = self.embed(input_ids, attention_mask, token_type_ids)
        else:
            embedding = sentence_embedding.to(self.dtype)
        if self.classifier is None:
            low, high = self.config.score_range or (0.0, 1.0)
            first, second = embedding.float().unbind(1)
            logits = low + (high - low) * F.cosine_similarity(first, second).unsqueeze(-1)
            loss = None if labels is None else F.mse_loss(logits.view_as(labels), labels)
        else:
            x = self.dropout(embedding)
            if self.hidden is not None:
                x = self.dropout(self.activation(self.hidden(x)))
            logits = self.classifier(x)
            loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def without_pooler(config: Any) -> dict[str, bool]:
    """What makes the encoder of this configuration leave out its pooler, where it can."""
    made = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in made else {}


def configured(
    config: Any, name: str, task: str, wanted: Mapping[str, Any], num_labels: int | None
) -> SentenceConfig:
    """The configuration of a sentence model for `task`, from that of the model `name`: an encoder,
    or a sentence model, whose head must be the one `wanted` (`head_hidden_size`, ...)."""
    if not isinstance(config, SentenceConfig):
        return SentenceConfig(
            text_config=config, task=task, num_labels=num_labels or config.num_labels, **wanted
        )
    if config.head_activation not in ACTIVATIONS:
        raise UserError(
            f"`model`: the head of '{name}' has the activation '{config.head_activation}'; it must"
            f" be one of {', '.join(ACTIVATIONS)}"
        )
    ends = config.score_range
    if ends is not None and not (len(ends) == 2 and ends[0] < ends[1]):
        raise UserError(
            f"`model`: score_range in the config.json of '{name}' is {ends}; it must be two"
            " numbers, the smaller first"
        )
    for key in ("head_hidden_size", "head_activation"):
        own = getattr(config, key)
        if wanted.get(key, own) != own:
            raise UserError(
                f"`{key}={wanted[key]}`: '{name}' has a head already, with {own};"
                " leave the setting out, or start from an encoder"
            )
    config.head_dropout = wanted.get("head_dropout", config.head_dropout)
    return config


def frozen_encoder(module: nn.Module, moving: Layout | None = None) -> SentenceModel | None:
    """`module`, if it is a sentence model whose encoder holds none of the parameters that are
    `moving` (by default those that require a gradient); else None."""
    if not isinstance(module, SentenceModel):
        return None
    encoder = f"{module.base_model_prefix}."
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    moves = any(name.startswith(encoder) for name in (moving.names if moving else names))
    return None if moves else module


def embedded(examples: Examples, module: SentenceModel, data_dir: Path | None) -> Embedded:
    """`examples` as embeddings of the encoder of `module`, float32, without dropout; they are kept
    in `data_dir`, if it can be written (see `cache_folder`)."""

    def embed(batch: Mapping[str, Tensor]) -> Tensor:
        inputs = {k: v.to(module.device) for k, v in batch.items() if k != "labels"}
        with torch.no_grad():
            return module.embed(**inputs)

    return Embedded(examples, embed, encoder_sha256(module), cache_folder(data_dir))


def encoder_sha256(module: SentenceModel) -> str:
    """Hash of what the encoder of `module` computes: its weights and its configuration."""
    config = module.encoder.config.to_dict()
    settings = {key: value for key, value in config.items() if key not in UNREAD}
    content = json.dumps(settings, sort_keys=True, default=str) + weights_sha256(module.encoder)
    return hashlib.sha256(content.encode()).hexdigest()


AutoConfig.register(SentenceConfig.model_type, SentenceConfig)
AutoModel.register(SentenceConfig, SentenceModel)
