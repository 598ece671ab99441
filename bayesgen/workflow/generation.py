"""Text from a run or a checkpoint, as `bayesgen generate` writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bayesgen.config import DecodingSettings, GenerateSettings
from bayesgen.errors import UserError
from bayesgen.models import FunctionalModel
from bayesgen.posterior import TEXT_DRAWS, Posterior, open_posterior
from bayesgen.predictive import GeneratedText
from bayesgen.workflow.inputs import some_draws


@dataclass(frozen=True)
class Generation:
    """Texts that are being written.

    Attributes:
        source: the path that was named.
        posterior: the draws that are used.
        decoding: the settings of `DecodingSettings`.
        stream: yields every text after each token.
    """

    source: str
    posterior: Posterior
    decoding: dict[str, Any]
    stream: Iterator[list[GeneratedText]]

    def place(self, text: GeneratedText) -> int | None:
        """The draw that `text` follows, by its place in the run; None for the mixture."""
        return None if text.draw is None else self.posterior.places[text.draw]

    def document(self) -> dict[str, object]:
        """Write all texts, and return them with the numbers of every token as plain data."""
        *_, texts = self.stream
        return {
            "source": self.source,
            "num_draws": len(self.posterior),
            "settings": self.decoding,
            "texts": [text.to_json() | {"draw": self.place(text)} for text in texts],
        }


def generate(name: str, settings: GenerateSettings) -> Generation:
    """Begin to write texts from the run or checkpoint `name`; the tokens come from `stream`.

    Raises:
        UserError: a prompt cannot be read, or there are fewer draws than are asked for.
        ValueError: the model generates no text, or not in this way; also from `stream`.
    """
    prompts = _prompts(settings)
    posterior = open_posterior(name, model=settings.model, device=settings.device)
    posterior = some_draws(posterior, settings.num_draws, TEXT_DRAWS)
    decoding = {f.name: getattr(settings, f.name) for f in fields(DecodingSettings)}
    _check_prompts(posterior.model, prompts, settings)
    stream = posterior.predictive.stream(prompts, settings.strategy, **decoding)
    return Generation(name, posterior, decoding, stream)


def _prompts(settings: GenerateSettings) -> list[str]:
    """Every prompt as often as it is continued."""
    if settings.prompt is not None and settings.prompt_file is not None:
        raise UserError("`prompt` and `prompt_file`: give one of them")
    if settings.prompt_file is not None:
        try:
            prompts: Sequence[str] = [Path(settings.prompt_file).read_text("utf-8")]
        except UnicodeDecodeError as error:
            raise UserError(f"`prompt_file`: '{settings.prompt_file}' is not UTF-8 text") from error
    else:
        prompts = settings.prompt or ("\n",)
    if not all(prompts):
        raise UserError(f"{_setting(settings)}: the prompt is empty; give at least one character")
    return [prompt for prompt in prompts for _ in range(settings.num_texts)]


def _setting(settings: GenerateSettings) -> str:
    return "`prompt`" if settings.prompt_file is None else "`prompt_file`"


def _check_prompts(model: FunctionalModel, prompts: list[str], settings: GenerateSettings) -> None:
    """Refuse prompts that the model cannot read, naming where they came from."""
    given = settings.prompt is not None or settings.prompt_file is not None
    for prompt in prompts if model.tokenizer is not None else []:
        try:
            assert model.tokenizer is not None
            model.tokenizer.encode(prompt)
        except UserError as error:
            why = "" if given else " (the default, a line break; give one)"
            raise UserError(f"{_setting(settings)}{why}: {error}") from error
