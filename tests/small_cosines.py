"""The margins of the library, and cosines of a few samples to try them on."""

import torch
import verimargin as vm

MARGINS = [vm.NoMargin(), vm.CosMargin(0.3), vm.ArcMargin(0.4), vm.QMargin(0.2)]

NORMS = torch.tensor([3.0, 8.0, 20.0, 22.5, 40.0, 90.0, 1e3], dtype=torch.float64)  # one for each sample of `cosines`


def quality_margins():
    """Margins that follow the norms, with averages at which `NORMS` have qualities from -1 to 1."""
    margins = [vm.AdaMargin(0.4, h=0.5), vm.QMargin(0.2, quality=vm.Quality(0.6, h=0.5))]
    for margin in margins:
        margin.quality.mean.fill_(21.0)
        margin.quality.std.fill_(9.0)
    return margins


def cosines(samples=7, classes=11, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    cosine = 1.9 * torch.rand(samples, classes, generator=generator, dtype=torch.float64) - 0.95
    return cosine.to(dtype), torch.randint(classes, (samples,), generator=generator)
