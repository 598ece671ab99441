"""Adapters against PEFT's own, and merged back into plain models."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesgen.data.tokenizers import CharTokenizer
from bayesgen.errors import UserError
from bayesgen.inference.log_posterior import LogPosterior, chunks
from bayesgen.models import FunctionalModel, Lora, load_model
from bayesgen.models.lora import add_adapters, merged
from bayesgen.models.nanogpt import GPT, GPTConfig, write_checkpoint
from bayesgen.priors import normal
from tests.models.test_tasks import write_tokenizer
from tests.models.zoo import ARCHITECTURES, BATCHES, ENCODER, Architecture, random_network

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

# PEFT asks transformers by an old name, and says that it transposes for GPT-2's layers
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning"),
]

KINDS = ("GPT-2", "Llama", "BERT", "nanoGPT")
TARGETS = {
    "GPT-2": ("c_attn", "c_fc"),
    "Llama": ("q_proj", "down_proj"),
    "BERT": ("query", "intermediate.dense"),
    "nanoGPT": ("c_attn", "mlp.c_proj"),
}
DEFAULTS = {
    "GPT-2": ("c_attn",),
    "Llama": ("q_proj", "v_proj"),
    "BERT": ("query", "value"),
    "nanoGPT": ("c_attn",),
}


@dataclass(frozen=True)
class Base:
    """A network that bayesgen has not touched, and where it was written."""

    kind: str
    module: Any
    path: Path

    @property
    def task(self) -> str:
        return "masked-lm" if self.kind == "BERT" else "causal-lm"

    def load(self, parameters: str = "lora", **options: Any) -> FunctionalModel:
        return load_model(self.path, task=self.task, parameters=parameters, **options)

    def logits(self, module: Any = None) -> Tensor:
        inputs = {k: v for k, v in self.batch.items() if k != "labels"}
        output = (module or self.module)(**inputs)
        return output if self.kind == "nanoGPT" else output.logits

    @property
    def batch(self) -> dict[str, Tensor]:
        return BATCHES[self.task](torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    folder = tmp_path_factory.mktemp("bases")
    made = {}
    for architecture in ARCHITECTURES:
        if architecture.name in KINDS and architecture.task.endswith("-lm"):
            module = random_network(architecture)
            module.save_pretrained(folder / architecture.name)
            made[architecture.name] = Base(architecture.name, module, folder / architecture.name)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        gpt = GPT(GPTConfig(8, 30, n_layer=2, n_head=2, n_embd=16, bias=False)).eval()
        for parameter in gpt.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tokenizer = CharTokenizer("".join(map(chr, range(97, 127))))
    written: dict[str, Any] = {"optimizer": {}, "iter_num": 0, "best_val_loss": 1.0, "config": {}}
    write_checkpoint(folder / "ckpt.pt", gpt, tokenizer, **written)
    return made | {"nanoGPT": Base("nanoGPT", gpt, folder / "ckpt.pt")}


@pytest.fixture(params=KINDS)
def base(request: pytest.FixtureRequest, bases: dict[str, Base]) -> Base:
    return bases[request.param]


def moved(model: FunctionalModel, scale: float = 0.3) -> Tensor:
    """A θ at which the adapters do something."""
    generator = torch.Generator().manual_seed(5)
    return model.theta + scale * torch.randn(model.layout.size, generator=generator)


def by_peft(module: Any, **settings: Any) -> Any:
    """The network with PEFT's adapters, as a user of PEFT makes it."""
    return peft.get_peft_model(copy.deepcopy(module), peft.LoraConfig(**settings)).eval()


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("`")
    return message


# -- new adapters --------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [1, 3])
def test_theta_is_as_long_as_peft_counts(base: Base, r: int) -> None:
    targets = TARGETS[base.kind]
    expected = by_peft(base.module, r=r, target_modules=list(targets))
    trainable, _ = expected.get_nb_trainable_parameters()
    model = base.load(lora=Lora(r=r, targets=targets))
    assert model.layout.size == trainable > 0
    assert model.num_parameters == trainable + sum(p.numel() for p in base.module.parameters())
    assert model.new == set(model.layout.names)
    stored = {name.replace(".default", "") for name in model.layout.names}
    prefix = "base_model.model."
    own = peft.get_peft_model_state_dict(expected)
    assert stored == {name.removeprefix(prefix) for name in own}


def test_at_the_start_the_logits_are_those_of_the_base(base: Base) -> None:
    model = base.load()
    assert model.theta.any()  # A is random; B is zero
    assert torch.equal(model(model.theta, base.batch), base.logits())
    assert not torch.allclose(model(moved(model), base.batch), base.logits(), atol=1e-3)


