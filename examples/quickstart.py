"""A posterior over the weights of a small language model, its scores, and a text from it.

    bayesgen baseline
    python examples/quickstart.py

The first trains the network, once, in a minute and a half; the second takes about four minutes on
two CPU cores.
"""

import bayesgen

model = bayesgen.load_model("checkpoints/baseline/models/baseline_model_2k.pt")
posterior = bayesgen.sample(model, "python-docs", sampler="sghmc", out="runs/first")
print(bayesgen.evaluate(posterior, "python-docs", splits=["val"]))
print(posterior.predict(["The import statement "]).labels)
print(posterior.generate("The import statement ", max_new_tokens=200))
