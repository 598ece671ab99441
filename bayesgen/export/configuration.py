"""What a saved posterior is made of, as a configuration of transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig


class BayesianConfig(PreTrainedConfig):  # type: ignore[misc]
    """What a saved posterior is made of, as plain data.

    Args:
        text_config: the network's own configuration, or the dictionary of it.
        parameters: layout of a draw (`bayesgen.parameters.Layout.to_json`).
        num_draws: S.
        adapters: PEFT's configuration of the adapters in the network; empty where it has none.
        run: where the draws come from (`bayesgen.export.card.facts`).
    """

    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}

    def __init__(
        self,
        text_config: Any = None,
        parameters: Iterable[Mapping[str, Any]] = (),
        num_draws: int = 1,
        adapters: Mapping[str, Any] | None = None,
        run: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, Mapping):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config
        self.parameters = list(parameters)
        self.num_draws = num_draws
        self.adapters = dict(adapters or {})
        self.run = dict(run or {})
        super().__init__(**kwargs)


class BayesianCausalLMConfig(BayesianConfig):
    model_type = "bayesian-causal-lm"

    def __init__(self, **kwargs: Any) -> None:  # transformers makes one where a class has none
        super().__init__(**kwargs)


class BayesianForSequenceClassificationConfig(BayesianConfig):
    model_type = "bayesian-sequence-classification"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
