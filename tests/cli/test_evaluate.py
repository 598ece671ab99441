"""Finished runs, scored again: what is printed and left behind, and that the numbers are right."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from safetensors.torch import load_file

from bayesgen.evaluation.cache import TokenCache
from bayesgen.predictive import Forward
from bayesgen.workflow import scoring
from tests.cli.evaluating import HOT, cells, evaluate, evaluation, files, forget, refused, scores
from tests.independent import states_of, target_log_likelihoods
from tests.workspace import BLOCK, Workspace

PREDICTORS = ("deterministic", "temperature_scaled", "posterior_mean", "mean_of_draws", "bma")


# -- what it does --------------------------------------------------------------------------------


def test_two_runs_stand_side_by_side(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sgld", "--out", "few", *HOT) == 0
    assert workspace.train("baoa", "--out", "many", "--thinning", "2", *HOT[:4]) == 0
    before = {name: files(workspace.path / name) for name in ("few", "many")}
    capsys.readouterr()
    assert evaluate("few", "many") == 0
    rows = cells(capsys.readouterr().out)
    for name, draws in (("few", 2), ("many", 4)):
        run = workspace.path / name
        content = evaluation(run)
        report = content["splits"]["val"]
        assert report["num_draws"] == draws
        assert report["num_tokens"] == 86
        assert [row["draws"] for row in report["by_num_draws"]] == [1, 2, 3, 4][:draws]
        assert content["corpus"]["name"] == "corpus.txt"
        # what was there is untouched; what is new is whole
        after = files(run)
        assert {k: after[k] for k in before[name]} == before[name]
        new = sorted(after.keys() - before[name].keys())
        (stem,) = {Path(n).stem for n in new if n.startswith("bayesian_eval_")}
        (key,) = {Path(n).name.split(".")[0] for n in new if n.startswith("token_scores/")}
        assert new == [
            f"{stem}.json", f"{stem}.safetensors",
            f"token_scores/{key}.npy", f"token_scores/{key}.safetensors",
            f"token_scores/{key}.selective.json",
        ]  # fmt: skip
        assert np.load(run / f"token_scores/{key}.npy").shape == (draws, 86)
        kept = load_file(run / f"{stem}.safetensors")
        for predictor, row in report["predictors"].items():
            total = float(kept[f"val.{predictor}"].sum() / kept["val.tokens"].sum())
            assert total == pytest.approx(row["nll"], abs=1e-9)
        # the tables hold the numbers of the file
        for predictor in PREDICTORS:
            (shown,) = (r for r in rows if r[:3] == [name, "val", predictor])
            expected = report["predictors"][predictor]
            assert shown[3:5] == [f"{expected['nll']:.4f}", f"{expected['perplexity']:.3f}"]
        assert [r[2] for r in rows if r[:2] == [name, "val"] and r[2].isdigit()] == [
            str(k) for k in range(1, draws + 1)
        ]
        (shown,) = (r for r in rows if r[:3] == [name, "val", "bma epistemic"])
        assert shown[5] == f"{report['selective']['bma_epistemic']['curve']['risks'][-1]:.4f}"
        assert any(
            f"{name}: corpus.txt, val: 86 target tokens, {draws} draws" in " ".join(r) for r in rows
        )
    assert not any("AUROC, 95 %" in row or "BLEU, words" in row for row in rows)


def test_runs_of_the_same_name_are_told_apart_by_their_folders(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sgld", "--out", "a/run", *HOT) == 0
    shutil.copytree(workspace.path / "a", workspace.path / "b")
    assert evaluate("a/run", "b/run") == 0
    rows = cells(capsys.readouterr().out)
    numbers = [[r[2:] for r in rows if r[:2] == [name, "val"]] for name in ("a/run", "b/run")]
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) == 5 + 2 + 5


def test_a_run_has_its_name_also_from_within(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, corpus = (str(workspace.path / name) for name in ("model.pt", "corpus.txt"))
    assert workspace.train("sgld", "--model", model, "--corpus", corpus) == 0
    monkeypatch.chdir(workspace.path / "run")
    assert evaluate(".") == 0
    assert "\nrun: corpus.txt, val: 86 target tokens, 2 draws" in capsys.readouterr().out


def test_it_says_what_training_said(workspace: Workspace) -> None:
    flags = ("--eval-splits", "val", "train", "--ood-corpus", "far.txt",
             "--eval-num-text-samples", "4")  # fmt: skip
    (workspace.path / "far.txt").write_text("xyz! dog; cat? (quick) " * 8)
    assert workspace.train("sgld", "--eval", *flags, *HOT) == 0
    run = workspace.path / "run"
    trained, (path,) = evaluation(run), run.glob("bayesian_eval_*.safetensors")
    window_nll = load_file(path)
    forget(run)
    assert evaluate("run", *flags) == 0
    again, (path,) = evaluation(run), run.glob("bayesian_eval_*.safetensors")
    for split in ("val", "train"):
        assert scores(again, split) == pytest.approx(scores(trained, split), abs=1e-6)
        for key in ("num_tokens", "num_draws", "bleu", "rouge", "diversity", "decoding"):
            assert again["splits"][split][key] == trained["splits"][split][key]
        ours, theirs = (c["splits"][split]["ood"]["scores"] for c in (again, trained))
        for name, found in ours.items():
            assert found["auroc"] == pytest.approx(theirs[name]["auroc"], abs=1e-6)
    assert again["ood_corpus"] == trained["ood_corpus"]
    for name, values in load_file(path).items():
        torch.testing.assert_close(values, window_nll[name], rtol=0, atol=1e-5)


def test_a_text_is_scored_whole_with_the_draws_on_disk(workspace: Workspace) -> None:
    assert workspace.train("sgld", *HOT) == 0
    text = "the lazy cat jumps over the quick mat. " * 3 + "and the dog"
    (workspace.path / "mine.txt").write_text(text)
    assert evaluate("run", "--text", "mine.txt") == 0
    content = evaluation(workspace.path / "run")
    assert set(content["splits"]) == {"val", "text"}
    assert content["text"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    checkpoint = torch.load(workspace.path / "model.pt", weights_only=True)
    characters = checkpoint["tokenizer"]["characters"]
    tokens = np.array([characters.index(c) for c in text])
    states = states_of(workspace.path / "run", workspace.json("run/run.json"), checkpoint)
    each = torch.stack([target_log_likelihoods(state, tokens) for state in states])
    report = content["splits"]["text"]
    assert report["num_tokens"] == len(text) - 1
    nll = {name: row["nll"] for name, row in report["predictors"].items()}
    mixture = each.logsumexp(0) - math.log(len(each))
    assert nll["bma"] == pytest.approx(-float(mixture.mean()), abs=1e-5)
    assert nll["mean_of_draws"] == pytest.approx(-float(each.mean()), abs=1e-5)
    start = target_log_likelihoods(checkpoint["model"], tokens)
    assert nll["deterministic"] == pytest.approx(-float(start.mean()), abs=1e-5)
    assert nll["bma"] < nll["mean_of_draws"] - 1e-3


def test_splits_windows_and_draws_are_those_that_were_asked_for(workspace: Workspace) -> None:
    assert workspace.train("sgld", "--train-samples", "5", *HOT) == 0
    flags = ("--eval-splits", "val", "train", "--eval-num-posterior-samples", "1")
    assert evaluate("run", *flags, "--eval-max-samples", "3") == 0
    splits = evaluation(workspace.path / "run")["splits"]
    assert splits["train"]["num_tokens"] == splits["train"]["num_windows"] * BLOCK == 3 * BLOCK
    assert splits["val"]["num_windows"] == 3
    for report in splits.values():
        assert report["num_draws"] == 1
        assert abs(report["entropy"]["epistemic"]) < 1e-6
        nll = {name: row["nll"] for name, row in report["predictors"].items()}
        assert nll["bma"] == pytest.approx(nll["mean_of_draws"]) == nll["posterior_mean"]
    forget(workspace.path / "run")
    assert evaluate("run", "--eval-splits", "train") == 0  # of the five that were fitted
    assert evaluation(workspace.path / "run")["splits"]["train"]["num_tokens"] == 5 * BLOCK


def test_a_second_look_runs_no_network(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.path / "far.txt").write_text("xyz dog " * 9)
    assert workspace.train("sgld", *HOT) == 0
    flags = ("run", "--ood-corpus", "far.txt")
    capsys.readouterr()
    assert evaluate(*flags) == 0
    run = workspace.path / "run"
    first, shown, kept = evaluation(run), capsys.readouterr().out, files(run / "token_scores")
    for path in run.glob("bayesian_eval_*"):
        path.unlink()

    def refuse(*_: Any) -> None:
        raise AssertionError("a network was run")

    monkeypatch.setattr(Forward, "log_probs", refuse)
    assert evaluate(*flags) == 0
    assert evaluation(run) == first
    assert capsys.readouterr().out == shown
    assert files(run / "token_scores") == kept
    with pytest.raises(AssertionError, match="a network was run"):
        evaluate(*flags, "--eval-num-posterior-samples", "1")


def test_characters_that_the_model_does_not_know_are_left_out_of_a_far_text(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    far = "Ω the cat! ZZZ sat on; a dog\n" * 5
    known = far.translate(dict.fromkeys(map(ord, "Ω!Z;\n")))
    (workspace.path / "far.txt").write_text(far)
    (workspace.path / "known.txt").write_text(known)
    assert workspace.train("sgld", *HOT) == 0
    run, found = workspace.path / "run", []
    for name, text in (("far.txt", far), ("known.txt", known)):
        forget(run)
        capsys.readouterr()
        assert evaluate("run", "--ood-corpus", name) == 0
        content = evaluation(run)
        assert content["ood_corpus"] == {
            "name": name,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "characters_kept": len(known) / len(text),
        }
        ood = content["splits"]["val"]["ood"]
        found.append(ood)
        assert ood["scores"]["bma_total"]["num_inside"] == 11
        assert ood["scores"]["bma_total"]["num_outside"] == math.ceil((len(known) - 1) / BLOCK)
        rows = cells(capsys.readouterr().out)
        (shown,) = (r for r in rows if r[1:2] == ["bma epistemic"] and r[2].endswith("]"))
        assert shown[2].startswith(f"{ood['scores']['bma_epistemic']['auroc']['estimate']:.4f} ")
    assert found[0] == found[1]


def test_a_text_is_not_told_from_the_split_that_it_is(workspace: Workspace) -> None:
    text = (workspace.path / "corpus.txt").read_text()
    (workspace.path / "val.txt").write_text(text[int(len(text) * 0.9) :])
    assert workspace.train("sgld", *HOT) == 0
    assert evaluate("run", "--text", "val.txt", "--ood-corpus", "val.txt") == 0
    content = evaluation(workspace.path / "run")
    assert scores(content, "text") == scores(content, "val")
    for found in content["splits"]["val"]["ood"]["scores"].values():
        assert found["auroc"]["estimate"] == 0.5
        assert found["ratio"]["estimate"] == 1


def test_bleu_and_rouge_are_those_of_the_texts_that_were_kept(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = ("--epochs", "16", "--train-samples", "97", "--learning-rate", "0.01")
    assert workspace.train("map", *longer) == 0  # so long that something matches
    flags = ("--eval-splits", "val", "train", "--eval-num-text-samples", "10")
    assert evaluate("run", *flags) == 0
    (kept,) = (workspace.path / "run").glob("bayesian_eval_*_texts.json")
    content = evaluation(workspace.path / "run")
    corpus = (workspace.path / "corpus.txt").read_text()
    cut = int(len(corpus) * 0.9)
    scorer = RougeScorer(["rouge1", "rougeL"], tokenizer=DefaultTokenizer(use_stemmer=False))
    bleus, rouges = [], []
    for split, samples in json.loads(kept.read_text()).items():
        report = content["splits"][split]
        assert report["num_texts"] == len(samples["prompts"]) == 10
        own = corpus[cut:] if split == "val" else corpus[:cut]
        whole = list(map("".join, zip(samples["prompts"], samples["references"], strict=True)))
        assert all(piece in own and len(piece) == BLOCK + 1 for piece in whole)
        references = samples["references"]
        for name, texts in samples["continuations"].items():
            assert [len(text) for text in texts] == [len(text) for text in references]
            for tokenizer, found in report["bleu"][name].items():
                metric = sacrebleu.BLEU(tokenize=tokenizer, force=True)
                score = metric.corpus_score(texts, [references]).score
                got = found["score"]["estimate"]
                assert got == pytest.approx(score) if got is not None else score == 0
                bleus.append(score)
            for kind in ("rouge1", "rougeL"):
                pairs = zip(references, texts, strict=True)
                each = [
                    scorer.score(r, t)[kind].fmeasure for r, t in pairs if re.search("[a-z0-9]", r)
                ]
                found = report["rouge"][name]["f_measure"][kind]
                assert found["estimate"] == pytest.approx(np.mean(each))
                rouges.append(found["estimate"])
                assert found["num_texts"] == len(each)
    assert max(bleus) > 5
    assert max(rouges) > 0.1
    rows = cells(capsys.readouterr().out)
    bleu = content["splits"]["train"]["bleu"]["bma"]["char"]["score"]
    shown = f"{bleu['estimate']:.1f} [{bleu['low']:.1f}, {bleu['high']:.1f}]"
    assert any(row[:3] == ["train", "bma", shown] for row in rows)


def test_a_model_that_has_moved_is_named(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sgld", *HOT) == 0
    assert evaluate("run") == 0
    run, here = workspace.path / "run", workspace.path / "model.pt"
    expected = scores(evaluation(run))
    forget(run)
    there = workspace.path / "elsewhere" / "best.pt"
    there.parent.mkdir()
    here.rename(there)
    capsys.readouterr()
    assert "is not at 'model.pt' any more" in refused(evaluate("run"), capsys)
    assert evaluate("run", "--model", str(there)) == 0
    assert scores(evaluation(run)) == expected


def test_a_corpus_that_has_moved_is_named(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sgld", *HOT) == 0
    assert evaluate("run") == 0
    run = workspace.path / "run"
    expected = scores(evaluation(run))
    forget(run)
    (workspace.path / "corpus.txt").rename(workspace.path / "moved.txt")
    capsys.readouterr()
    assert "--corpus corpus.txt: neither a path nor" in refused(evaluate("run"), capsys)
    assert evaluate("run", "--corpus", "moved.txt") == 0
    assert scores(evaluation(run)) == expected


def test_two_looks_within_a_second_are_both_kept(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(scoring, "datetime", Stopped)
    assert workspace.train("sgld", *HOT) == 0
    for count in ("1", "2"):
        assert evaluate("run", "--eval-num-posterior-samples", count) == 0
    found = {
        path.name: json.loads(path.read_text())["splits"]["val"]["num_draws"]
        for path in (workspace.path / "run").glob("bayesian_eval_*.json")
    }
    name = "bayesian_eval_20260102-030405"
    assert found == {f"{name}.json": 1, f"{name}_2.json": 2}
    for stem in (name, f"{name}_2"):
        assert (workspace.path / "run" / f"{stem}.safetensors").is_file()


def test_a_run_is_scored_by_one_process_at_a_time(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sgld") == 0
    capsys.readouterr()
    with TokenCache(workspace.path / "run" / "token_scores").locked():
        assert "'run' is being scored by another process" in refused(evaluate("run"), capsys)
    assert evaluate("run") == 0


def test_bf16_is_used_where_the_processor_has_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workspace.train("sgld", *HOT) == 0
    run, nll = workspace.path / "run", {}
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for there, used in ((False, "fp32"), (True, "bf16")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda there=there: there)
        assert evaluate("run", "--eval-precision", "bf16", "--device", "cpu") == 0
        assert evaluation(run)["precision"] == used
        nll[used] = evaluation(run)["splits"]["val"]["predictors"]["bma"]["nll"]
        for path in run.glob("bayesian_eval_*"):
            path.unlink()
    assert 0 < abs(nll["fp32"] - nll["bf16"]) < 0.05
    assert len(list((run / "token_scores").glob("*.npy"))) == 2


def test_a_single_window_is_scored_without_intervals(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.train("sgld", "--eval", "--eval-max-samples", "1", *HOT) == 0
    assert evaluate("run", "--eval-max-samples", "1", "--eval-num-text-samples", "1") == 0
    shown = capsys.readouterr().out
    assert "nan" not in shown
    assert "bma total" in shown
