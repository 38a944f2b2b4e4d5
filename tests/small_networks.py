"""Seeded numbers, small encoders and a fitted regressor."""

import torch
import verimargin as vm
from torch import nn

SIZE = 8


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ENCODER = nn.Sequential(nn.Flatten(), nn.Linear(8, 6))


def fitted(size=SIZE, tau=1.5):
    torch.manual_seed(0)
    f, regressor = seeded(200, size), vm.SupportSetRegressor(size, 16, k=4, tau=tau)
    regressor.fit(f, vm.IDAScorer(seeded(30, size, seed=2), 4, tau).density(f), epochs=3)
    return regressor


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(4 * 4 * 4, SIZE)

    def forward(self, x):
        return self.linear(self.convolution(x).relu().view(x.size(0), -1))
