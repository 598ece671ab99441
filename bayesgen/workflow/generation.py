"""Text from a run or a checkpoint, as `bayesgen generate` writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bayesgen.config.jobs import DecodingSettings, GenerateSettings
from bayesgen.errors import UserError
from bayesgen.posterior import TEXT_DRAWS, Posterior, open_posterior
from bayesgen.predictive import GeneratedText
from bayesgen.workflow.inputs import some_draws


@dataclass(frozen=True)
class Generation:
    """Texts that are being written."""

    source: str  # the path that was named
    posterior: Posterior
    decoding: dict[str, Any]  # the settings of `DecodingSettings`
    stream: Iterator[list[GeneratedText]]  # every text after each token

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
    What the model cannot do is a ValueError, also from there."""
    prompts, source = _prompts(settings)
    posterior = open_posterior(name, model=settings.model, device=settings.device)
    posterior = some_draws(posterior, settings.num_draws, TEXT_DRAWS)
    if posterior.model.tokenizer is not None:
        try:
            for prompt in prompts:
                posterior.model.tokenizer.encode(prompt)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
    decoding = {f.name: getattr(settings, f.name) for f in fields(DecodingSettings)}
    each = [prompt for prompt in prompts for _ in range(settings.num_texts)]
    stream = posterior.predictive.stream(each, settings.strategy, **decoding)
    return Generation(name, posterior, decoding, stream)


def _prompts(settings: GenerateSettings) -> tuple[Sequence[str], str]:
    """What is continued, and where it came from."""
    if settings.prompt is not None and settings.prompt_file is not None:
        raise UserError("`prompt` and `prompt_file`: give one of them")
    prompts: Sequence[str] = settings.prompt or ("\n",)
    source = "`prompt`" if settings.prompt else "`prompt` (the default, a line break; give one)"
    if settings.prompt_file is not None:
        source = "`prompt_file`"
        try:
            prompts = [Path(settings.prompt_file).read_text("utf-8")]
        except UnicodeDecodeError as error:
            raise UserError(f"{source}: '{settings.prompt_file}' is not UTF-8 text") from error
    if not all(prompts):
        raise UserError(f"{source}: the prompt is empty; give at least one character")
    return prompts, source
