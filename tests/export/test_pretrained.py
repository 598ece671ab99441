"""A posterior as a transformers model: the same mixture, and one draw is the network itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bayesgen.draws import Draws
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel, ModelInfo
from bayesgen.parameters import Subset
from bayesgen.predictive import Predictive

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from bayesgen.export.pretrained import (  # noqa: E402
    BayesianCausalLM,
    BayesianForSequenceClassification,
    bayesian_class,
)
from bayesgen.models.lora import Lora, add_adapters  # noqa: E402

VOCABULARY, DRAWS, LABELS = 24, 3, 3
PAD, END = 0, 1
IDS = torch.tensor([[5, 9, 2, 6, 5, 3, 5, 8, 10], [7, 7, 4, 2, 11, 3, 20, 22, 8]])


def gpt2_config() -> Any:
    return transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=END,
        eos_token_id=END, pad_token_id=PAD, num_labels=LABELS,
    )  # fmt: skip


def gpt2() -> Any:
    """Input and output embeddings are tied."""
    return transformers.GPT2LMHeadModel(gpt2_config())


def llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=64, hidden_size=16, intermediate_size=24,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, bos_token_id=END,
        eos_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def mistral() -> Any:
    """Each token sees the four before it only."""
    config = transformers.MistralConfig(
        vocab_size=VOCABULARY, max_position_embeddings=64, hidden_size=16, intermediate_size=24,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, sliding_window=4,
        bos_token_id=END, eos_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    return transformers.MistralForCausalLM(config)


def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=64, num_labels=LABELS, pad_token_id=PAD,
        id2label={0: "world", 1: "sports", 2: "business"},
        label2id={"world": 0, "sports": 1, "business": 2},
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def gpt2_classifier() -> Any:
    return transformers.GPT2ForSequenceClassification(gpt2_config())


def functional(
    make: Callable[[], Any], parameters: Subset = "all", lora: Lora | None = None
) -> FunctionalModel:
    """A random network, none of whose weights is zero or one, with adapters if asked for."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = make()
        if lora is not None:
            add_adapters(module, lora.config(module))
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return FunctionalModel(
        module,
        lambda apply, batch: apply(**batch).logits,
        parameters=parameters,
        info=ModelInfo("random", "huggingface"),
    )


def scattered(model: FunctionalModel, count: int = DRAWS, width: float = 0.3) -> Draws:
    generator = torch.Generator().manual_seed(1)
    noise = width * torch.randn(count, model.layout.size, generator=generator)
    return Draws.from_draws(model.theta + noise, model.layout)


def networks(model: FunctionalModel, posterior: Draws) -> list[Any]:
    """One whole network of transformers for each draw."""
    found = []
    for theta in posterior:
        module = copy.deepcopy(model.module)
        named = dict(module.named_parameters())
        with torch.no_grad():
            for name, view in model.layout.views(theta).items():
                named[name].copy_(view)
        found.append(module)
    return found


@torch.no_grad()
def averaged(each: list[Any], **inputs: Any) -> Tensor:
    """log of the mean of the networks' probabilities, in float64."""
    logits = torch.stack([network(**inputs).logits for network in each]).double()
    return logits.softmax(-1).mean(0).log()


