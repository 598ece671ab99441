"""A posterior as a model of transformers.

Importing this package registers its classes with transformers' Auto classes, so that these load
them, as transformers' documentation asks of models that it does not ship.
"""

from transformers import AutoConfig

from bayesgen.export.pretrained import BayesianCausalLM, BayesianForSequenceClassification

__all__ = ["BayesianCausalLM", "BayesianForSequenceClassification"]

for model in (BayesianCausalLM, BayesianForSequenceClassification):
    AutoConfig.register(model.config_class.model_type, model.config_class)
    model.auto_class.register(model.config_class, model)
