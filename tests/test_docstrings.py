"""Every public name has a docstring with an example, and the examples do what they show."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import bayesgen
from bayesgen.cli.main import main
from tests.workspace import furnished


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples name: model.pt, corpus.txt, and runs/x, a finished run on these."""
    path = tmp_path_factory.mktemp("docstrings")
    furnished(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        argv = ["train", "--model", "model.pt", "--corpus", "corpus.txt", "--out", "runs/x",
                "--warmup-steps", "4", "--sampling-steps", "8", "--thinning", "4"]  # fmt: skip
        assert main(argv) == 0
    return path


@pytest.mark.parametrize("name", bayesgen.__all__)
def test_the_example_of_a_public_name(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    value = getattr(bayesgen, name)
    assert value.__doc__, f"{name} has no docstring"
    found = doctest.DocTestFinder(recurse=False).find(value, name, globs={})
    examples = [example for test in found for example in test.examples]
    assert examples, f"the docstring of {name} has no example"
    assert not any(doctest.SKIP in example.options for example in examples)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in found:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
