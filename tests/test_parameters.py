from __future__ import annotations

import copy
import json
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bayesgen.errors import UserError
from bayesgen.models.functional import FunctionalModel
from bayesgen.parameters import FlatModule, Layout, names_adapters, select, widest

shapes = st.lists(
    st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=5
)  # () is a scalar parameter


def random_tensors(shapes: list[tuple[int, ...]]) -> dict[str, Tensor]:
    return {f"p{i}": torch.randn(shape) for i, shape in enumerate(shapes)}


class Tied(nn.Module):
    """An embedding, a hidden layer, and a head that shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.hidden = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.embed(ids))))


def normalised() -> nn.Module:
    """A network with BatchNorm that has seen data: its running statistics matter."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    for _ in range(3):
        module(3 + 2 * torch.randn(16, 3))
    return module


# -- layout --------------------------------------------------------------------------------------


@given(shapes)
def test_views_of_a_raveled_vector_are_the_tensors(shapes: list[tuple[int, ...]]) -> None:
    tensors = random_tensors(shapes)
    layout = Layout.of(tensors.items())
    theta = layout.ravel(tensors)
    views = layout.views(theta)

    assert theta.shape == (layout.size,) == (sum(prod(s) for s in shapes),)
    assert list(views) == list(tensors) == list(layout.names)
    for name, tensor in tensors.items():
        assert views[name].shape == tensor.shape
        assert torch.equal(views[name], tensor)


@given(shapes)
def test_ravel_of_views_is_the_vector(shapes: list[tuple[int, ...]]) -> None:
    layout = Layout.of(random_tensors(shapes).items())
    theta = torch.randn(layout.size)
    assert torch.equal(layout.ravel(layout.views(theta)), theta)


@given(shapes, st.lists(st.integers(1, 3), min_size=1, max_size=2))
def test_views_keep_leading_dimensions(shapes: list[tuple[int, ...]], lead: list[int]) -> None:
    layout = Layout.of(random_tensors(shapes).items())
    draws = torch.randn(*lead, layout.size)
    views = layout.views(draws)
    last = tuple(n - 1 for n in lead)
    for name, expected in layout.views(draws[last]).items():
        assert views[name].shape == (*lead, *expected.shape)
        assert torch.equal(views[name][last], expected)


@given(shapes)
def test_a_layout_survives_json(shapes: list[tuple[int, ...]]) -> None:
    layout = Layout.of(random_tensors(shapes).items())
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


def test_a_layout_as_json_is_a_list_of_name_shape_and_offset() -> None:
    assert Layout.of(nn.Linear(3, 2).named_parameters()).to_json() == [
        {"name": "weight", "shape": [2, 3], "offset": 0},
        {"name": "bias", "shape": [2], "offset": 6},
    ]


def test_views_share_the_memory_of_the_vector() -> None:
    layout = Layout.of(nn.Linear(3, 2).named_parameters())
    theta = torch.zeros(layout.size)
    layout.views(theta)["bias"].fill_(7)
    assert theta.tolist() == [0, 0, 0, 0, 0, 0, 7, 7]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_ravel_is_a_float32_copy(dtype: torch.dtype) -> None:
    tensor = torch.tensor([1.5, 2.5], dtype=dtype)
    theta = Layout.of([("a", tensor)]).ravel({"a": tensor})
    tensor.zero_()
    assert theta.dtype == torch.float32
    assert theta.tolist() == [1.5, 2.5]


# -- select --------------------------------------------------------------------------------------

ALL = ["embed.weight", "hidden.weight", "hidden.bias", "head.bias"]


@pytest.mark.parametrize(
    ("subset", "names"),
    [
        ("all", ALL),
        ("last-layer", ["embed.weight", "head.bias"]),  # the head's weight is the embedding's
        ("hidden.*", ["hidden.weight", "hidden.bias"]),
        ("head.bias, *.weight", ["embed.weight", "hidden.weight", "head.bias"]),
        ("hidden.?ias", ["hidden.bias"]),
        (lambda name, parameter: parameter.dim() == 1, ["hidden.bias", "head.bias"]),
        (lambda name, parameter: name.startswith("embed"), ["embed.weight"]),
    ],
)
def test_select_names_parameters_in_the_order_of_the_module(subset: Any, names: list[str]) -> None:
    assert select(Tied(), subset) == names


def test_the_last_layer_of_an_untied_network_is_its_last_module_with_parameters() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2), nn.Softmax(dim=-1))
    assert select(module, "last-layer") == ["1.weight", "1.bias"]


def test_the_last_layer_of_a_gpt_is_its_tied_embedding(tiny_gpt: FunctionalModel) -> None:
    assert select(tiny_gpt.module, "last-layer") == ["transformer.wte.weight"]