def test_the_adapters_are_the_same_at_every_load(base: Base) -> None:
    thetas = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        thetas.append(base.load().theta)
    assert torch.equal(*thetas)
    halves = base.load().layout.views(thetas[0])
    assert all(bool(v.any()) is (".lora_A." in name) for name, v in halves.items())


def test_the_random_numbers_of_others_are_left_alone(base: Base) -> None:
    module = copy.deepcopy(base.module)
    before = torch.get_rng_state()
    add_adapters(module, Lora(targets=TARGETS[base.kind]).config(module))
    assert torch.equal(torch.get_rng_state(), before)
    if base.kind != "nanoGPT":  # whose network is made with random weights before it is read
        base.load()
        assert torch.equal(torch.get_rng_state(), before)


def test_the_defaults_are_rank_8_at_the_layers_that_peft_chooses(base: Base) -> None:
    model = base.load()
    layers = {e.name.split(".lora_")[0] for e in model.layout.entries}
    expected = {
        name
        for name, _ in base.module.named_modules()
        if name.rpartition(".")[2] in DEFAULTS[base.kind]
    }
    assert layers == expected
    assert {e.shape[0] for e in model.layout.entries if ".lora_A." in e.name} == {8}


@pytest.mark.parametrize(("r", "alpha"), [(2, 5.0), (4, 1.0)])
def test_an_adapter_adds_alpha_over_r_times_b_a(base: Base, r: int, alpha: float) -> None:
    targets = TARGETS[base.kind]
    model = base.load(lora=Lora(r=r, alpha=alpha, targets=targets))
    theta = moved(model)
    views = model.layout.views(theta)
    layers = {name.split(".lora_")[0] for name in views}
    assert layers == {
        name
        for name, _ in base.module.named_modules()
        if any(name.endswith(f".{target}") for target in targets)
    }
    plain = copy.deepcopy(base.module)
    for name in layers:
        a, b = (views[f"{name}.lora_{half}.default.weight"] for half in "AB")
        assert a.shape[0] == b.shape[1] == r
        layer = plain.get_submodule(name)
        update = alpha / r * b @ a
        layer.weight.data += update if isinstance(layer, nn.Linear) else update.T  # Conv1D
    torch.testing.assert_close(model(theta, base.batch), base.logits(plain), rtol=1e-4, atol=1e-4)


def test_the_head_can_be_bayesian_beside_the_adapters(base: Base) -> None:
    model, adapters = base.load("lora,head"), base.load("lora")
    head = base.load("head").layout.names
    assert set(model.layout.names) == {*adapters.layout.names, *head}
    assert not set(adapters.layout.names) & set(head)
    assert model.new == set(adapters.layout.names)
    changed = model.theta.clone()
    model.layout.views(changed)[head[0]].add_(1.0)
    assert not torch.allclose(model(changed, base.batch), base.logits(), atol=1e-2)


@pytest.mark.parametrize("parameters", ["all", "head", "*.weight"])
def test_adapters_come_only_where_they_are_asked_for(base: Base, parameters: str) -> None:
    model = base.load(parameters, lora=Lora(r=2))
    assert not any("lora" in name for name, _ in model.module.named_parameters())


