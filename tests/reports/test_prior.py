"""What people and programs are told of a learned prior."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from bayesgen.priors.learned import explain
from bayesgen.reports.prior import prior_document, prior_header, prior_table
from bayesgen.reports.tables import plain
from tests.priors.files import RECORD, random_prior


def header(record: dict[str, Any], rank: int = 3) -> str:
    prior = replace(random_prior(rank), record=record)
    return prior_header(prior, explain(prior))


def test_the_header_tells_model_size_rank_and_origin() -> None:
    upstream = RECORD["upstream"] | {"shift": 0.0123, "nothing": None}
    text = header(RECORD | {"upstream": upstream})
    explained = explain(random_prior())
    lines = dict(line.split(None, 1) for line in text.splitlines())
    assert lines["model"] == "tiny-bert (sha256 abababababab...)"
    assert lines["parameters"] == "65 in 6 tensors"
    assert lines["rank"].startswith(f"3 deviations, as good as {explained.effective_rank:.1f} of")
    assert f"{explained.total.prior_sd:.3g} at λ = 1" in lines["width"]
    assert lines["shift"] == "the mean lies 1.2 % of the start's length from it"
    assert lines["collected"] == "9"
    assert lines["settings.learning_rate"] == "0.01"
    assert "nothing" not in text
    assert "no deviations" in header(RECORD, rank=0)


def test_a_record_that_lacks_everything_or_lies_is_shown_all_the_same() -> None:
    assert "model         unknown" in header({})
    odd = {"model": {"name": "a\x1b[2Jb", "sha256": 7}, "upstream": {"shift": "far", "k\n": [1]}}
    text = header(odd)
    assert "a?[2Jb (sha256 7...)" in text
    assert all(line.isprintable() for line in text.splitlines())
    assert "shift" not in text


def test_the_table_has_a_row_for_each_group_and_one_for_all() -> None:
    explained = explain(random_prior())
    rows = plain(prior_table(explained)).splitlines()
    cells = {row.split()[0]: row.split() for row in rows if row.strip()}
    block, found = explained.groups[1], cells["encoder.layer.0"]
    assert found[1] == "20"
    assert [float(n) for n in found[2:5]] == pytest.approx(
        [block.weight_sd, block.prior_sd, block.prior_sd / block.weight_sd], rel=5e-3
    )
    assert float(found[5]) == pytest.approx(100 * block.low_rank, abs=0.05)
    assert cells["all"][1] == "65"


def test_names_are_no_markup() -> None:
    prior = random_prior(shapes={"[red]a.weight": (2,), "[/b].0.c": (3,)})
    text = plain(prior_table(explain(prior)))
    assert "[red]a" in text
    assert "[/b].0" in text


def test_the_document_is_json_and_has_the_same_numbers() -> None:
    prior = random_prior()
    explained = explain(prior)
    record = RECORD | {"upstream": {"nll": math.nan}}
    content = json.loads(
        json.dumps(prior_document(replace(prior, record=record), explained), allow_nan=False)
    )
    assert content["model"]["name"] == "tiny-bert"
    assert content["upstream"]["nll"] is None
    assert content["effective_rank"] == explained.effective_rank
    assert content["groups"][1]["prior_sd"] == explained.groups[1].prior_sd
    assert content["numbers"] == content["all"]["numbers"] == 65
