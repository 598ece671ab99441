"""A network, data and a likelihood of one's own: counts that depend on three numbers.

    python examples/own_network.py

takes a few seconds, and prints the mean rates of three rows.
"""

import torch

import bayesgen


class Poisson:
    def per_sequence(self, outputs, labels):  # [B]: log p(label | output), in nats
        return labels * outputs[:, 0] - outputs[:, 0].exp() - torch.lgamma(labels + 1)

    def total(self, outputs, labels):
        return self.per_sequence(outputs, labels).sum()

    def count(self, labels):
        return torch.tensor(len(labels))


x = torch.randn(500, 3)
y = torch.poisson((x @ torch.tensor([0.8, -0.4, 0.2])).exp())
net = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
model = bayesgen.FunctionalModel(net, lambda net, batch: net(batch["x"]), likelihood=Poisson())
posterior = bayesgen.sample(model, {"x": x, "labels": y}, sampler="sghmc", temperature=1.0)
print(torch.stack([model(theta, {"x": x[:3]}).exp() for theta in posterior]).mean(0))