@pytest.mark.parametrize("parameters", ["lora", "lora,head"])
def test_the_ordinary_gradient_equals_the_functional_one(base: Base, parameters: str) -> None:
    model = base.load(parameters, lora=Lora(r=2))
    log_posterior = LogPosterior(model, normal(model.layout.size, 0.2), 1000)
    phi = tuple(piece.clone() for piece in chunks(moved(model)))
    ways = [
        torch.func.grad_and_value(way, has_aux=True)(phi, base.batch)
        for way in (log_posterior, log_posterior.functional)
    ]
    ((ordinary,), (value, _)), ((functional,), (value_, _)) = ways
    assert all(view.any() for view in model.layout.views(functional).values())
    torch.testing.assert_close(ordinary, functional, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(value, value_)


@pytest.mark.parametrize("class_name", ["BertModel", "ViTModel"])
def test_a_new_head_keeps_its_place_among_what_is_untrained(
    class_name: str, tmp_path: Path
) -> None:
    kind, task = {
        "BertModel": ("BERT", "sequence-classification"),
        "ViTModel": ("ViT", "image-classification"),
    }[class_name]
    settings = next(a.settings for a in ARCHITECTURES if a.name == kind)
    network = random_network(Architecture(kind, class_name, task, settings))
    network.save_pretrained(tmp_path)
    # the head is adapted, too, and its own weights have another name then
    lora = Lora(r=2, targets=("query" if kind == "BERT" else "q_proj", "classifier"))
    model = load_model(tmp_path, task=task, parameters="lora,head", lora=lora)
    assert model.new == set(model.layout.names)
    assert {"classifier.base_layer.weight", "classifier.base_layer.bias"} <= model.new
    assert "classifier.lora_A.default.weight" in model.new


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("outline", [False, True])
@pytest.mark.parametrize("target", ["no_such_layer", "attn_", "c_at", "", "query.weight"])
def test_a_target_that_matches_nothing_is_refused_and_candidates_are_named(
    base: Base, target: str, outline: bool
) -> None:
    lora = Lora(targets=(TARGETS[base.kind][0], target))
    message = refusal(lambda: base.load(lora=lora, outline=outline))
    assert message.startswith(f"`lora_targets`: no layer of the model is called '{target}'")
    assert TARGETS[base.kind][0] in message.split("such as ")[1].split(", ")


def test_a_target_that_cannot_be_adapted_is_refused_and_candidates_are_named(
    bases: dict[str, Base],
) -> None:
    message = refusal(lambda: bases["GPT-2"].load(lora=Lora(targets=("ln_1",))))
    assert message.startswith("`lora_targets`: ")
    assert "LayerNorm" in message
    assert "c_attn" in message


@pytest.mark.parametrize("kind", ["GPT-2", "nanoGPT"])
@pytest.mark.parametrize("target", ["lm_head", "wte"])
def test_a_target_with_a_tied_weight_is_refused(
    bases: dict[str, Base], kind: str, target: str
) -> None:
    message = refusal(lambda: bases[kind].load(lora=Lora(targets=(target,))))
    assert message.startswith(f"`lora_targets`: '{target}' shares its weight")


@pytest.mark.parametrize("r", [0, -1])
def test_a_rank_below_one_is_refused(base: Base, r: int) -> None:
    assert refusal(lambda: base.load(lora=Lora(r=r))).startswith(f"`lora_r={r}`: ")


# -- merging -------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", ["lora", "lora,head"])
def test_a_merged_network_is_the_plain_one_with_the_logits_of_theta(
    base: Base, parameters: str
) -> None:
    model = base.load(parameters, lora=Lora(r=3, alpha=7, targets=TARGETS[base.kind]))
    theta = moved(model)
    expected = model(theta, base.batch)
    before = {name: p.clone() for name, p in model.module.named_parameters()}

    module = merged(model, theta)
    assert type(module) is type(base.module)
    kinds = {type(m).__module__.partition(".")[0] for m in module.modules()}
    assert "peft" not in kinds
    assert not hasattr(module, "peft_config")
    assert list(module.state_dict()) == list(base.module.state_dict())
    torch.testing.assert_close(base.logits(module), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, base.logits(), atol=1e-2)

    # the model itself has not moved
    for name, parameter in model.module.named_parameters():
        assert torch.equal(parameter, before[name])
    assert torch.equal(model(model.theta, base.batch), base.logits())


def test_merging_is_pefts_own(base: Base) -> None:
    settings = {"r": 3, "lora_alpha": 7, "target_modules": list(TARGETS[base.kind])}
    theirs = by_peft(base.module, **settings)
    model = base.load(lora=Lora(r=3, alpha=7, targets=TARGETS[base.kind]))
    theta = moved(model)
    state = {f"base_model.model.{n}": v for n, v in model.layout.views(theta).items()}
    assert not theirs.load_state_dict(state, strict=False).unexpected_keys
    own = merged(model, theta).state_dict()
    for name, value in theirs.merge_and_unload().state_dict().items():
        torch.testing.assert_close(own[name], value)


@pytest.mark.parametrize("kind", ["GPT-2", "Llama", "BERT"])
@pytest.mark.parametrize("stored", [False, True])
def test_a_merged_network_is_saved_as_a_plain_model(
    bases: dict[str, Base], kind: str, stored: bool, tmp_path: Path
) -> None:
    base = bases[kind]
    if stored:
        write_adapters(base, tmp_path / "adapters")
        model = load_model(tmp_path / "adapters", task=base.task, parameters="lora")
    else:
        model = base.load()
    theta = moved(model)
    expected = model(theta, base.batch)
    merged(model, theta).save_pretrained(tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("adapter*"))
    plain, loading = type(base.module).from_pretrained(
        tmp_path / "merged", output_loading_info=True
    )
    assert not any(loading.values())
    torch.testing.assert_close(base.logits(plain.eval()), expected, rtol=1e-5, atol=1e-5)


# -- adapters that PEFT has stored ---------------------------------------------------------------


def write_adapters(base: Base, folder: Path, **settings: Any) -> Any:
    """What a user of PEFT has trained and saved: adapters of the model in `base.path`."""
    network = type(base.module).from_pretrained(base.path)
    settings = {"r": 3, "lora_alpha": 5, "target_modules": list(TARGETS[base.kind])} | settings
    adapted = by_peft(network, **settings)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)
    return adapted


