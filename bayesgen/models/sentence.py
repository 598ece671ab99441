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
from collections.abc import Mapping, Sequence
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
        task: `sentence-classification` or `sentence-similarity`.
        head_hidden_size: width of a layer between embedding and classes; 0 for none.
        head_activation: of that layer, one of `ACTIVATIONS`.
        head_dropout: on the embedding and on that layer, while training.
        score_range: scores of texts at cosine 0 and 1; None where no training has set them: the
            score is then the cosine.
    """

    model_type = "bayesgen-sentence"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}

    def __init__(
        self,
        text_config: Any = None,
        task: str = "sentence-classification",
        head_hidden_size: int = 0,
        head_activation: str = "tanh",
        head_dropout: float = 0.1,
        score_range: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, Mapping):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config
        self.task = task
        self.head_hidden_size = head_hidden_size
        self.head_activation = head_activation
        self.head_dropout = head_dropout
        self.score_range = None if score_range is None else list(score_range)
        super().__init__(**kwargs)


class SentenceModel(PreTrainedModel):  # type: ignore[misc]
    """An encoder whose mean token vector is classified, or compared with that of another text.

    Attributes:
        encoder: without a pooler, where the architecture can do without.
        hidden: the head's own layer, or None.
        classifier: from there to the classes; None where texts are compared.
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
            width = inner.hidden_size
            if config.head_hidden_size:
                self.hidden = nn.Linear(width, config.head_hidden_size)
                self.activation = ACTIVATIONS[config.head_activation]()
                width = config.head_hidden_size
            self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    @classmethod
    def around(cls, encoder: Any, config: SentenceConfig) -> Self:
        """A model of `encoder` itself, with a new head."""
        with torch.device("meta"):
            made = cls(config)
        made.encoder = encoder
        made.config.text_config = encoder.config
        for layer in (made.hidden, made.classifier):
            if layer is not None:
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
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """The embedding [B, H] of each text of `input_ids` [B, T]."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, **types
        ).last_hidden_state
        there = attention_mask.bool().unsqueeze(-1)
        total: Tensor = hidden.masked_fill(~there, 0).sum(1)
        return total / there.sum(1).clamp(min=1).to(total.dtype)

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
            if attention_mask is None:
                attention_mask = torch.ones_like(input_ids)
            if token_type_ids is not None:
                token_type_ids = token_type_ids.flatten(0, -2)
            each = self.embed(
                input_ids.flatten(0, -2), attention_mask.flatten(0, -2), token_type_ids
            )
            embedding = each.unflatten(0, input_ids.shape[:-1])
        else:
            embedding = sentence_embedding.to(self.dtype)
        if self.classifier is None:
            logits = self._similarity(embedding)
        else:
            x = self.dropout(embedding)
            if self.hidden is not None:
                x = self.dropout(self.activation(self.hidden(x)))
            logits = self.classifier(x)
        loss = None
        if labels is not None and self.classifier is None:
            loss = F.mse_loss(logits.float().view_as(labels), labels)
        elif labels is not None:
            loss = F.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _similarity(self, embedding: Tensor) -> Tensor:
        """Scores [B, 1] of pairs of embeddings [B, 2, H], float32."""
        low, high = self.config.score_range or (0.0, 1.0)
        first, second = embedding.float().unbind(1)
        return low + (high - low) * F.cosine_similarity(first, second).unsqueeze(-1)


def without_pooler(config: Any) -> dict[str, bool]:
    """What makes the encoder of this configuration leave out its pooler, where it can."""
    made = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in made else {}


def configured(
    config: Any, name: str, task: str, wanted: Mapping[str, Any], num_labels: int | None
) -> SentenceConfig:
    """The configuration of a sentence model.

    Args:
        config: of the model `name`: an encoder, or a sentence model with a head of its own.
        wanted: settings of its head that were asked for, such as `head_hidden_size`.

    Raises:
        UserError: the model has another head than the one wanted, or a setting that none can have.
    """
    if not isinstance(config, SentenceConfig):
        return SentenceConfig(
            text_config=config, task=task, num_labels=num_labels or config.num_labels, **wanted
        )
    _check(config, name)
    for key in ("head_hidden_size", "head_activation"):
        own = getattr(config, key)
        if wanted.get(key, own) != own:
            raise UserError(
                f"`{key}={wanted[key]}`: '{name}' has a head already, with {own};"
                " leave the setting out, or start from an encoder"
            )
    config.head_dropout = wanted.get("head_dropout", config.head_dropout)
    return config


def _check(config: SentenceConfig, name: str) -> None:
    """Refuse settings that no model can have."""
    if config.head_activation not in ACTIVATIONS:
        raise UserError(
            f"`model`: the head of '{name}' has the activation '{config.head_activation}'; it must"
            f" be one of {', '.join(ACTIVATIONS)}"
        )
    found = config.score_range
    if found is not None and not (len(found) == 2 and found[0] < found[1]):
        raise UserError(
            f"`model`: score_range in the config.json of '{name}' is {found}; it must be two"
            " numbers, the smaller first"
        )


def frozen_encoder(module: nn.Module, moving: Layout | None = None) -> SentenceModel | None:
    """`module`, if it is a sentence model whose encoder stays as it is; else None.

    Args:
        moving: the parameters that move; by default those that require a gradient.
    """
    if not isinstance(module, SentenceModel):
        return None
    if moving is None:
        moves = any(p.requires_grad for p in module.encoder.parameters())
    else:
        moves = any(name.startswith(f"{module.base_model_prefix}.") for name in moving.names)
    return None if moves else module


def embedded(examples: Examples, module: SentenceModel, data_dir: Path | None) -> Embedded:
    """`examples` as embeddings of the encoder of `module`, float32, without dropout.

    Args:
        data_dir: where they are kept, if it can be written (see `cache_folder`).
    """

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
