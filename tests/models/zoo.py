"""Small random networks of many architectures, saved as folders, and batches for their tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bayesgen.models import FunctionalModel, load_model

transformers = pytest.importorskip("transformers")
sentence = pytest.importorskip("bayesgen.models.sentence")

VOCABULARY, LENGTH, LABELS, ROWS = 30, 8, 3, 3
ENCODER = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 32,
}  # fmt: skip
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = ENCODER | SPECIAL | {"num_key_value_heads": 1, "head_dim": 8}


@dataclass(frozen=True, eq=False)
class Architecture:
    """One architecture in one task.

    Attributes:
        name: what people call it.
        class_name: the class of the network, in transformers or `bayesgen.models.sentence`.
        settings: of its configuration.
    """

    name: str
    class_name: str
    task: str
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name}-{self.task}"


ARCHITECTURES = (
    Architecture(
        "GPT-2", "GPT2LMHeadModel", "causal-lm",
        {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2,
         "bos_token_id": 0, "eos_token_id": 0},
    ),
    Architecture("Llama", "LlamaForCausalLM", "causal-lm", GROUPED),
    Architecture("Qwen3", "Qwen3ForCausalLM", "causal-lm", GROUPED),
    Architecture("Mistral", "MistralForCausalLM", "causal-lm", GROUPED | {"sliding_window": 4}),
    Architecture("Gemma", "GemmaForCausalLM", "causal-lm", GROUPED),
    Architecture(
        "OPT", "OPTForCausalLM", "causal-lm",
        ENCODER | SPECIAL | {"ffn_dim": 32, "word_embed_proj_dim": 16},
    ),
    Architecture("Pythia", "GPTNeoXForCausalLM", "causal-lm", ENCODER | SPECIAL),
    Architecture("BERT", "BertForMaskedLM", "masked-lm", ENCODER),
    Architecture(
        "BERT", "BertForSequenceClassification", "sequence-classification",
        ENCODER | {"num_labels": LABELS},
    ),
    Architecture(
        "BERT", "BertForSequenceClassification", "regression", ENCODER | {"num_labels": 1}
    ),
    Architecture(
        "BERT, mean of tokens", "SentenceModel", "sentence-classification",
        {"text_config": {"model_type": "bert", **ENCODER}, "head_hidden_size": 5,
         "num_labels": LABELS},
    ),
    Architecture(
        "BERT, mean of tokens", "SentenceModel", "sentence-similarity",
        {"text_config": {"model_type": "bert", **ENCODER}, "task": "sentence-similarity",
         "score_range": (0.0, 5.0), "num_labels": 1},
    ),
    Architecture(
        "BERT", "BertForTokenClassification", "token-classification",
        ENCODER | {"num_labels": LABELS},
    ),
    Architecture("RoBERTa", "RobertaForMaskedLM", "masked-lm", ENCODER | SPECIAL),
    Architecture(
        "DistilBERT", "DistilBertForMaskedLM", "masked-lm",
        {"vocab_size": VOCABULARY, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32,
         "max_position_embeddings": 32},
    ),
    Architecture(
        "ModernBERT", "ModernBertForMaskedLM", "masked-lm",
        ENCODER | SPECIAL
        | {"cls_token_id": 1, "sep_token_id": 2, "local_attention": 4,
           "global_attn_every_n_layers": 2},
    ),
    Architecture(
        "XLNet", "XLNetLMHeadModel", "permutation-lm",
        SPECIAL
        | {"vocab_size": VOCABULARY, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
    ),
    Architecture(
        "Longformer", "LongformerForMaskedLM", "masked-lm",
        ENCODER | SPECIAL | {"attention_window": 4},
    ),
    Architecture(
        "T5", "T5ForConditionalGeneration", "seq2seq-lm",
        {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2,
         "num_heads": 2, "pad_token_id": 0, "decoder_start_token_id": 0},
    ),
    Architecture(
        "ViT", "ViTForImageClassification", "image-classification",
        {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 32, "image_size": 16, "patch_size": 8, "num_labels": LABELS},
    ),
    Architecture(
        "ResNet", "ResNetForImageClassification", "image-classification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": LABELS},
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Specimen:
    """One network.

    Attributes:
        module: the network itself, in evaluation mode: what nothing of bayesgen has touched.
        folder: where `save_pretrained` wrote it.
    """

    architecture: Architecture
    module: Any
    folder: Path

    @property
    def task(self) -> str:
        return self.architecture.task

    @cached_property
    def model(self) -> FunctionalModel:
        """What bayesgen loads from the folder."""
        return self.load()

    def load(self, **options: Any) -> FunctionalModel:
        return load_model(self.folder, task=self.task, **options)

    def batch(self, number: int = 0) -> dict[str, Tensor]:
        return BATCHES[self.task](torch.Generator().manual_seed(number))


class Zoo:
    """All networks, each made at its first use, in subfolders of `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[Architecture, Specimen] = {}

    def __getitem__(self, architecture: Architecture) -> Specimen:
        if architecture not in self._made:
            folder = self.folder / str(architecture)
            module = random_network(architecture)
            module.save_pretrained(folder)
            self._made[architecture] = Specimen(architecture, module, folder)
        return self._made[architecture]


def random_network(architecture: Architecture) -> Any:
    """Weights and running statistics that are neither all zero nor all one."""
    place = sentence if architecture.class_name == "SentenceModel" else transformers
    network = getattr(place, architecture.class_name)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = network(network.config_class(**architecture.settings)).eval()
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    return module


def _tokens(generator: torch.Generator) -> Tensor:
    return torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=generator)


def _padded(generator: torch.Generator) -> dict[str, Tensor]:
    """The first row is shorter than the others."""
    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[0, -2:] = 0
    return {"input_ids": _tokens(generator) * mask, "attention_mask": mask}


def _causal(generator: torch.Generator) -> dict[str, Tensor]:
    tokens = torch.randint(3, VOCABULARY, (ROWS, LENGTH + 1), generator=generator)
    return {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}


def _masked(generator: torch.Generator) -> dict[str, Tensor]:
    inputs = _padded(generator)
    labels = _tokens(generator)
    labels[:, 1::2] = -100
    return inputs | {"labels": labels.masked_fill(inputs["attention_mask"] == 0, -100)}


def _permuted(generator: torch.Generator) -> dict[str, Tensor]:
    """The second half is predicted, each token from all of the first half."""
    tokens, half = _tokens(generator), LENGTH // 2
    hidden = torch.zeros(ROWS, LENGTH, LENGTH)
    hidden[:, :, half:] = 1
    targets = torch.eye(LENGTH)[half:].repeat(ROWS, 1, 1)
    return {
        "input_ids": tokens, "perm_mask": hidden, "target_mapping": targets,
        "labels": tokens[:, half:],
    }  # fmt: skip


def _translated(generator: torch.Generator) -> dict[str, Tensor]:
    labels = torch.randint(3, VOCABULARY, (ROWS, 5), generator=generator)
    labels[1, -1] = -100
    return _padded(generator) | {"labels": labels}


def _classified(generator: torch.Generator) -> dict[str, Tensor]:
    return _padded(generator) | {"labels": _classes((ROWS,), generator)}


def _scored(generator: torch.Generator) -> dict[str, Tensor]:
    return _padded(generator) | {"labels": torch.randn(ROWS, generator=generator)}


def _paired(generator: torch.Generator) -> dict[str, Tensor]:
    """Two texts a row; the first of the first row is shorter."""
    mask = torch.ones(ROWS, 2, LENGTH, dtype=torch.long)
    mask[0, 0, -2:] = 0
    tokens = torch.randint(3, VOCABULARY, (ROWS, 2, LENGTH), generator=generator)
    labels = 5 * torch.rand(ROWS, generator=generator)
    return {"input_ids": tokens * mask, "attention_mask": mask, "labels": labels}


def _tagged(generator: torch.Generator) -> dict[str, Tensor]:
    inputs = _padded(generator)
    labels = _classes((ROWS, LENGTH), generator)
    return inputs | {"labels": labels.masked_fill(inputs["attention_mask"] == 0, -100)}


def _pictured(generator: torch.Generator) -> dict[str, Tensor]:
    pixels = torch.randn(ROWS, 3, 16, 16, generator=generator)
    return {"pixel_values": pixels, "labels": _classes((ROWS,), generator)}


def _classes(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, LABELS, shape, generator=generator)


BATCHES: Mapping[str, Callable[[torch.Generator], dict[str, Tensor]]] = {
    "causal-lm": _causal,
    "masked-lm": _masked,
    "permutation-lm": _permuted,
    "seq2seq-lm": _translated,
    "sequence-classification": _classified,
    "regression": _scored,
    "sentence-classification": _classified,
    "sentence-similarity": _paired,
    "token-classification": _tagged,
    "image-classification": _pictured,
}
