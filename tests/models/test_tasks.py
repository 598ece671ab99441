"""`load_model`: what a folder does in each task, what is refused, and outlines."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal

from bayesgen.data.tokenizers import CharTokenizer
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel, Lora, load_model
from bayesgen.models.nanogpt import GPT, GPTConfig, write_checkpoint
from bayesgen.tasks import TASKS
from tests.models.zoo import ARCHITECTURES, BATCHES, ENCODER, SPECIAL, Architecture, random_network

transformers = pytest.importorskip("transformers")

ENCODER_TASKS = (
    "masked-lm, sequence-classification, regression, sentence-classification, sentence-similarity,"
    " token-classification"
)
DECODER_TASKS = "causal-lm, sequence-classification, regression, token-classification"
GPT2 = next(a.settings for a in ARCHITECTURES if a.name == "GPT-2")
T5 = next(a.settings for a in ARCHITECTURES if a.name == "T5")
VIT = next(a.settings for a in ARCHITECTURES if a.name == "ViT")
RESNET = next(a.settings for a in ARCHITECTURES if a.name == "ResNet")
XLNET = next(a.settings for a in ARCHITECTURES if a.name == "XLNet")


@pytest.fixture(autouse=True)
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Addresses that the hub was asked for, which nothing may be; each is answered by an error."""
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    asked: list[str] = []

    def send(client: Any, request: Any, **options: Any) -> None:
        asked.append(str(request.url))
        raise OfflineModeIsEnabled("no network in tests")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(type(huggingface_hub.get_session()), "send", send)
    yield asked
    assert asked == []


