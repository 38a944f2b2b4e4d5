"""The exact head with its classes split over the ranks of a process group, at ten million classes.

    python benchmarks/ranks.py [--classes 10000000] [--ranks 2] [--batch 64] [--size 16] [--rounds 3]

Each rank is a process on this machine with one thread, and gives the head --batch samples of its own. The prototypes
are "as trained" in prototypes.py. Printed are the time of a step (forward and backward) beside the ranks' own matrix
products, which compute the same logits in chunks; the peak memory of each rank beyond its prototypes and their
gradient; and how far the losses of a few samples are from a float64 reference, which has tau by bisection.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import verimargin as vm
from head import WARM_UP, step_of
from measurement import peak_of, processor, provenance, seconds
from prototypes import ALPHA, MARGIN, SCALE, data, q_margin
from torch import Tensor
from torch.nn import functional as F

CHECKED = 4  # samples
CHUNK = 4096  # classes whose logits are computed at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, default=10_000_000)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    sizes = parser.parse_args()
    cpu = torch.device("cpu")
    print(f"{processor(cpu)}, {sizes.ranks} processes of one thread, PyTorch {provenance(cpu)['torch']}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(run, (sizes, folder), nprocs=sizes.ranks)


def run(rank: int, sizes: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=sizes.ranks)
    failed = False
    try:
        measure(rank, sizes, Path(folder))
        dist.barrier()
    except BaseException:
        traceback.print_exc()
        failed = True
    os._exit(failed)  # taking the group down hangs at times


def measure(rank: int, sizes: argparse.Namespace, folder: Path) -> None:
    head = vm.PrototypeHead(sizes.size, sizes.classes, q_margin(), process_group=dist.group.WORLD)
    embeddings, labels = shared_data(rank, sizes, head, folder)
    own = slice(rank * sizes.batch, (rank + 1) * sizes.batch)
    step = step_of(head, embeddings[own], labels[own])
    step_of(vm.PrototypeHead(sizes.size, 300, q_margin()), embeddings[own], labels[own] % 300)()  # loads the libraries
    peak = peak_of(step) - head.weight.numel() * head.weight.element_size() / 2**20
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(sizes.rounds + WARM_UP):
        for call, values in zip((step, lambda: product(embeddings, head.weight)), taken):
            dist.barrier()
            values.append(seconds(call))
    times, products = (values[WARM_UP:] for values in taken)
    ratio = statistics.median(a / b for a, b in zip(times, products))
    error = largest_error(head, embeddings[:CHECKED], labels[:CHECKED])
    print(
        f"rank {rank}: {len(head.weight):,} of {sizes.classes:,} classes, d {sizes.size}, {len(labels)} samples, "
        f"{float(head.active_classes):,.0f} active; step {statistics.median(times):.2f} s, "
        f"{ratio:.2f} of its product; {peak:.0f} MiB; largest relative error of a loss {error:.1e}",
        flush=True,
    )


def shared_data(rank: int, sizes: argparse.Namespace, head: vm.PrototypeHead, folder: Path) -> tuple[Tensor, Tensor]:
    """The embeddings and labels of all ranks; this rank's part of the prototypes goes to the head.

    They are made on the first rank only, as all of them would not fit in the memory of a small machine twice.
    """
    file = folder / "data.pt"
    if rank == 0:
        torch.save(data("as trained", sizes.classes, sizes.ranks * sizes.batch, sizes.size), file)
    dist.barrier()
    weight, embeddings, labels = torch.load(file, mmap=True)
    head.weight.data.copy_(weight[head.shard.start : head.shard.start + head.shard.size])
    return embeddings.clone(), labels.clone()


def product(embeddings: Tensor, weight: Tensor) -> None:
    """The logits of all samples with these prototypes, without keeping them."""
    buffer = embeddings.new_empty(len(embeddings) * CHUNK)
    for part in weight.detach().split(CHUNK):
        torch.mm(embeddings, part.t(), out=buffer[: len(embeddings) * len(part)].view(len(embeddings), -1))


def largest_error(head: vm.PrototypeHead, embeddings: Tensor, labels: Tensor) -> float:
    """The largest |loss - reference| / reference of these samples, which each rank gives the head a part of."""
    head.loss = q_margin("none")
    part = torch.arange(len(labels)).tensor_split(head.shard.ranks)[head.shard.rank]
    with torch.no_grad():
        loss = head(embeddings[part], labels[part]).double()
    reference = reference_loss(head, embeddings.double(), labels)
    return float(((loss - reference).abs() / reference).max())


def reference_loss(head: vm.PrototypeHead, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Q-Margin's loss of each sample in float64, from its definition (mathematics, section 1)."""
    shard, start = head.shard, head.shard.start
    theta = SCALE * F.normalize(embeddings) @ F.normalize(head.weight.detach().double()).T
    own = (labels >= start) & (labels < start + shard.size)
    row, column = own.nonzero().squeeze(1), labels[own] - start
    target = shard.sum(torch.zeros(len(labels), dtype=torch.float64).index_put((row,), theta[row, column]))
    q_y = torch.tensor(-SCALE * MARGIN, dtype=torch.float64).exp()

    def probabilities(tau: Tensor) -> Tensor:
        p = (1.0 + (ALPHA - 1.0) * (theta - tau[:, None])).clamp_min_(0.0).pow_(1.0 / (ALPHA - 1.0))
        p[row, column] *= q_y
        return p

    highest = shard.max(theta.amax(1))
    low, high = highest - (q_y ** (1.0 - ALPHA) - 1.0) / (ALPHA - 1.0), highest + 1.0 / (ALPHA - 1.0)
    for _ in range(64):
        tau = 0.5 * (low + high)
        above = shard.sum(probabilities(tau).sum(1)) > 1.0
        low, high = torch.where(above, tau, low), torch.where(above, high, tau)
    mean = shard.sum((probabilities(low) * theta).sum(1))
    constant = (q_y ** (1.0 - ALPHA) - 1.0) / (ALPHA * (ALPHA - 1.0))
    return ((ALPHA - 1.0) * mean + low) / ALPHA - target + constant


if __name__ == "__main__":
    main()