@pytest.mark.parametrize("kind", ["GPT-2", "Llama", "BERT"])
def test_stored_adapters_are_loaded_with_their_base(
    bases: dict[str, Base], kind: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    base = bases[kind]
    adapted = write_adapters(base, tmp_path)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    model = load_model(tmp_path, task=base.task, parameters="lora")
    assert torch.equal(torch.get_rng_state(), before)
    assert model.layout.size == adapted.get_nb_trainable_parameters()[0]
    assert model.new == frozenset()

    stored = load_file(tmp_path / "adapter_model.safetensors")
    views = model.layout.views(model.theta)
    assert len(stored) == len(views)
    for name, value in views.items():
        assert torch.equal(value, stored["base_model.model." + name.replace(".default", "")])
    torch.testing.assert_close(model(model.theta, base.batch), base.logits(adapted))
    expected = base.logits(adapted.merge_and_unload())
    torch.testing.assert_close(
        base.logits(merged(model, model.theta)), expected, rtol=1e-5, atol=1e-5
    )

    outline = load_model(tmp_path, task=base.task, parameters="lora", outline=True)
    assert outline.layout == model.layout
    assert outline.num_parameters == model.num_parameters
    assert {p.device.type for p in outline.module.parameters()} == {"meta"}


def test_an_outline_of_stored_adapters_reads_no_weights(
    bases: dict[str, Base], tmp_path: Path
) -> None:
    shutil.copytree(bases["BERT"].path, tmp_path / "base")
    base = Base("BERT", bases["BERT"].module, tmp_path / "base")
    write_adapters(base, tmp_path / "adapters")
    options: dict[str, Any] = {"task": "masked-lm", "parameters": "lora,layers=0"}
    model = load_model(tmp_path / "adapters", **options)
    for file in ("base/model.safetensors", "adapters/adapter_model.safetensors"):
        (tmp_path / file).unlink()
    assert load_model(tmp_path / "adapters", **options, outline=True).layout == model.layout


def test_stored_adapters_are_not_added_a_second_time(
    bases: dict[str, Base], tmp_path: Path
) -> None:
    write_adapters(bases["GPT-2"], tmp_path, r=3)
    model = load_model(tmp_path, parameters="lora,head", lora=Lora(r=2, targets=("c_proj",)))
    assert not any("c_proj" in name for name in model.layout.names)
    assert {e.shape[0] for e in model.layout.entries if "lora_A" in e.name} == {3}
    assert "transformer.wte.weight" in model.layout.names


def test_stored_adapters_in_bfloat16_are_loaded_in_float32(
    bases: dict[str, Base], tmp_path: Path
) -> None:
    adapted = write_adapters(bases["BERT"], tmp_path)
    adapted.bfloat16().save_pretrained(tmp_path)
    model = load_model(tmp_path, task="masked-lm", parameters="head")
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}


def test_adapters_take_the_tokenizer_of_their_base(bases: dict[str, Base], tmp_path: Path) -> None:
    shutil.copytree(bases["GPT-2"].path, tmp_path / "base")
    write_tokenizer(tmp_path / "base", 20)
    base = Base("GPT-2", bases["GPT-2"].module, tmp_path / "base")
    write_adapters(base, tmp_path / "adapters")
    tokenizer = load_model(tmp_path / "adapters").tokenizer
    assert tokenizer is not None
    assert tokenizer.vocab_size == 20
    write_tokenizer(tmp_path / "adapters", 25)
    tokenizer = load_model(tmp_path / "adapters").tokenizer
    assert tokenizer is not None
    assert tokenizer.vocab_size == 25


def test_a_head_that_was_trained_with_the_adapters_is_loaded(tmp_path: Path) -> None:
    network = random_network(Architecture("BERT", "BertModel", "", ENCODER))
    network.save_pretrained(tmp_path / "base")
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=4
    )
    base = Base("BERT", classifier, tmp_path / "base")
    adapted = by_peft(classifier, r=2, task_type="SEQ_CLS")
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(7))
    adapted.save_pretrained(tmp_path / "adapters")

    options: dict[str, Any] = {"task": "sequence-classification", "parameters": "lora,head"}
    model = load_model(tmp_path / "adapters", **options, num_labels=4)
    assert model.new == frozenset()
    torch.testing.assert_close(model(model.theta, base.batch), base.logits(adapted))
    module = merged(model, moved(model))
    assert list(module.state_dict()) == list(classifier.state_dict())
    torch.testing.assert_close(
        base.logits(module), model(moved(model), base.batch), rtol=1e-5, atol=1e-5
    )
    outline = load_model(tmp_path / "adapters", **options, num_labels=4, outline=True)
    assert outline.layout == model.layout