def network(class_name: str, settings: Any, task: str = "") -> Any:
    return random_network(Architecture(class_name, class_name, task, settings))


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small random network into a folder, which is its answer."""

    def write(class_name: str, settings: Any) -> Path:
        folder = tmp_path / class_name
        network(class_name, settings).save_pretrained(folder)
        return folder

    return write


@pytest.fixture
def nanogpt(tmp_path: Path) -> Path:
    module = GPT(GPTConfig(8, 11, n_layer=2, n_head=2, n_embd=8, bias=False))
    written: dict[str, Any] = {"optimizer": {}, "iter_num": 0, "best_val_loss": 1.0, "config": {}}
    write_checkpoint(tmp_path / "ckpt.pt", module, CharTokenizer("abcdefghijk"), **written)
    return tmp_path / "ckpt.pt"


def refusal(name: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_model(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("`")
    return message


def batch_of(task: str) -> dict[str, Tensor]:
    return BATCHES[task](torch.Generator().manual_seed(0))


# -- tasks ---------------------------------------------------------------------------------------


def test_every_task_is_tested() -> None:
    assert {a.task for a in ARCHITECTURES} == set(TASKS)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_a_loaded_model_gives_the_logits_and_the_loss_of_the_plain_module(
    architecture: Architecture, tmp_path: Path
) -> None:
    task = architecture.task
    plain = random_network(architecture)
    plain.save_pretrained(tmp_path)
    model = load_model(tmp_path, task=task)
    assert type(model.module) is type(plain)
    assert model.info.task == task
    assert model.layout.size == model.num_parameters == sum(p.numel() for p in plain.parameters())
    assert model.new == frozenset()
    assert model.tokenizer is None  # there is none in the folder, and none is made up

    batch = batch_of(task)
    # the decoder of a sequence-to-sequence model is fed with the labels, one position later
    inputs = {k: v for k, v in batch.items() if k != "labels" or task == "seq2seq-lm"}
    expected = plain(**inputs).logits
    logits = model(model.theta, batch)
    torch.testing.assert_close(logits, expected)

    if TASKS[task].labels == "number":
        log_prob = Normal(expected.flatten(), 1.0).log_prob(batch["labels"])
    else:
        seen = batch["labels"] != -100
        log_prob = Categorical(logits=expected[seen]).log_prob(batch["labels"][seen])
    torch.testing.assert_close(model.likelihood.total(logits, batch["labels"]), log_prob.sum())
    assert model.likelihood.count(batch["labels"]) == len(log_prob)


@pytest.mark.parametrize(
    ("class_name", "settings", "task", "possible"),
    [
        ("BertForMaskedLM", ENCODER, "causal-lm", ENCODER_TASKS),
        ("BertForMaskedLM", ENCODER, "permutation-lm", ENCODER_TASKS),
        ("RobertaForMaskedLM", ENCODER, "causal-lm", ENCODER_TASKS),
        ("GPT2LMHeadModel", GPT2, "masked-lm", DECODER_TASKS),
        ("GPT2LMHeadModel", GPT2, "permutation-lm", DECODER_TASKS),
        ("GPT2LMHeadModel", GPT2, "image-classification", DECODER_TASKS),
        ("XLNetLMHeadModel", XLNET, "causal-lm", DECODER_TASKS.replace("causal", "permutation")),
        ("ViTForImageClassification", VIT, "causal-lm", "image-classification"),
        ("ViTForImageClassification", VIT, "regression", "image-classification"),
        ("ViTForImageClassification", VIT, "sentence-similarity", "image-classification"),
        ("GPT2LMHeadModel", GPT2, "sentence-classification", DECODER_TASKS),
        ("T5ForConditionalGeneration", T5, "causal-lm", DECODER_TASKS.replace("causal", "seq2seq")),
    ],
)
@pytest.mark.parametrize("outline", [False, True])
def test_an_architecture_that_cannot_do_the_task_is_refused_and_what_it_can_is_named(
    save: Callable[..., Path],
    class_name: str,
    settings: Any,
    task: str,
    possible: str,
    outline: bool,
) -> None:
    folder = save(class_name, settings)
    message = refusal(folder, task=task, outline=outline)
    assert message.startswith(f"`task={task}`: '{folder}' is a model of type ")
    assert message.endswith(f", which is made for {possible}")


def test_an_encoder_that_was_made_a_decoder_is_a_causal_model(save: Callable[..., Path]) -> None:
    folder = save("BertLMHeadModel", ENCODER | {"is_decoder": True})
    assert type(load_model(folder).module).__name__ == "BertLMHeadModel"


def test_an_unknown_task_is_refused_and_the_known_are_named(nanogpt: Path) -> None:
    message = refusal(nanogpt, task="summarisation")
    assert message == f"`task`: unknown task 'summarisation' ({', '.join(TASKS)})"


@pytest.mark.parametrize("task", [task for task in TASKS if task != "causal-lm"])
def test_a_nanogpt_checkpoint_is_a_causal_model_alone(nanogpt: Path, task: str) -> None:
    message = refusal(nanogpt, task=task)
    assert message == f"`task={task}`: '{nanogpt}' is a nanoGPT checkpoint, a causal-lm"


# -- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_name", "settings", "task", "new"),
    [
        ("BertModel", ENCODER, "sequence-classification", {"classifier.weight", "classifier.bias"}),
        ("BertModel", ENCODER, "regression", {"classifier.weight", "classifier.bias"}),
        ("BertForMaskedLM", ENCODER, "token-classification",
         {"classifier.weight", "classifier.bias"}),
        ("GPT2LMHeadModel", GPT2, "sequence-classification", {"score.weight"}),
        ("ViTModel", VIT, "image-classification", {"classifier.weight", "classifier.bias"}),
        ("ResNetModel", RESNET, "image-classification",
         {"classifier.1.weight", "classifier.1.bias"}),
    ],
)  # fmt: skip
def test_a_model_without_a_classification_head_gets_a_new_one(
    save: Callable[..., Path], class_name: str, settings: Any, task: str, new: set[str]
) -> None:
    folder = save(class_name, settings | {"pad_token_id": 0})
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        models.append(load_model(folder, task=task))
        assert torch.equal(torch.get_rng_state(), before)
    model, again = models
    assert model.new == new
    head = load_model(folder, task=task, parameters="head").layout.names
    assert set(head) == new
    assert torch.equal(model.theta, again.theta)

    plain = network(class_name, settings)
    stored = {name.removeprefix(f"{plain.base_model_prefix}."): p
              for name, p in plain.named_parameters()}  # fmt: skip
    for name, parameter in model.module.named_parameters():
        if name in new:
            assert parameter.any() or name.endswith("bias")
        else:
            own = name.removeprefix(f"{model.module.base_model_prefix}.")
            assert torch.equal(parameter, stored[own]), name
    outputs = model(model.theta, batch_of(task))
    assert outputs.isfinite().all()
    assert outputs.shape[-1] == (1 if task == "regression" else settings.get("num_labels", 2))


def test_a_pooler_that_is_missing_is_as_new_as_the_head(save: Callable[..., Path]) -> None:
    """Masked tokens train none. Its parameters are in the base model, and the head is not."""
    folder = save("BertForMaskedLM", ENCODER)
    head = {"classifier.weight", "classifier.bias"}
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    model, again = (load_model(folder, task="sequence-classification") for _ in range(2))
    assert model.new == head | pooler
    assert torch.equal(model.theta, again.theta)
    assert model.module.bert.pooler.dense.weight.any()
    roberta = save("RobertaForMaskedLM", ENCODER | {"pad_token_id": 1})  # has none
    layers = {name.rsplit(".", 1)[0] for name in load_model(roberta, task="regression").new}
    assert layers == {"classifier.dense", "classifier.out_proj"}
    # a task that needs its head trained needs all of it
    assert "lacks weights" in refusal(save("LlamaModel", ENCODER | SPECIAL), task="causal-lm")


HEAD = "cls.predictions."
BERT_HEAD = {f"{HEAD}bias", *(f"{HEAD}transform.{layer}.{kind}" for layer in ("dense", "LayerNorm")
             for kind in ("weight", "bias"))}  # fmt: skip


@pytest.mark.parametrize(
    ("class_name", "settings", "task", "new"),
    [
        ("BertModel", ENCODER, "masked-lm", BERT_HEAD),
        ("XLNetModel", XLNET, "permutation-lm", {"lm_loss.bias"}),
    ],
)
def test_an_encoder_gets_a_new_head_over_its_vocabulary(
    save: Callable[..., Path], class_name: str, settings: Any, task: str, new: set[str]
) -> None:
    folder = save(class_name, settings)
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        models.append(load_model(folder, task=task))
        assert torch.equal(torch.get_rng_state(), before)
    model, again = models
    assert model.new == new
    assert torch.equal(model.theta, again.theta)
    assert model.info.sha256 == again.info.sha256
    assert load_model(folder, task=task, outline=True).layout == model.layout
    embeddings = model.module.get_input_embeddings().weight
    assert model.module.get_output_embeddings().weight is embeddings  # tied: it is there once

    stored = dict(network(class_name, settings).named_parameters())
    base = f"{model.module.base_model_prefix}."
    kept = set(model.layout.names) - new
    assert kept == {f"{base}{name}" for name in stored if not name.startswith("pooler.")}
    for name in kept:
        own = model.module.get_parameter(name)
        assert torch.equal(own, stored[name.removeprefix(base)]), name
    assert model(model.theta, batch_of(task)).shape[-1] == settings["vocab_size"]


@pytest.mark.parametrize("num_labels", [1, 2, 5])
def test_a_new_head_has_as_many_outputs_as_labels(
    save: Callable[..., Path], num_labels: int
) -> None:
    folder = save("BertModel", ENCODER)
    task = "sequence-classification"
    model = load_model(folder, task=task, num_labels=num_labels)
    assert model(model.theta, batch_of(task)).shape == (3, num_labels)
    outline = load_model(folder, task=task, num_labels=num_labels, outline=True)
    assert outline.layout == model.layout


def test_the_new_head_of_a_regression_has_one_output(save: Callable[..., Path]) -> None:
    folder = save("BertModel", ENCODER | {"num_labels": 3})
    for options in ({}, {"num_labels": 1}):
        model = load_model(folder, task="regression", **options)
        assert model(model.theta, batch_of("regression")).shape == (3, 1)


@pytest.mark.parametrize(
    ("task", "num_labels", "reason"),
    [
        ("causal-lm", 3, "a causal-lm has no classes"),
        ("masked-lm", 3, "a masked-lm has no classes"),
        ("sequence-classification", 0, "at least 1"),
        ("sequence-classification", -2, "at least 1"),
        ("regression", 2, "a regression has one output"),
    ],
)
def test_a_number_of_labels_that_cannot_be_had_is_refused(
    save: Callable[..., Path], task: str, num_labels: int, reason: str
) -> None:
    message = refusal(save("GPT2LMHeadModel", GPT2), task=task, num_labels=num_labels)
    assert message.startswith("`num_labels")
    assert reason in message


def test_a_head_of_another_size_is_refused_and_not_made_up(save: Callable[..., Path]) -> None:
    folder = save("BertForSequenceClassification", ENCODER | {"num_labels": 3})
    for options in ({"task": "sequence-classification", "num_labels": 4}, {"task": "regression"}):
        message = refusal(folder, **options)
        made = options.get("num_labels", 1)
        assert "'classifier.bias' of shape [3], but its config.json" in message
        assert f"the task or the number of classes makes it [{made}]" in message


@pytest.mark.parametrize(
    ("class_name", "settings", "task", "lacking"),
    [
        ("LlamaModel", ENCODER | SPECIAL, "causal-lm", "lm_head.weight"),
        ("GPTNeoXModel", ENCODER | SPECIAL, "causal-lm", "lm_head.weight"),
    ],
)
def test_a_language_model_that_lacks_its_head_is_refused(
    save: Callable[..., Path], class_name: str, settings: Any, task: str, lacking: str
) -> None:
    folder = save(class_name, settings)
    message = refusal(folder, task=task)
    assert message.startswith(f"`model`: '{folder}' lacks weights of its own architecture")
    assert lacking in message


def test_a_classifier_that_lacks_weights_of_its_base_model_is_refused(
    save: Callable[..., Path],
) -> None:
    from safetensors.torch import load_file, save_file

    folder = save("BertModel", ENCODER)
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    message = refusal(folder, task="sequence-classification")
    assert "'bert.encoder.layer.1.output.dense.weight'" in message


# -- length --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_name", "settings", "longest"),
    [
        ("RobertaForMaskedLM", ENCODER | {"pad_token_id": 1}, 30),
        ("RobertaForMaskedLM", ENCODER | {"pad_token_id": 0}, 31),
        ("LongformerForMaskedLM", ENCODER | {"pad_token_id": 1, "attention_window": 4}, 30),
        ("RobertaPreLayerNormForMaskedLM", ENCODER | {"pad_token_id": 1}, 30),
        ("XLMRobertaForMaskedLM", ENCODER | {"pad_token_id": 1}, 30),
        ("BertForMaskedLM", ENCODER, 32),
    ],
)
@pytest.mark.parametrize("outline", [False, True])
def test_the_longest_input_is_what_the_positions_allow(
    save: Callable[..., Path], class_name: str, settings: Any, longest: int, outline: bool
) -> None:
    folder = save(class_name, settings)
    assert load_model(folder, task="masked-lm", outline=outline).block_size == longest
    if outline:
        return
    model = load_model(folder, task="masked-lm")
    logits = model(model.theta, {"input_ids": torch.full((1, longest), 5)})
    assert logits.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        model(model.theta, {"input_ids": torch.full((1, longest + 1), 5)})


@pytest.mark.parametrize(
    ("class_name", "settings", "task"),
    [
        ("T5ForConditionalGeneration", T5, "seq2seq-lm"),
        ("XLNetLMHeadModel", XLNET, "permutation-lm"),
    ],
)
def test_relative_positions_limit_no_length(
    save: Callable[..., Path], class_name: str, settings: Any, task: str
) -> None:
    assert load_model(save(class_name, settings), task=task).block_size is None


# -- tokenizers ----------------------------------------------------------------------------------


def write_tokenizer(folder: Path, words: int) -> None:
    import tokenizers

    vocabulary = {"<unk>": 0} | {f"w{i}": i for i in range(1, words - 1)} | {"a": words - 1}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
        tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("task", ["masked-lm", "sequence-classification"])
def test_a_tokenizer_may_have_as_many_tokens_as_the_model_has_rows(
    save: Callable[..., Path], task: str
) -> None:
    folder = save("BertModel" if task != "masked-lm" else "BertForMaskedLM", ENCODER)
    write_tokenizer(folder, 30)
    tokenizer = load_model(folder, task=task).tokenizer
    assert tokenizer is not None
    assert tokenizer.encode("a w3").tolist() == [29, 3]

    write_tokenizer(folder, 31)
    message = refusal(folder, task=task)
    assert f"the tokenizer in '{folder}' has 31 tokens but the model only 30" in message


# -- what is no model ----------------------------------------------------------------------------


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")


def unknown_type(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-thing"}))


def no_type(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def truncated_header(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (no_weights, "no file named model.safetensors"),
        (no_config, "no config.json in the folder"),
        (empty, "no config.json in the folder"),
        (gone, "no folder at"),
        (no_json, "no loadable"),
        (unknown_type, "no-such-thing"),
        (no_type, "no loadable"),
        (truncated, "no loadable"),
        (truncated_header, "no loadable"),
    ],
)
@pytest.mark.parametrize(
    ("class_name", "settings", "task"),
    [
        ("BertModel", ENCODER, "sequence-classification"),
        ("T5ForConditionalGeneration", T5, "seq2seq-lm"),
    ],
)
def test_a_folder_that_holds_no_model_is_refused(
    save: Callable[..., Path],
    class_name: str,
    settings: Any,
    task: str,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    folder = save(class_name, settings)
    damage(folder)
    message = refusal(folder, task=task)
    assert str(folder) in message
    assert reason in message
    assert message.startswith("`model`: ")


@pytest.mark.parametrize("name", ["./gone", "../gone/away", "~/no-such-folder-of-models", "a/b/c"])
def test_a_path_that_leads_nowhere_is_refused_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(name).startswith(f"`model`: no folder at '{name}'")


def test_a_name_that_the_hub_does_not_give_is_refused(
    requests: list[str],
) -> None:
    message = refusal("somebody/something")
    assert message.startswith("`model`: there is no folder 'somebody/something', and no such")
    assert any("somebody/something" in address for address in requests)
    requests.clear()  # this one had to ask


# -- outlines ------------------------------------------------------------------------------------


def same_sizes(outline: FunctionalModel, model: FunctionalModel) -> bool:
    assert outline.layout == model.layout
    assert outline.num_parameters == model.num_parameters
    assert outline.block_size == model.block_size
    module = outline.module
    tensors = [outline.theta, *module.parameters(), *module.buffers()]
    assert {t.device.type for t in tensors} == {"meta"}
    return outline.theta.shape == model.theta.shape


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("parameters", ["all", "head,layers=-1:", "lora"])
def test_an_outline_has_the_sizes_of_the_model_and_reads_no_weights(
    architecture: Architecture, parameters: str, tmp_path: Path
) -> None:
    random_network(architecture).save_pretrained(tmp_path)
    if architecture.task == "sentence-similarity":
        parameters = parameters.removeprefix("head,")  # it has none
    options: dict[str, Any] = {"task": architecture.task, "parameters": parameters}
    if parameters == "lora":
        options["lora"] = Lora(r=3)
    model = load_model(tmp_path, **options)
    no_weights(tmp_path)
    before = torch.get_rng_state()
    assert same_sizes(load_model(tmp_path, outline=True, **options), model)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_outline_of_a_model_with_a_new_head_has_its_sizes(save: Callable[..., Path]) -> None:
    folder = save("BertModel", ENCODER)
    options: dict[str, Any] = {"task": "sequence-classification", "num_labels": 4}
    model = load_model(folder, **options)
    no_weights(folder)
    assert same_sizes(load_model(folder, outline=True, **options), model)


@pytest.mark.parametrize("parameters", ["all", "last-layer", "layers=0", "lora", "lora,head"])
def test_an_outline_of_a_nanogpt_checkpoint_reads_no_weights(
    nanogpt: Path, parameters: str
) -> None:
    model = load_model(nanogpt, parameters=parameters)
    raw = torch.load(nanogpt, weights_only=True)
    torch.save(raw | {"model": {}}, nanogpt)
    with pytest.raises(UserError, match="do not fit a nanoGPT"):
        load_model(nanogpt, parameters=parameters)
    outline = load_model(nanogpt, parameters=parameters, outline=True)
    assert same_sizes(outline, model)
    assert outline.info.config == model.info.config
    assert outline.tokenizer == model.tokenizer


@pytest.mark.parametrize("outline", [False, True])
@pytest.mark.parametrize(
    "change", [{"n_head": 5}, {"n_layer": "three"}, {"activation_function": "zork"}], ids=str
)
def test_a_config_with_bad_values_is_one_line(
    change: dict[str, Any], outline: bool, tmp_path: Path
) -> None:
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match="is no loadable Hugging Face model") as caught:
        load_model(tmp_path, outline=outline)
    assert "\n" not in str(caught.value)


def test_a_damaged_tokenizer_is_one_line(tmp_path: Path) -> None:
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{bad")
    with pytest.raises(UserError, match=r"the tokenizer in .* cannot be read") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