@pytest.mark.parametrize(
    ("subset", "wrong", "nearest"),
    [
        ("hiden.weight", "hiden.weight", "hidden.weight"),
        ("embed.weight,head.bais", "head.bais", "head.bias"),
        ("last_layer", "last_layer", ""),
    ],
)
def test_a_pattern_without_match_is_an_error_that_names_the_nearest(
    subset: str, wrong: str, nearest: str
) -> None:
    with pytest.raises(UserError) as caught:
        select(Tied(), subset)
    message = str(caught.value)
    assert message.startswith(f"`parameters`: '{wrong}'")
    assert f"the nearest name is '{nearest}" in message
    assert "\n" not in message


@pytest.mark.parametrize("module", [nn.Tanh(), Tied()])
def test_selecting_nothing_is_an_error(module: nn.Module) -> None:
    with pytest.raises(UserError, match="`parameters` selects nothing"):
        select(module, lambda name, parameter: False)


@pytest.mark.parametrize("subset", ["all", "last-layer"])
def test_a_module_without_parameters_is_an_error(subset: str) -> None:
    with pytest.raises(UserError, match="`parameters`"):
        select(nn.Tanh(), subset)


# -- select by parts of an architecture ----------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)


class Stack(nn.Module):
    """Some blocks behind an embedding."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 2)
        self.h = nn.ModuleList(Block() for _ in range(blocks))


class Headed(nn.Module):
    """Named as transformers' networks are: a base model, and a head of two layers beside it."""

    base_model_prefix = "body"

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.dense = nn.Linear(2, 2)  # registered first: not by order is it in the head
        self.body = Stack(blocks)
        self.out = nn.Linear(2, 5, bias=False)


class Translator(nn.Module):
    """Two stacks; the blocks of the second hold lists of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(Block() for _ in range(3))
        self.decoder = nn.ModuleList(
            nn.ModuleDict({"parts": nn.ModuleList([Block(), Block()])}) for _ in range(2)
        )
        self.head = nn.Linear(2, 2, bias=False)


class Wrapped(nn.Module):
    """A stack inside a list of unlike parts, which is no stack."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Embedding(5, 2), Stack(2)])


def block_names(prefix: str, *numbers: int) -> list[str]:
    return [f"{prefix}.{i}.linear.weight" for i in numbers]


HEAD = ["dense.weight", "dense.bias", "out.weight"]


@pytest.mark.parametrize(
    ("subset", "blocks"),
    [
        ("layers=0", [0]),
        ("layers=2", [2]),
        ("layers=-1", [3]),
        ("layers=-4", [0]),
        ("layers=-2:", [2, 3]),
        ("layers=:1", [0]),
        ("layers=1:3", [1, 2]),
        ("layers=::2", [0, 2]),
        ("layers=::-3", [0, 3]),
        ("layers=:", [0, 1, 2, 3]),
        ("layers=2:100", [2, 3]),
        ("layers= 1 : 3 ", [1, 2]),
    ],
)
def test_layers_are_counted_as_python_counts(subset: str, blocks: list[int]) -> None:
    assert select(Headed(), subset) == block_names("body.h", *blocks)


def test_block_1_is_not_block_10() -> None:
    assert select(Headed(12), "layers=1") == block_names("body.h", 1)


@pytest.mark.parametrize(
    ("subset", "names"),
    [
        ("head", HEAD),
        ("head,layers=-1:", [*HEAD[:2], *block_names("body.h", 3), HEAD[2]]),
        ("layers=-1, head ,layers=0", [*HEAD[:2], *block_names("body.h", 0, 3), HEAD[2]]),
        ("*embed*,layers=0", ["body.embed.weight", *block_names("body.h", 0)]),
        ("layers=0,all", [*HEAD[:2], "body.embed.weight", *block_names("body.h", 0, 1, 2, 3),
                          HEAD[2]]),
    ],
)  # fmt: skip
def test_a_list_of_parts_is_their_union_in_the_order_of_the_module(
    subset: str, names: list[str]
) -> None:
    assert select(Headed(), subset) == names


def test_each_of_two_stacks_gives_its_blocks() -> None:
    inner = [f"decoder.1.parts.{i}.linear.weight" for i in range(2)]
    assert select(Translator(), "layers=-1:") == [*block_names("encoder", 2), *inner]
    assert select(Translator(), "layers=2") == block_names("encoder", 2)


def test_a_list_of_unlike_modules_is_no_stack() -> None:
    assert select(Wrapped(), "layers=1") == block_names("parts.1.h", 1)


def test_the_head_of_a_network_without_a_base_model_is_its_last_layer(
    tiny_gpt: FunctionalModel,
) -> None:
    assert select(Translator(), "head") == ["head.weight"]
    assert select(tiny_gpt.module, "head") == ["transformer.wte.weight"]


