"""Tables say what the evaluation file says, in the right cell, and have a word for what is not."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from bayesgen.reports import tables
from bayesgen.reports.tables import TABLES, plain, predictor_caption, table_of
from bayesgen.runs.files import finite

NAMES = ("deterministic", "temperature_scaled", "posterior_mean", "mean_of_draws", "bma")


def interval(estimate: float, spread: float = 0.25) -> dict[str, float]:
    return {"estimate": estimate, "low": estimate - spread, "high": estimate + spread}


def estimate(value: float | None, spread: float | None = 0.25) -> dict[str, Any]:
    ends = (
        {"low": None, "high": None}
        if value is None or spread is None
        else {"low": value - spread, "high": value + spread}
    )
    return {"estimate": value, **ends, "num_texts": 4, "reason": None}


def headline(nll: float) -> dict[str, float]:
    return {
        "nll": nll, "perplexity": math.exp(nll), "accuracy": nll / 10, "ece": nll / 100,
        "brier": nll / 4,
    }  # fmt: skip


def report(shift: float = 0.0) -> dict[str, Any]:
    """One split, its numbers all different."""
    nll = {name: 1.5 + shift - 0.01 * i for i, name in enumerate(NAMES)}
    curve = {"coverages": [i / 20 for i in range(21)], "risks": [i / 40 for i in range(21)]}
    return {
        "num_tokens": 1234567,
        "num_draws": 20,
        "predictors": {name: headline(value) for name, value in nll.items()},
        "bma_minus": {name: interval(nll["bma"] - nll[name]) for name in NAMES[:-1]},
        "entropy": {"total": 1.75, "aleatoric": 1.5, "epistemic": 0.25},
        "by_num_draws": [{"draws": k, **headline(1.7 - 0.1 * k)} for k in (1, 2, 3)],
        "selective": {
            "deterministic_entropy": {
                "curve": curve, "aurc": interval(0.3125), "minus_deterministic": interval(0.0),
            },
            "bma_epistemic": {
                "curve": curve, "aurc": interval(0.2875), "minus_deterministic": None,
            },
        },
    }  # fmt: skip


def detected(auroc: float, ratio: float | None) -> dict[str, Any]:
    return {
        "auroc": interval(auroc, 0.0625),
        "fpr95": interval(1 - auroc),
        "ratio": None if ratio is None else interval(ratio),
    }


OOD = {
    "scores": {
        "bma_epistemic": detected(0.875, 3.5),
        "deterministic_entropy": detected(0.75, None),
    },
    "epistemic_minus": {"deterministic_entropy": interval(0.125)},
}


def overlap(bleu: float | None, words: float | None) -> dict[str, Any]:
    return {
        "bleu": {"char": {"score": estimate(bleu)}, "13a": {"score": estimate(words, None)}},
        "rouge": {
            "f_measure": {"rouge1": estimate(0.5), "rouge2": estimate(0.375, None),
                          "rougeL": estimate(None)}
        },
    }  # fmt: skip


def texts() -> dict[str, Any]:
    each = {"deterministic": overlap(20.5, None), "bma": overlap(22.5, 8.25)}
    varied = {
        "distinct_1": {"ratio": 0.5}, "distinct_2": {"ratio": None}, "self_bleu": {"score": 33.25},
    }  # fmt: skip
    paired = {"char": {"score": estimate(2.0)}}
    return {
        "bleu": {n: o["bleu"] for n, o in each.items()} | {"bma_minus_deterministic": paired},
        "rouge": {n: o["rouge"] for n, o in each.items()}
        | {"bma_minus_deterministic": {"f_measure": {"rougeL": estimate(0.125)}}},
        "diversity": {"deterministic": varied, "bma": varied, "reference": varied},
    }


def evaluation(**splits: dict[str, Any]) -> dict[str, Any]:
    return {"splits": splits}


def rows(table: Table | None) -> list[list[str]]:
    """The cells that are printed, the header first; a cell is what two spaces end."""
    assert table is not None
    printed = [line for line in plain(table).splitlines() if line.strip(" ─")]
    return [re.split(r"\s{2,}", line.strip()) for line in printed]


def test_the_predictors_of_one_run() -> None:
    table = table_of("predictors", {"run": evaluation(val=report())})
    header, *body = rows(table)
    assert header == [
        "split", "predictor", "NLL", "perplexity", "accuracy", "ECE", "Brier",
        "bma's NLL minus it, 95 %",
    ]  # fmt: skip
    assert [row[1] for row in body] == list(NAMES)
    assert body[0] == [
        "val", "deterministic", "1.5000", "4.482", "0.1500", "0.0150", "0.3750",
        "-0.0400 [-0.2900, +0.2100]",
    ]  # fmt: skip
    assert body[-1] == ["val", "bma", "1.4600", "4.306", "0.1460", "0.0146", "0.3650"]


def test_the_best_predictor_of_each_split_is_bold() -> None:
    worse = report()
    worse["predictors"]["posterior_mean"] = headline(0.5)
    table = table_of("predictors", {"run": evaluation(val=report(), train=worse)})
    text = io.StringIO()
    Console(file=text, width=200, force_terminal=True, color_system="standard").print(table)
    bold = [line for line in text.getvalue().splitlines() if "\x1b[1m" in line][1:]  # the header
    assert len(bold) == 2
    assert "val" in bold[0]
    assert "bma" in bold[0]
    assert "train" in bold[1]
    assert "posterior_mean" in bold[1]


def test_several_runs_stand_side_by_side_under_their_names() -> None:
    both = {"one": evaluation(val=report()), "other": evaluation(val=report(1.0), train=report())}
    for name, count in (("predictors", 5), ("draws", 3), ("tokens", 2)):
        header, *body = rows(table_of(name, both))
        assert header[:2] == ["run", "split"]
        expected = [["one", "val"]] * count + [["other", "val"]] * count
        assert [row[:2] for row in body] == expected + [["other", "train"]] * count
        assert rows(table_of(name, {"one": both["one"]}))[1:] == [row[1:] for row in body[:count]]
    assert rows(table_of("predictors", both))[6][3:5] == ["2.5000", "12.182"]


def test_how_much_each_draw_buys() -> None:
    header, *body = rows(table_of("draws", {"run": evaluation(val=report())}))
    assert header == ["split", "draws", "NLL", "perplexity", "accuracy", "ECE", "Brier"]
    assert [row[:4] for row in body] == [
        ["val", "1", "1.6000", "4.953"],
        ["val", "2", "1.5000", "4.482"],
        ["val", "3", "1.4000", "4.055"],
    ]


def test_errors_are_read_off_the_curve_at_its_coverages() -> None:
    _, *body = rows(table_of("tokens", {"run": evaluation(val=report())}))
    assert body[0] == [
        "val", "deterministic entropy", "0.2500", "0.4000", "0.5000", "0.3125 [0.0625, 0.5625]",
        "+0.0000 [-0.2500, +0.2500]",
    ]  # fmt: skip
    assert body[1][-2:] == ["0.2875 [0.0375, 0.5375]", "-"]


def classified(accuracy: dict[str, float] | None) -> dict[str, Any]:
    """A split whose labels are classes."""
    content = report() | {"macro_f1": {"bma": 0.5}}
    gain = None if accuracy is None else interval(0.125)
    added = {"accuracy_at_80": accuracy, "accuracy_at_80_minus_max_probability": gain}
    ranked = {name: each | added for name, each in content["selective"].items()}
    return content | {"selective": ranked}


def test_accuracy_of_the_surest_rows_has_a_table_where_there_are_classes() -> None:
    text, classes = evaluation(val=report()), evaluation(val=classified(interval(0.75)))
    assert table_of("classes", {"run": text}) is None
    assert table_of("tokens", {"run": classes}) is None
    header, *body = rows(table_of("classes", {"run": classes}))
    assert header[1:4] == ["rows ranked by", "accuracy at 80 % coverage", "at 100 %"]
    assert body[0] == [
        "val", "deterministic entropy", "0.7500 [0.5000, 1.0000]", "0.5000",
        "0.3125 [0.0625, 0.5625]", "+0.1250 [-0.1250, +0.3750]",
    ]  # fmt: skip
    assert [row[1] for row in body] == ["deterministic entropy", "bma epistemic"]
    both = {"text": text, "classes": classes}
    assert [row[0] for row in rows(table_of("tokens", both))[1:]] == ["text", "text"]
    assert [row[0] for row in rows(table_of("classes", both))[1:]] == ["classes", "classes"]


def test_a_single_row_has_an_accuracy_without_an_interval() -> None:
    _, *body = rows(table_of("classes", {"run": evaluation(val=classified(None))}))
    assert body[0][2:4] == ["0.6000", "0.5000"]


def test_out_of_distribution_data_have_a_table_where_there_are_some() -> None:
    assert table_of("ood", {"run": evaluation(val=report())}) is None
    with_ood = {"one": evaluation(val=report()), "two": evaluation(val=report() | {"ood": OOD})}
    _, *body = rows(table_of("ood", with_ood))
    assert body == [
        ["two", "val", "bma epistemic", "0.8750 [0.8125, 0.9375]", "0.125", "3.500"],
        ["two", "val", "deterministic entropy", "0.7500 [0.6875, 0.8125]", "0.250", "-",
         "+0.1250 [-0.1250, +0.3750]"],
    ]  # fmt: skip
    alone = rows(table_of("ood", {"two": with_ood["two"]}))
    assert alone[0][0] == "split"
    assert alone[1:] == [row[1:] for row in body]


def test_continuations_have_a_table_where_there_are_some() -> None:
    assert table_of("texts", {"run": evaluation(val=report())}) is None
    with_texts = {
        "one": evaluation(val=report() | texts()),
        "two": evaluation(val=report(), train=report() | texts()),
    }
    header, *body = rows(table_of("texts", with_texts))
    assert header[:3] == ["run", "split", "continued by"]
    assert [row[:3] for row in body] == [
        [run, split, name]
        for run, split in (("one", "val"), ("two", "train"))
        for name in ("deterministic", "bma", "difference")
    ]
    assert body[0][3:] == [
        "20.5 [20.2, 20.8]", "-", "0.500", "0.375", "-", "0.50 / -", "33.2",
    ]  # fmt: skip
    assert body[1][3:5] == ["22.5 [22.2, 22.8]", "8.2"]
    assert body[2][3:] == ["2.0 [1.8, 2.2]", "0.125 [-0.125, 0.375]"]
    alone = rows(table_of("texts", {"one": with_texts["one"]}))
    assert alone[0][0] == "split"
    assert alone[1:] == [row[1:] for row in body[:3]]


# -- labels that are real numbers ----------------------------------------------------------------


def real_headline(nll: float) -> dict[str, Any]:
    return {
        "nll": nll, "rmse": nll / 2, "spearman": nll / 10, "pearson": None, "ece": nll / 100,
        "no_correlation": None,
    }  # fmt: skip


def real_report() -> dict[str, Any]:
    nll = {name: 1.5 - 0.01 * i for i, name in enumerate(NAMES)}
    levels = [{"level": c, "coverage": c - 0.125, "width": 4 * c} for c in (0.5, 0.95)]
    return {
        "num_tokens": 1500,
        "num_draws": 20,
        "predictors": {name: real_headline(value) for name, value in nll.items()},
        "bma_minus": {name: interval(nll["bma"] - nll[name]) for name in NAMES[:-1]},
        "bma_minus_spearman": {"deterministic": interval(0.125)},
        "variance": {"total": 0.75, "aleatoric": 0.625, "epistemic": 0.125},
        "by_num_draws": [{"draws": k, **real_headline(1.7 - 0.1 * k)} for k in (1, 2)],
        "coverage": {"deterministic": levels, "bma": levels},
        "selective": {
            "bma_epistemic": {"rmse": [0.25, 0.5, 0.75], "spearman": 0.375, "pearson": None},
        },
    }  # fmt: skip


def test_predictors_of_real_labels_have_numbers_of_their_own() -> None:
    header, *body = rows(table_of("predictors", {"run": evaluation(val=real_report())}))
    assert header == [
        "split", "predictor", "NLL", "RMSE", "Spearman", "Pearson", "ECE",
        "bma's NLL minus it, 95 %", "bma's Spearman − it",
    ]  # fmt: skip
    assert body[0] == [
        "val", "deterministic", "1.5000", "0.7500", "0.1500", "-", "0.0150",
        "-0.0400 [-0.2900, +0.2100]", "[-0.125, +0.375]",
    ]  # fmt: skip
    assert body[-1] == ["val", "bma", "1.4600", "0.7300", "0.1460", "-", "0.0146"]
    header, *body = rows(table_of("draws", {"run": evaluation(val=real_report())}))
    assert header[1:] == ["draws", "NLL", "RMSE", "Spearman", "Pearson", "ECE"]
    assert body[1] == ["val", "2", "1.5000", "0.7500", "0.1500", "-", "0.0150"]


def test_intervals_and_errors_of_real_labels() -> None:
    both = {"one": evaluation(val=real_report()), "two": evaluation(train=real_report())}
    header, *body = rows(table_of("coverage", both))
    assert header == ["run", "split", "predictor", "in 50 %", "width", "in 95 %", "width"]
    assert body[0] == ["one", "val", "deterministic", "37.5 %", "2.000", "82.5 %", "3.800"]
    assert body[-1][:3] == ["two", "train", "bma"]
    assert table_of("coverage", {"run": evaluation(val=report())}) is None
    header, *body = rows(table_of("numbers", {"run": evaluation(val=real_report())}))
    assert header[1:5] == ["rows ranked by", "RMSE at 50 %", "at 80 %", "at 100 %"]
    assert body == [["val", "bma epistemic", "0.2500", "0.5000", "0.7500", "0.3750", "-"]]
    assert "1,500 labels, 20 draws, variance 0.75 = 0.625 aleatoric + 0.125 epistemic" in (
        predictor_caption(evaluation(val=real_report()))
    )


@pytest.mark.parametrize("from_file", [False, True])
def test_what_is_infinite_or_no_number_has_a_place_too(from_file: bool) -> None:
    """In a file these are null."""
    broken = report()
    broken["predictors"]["bma"] = headline(600.0) | {"nll": 800.0, "perplexity": math.inf}
    broken["predictors"]["mean_of_draws"] = dict.fromkeys(headline(1.0), math.nan)
    broken["bma_minus"]["deterministic"] |= {"low": math.nan, "high": math.nan}
    broken["bma_minus"]["mean_of_draws"] = dict.fromkeys(interval(0), math.nan)
    broken["by_num_draws"][0] |= {"nll": math.inf, "perplexity": math.inf}
    content = evaluation(val=finite(broken) if from_file else broken)
    body = {row[1]: row for row in rows(table_of("predictors", {"run": content}))[1:]}
    assert body["deterministic"][-1] == "-0.0400"
    assert body["bma"][2:4] == ["800.0000", "-" if from_file else "inf"]
    assert body["mean_of_draws"][2:4] == ["-", "-"] if from_file else ["nan", "nan"]
    assert len(rows(table_of("draws", {"run": content}))) == 4


def test_the_caption_says_what_was_scored() -> None:
    caption = predictor_caption(evaluation(val=report(), train=report()))
    assert caption.startswith(
        "val: 1,234,567 target tokens, 20 draws, entropy 1.7500 = 1.5000 aleatoric + 0.2500"
    )
    assert "; train: " in caption
    labelled = report() | {"macro_f1": {"bma": 0.5}}
    assert predictor_caption(evaluation(val=labelled)).startswith("val: 1,234,567 labels, 20")


def test_a_table_in_a_file_has_no_colours_and_no_trailing_spaces() -> None:
    text = plain(table_of("predictors", {"run": evaluation(val=report())}))
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "..." not in text
    assert "…" not in text


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_a_narrow_terminal_gets_whole_columns_and_the_names_of_the_others(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        tables,
        "Console",
        lambda width=columns: Console(width=width, force_terminal=True, color_system=None),
    )
    table = Table("predictor", *[f"number {i}" for i in range(8)])
    for column in table.columns:
        column.no_wrap = True
    table.add_row("temperature_scaled", *["-0.1008 [-0.1062]"] * 8)
    tables.show(table)
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert "temperature_scaled" in shown
    for i in range(8):
        in_head = f"number {i}" in shown.split("left out")[0]
        assert in_head != (f"'number {i}'" in shown)
    assert ("left out" in shown) == (columns < 180)
    assert all(len(line) <= columns for line in shown.splitlines() if "left out" not in line)


def test_no_table_is_wider_than_a_terminal_of_120_columns() -> None:
    long = "deterministic_max_probability"
    content = classified(interval(0.75)) | texts() | {"ood": OOD}
    content["macro_f1"] = dict.fromkeys(NAMES, 0.5)
    for part in (content["selective"], content["ood"]["scores"]):
        part[long] = next(iter(part.values()))
    content["ood"]["epistemic_minus"][long] = interval(-0.125)
    text = report()
    text["selective"][long] = text["selective"]["deterministic_entropy"]
    levels = [{"level": c, "coverage": c, "width": 12 * c} for c in (0.5, 0.8, 0.9, 0.95)]
    real = real_report() | {"coverage": dict.fromkeys(NAMES, levels)}
    for name in TABLES:
        for one in (content, text, real):
            table = table_of(name, {"run": evaluation(train=one)})
            lines = [] if table is None else plain(table).splitlines()
            assert max(map(len, lines), default=0) <= 120, (name, max(lines, key=len))


def test_a_table_as_text_is_the_same_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of("predictors", {"run": evaluation(val=report())})
    outside = plain(table)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert Console().is_jupyter
    assert plain(table) == outside
    assert "bma" in outside
