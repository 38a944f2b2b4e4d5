"""Embeddings, anchors and pairs for IDA, and what the reference gives for them."""

import numpy as np
import reference
import torch
import verimargin as vm

N, M, SIZE = 23, 61, 13


def rows(count, seed, size=SIZE, clusters=7):
    """Embeddings of unlike norms around a few common directions, so that some have near neighbours."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(clusters, size, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    which = torch.randint(clusters, (count,), generator=generator)
    noise = torch.randn(count, size, generator=generator, dtype=torch.float64)
    length = torch.rand(count, 1, generator=generator, dtype=torch.float64) * 30 + 0.01
    return length * (centre[which] + torch.linspace(0.2, 2, count, dtype=torch.float64)[:, None] * noise)


F, A = rows(N, 0), rows(M, 1)
LEFT, RIGHT = torch.randint(N, (2, 150), generator=torch.Generator().manual_seed(2))


def expected(k, tau, f=F, anchors=A, i=LEFT, j=RIGHT):
    density = reference.ida_density(f, anchors, k, tau)
    dao = [reference.dao(f[a], f[b], density[a], density[b], tau) for a, b in zip(i.tolist(), j.tolist())]
    return density, np.array(dao)


def fitted(k=4, tau=1.5, **options):
    regressor = vm.SupportSetRegressor(SIZE, hidden=32, k=k, tau=tau, **options)
    regressor.fit(F.float(), vm.IDAScorer(A, k, tau).density(F.float()), epochs=20, batch_size=8)
    return regressor


def listed_of(i, j):
    return list(zip(i.tolist(), j.tolist()))
