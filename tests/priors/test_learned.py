"""The file of a learned prior: what is written is read, and what is damaged is refused."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bayesgen.errors import UserError
from bayesgen.priors.prior_file import CONVENTION, FILE, KEY, read_prior, write_prior
from tests.priors.files import RECORD, random_prior

Content = dict[str, Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / FILE
    write_prior(random_prior(), path)
    return path


def refusal(path: Path) -> str:
    """The one line of it."""
    with pytest.raises(UserError) as caught:
        read_prior(path)
    line = str(caught.value)
    assert line.startswith("`prior_path`: ")
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert len(line) < 600
    return line


def rewritten(path: Path, change: Callable[[Content], Any], **tensors: torch.Tensor) -> None:
    """Write the file anew with other metadata or tensors."""
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()[KEY])
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    changed = change(content)
    save_file(kept | tensors, path, {KEY: json.dumps(content if changed is None else changed)})


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_what_is_written_is_read_to_the_bit(rank: int, tmp_path: Path) -> None:
    prior = random_prior(rank)
    write_prior(prior, tmp_path / FILE)
    for path in (tmp_path / FILE, tmp_path):  # the file, or the folder that holds it
        back = read_prior(path)
        for name in ("mean", "variance", "deviations"):
            torch.testing.assert_close(getattr(back, name), getattr(prior, name), rtol=0, atol=0)
        assert back.layout == prior.layout
        assert back.record == RECORD
        assert back.base == "bert"
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_the_file_says_what_it_is(file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        content = json.loads(opened.metadata()[KEY])
        assert set(opened.keys()) == {"mean", "variance", "deviations"}
    assert content["convention"] == CONVENTION
    assert content["rank"] == 3
    assert content["model"] == RECORD["model"]
    assert content["parameters"][1] == {
        "name": "bert.encoder.layer.0.dense.weight", "shape": [4, 4], "offset": 20,
    }  # fmt: skip


def test_other_tensors_in_the_file_are_ignored(file: Path) -> None:
    rewritten(file, lambda content: None, other=torch.zeros(2), more=torch.zeros(0, 10**6))
    assert read_prior(file).rank == 3


def parameters(change: Callable[[list[Content]], Any]) -> Callable[[Content], None]:
    """A change of what the file says of its parameters."""

    def apply(content: Content) -> None:
        change(content["parameters"])

    return apply


def with_record(**values: Any) -> Callable[[Content], None]:
    return lambda content: content.update(values)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(parameters(lambda rows: rows.pop()), id="one too few"),
        pytest.param(parameters(lambda rows: rows[0].update(shape=[5, 5])), id="larger"),
        pytest.param(parameters(lambda rows: rows[1].update(offset=4)), id="overlap"),
        pytest.param(parameters(lambda rows: rows[1].update(offset=-4)), id="negative offset"),
        pytest.param(parameters(lambda rows: rows[0].update(shape=[-5, -4])), id="negative"),
        pytest.param(parameters(lambda rows: rows[-1].update(shape=[10**30])), id="absurd"),
        pytest.param(parameters(lambda rows: rows[-1].update(shape=[5.0])), id="no int"),
        pytest.param(parameters(lambda rows: rows[-1].update(shape="5")), id="no list"),
        pytest.param(parameters(lambda rows: rows[-1].update(name=rows[-2]["name"])), id="twice"),
        pytest.param(parameters(lambda rows: rows[-1].update(name=7)), id="no name"),
        pytest.param(parameters(lambda rows: rows[-1].update(name="a\x1b[2Jb")), id="escape"),
        pytest.param(parameters(lambda rows: rows[-1].update(name="a\nb")), id="line"),
        pytest.param(parameters(lambda rows: rows[-1].pop("shape")), id="no shape"),
        pytest.param(parameters(lambda rows: rows.clear()), id="none"),
        pytest.param(parameters(lambda rows: rows.insert(0, 3)), id="no row"),  # type: ignore[arg-type]
        pytest.param(with_record(parameters="bert"), id="text"),
        pytest.param(lambda content: content.pop("parameters") and None, id="no parameters"),
        pytest.param(with_record(rank=10**9), id="huge rank"),
        pytest.param(with_record(rank="3"), id="rank is text"),
        pytest.param(lambda content: content.pop("rank") and None, id="no rank"),
        pytest.param(with_record(model=[1]), id="model"),
        pytest.param(with_record(model={"base": 3}), id="base"),
        pytest.param(with_record(model={"name": ["x"]}), id="name"),
        pytest.param(with_record(upstream="swag"), id="upstream"),
        pytest.param(with_record(upstream={"shift": 10**400}), id="shift"),
        pytest.param(with_record(upstream={"shift": True}), id="shift is no number"),
        pytest.param(with_record(upstream={"a": json.loads("[" * 60 + "]" * 60)}), id="deep"),
        pytest.param(lambda content: [content], id="a list"),
        pytest.param(lambda content: "prior", id="a text"),
    ],
)
def test_metadata_that_lie_are_refused(change: Callable[[Content], Any], file: Path) -> None:
    rewritten(file, change)
    assert "is damaged" in refusal(file)


def test_names_that_meet_beside_the_prefix_are_refused(file: Path) -> None:
    rewritten(file, parameters(lambda rows: rows[-1].update(name="embeddings.weight")))
    assert "one name beside the prefix 'bert'" in refusal(file)


@pytest.mark.parametrize("known", [2, None, "1", 1e300])
def test_another_format_is_named(known: Any, file: Path) -> None:
    rewritten(file, with_record(format=known))
    assert "another format" in refusal(file)


P = random_prior().layout.size


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        ("mean", torch.zeros(P - 1), "make 65 numbers"),
        ("mean", torch.zeros(P, 1), "make 65 numbers"),
        ("variance", torch.zeros(()), "make 65 numbers"),
        ("deviations", torch.zeros(P, 3), "it has 65 deviations, and says otherwise"),
        ("deviations", torch.zeros(3, P - 1), "make 65 numbers"),
        ("deviations", torch.zeros(10**15, 0), "says otherwise"),
        ("deviations", torch.zeros(()), "damaged"),
        ("deviations", torch.full((3, P), float("nan")), "'deviations' holds numbers that are not"),
        ("mean", torch.full((P,), float("inf")), "'mean' holds numbers that are not finite"),
        ("variance", torch.full((P,), float("nan")), "'variance' holds numbers that are not"),
        ("variance", torch.full((P,), -1e-3), "a variance is negative"),
        ("mean", torch.zeros(P, dtype=torch.float64), "'mean' is not float32"),
        ("variance", torch.zeros(P, dtype=torch.int64), "'variance' is not float32"),
        ("deviations", torch.zeros(3, P, dtype=torch.bool), "'deviations' is not float32"),
        ("deviations", torch.zeros(3, P, dtype=torch.bfloat16), "'deviations' is not float32"),
    ],
)
def test_tensors_that_cannot_be_are_refused(
    name: str, tensor: torch.Tensor, says: str, file: Path
) -> None:
    rewritten(file, lambda content: None, **{name: tensor})
    assert says in refusal(file)


def test_more_deviations_than_weights_are_refused(file: Path) -> None:
    many = torch.zeros(P + 1, P)
    rewritten(file, with_record(rank=P + 1, upstream={}), deviations=many)
    assert f"it has {P + 1} deviations of {P} weights" in refusal(file)


def raw(header: Any, data: bytes = b"", metadata: Any = None) -> bytes:
    """A safetensors file with a header of our own."""
    if metadata is not None:
        header = {"__metadata__": metadata, **header}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff" * 64, id="noise"),
        pytest.param((10**18).to_bytes(8, "little") + b"{}", id="endless header"),
        pytest.param(raw({}), id="nothing"),
        pytest.param(raw({"mean": TENSOR}, b"\0" * 4), id="no metadata"),
        pytest.param(raw({"mean": TENSOR}, b"\0" * 4, {KEY: "{"}), id="no JSON"),
        pytest.param(raw({"mean": TENSOR}, b"\0" * 4, {KEY: "[" * 10**5}), id="deep JSON"),
        pytest.param(raw({"mean": TENSOR}, b"\0" * 4, {KEY: "9" * 10**5}), id="long number"),
        pytest.param(raw({"mean": TENSOR}, b"\0" * 4, {KEY: {"format": 1}}), id="no text"),
        pytest.param(raw({"mean": {**TENSOR, "data_offsets": [0, 2**63]}}, b"\0" * 4), id="beyond"),
        pytest.param(
            raw({"mean": TENSOR, "variance": TENSOR, "deviations": TENSOR}, b"\0" * 4, {KEY: "{}"}),
            id="overlap",
        ),
        pytest.param(raw({"mean": {**TENSOR, "shape": [2**62, 4]}}, b"\0" * 4), id="overflow"),
        pytest.param(pickle.dumps({"mean": [1.0]}), id="pickle"),
    ],
)
def test_files_that_are_none_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert re.search("is damaged|holds no prior", refusal(tmp_path / FILE))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_part_of_a_file_is_refused(share: float, file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    assert "is damaged" in refusal(file)


@pytest.mark.parametrize("name", ["mean", "variance", "deviations"])
def test_a_tensor_that_is_missing_is_refused(name: str, file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        kept = {n: opened.get_tensor(n) for n in opened.keys() if n != name}  # noqa: SIM118
    save_file(kept, file, metadata)
    assert "is damaged" in refusal(file)


def test_a_missing_file_names_what_writes_one(tmp_path: Path) -> None:
    assert "bayesgen prior learn" in refusal(tmp_path / "gone.safetensors")
    assert FILE in refusal(tmp_path)


def test_a_prior_without_a_model_is_one(tmp_path: Path) -> None:
    write_prior(replace(random_prior(), record={}), tmp_path / FILE)
    back = read_prior(tmp_path / FILE)
    assert back.base == ""
    assert back.names == back.layout.names
