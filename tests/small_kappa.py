"""A small training set for KappaFace's tracker, in epochs of batches, and what the reference gives for it."""

import numpy as np
import reference
import torch
import verimargin as vm

COUNTS = [1, 2, 5, 9, 14, 3, 8, 2]
SAMPLES, SIZE = sum(COUNTS), 16
LABELS = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))


def epoch(seed, dtype=torch.float32, samples=SAMPLES, batch_size=14):
    """Batches (embeddings, labels, sample ids) over some of the training set, the classes of unlike concentration."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(len(COUNTS), SIZE, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    ids = torch.randperm(SAMPLES, generator=generator)[:samples]
    noise = torch.randn(samples, SIZE, generator=generator, dtype=torch.float64)
    spread = torch.linspace(0.3, 1.5, len(COUNTS), dtype=torch.float64)[LABELS[ids], None]
    embeddings = 3 * (centre[LABELS[ids]] + spread * noise)
    return [(embeddings[i].to(dtype), LABELS[ids][i], ids[i]) for i in torch.arange(samples).split(batch_size)]


def tracker_of(estimator, **options):
    if estimator == "memory":
        options["num_samples"] = SAMPLES + 1
    else:
        options.pop("memory_momentum", None)
    return vm.KappaTracker(options.pop("counts", COUNTS), SIZE, estimator=estimator, **options)


def track(tracker, batches):
    for batch in batches:
        tracker.update(*batch)
    tracker.end_epoch()
    return tracker


def expected(estimator, epochs, temperature=0.4, gamma=0.7, a=0.3):
    """kappa and psi after the epochs, from the reference."""
    memory = {}
    for batches in epochs:
        for e, _, ids in batches:
            reference.remember(memory, e.double().numpy(), ids.tolist(), a)
    if estimator == "memory":
        ids = list(memory)
        vectors, labels = np.array([memory[i] for i in ids]), LABELS[ids]
    else:
        vectors, labels = (
            torch.cat([e for e, *_ in epochs[-1]]).double().numpy(),
            torch.cat([y for _, y, _ in epochs[-1]]),
        )
    return reference.kappa_psi(vectors, labels.tolist(), COUNTS, temperature, gamma)


def assert_close(tracker, kappa, psi, tolerance=1e-5):
    np.testing.assert_allclose(tracker.kappa.double().numpy(), kappa, rtol=tolerance)
    np.testing.assert_allclose(tracker.psi.double().numpy(), psi, atol=tolerance, rtol=0)


def tracker(epochs=1):
    torch.manual_seed(0)
    tracker = vm.KappaTracker([9, 5, 2, 1], 8)
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor([9, 5, 2, 1]))
    for _ in range(epochs):
        tracker.update(torch.eye(8)[labels] + 0.1 * torch.randn(17, 8) * (labels[:, None] + 1), labels)
        tracker.end_epoch()
    return tracker


def saved(tmp_path, content, name="kappa.ckpt"):
    torch.save(content, tmp_path / name)
    return tmp_path / name