@pytest.fixture(params=[gpt2, llama], ids=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> FunctionalModel:
    return functional(request.param)


@pytest.fixture
def posterior(model: FunctionalModel) -> Draws:
    return scattered(model)


@pytest.fixture
def bayesian(model: FunctionalModel, posterior: Draws) -> BayesianCausalLM:
    return BayesianCausalLM.from_posterior(model, posterior)


def reloaded(bayesian: Any, folder: Path) -> Any:
    """The model saved and loaded through its Auto class; nothing is missing in the file."""
    bayesian.save_pretrained(folder)
    loaded, info = type(bayesian).auto_class.from_pretrained(folder, output_loading_info=True)
    assert type(loaded) is type(bayesian)
    assert not any(info.values()), info
    return loaded


# -- one draw is the network ----------------------------------------------------------------------

DECODING: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beams": {"num_beams": 3, "do_sample": False},
    "several beams": {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
    "sampling": {"do_sample": True},
    "nucleus": {"do_sample": True, "temperature": 0.7, "top_k": 8, "top_p": 0.9},
    "sampled beams": {"do_sample": True, "num_beams": 2, "num_return_sequences": 2},
    "several texts": {"do_sample": True, "num_return_sequences": 3},
    "no repetition": {"do_sample": False, "no_repeat_ngram_size": 2, "min_new_tokens": 12},
    "without a cache": {"do_sample": False, "use_cache": False},
    "lookup": {"do_sample": False, "prompt_lookup_num_tokens": 2},
}


def generated(model: Any, ids: Tensor = IDS, **settings: Any) -> list[list[int]]:
    torch.manual_seed(0)
    mask = (ids != PAD).long()
    found = model.generate(ids, attention_mask=mask, max_new_tokens=12, **settings)
    rows: list[list[int]] = found.tolist()
    return rows


@pytest.mark.parametrize("decoding", DECODING)
def test_with_one_draw_generate_is_the_networks_own(model: FunctionalModel, decoding: str) -> None:
    posterior = scattered(model, count=1)
    (network,) = networks(model, posterior)
    bayesian = BayesianCausalLM.from_posterior(model, posterior)
    ids = IDS[:1] if decoding == "lookup" else IDS
    settings = DECODING[decoding]
    expected = generated(network, ids, **settings)
    assert generated(bayesian, ids, **settings) == expected
    assert generated(model.module, ids, **settings) != expected  # the draw is what counts


@pytest.mark.parametrize("decoding", ["greedy", "beams", "sampling"])
def test_prompts_of_different_lengths_are_padded_on_the_left(
    model: FunctionalModel, decoding: str
) -> None:
    posterior = scattered(model, count=1)
    (network,) = networks(model, posterior)
    bayesian = BayesianCausalLM.from_posterior(model, posterior)
    ids = IDS.clone()
    ids[1, :4] = PAD
    settings = DECODING[decoding]
    rows = generated(bayesian, ids, **settings)
    assert rows == generated(network, ids, **settings)
    if decoding != "sampling":  # the text of a prompt is the one that it has alone
        alone = generated(bayesian, ids[1:, 4:], **settings)[0]
        assert [token for token in rows[1][4:] if token != PAD] == alone


def test_streamers_and_stopping_criteria_are_obeyed(model: FunctionalModel) -> None:
    posterior = scattered(model, count=1)
    (network,) = networks(model, posterior)
    bayesian = BayesianCausalLM.from_posterior(model, posterior)

    class Listener(transformers.generation.streamers.BaseStreamer):
        def __init__(self) -> None:
            self.heard: list[int] = []
            self.ended = False

        def put(self, value: Tensor) -> None:
            self.heard += value.flatten().tolist()

        def end(self) -> None:
            self.ended = True

    class Long(transformers.StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
            done = torch.tensor(input_ids.shape[1] >= IDS.shape[1] + 4)
            return done.expand(len(input_ids))

    heard = []
    for subject in (network, bayesian):
        listener = Listener()
        stop = transformers.StoppingCriteriaList([Long()])
        (row,) = generated(
            subject, IDS[:1], streamer=listener, stopping_criteria=stop, min_new_tokens=9
        )
        assert len(row) == IDS.shape[1] + 4
        assert listener.heard == row
        assert listener.ended
        heard.append(row)
    assert heard[0] == heard[1]


# -- several draws are the mixture ----------------------------------------------------------------


def test_the_logits_are_the_mixtures_log_probabilities(
    model: FunctionalModel, posterior: Draws, bayesian: BayesianCausalLM
) -> None:
    with torch.no_grad():
        logits = bayesian(IDS).logits
    assert logits.dtype == torch.float32
    predicted = Predictive(model, posterior).log_probs({"input_ids": IDS})
    torch.testing.assert_close(logits, predicted, rtol=0, atol=1e-5)
    each = networks(model, posterior)
    torch.testing.assert_close(logits.double(), averaged(each, input_ids=IDS), rtol=0, atol=1e-5)
    assert not torch.allclose(logits, each[0](IDS).logits.log_softmax(-1), atol=0.1)


@pytest.mark.parametrize("make", [gpt2, llama, mistral])
@pytest.mark.parametrize("pieces", [[1] * 9, [4, 3, 1, 1]])
@torch.no_grad()
def test_reading_in_pieces_gives_the_same_logits(make: Any, pieces: list[int]) -> None:
    model = functional(make)
    bayesian = BayesianCausalLM.from_posterior(model, scattered(model))
    whole = bayesian(IDS).logits
    cache, found = None, []
    for piece in IDS.split(pieces, dim=1):
        output = bayesian(piece, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        found.append(output.logits)
        assert cache.get_seq_length() == sum(part.shape[1] for part in found)
    torch.testing.assert_close(torch.cat(found, dim=1), whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_cache_can_be_reordered_cropped_repeated_and_chosen_from(
    bayesian: BayesianCausalLM,
) -> None:
    def logits_after(change: Callable[[Any], None], ids: Tensor) -> Tensor:
        cache = bayesian(IDS[:, :6], use_cache=True).past_key_values
        change(cache)
        found: Tensor = bayesian(ids, past_key_values=cache).logits[:, -1]
        return found

    expected = bayesian(IDS[:, :7]).logits[:, -1]
    new = IDS[:, 6:7]
    swapped = logits_after(lambda c: c.reorder_cache(torch.tensor([1, 0])), new.flip(0))
    torch.testing.assert_close(swapped, expected.flip(0), rtol=0, atol=1e-5)
    cropped = logits_after(lambda c: c.crop(-2), IDS[:, 4:7])
    torch.testing.assert_close(cropped, expected, rtol=0, atol=1e-5)
    repeated = logits_after(lambda c: c.batch_repeat_interleave(2), new.repeat_interleave(2, 0))
    torch.testing.assert_close(repeated, expected.repeat_interleave(2, 0), rtol=0, atol=1e-5)
    chosen = logits_after(lambda c: c.batch_select_indices(torch.tensor([1])), new[1:])
    torch.testing.assert_close(chosen, expected[1:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_greedy_text_is_the_mixtures_most_probable_token_again_and_again(
    model: FunctionalModel, posterior: Draws, bayesian: BayesianCausalLM
) -> None:
    each = networks(model, posterior)
    (row,) = generated(bayesian, IDS[:1], do_sample=False)
    expected = IDS[0].tolist()
    while len(expected) < len(row):
        probabilities = averaged(each, input_ids=torch.tensor([expected]))[0, -1]
        expected.append(int(probabilities.argmax()))
    assert row == expected
    looked_up = generated(bayesian, IDS[:1], do_sample=False, prompt_lookup_num_tokens=2)
    assert looked_up == [row]


@torch.no_grad()
def test_some_positions_can_be_asked_for(bayesian: BayesianCausalLM) -> None:
    whole = bayesian(IDS).logits
    torch.testing.assert_close(bayesian(IDS, logits_to_keep=2).logits, whole[:, -2:])
    chosen = torch.tensor([1, 4])
    torch.testing.assert_close(bayesian(IDS, logits_to_keep=chosen).logits, whole[:, chosen])


@torch.no_grad()
def test_the_loss_is_the_mixtures_mean_nll(bayesian: BayesianCausalLM) -> None:
    labels = IDS.clone()
    labels[0, 3] = labels[1, :5] = -100
    output = bayesian(IDS, labels=labels)
    terms = [
        -output.logits[row, place - 1, labels[row, place]]
        for row in range(2)
        for place in range(1, 9)
        if labels[row, place] != -100
    ]
    assert len(terms) == 11
    assert float(output.loss) == pytest.approx(float(sum(terms)) / 11, rel=1e-5)


# -- saved and loaded -----------------------------------------------------------------------------


@torch.no_grad()
def test_a_saved_model_is_the_same_bit_for_bit(
    bayesian: BayesianCausalLM, posterior: Draws, tmp_path: Path
) -> None:
    loaded = reloaded(bayesian, tmp_path)
    assert torch.equal(loaded(IDS).logits, bayesian(IDS).logits)
    assert generated(loaded, num_beams=3) == generated(bayesian, num_beams=3)
    assert loaded.generation_config.eos_token_id == END
    assert loaded.draws.dtype == torch.float32
    assert torch.equal(loaded.draws, torch.stack(list(posterior)))
    again = reloaded(loaded, tmp_path / "again")
    assert torch.equal(again(IDS).logits, bayesian(IDS).logits)


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    model = functional(gpt2)
    loaded = reloaded(BayesianCausalLM.from_posterior(model, scattered(model)), tmp_path)
    assert loaded.network.lm_head.weight is loaded.network.transformer.wte.weight
    stored = load_file(tmp_path / "model.safetensors")
    assert len({"network.lm_head.weight", "network.transformer.wte.weight"} & stored.keys()) == 1
    assert stored["draws"].shape == (DRAWS, model.layout.size)


def test_the_configuration_is_plain_data(bayesian: BayesianCausalLM, tmp_path: Path) -> None:
    bayesian.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model_type"] == "bayesian-causal-lm"
    assert stored["num_draws"] == DRAWS
    assert stored["parameters"] == bayesian.layout.to_json()
    assert stored["text_config"]["vocab_size"] == VOCABULARY


@torch.no_grad()
def test_it_can_be_loaded_in_bfloat16(bayesian: BayesianCausalLM, tmp_path: Path) -> None:
    bayesian.save_pretrained(tmp_path)
    rounded = BayesianCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert rounded.draws.dtype == torch.bfloat16
    logits = rounded(IDS).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, bayesian(IDS).logits, rtol=0, atol=0.3)


def test_the_posterior_holds_copies(
    model: FunctionalModel, posterior: Draws, bayesian: BayesianCausalLM
) -> None:
    before = bayesian(IDS).logits
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.zero_()
    assert torch.equal(bayesian(IDS).logits, before)


@pytest.mark.parametrize("parameters", ["last-layer", "*.1.mlp.*", "*norm*,*ln_*"])
@torch.no_grad()
def test_draws_of_a_part_leave_the_rest_as_it_was(
    model: FunctionalModel, parameters: str, tmp_path: Path
) -> None:
    names = [n for n, _ in model.module.named_parameters()]
    if parameters == "*norm*,*ln_*":
        parameters = next(p for p in parameters.split(",") if any(p[1:-1] in n for n in names))
    part = FunctionalModel(model.module, model.call, parameters=parameters, info=model.info)
    assert 0 < part.layout.size < model.layout.size
    posterior = scattered(part, width=1.0)
    bayesian = BayesianCausalLM.from_posterior(part, posterior)
    expected = averaged(networks(part, posterior), input_ids=IDS)
    torch.testing.assert_close(bayesian(IDS).logits.double(), expected, rtol=0, atol=1e-5)
    loaded = reloaded(bayesian, tmp_path)
    assert loaded.draws.shape == (DRAWS, part.layout.size)
    assert torch.equal(loaded(IDS).logits, bayesian(IDS).logits)


@pytest.mark.parametrize("make", [gpt2, llama])
@torch.no_grad()
def test_adapters_are_saved_with_the_network_they_are_in(make: Any, tmp_path: Path) -> None:
    model = functional(make, "*lora_*", Lora(r=2, alpha=6.0))
    assert all("lora_" in name for name in model.layout.names)
    posterior = scattered(model)
    bayesian = BayesianCausalLM.from_posterior(model, posterior)
    expected = averaged(networks(model, posterior), input_ids=IDS)
    torch.testing.assert_close(bayesian(IDS).logits.double(), expected, rtol=0, atol=1e-5)
    loaded = reloaded(bayesian, tmp_path)
    assert loaded.network.peft_config["default"].r == 2
    assert torch.equal(loaded(IDS).logits, bayesian(IDS).logits)
    again = reloaded(loaded, tmp_path / "again")
    assert torch.equal(again(IDS).logits, bayesian(IDS).logits)


# -- how sure -------------------------------------------------------------------------------------


def test_uncertainty_of_each_token(
    model: FunctionalModel, posterior: Draws, bayesian: BayesianCausalLM
) -> None:
    each = torch.stack([n(IDS).logits for n in networks(model, posterior)]).double().softmax(-1)
    mixture = each.mean(0)
    found = bayesian.uncertainty(IDS)
    assert found.total.shape == (2, 8)
    expected = {
        "log_prob": mixture[:, :-1].gather(-1, IDS[:, 1:, None])[..., 0].log(),
        "total": -(mixture * mixture.log()).sum(-1)[:, :-1],
        "aleatoric": -(each * each.log()).sum(-1).mean(0)[:, :-1],
    }
    expected["epistemic"] = expected["total"] - expected["aleatoric"]
    for name, value in expected.items():
        torch.testing.assert_close(getattr(found, name).double(), value, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.total, found.aleatoric + found.epistemic)
    assert float(found.epistemic.min()) > 0.01


def test_draws_that_coincide_are_sure_of_the_weights(model: FunctionalModel) -> None:
    same = Draws.from_draws(model.theta.expand(DRAWS, -1).clone(), model.layout)
    found = BayesianCausalLM.from_posterior(model, same).uncertainty(IDS)
    assert float(found.epistemic.max()) < 1e-5
    assert float(found.total.min()) > 0.01


def test_padding_has_no_uncertainty_and_changes_none(bayesian: BayesianCausalLM) -> None:
    padded = torch.cat([torch.full((2, 3), PAD), IDS, torch.full((2, 2), PAD)], dim=1)
    found = bayesian.uncertainty(padded, (padded != PAD).long())
    alone = bayesian.uncertainty(IDS)
    for name in ("log_prob", "total", "aleatoric", "epistemic"):
        value = getattr(found, name)
        assert value[:, :3].isnan().all()
        assert value[:, -2:].isnan().all()
        torch.testing.assert_close(value[:, 3:-2], getattr(alone, name), rtol=0, atol=1e-5)


# -- classification -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [bert, gpt2_classifier])
@torch.no_grad()
def test_a_classifiers_logits_are_the_mixtures(make: Any, tmp_path: Path) -> None:
    model = functional(make)
    posterior = scattered(model)
    assert bayesian_class(model.module) is BayesianForSequenceClassification
    bayesian = BayesianForSequenceClassification.from_posterior(model, posterior)
    ids = IDS.clone()
    ids[1, 5:] = PAD
    inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
    each = networks(model, posterior)
    output = bayesian(**inputs, labels=torch.tensor([2, 0]))
    expected = averaged(each, **inputs)
    torch.testing.assert_close(output.logits.double(), expected, rtol=0, atol=1e-5)
    nll = -(expected[0, 2] + expected[1, 0]) / 2
    assert float(output.loss) == pytest.approx(float(nll), abs=1e-5)

    found = bayesian.uncertainty(**inputs)
    probabilities = torch.stack([n(**inputs).logits for n in each]).double().softmax(-1)
    aleatoric = torch.special.entr(probabilities).sum(-1).mean(0)
    torch.testing.assert_close(found.aleatoric.double(), aleatoric, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.total, found.aleatoric + found.epistemic)
    assert float(found.epistemic.min()) > 0.01

    loaded = reloaded(bayesian, tmp_path)
    assert torch.equal(loaded(**inputs).logits, output.logits)
    assert loaded.config.id2label == model.module.config.id2label


# -- pipelines ------------------------------------------------------------------------------------


def tokenizer() -> Any:
    """Twenty-four words and numbers, of which the first two are padding and the end."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<end>", "to", "be", "or", "not", "that", "is", "the", "question"]
    words += [f"w{i}" for i in range(VOCABULARY - len(words))]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<end>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )


def test_the_text_generation_pipeline_takes_it(bayesian: BayesianCausalLM, tmp_path: Path) -> None:
    words = tokenizer()
    prompts = ["to be or not", "question"]
    settings = {"max_new_tokens": 5, "do_sample": False, "return_full_text": False}
    pipe = transformers.pipeline("text-generation", model=bayesian, tokenizer=words)
    found = [text[0]["generated_text"] for text in pipe(prompts, batch_size=2, **settings)]
    for prompt, text in zip(prompts, found, strict=True):
        ids = words(prompt, return_tensors="pt").input_ids
        row = bayesian.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]
        assert text.split() == words.decode(row, skip_special_tokens=True).split()
    bayesian.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    from_folder = transformers.pipeline("text-generation", str(tmp_path))
    assert from_folder(prompts[0], **settings)[0]["generated_text"] == found[0]


def test_the_text_classification_pipeline_takes_it(tmp_path: Path) -> None:
    model, words = functional(bert), tokenizer()
    posterior = scattered(model)
    bayesian = BayesianForSequenceClassification.from_posterior(model, posterior)
    bayesian.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    text = "to be or not to be"
    inputs = words(text, return_tensors="pt", return_token_type_ids=False)
    expected = averaged(networks(model, posterior), **inputs)[0].exp().tolist()
    for pipe in (
        transformers.pipeline("text-classification", model=bayesian, tokenizer=words),
        transformers.pipeline("text-classification", str(tmp_path)),
    ):
        scores = {row["label"]: row["score"] for row in pipe(text, top_k=None)}
        assert list(scores) == sorted(scores, key=lambda label: -scores[label])
        for label, probability in zip(["world", "sports", "business"], expected, strict=True):
            assert scores[label] == pytest.approx(probability, abs=1e-5)


# -- what is refused ------------------------------------------------------------------------------


def refusal(model: FunctionalModel) -> str:
    posterior = Draws.from_draws(model.theta[None], model.layout)
    with pytest.raises(UserError) as caught:
        bayesian_class(model.module).from_posterior(model, posterior)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_networks_that_cannot_be_held_are_refused() -> None:
    mamba = transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4
    )
    stateful = functional(lambda: transformers.MambaForCausalLM(mamba))
    assert "something else than keys and values" in refusal(stateful)
    config = bert().config
    config.num_labels = 1
    regression = functional(lambda: transformers.BertForSequenceClassification(config))
    assert "regression" in refusal(regression)
    encoder = functional(lambda: transformers.BertModel(config))
    assert "sequence classifiers can be exported" in refusal(encoder)
    assert "Linear" in refusal(FunctionalModel(torch.nn.Linear(2, 2)))


def test_a_module_that_no_configuration_knows_is_refused() -> None:
    def changed() -> Any:
        network = gpt2()
        network.transformer.h[0].mlp.extra = torch.nn.Linear(2, 2)
        return network

    assert "configuration does not know" in refusal(functional(changed))


def test_draws_of_another_model_are_refused(model: FunctionalModel) -> None:
    part = FunctionalModel(model.module, parameters="last-layer", info=model.info)
    with pytest.raises(ValueError, match="not the model's"):
        BayesianCausalLM.from_posterior(model, scattered(part))


def test_what_a_mixture_does_not_have_is_refused(bayesian: BayesianCausalLM) -> None:
    with pytest.raises(ValueError, match="output_hidden_states"):
        bayesian(IDS, output_hidden_states=True)
    with pytest.raises(ValueError, match="cache of its own"):
        bayesian(IDS, past_key_values=transformers.DynamicCache())
