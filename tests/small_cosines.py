"""The margins of the library, and cosines of a few samples to try them on."""

import torch
import verimargin as vm

MARGINS = [vm.NoMargin(), vm.CosMargin(0.3), vm.ArcMargin(0.4), vm.QMargin(0.2)]


def cosines(samples=7, classes=11, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    cosine = 1.9 * torch.rand(samples, classes, generator=generator, dtype=torch.float64) - 0.95
    return cosine.to(dtype), torch.randint(classes, (samples,), generator=generator)
