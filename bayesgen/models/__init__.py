"""Models as functions of one parameter vector. `load_model` is the door."""

from __future__ import annotations

from pathlib import Path

from bayesgen.models.functional import FunctionalModel, ModelInfo
from bayesgen.parameters import Subset

__all__ = ["FunctionalModel", "ModelInfo", "load_model"]


def load_model(
    name: str | Path,
    *,
    parameters: Subset = "all",
    meta_path: str | Path | None = None,
    device: str = "cpu",
) -> FunctionalModel:
    """Load a nanoGPT checkpoint (a `.pt` file) or a Hugging Face causal LM (a folder or name).

    Args:
        name: path of a checkpoint, folder of a Hugging Face model, or a hub name.
        parameters: which parameters are Bayesian (see `bayesgen.parameters.select`).
        meta_path: nanoGPT's `meta.pkl` where it does not lie beside the checkpoint.

    Raises:
        UserError: nothing loadable is there; the message names the way out.
    """
    from bayesgen.models import nanogpt

    path = Path(name)
    if nanogpt.is_checkpoint(path) or path.is_file():
        checkpoint = nanogpt.read_checkpoint(path, Path(meta_path) if meta_path else None)
        config = checkpoint.module.config
        model = FunctionalModel(
            checkpoint.module,
            parameters=parameters,
            tokenizer=checkpoint.tokenizer,
            block_size=config.block_size,
            info=ModelInfo(str(name), "nanogpt", vars(config), checkpoint.sha256),
            reader=nanogpt.GPTReader(config),
        )
    else:
        from bayesgen.models.huggingface import load_causal_lm

        model = load_causal_lm(str(name), parameters)
    return model.to(device)
