"""Run by torchrun, from test_partial_fc.py: each case through `PartialFC` and, if it is there, upstream's.

argv: a folder, into which each rank writes `<rank>.pt`, {case: {"batch": ..., "ours": ..., "upstream": ...}}.
"""

import os
import sys

import torch
import torch.distributed as dist
import verimargin as vm
from verimargin_insightface import PartialFC
from verimargin_insightface.compat import FIXES
from verimargin_insightface.launcher import apply_fixes

SIZE = 16
# name: (loss, upstream's CombinedMarginLoss arguments, classes, sample_rate, samples on rank r)
CASES = {
    "cosface": (vm.cosface(64.0, 0.4), (64.0, 1.0, 0.0, 0.4), 24, 1.0, lambda rank: 6),
    "cosface, classes split unevenly": (vm.cosface(64.0, 0.4), (64.0, 1.0, 0.0, 0.4), 27, 1.0, lambda rank: 6),
    "cosface, sampled": (vm.cosface(64.0, 0.4), (64.0, 1.0, 0.0, 0.4), 59, 0.5, lambda rank: 4),
    "cosface, more positives than sampled": (vm.cosface(64.0, 0.4), (64.0, 1.0, 0.0, 0.4), 25, 0.1, lambda rank: 8),
    "arcface": (vm.arcface(64.0, 0.5), (64.0, 1.0, 0.5, 0.0), 27, 1.0, lambda rank: 6),
    "q-margin": (vm.q_margin(1.25, 32.0, 0.2), None, 27, 1.0, lambda rank: 6),
    "q-margin, batches of different sizes": (vm.q_margin(1.5, 10.0, 0.2), None, 27, 1.0, lambda rank: 2 + 3 * rank),
    "adaface": (vm.adaface(64.0, 0.4, h=5.0), None, 27, 1.0, lambda rank: 2 + 3 * rank),
    "q-margin with a quality": (vm.q_margin(1.5, 10.0, 0.2, vm.Quality(0.6, h=5.0)), None, 27, 1.0, lambda rank: 6),
    "cosface, batches of different sizes": (vm.cosface(32.0, 0.2), None, 27, 1.0, lambda rank: 3 - min(rank, 3)),
}


def batch(case: int, rank: int, samples: int, classes: int):
    """The prototypes of all classes, and embeddings near those of their labels: far ones have p_y below the 1e-30
    at which upstream cuts the logarithm."""
    prototypes = torch.randn(classes, SIZE, generator=torch.Generator().manual_seed(case))
    generator = torch.Generator().manual_seed(1000 * (case + 1) + rank)
    labels = torch.randint(classes, (samples,), generator=generator)
    embeddings = prototypes[labels] + torch.randn(samples, SIZE, generator=generator)
    return prototypes, embeddings.requires_grad_(), labels


def step(head, embeddings, labels) -> dict:
    torch.manual_seed(5)  # the sampled classes
    embeddings.grad = head.weight.grad = None
    loss = head(embeddings, labels)
    loss.backward()
    return {"loss": loss.detach(), "embeddings": embeddings.grad.clone(), "weight": head.weight.grad.clone()}


def main(out: str) -> None:
    apply_fixes(FIXES)
    dist.init_process_group("gloo")
    rank, results, upstream = dist.get_rank(), {}, None
    if os.environ.get("ARCFACE_TORCH_HOME"):
        sys.path.insert(0, os.environ["ARCFACE_TORCH_HOME"])
        from losses import CombinedMarginLoss
        from partial_fc_v2 import PartialFC_V2 as upstream
    for number, (name, (loss, margins, classes, sample_rate, samples)) in enumerate(CASES.items()):
        ours = PartialFC(loss, SIZE, classes, sample_rate, False).train()
        prototypes, embeddings, labels = batch(number, rank, samples(rank), classes)
        share, rest = divmod(classes, dist.get_world_size())
        start = share * rank + min(rank, rest)  # as upstream splits them
        ours.load_state_dict({"weight": prototypes[start : start + share + (rank < rest)]})
        result = results[name] = {"batch": (embeddings.detach(), labels), "prototypes": ours.weight.detach().clone()}
        result["ours"] = step(ours, embeddings, labels.clone())
        if upstream and margins:
            theirs = upstream(CombinedMarginLoss(*margins), SIZE, classes, sample_rate, False).train()
            theirs.load_state_dict(ours.state_dict())
            result["upstream"] = step(theirs, embeddings, labels.clone())
    torch.save(results, os.path.join(out, f"{rank}.pt"))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