def without_weights(adapters: Path) -> None:
    (adapters / "adapter_model.safetensors").unlink()


def without_one_weight(adapters: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(adapters / "adapter_model.safetensors")
    del state[max(state)]
    save_file(state, adapters / "adapter_model.safetensors", metadata={"format": "pt"})


def truncated(adapters: Path) -> None:
    file = adapters / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def no_json(adapters: Path) -> None:
    (adapters / "adapter_config.json").write_text("{not json")


def without_base(adapters: Path) -> None:
    config = json.loads((adapters / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None
    (adapters / "adapter_config.json").write_text(json.dumps(config))


def base_is_gone(adapters: Path) -> None:
    shutil.rmtree(adapters.parent / "base")


def base_without_weights(adapters: Path) -> None:
    (adapters.parent / "base" / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without_weights, "/adapters' is no loadable Hugging Face model: No such file"),
        (without_one_weight, "/adapters' lack weights, such as 'transformer.h.1.mlp.c_fc.lora_B"),
        (truncated, "/adapters' is no loadable"),
        (no_json, "/adapters' is no loadable"),
        (without_base, "/adapters' does not say which model its adapters belong to"),
        (base_is_gone, "no folder at '{path}/base'"),
        (base_without_weights, "/base' is no loadable"),
    ],
)
def test_damaged_adapters_are_refused(
    bases: dict[str, Base], tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    shutil.copytree(bases["GPT-2"].path, tmp_path / "base")
    base = Base("GPT-2", bases["GPT-2"].module, tmp_path / "base")
    write_adapters(base, tmp_path / "adapters")
    damage(tmp_path / "adapters")
    message = refusal(lambda: load_model(tmp_path / "adapters", parameters="lora"))
    assert message.startswith("`model`: ")
    assert reason.format(path=tmp_path) in message


def test_the_adapters_of_another_task_are_refused(bases: dict[str, Base], tmp_path: Path) -> None:
    write_adapters(bases["GPT-2"], tmp_path)
    message = refusal(lambda: load_model(tmp_path, task="masked-lm", parameters="lora"))
    assert message.startswith("`task=masked-lm`: ")
    assert "causal-lm" in message


def stored_adapters(path: Path, config: Any) -> Path:
    """A folder of PEFT adapters, with the small GPT-2 that they belong to beside it."""
    transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=11, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
            eos_token_id=0,
        )
    ).save_pretrained(path / "base")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = transformers.GPT2LMHeadModel.from_pretrained(path / "base")
        adapted = peft.get_peft_model(base, config)
        adapted.peft_config["default"].base_model_name_or_path = str(path / "base")
        adapted.save_pretrained(path / "adapters")
    return path / "adapters"


@pytest.mark.parametrize("outline", [False, True])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"r": "x"}, "not supported between"),
        ({"target_modules": ["nosuch"]}, "Target modules {'nosuch'} not found"),
        ({"peft_type": "IA3", "feedforward_modules": []}, "adapters of the kind IA3"),
        ({"use_dora": True}, "adapters of the kind DoRA"),
    ],
)
def test_a_damaged_or_foreign_adapter_folder_is_one_line(
    change: dict[str, Any], says: str, outline: bool, tmp_path: Path
) -> None:
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    folder = stored_adapters(tmp_path, config)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError) as caught:
        load_model(folder, parameters="lora", outline=outline)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "`lora_targets`" not in str(caught.value)


def test_adapters_of_another_rank_than_they_say_are_refused(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    folder = stored_adapters(tmp_path, config)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 3}))
    with pytest.raises(UserError, match="have other shapes than its adapter_config"):
        load_model(folder, parameters="lora")


def test_an_outline_holds_no_adapters_in_memory(tmp_path: Path) -> None:
    stored_adapters(tmp_path, peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    outline = load_model(
        tmp_path / "base", parameters="lora", lora=Lora(r=10**9), outline=True
    )  # 256 GB of float32
    assert {p.device.type for p in outline.module.parameters()} == {"meta"}
    assert outline.layout.size == 10**9 * (16 + 48)