def test_a_tied_head_is_the_weight_that_it_shares() -> None:
    module = Headed()
    module.out.weight = module.body.embed.weight
    assert select(module, "head") == [*HEAD[:2], "body.embed.weight"]


def test_adapters_are_no_part_of_the_head() -> None:
    module = Headed()
    module.lora_A = nn.Linear(2, 2, bias=False)
    assert select(module, "head") == HEAD
    assert select(module, "lora") == ["lora_A.weight"]
    assert select(module, "lora,layers=0") == [*block_names("body.h", 0), "lora_A.weight"]


@pytest.mark.parametrize(
    ("class_name", "settings", "names"),
    [
        ("GPT2LMHeadModel", {}, ["transformer.wte.weight"]),
        ("GPT2LMHeadModel", {"tie_word_embeddings": False}, ["lm_head.weight"]),
        ("GPT2ForSequenceClassification", {}, ["score.weight"]),
        ("GPT2Model", {}, ["ln_f.weight", "ln_f.bias"]),  # a base model has no head
    ],
)
def test_the_head_of_a_transformers_model(
    class_name: str, settings: dict[str, Any], names: list[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=5, n_embd=4, n_layer=1, n_head=1, **settings)
    with torch.device("meta"):
        module = getattr(transformers, class_name)(config)
    assert select(module, "head") == names


def refusal(module: nn.Module, subset: str) -> str:
    with pytest.raises(UserError) as caught:
        select(module, subset)
    message = str(caught.value)
    assert message.startswith("`parameters`: '")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("index", ["4", "-5", "4:", "2:2", "3:1", "-100:-50"])
def test_layers_that_are_not_there_are_an_error_that_says_how_many_there_are(index: str) -> None:
    message = refusal(Headed(), f"head,layers={index}")
    assert f"'layers={index}' matches no parameter" in message
    assert "4 blocks in 'body.h'" in message


@pytest.mark.parametrize(
    "index", ["", " ", "a", "1.5", "1:2:3:4", "::0", "0:a", "[1:]", "1;2", "--1"]
)
def test_what_is_no_slice_is_an_error_that_shows_one(index: str) -> None:
    message = refusal(Headed(), f"layers={index}")
    assert "is no index or slice" in message
    assert "layers=-2:" in message


def test_layers_of_two_stacks_that_are_not_there_name_both() -> None:
    assert "3 blocks in 'encoder' and 2 blocks in 'decoder'" in refusal(Translator(), "layers=3")


@pytest.mark.parametrize("module", [Tied(), Stack(0), nn.ModuleList([nn.Tanh(), nn.Linear(1, 1)])])
def test_layers_of_a_model_without_blocks_are_an_error(module: nn.Module) -> None:
    assert "the model has no stack of blocks" in refusal(module, "layers=0")


def test_adapters_of_a_model_without_adapters_are_an_error_that_names_the_choices() -> None:
    message = refusal(Headed(), "lora")
    assert "the model has no adapters" in message
    for choice in ("all", "last-layer", "head", "layers=-2:", "patterns"):
        assert choice in message


@pytest.mark.parametrize(
    ("subset", "named"),
    [
        ("lora", True),
        ("head, lora", True),
        ("lora,layers=0", True),
        ("all", False),
        ("*lora*", False),
        ("lora_A.weight", False),
        (lambda name, parameter: True, False),
    ],
)
def test_adapters_are_asked_for_by_the_name_lora(subset: Any, named: bool) -> None:
    assert names_adapters(subset) is named


# -- tied weights --------------------------------------------------------------------------------


def test_a_tied_weight_has_one_place_in_theta_and_moves_both_ends() -> None:
    module, ids = Tied().eval(), torch.tensor([[0, 3, 4]])
    flat = FlatModule(copy.deepcopy(module), select(module))
    assert flat.layout.names == tuple(ALL)
    assert len(flat.theta) == 5 * 4 + 4 * 4 + 4 + 5

    theta = torch.randn_like(flat.theta)
    views = flat.layout.views(theta)
    hidden = torch.tanh(
        views["embed.weight"][ids] @ views["hidden.weight"].T + views["hidden.bias"]
    )
    expected = hidden @ views["embed.weight"].T + views["head.bias"]

    flat.theta.copy_(theta)
    torch.testing.assert_close(flat.module(ids), expected)
    torch.testing.assert_close(FunctionalModel(module)(theta, {"input_ids": ids}), expected)


# -- FlatModule ----------------------------------------------------------------------------------


def test_writing_theta_changes_the_output_of_the_module(
    tiny_gpt: FunctionalModel, tiny_batch: dict[str, Tensor]
) -> None:
    flat = tiny_gpt.bind()
    assert torch.equal(flat.theta, tiny_gpt.theta)
    before = flat.module(tiny_batch["input_ids"])
    flat.theta.mul_(1.5)
    after = flat.module(tiny_batch["input_ids"])

    other = copy.deepcopy(tiny_gpt.module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    assert not torch.allclose(before, after)
    assert torch.equal(after, other(tiny_batch["input_ids"]))


def test_the_gradient_of_a_backward_pass_is_gathered_in_the_order_of_theta(
    tiny_gpt: FunctionalModel, tiny_batch: dict[str, Tensor]
) -> None:
    plain = copy.deepcopy(tiny_gpt.module).requires_grad_(True)
    plain(tiny_batch["input_ids"]).square().sum().backward()
    expected = torch.cat([p.grad.flatten() for p in plain.parameters() if p.grad is not None])
    assert len(expected) == tiny_gpt.layout.size

    flat = tiny_gpt.bind()
    flat.module(tiny_batch["input_ids"]).square().sum().backward()
    assert torch.equal(flat.gradient(), expected)


def test_backward_passes_add_up_until_they_are_gathered(
    tiny_gpt: FunctionalModel, tiny_batch: dict[str, Tensor]
) -> None:
    flat = tiny_gpt.bind()
    gathered = []
    for passes in (1, 2, 1):
        for _ in range(passes):
            flat.module(tiny_batch["input_ids"]).square().sum().backward()
        gathered.append(flat.gradient().clone())
    assert gathered[0].any()
    torch.testing.assert_close(gathered[1], 2 * gathered[0])
    torch.testing.assert_close(gathered[2], gathered[0])
    assert not flat.gradient().any()


def test_bind_can_round_every_parameter(tiny_gpt: FunctionalModel) -> None:
    model = FunctionalModel(tiny_gpt.module, parameters="last-layer")
    flat = model.bind(torch.bfloat16)
    assert flat.theta.dtype == torch.bfloat16
    assert torch.equal(flat.theta, model.theta.bfloat16())
    assert {p.dtype for p in flat.module.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}


def test_bind_leaves_the_original_module_untouched(
    tiny_gpt: FunctionalModel, tiny_batch: dict[str, Tensor]
) -> None:
    before = {name: p.clone() for name, p in tiny_gpt.module.named_parameters()}
    theta = tiny_gpt.theta.clone()
    flat = tiny_gpt.bind()
    flat.theta.add_(1.0)
    flat.module(tiny_batch["input_ids"]).sum().backward()

    assert torch.equal(tiny_gpt.theta, theta)
    for name, parameter in tiny_gpt.module.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert not parameter.requires_grad


def test_parameters_that_are_not_selected_are_frozen(tiny_batch: dict[str, Tensor]) -> None:
    module, ids = Tied(), torch.tensor([[0, 3, 4]])
    model = FunctionalModel(module, parameters="hidden.*")
    flat = model.bind()
    assert flat.layout.names == model.layout.names == ("hidden.weight", "hidden.bias")

    frozen = {n: p.clone() for n, p in flat.module.named_parameters() if "hidden" not in n}
    flat.theta.zero_()
    flat.module(ids).sum().backward()

    parameters = dict(flat.module.named_parameters())
    assert [n for n, p in parameters.items() if p.requires_grad] == ["hidden.weight", "hidden.bias"]
    assert not parameters["hidden.weight"].any()
    assert flat.gradient().any()
    for name, value in frozen.items():
        assert torch.equal(parameters[name], value)
        assert parameters[name].grad is None


def test_a_flat_module_is_in_evaluation_mode() -> None:
    module = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5))
    assert module.training
    flat = FlatModule(module, select(module))
    assert torch.equal(flat.module(torch.ones(3)), module[0](torch.ones(3)))


@pytest.mark.parametrize("subset", ["all", "0.*", "1.weight"])
def test_buffers_are_kept_and_used_as_in_evaluation_mode(subset: str) -> None:
    module, x = normalised(), torch.randn(5, 3)
    assert module.training
    expected = copy.deepcopy(module).eval()(x)
    statistics = {name: buffer.clone() for name, buffer in module.named_buffers()}
    assert len(statistics) == 3

    model = FunctionalModel(module, parameters=subset)
    flat = model.bind()
    for _ in range(2):  # a second time: nothing has been updated
        torch.testing.assert_close(model(model.theta, {"input_ids": x}), expected)
        torch.testing.assert_close(flat.module(x), expected)
    for name, value in statistics.items():
        assert torch.equal(dict(flat.module.named_buffers())[name], value)
        assert torch.equal(dict(model.module.named_buffers())[name], value)


@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.float64), ("mps", torch.float32)])
def test_sums_are_as_wide_as_the_device_can(device: str, dtype: torch.dtype) -> None:
    assert widest(torch.device(device)) == dtype
