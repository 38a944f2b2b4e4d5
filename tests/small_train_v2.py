"""A small train_v2.py to register KappaFace in: tiny images, a tiny network, and the calls of upstream's loop."""

import contextlib
import copy
import logging
import sys
import types

import torch
import verimargin as vm
from easydict import EasyDict
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from verimargin_insightface import register

COUNTS, SIZE = [5, 3, 9, 2, 6, 3], 8  # 28 images: with batches of 3, some are left out of each epoch
LABELS = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))[
    torch.randperm(sum(COUNTS), generator=torch.Generator().manual_seed(0))
]


class Images(Dataset):
    """Like torchvision's ImageFolder, with augmentation from the global random generator."""

    targets, classes = LABELS.tolist(), list("abcdef")

    def __getitem__(self, index):
        centre = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(self.targets[index]))
        return 2 * centre + torch.randn(3, 2, 2) * (1 + 0.3 * self.targets[index]), self.targets[index]

    def __len__(self):
        return len(self.targets)


class Loader(DataLoader):
    """It is its own iterator and holds lists, like upstream's."""

    def __iter__(self):
        self.batches = super().__iter__()
        return self

    def __next__(self):
        return list(next(self.batches))


class Dali:
    """An iterator of pairs that is no DataLoader."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 3
        if self.at > 27:
            raise StopIteration
        items = [Images()[i] for i in range(self.at - 3, self.at)]
        return torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])


class Writer:
    def __init__(self, log_dir=None):
        self.scalars = []

    def add_scalar(self, tag, scalar_value, global_step):
        self.scalars.append((tag, scalar_value, global_step))


def get_dataloader(root_dir, local_rank, batch_size, dali=False, dali_aug=False, seed=2048, num_workers=2):
    return Dali() if dali else Loader(Images(), batch_size, sampler=DistributedSampler(Images()), drop_last=True)


def get_model(name, **kwargs):
    layers = [torch.nn.Flatten(), torch.nn.Linear(12, 16), torch.nn.BatchNorm1d(16), torch.nn.PReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Dropout(0.2), torch.nn.Linear(16, SIZE))


NAMES = {
    "get_dataloader": get_dataloader, "get_model": get_model, "SummaryWriter": Writer, "DataLoader": DataLoader,
    "PartialFC_V2": object, "CombinedMarginLoss": object,
}  # fmt: skip


def configuration(rec, kappa, loss=None, **more) -> EasyDict:
    config = EasyDict(
        rec=str(rec), num_classes=6, num_image=28, num_epoch=3, warmup_epoch=0, val_targets=[], sample_rate=1.0,
        batch_size=3, gradient_acc=1, dali=False, kappa=kappa, loss=loss or vm.MarginLoss(vm.ArcMargin(0.8), scale=8.0),
    )  # fmt: skip
    config.update(more)
    return config


@contextlib.contextmanager
def as_train_v2():
    """This module's names in a module train_v2, as register(config) looks for it."""
    script = types.ModuleType("train_v2")
    script.__dict__.update(NAMES)
    sys.modules["train_v2"] = script
    try:
        yield script
    finally:
        del sys.modules["train_v2"]


class Margins(vm.ArcMargin):
    """Records the margins that it returned."""

    def __init__(self, m):
        super().__init__(m)
        self.given = []

    def forward(self, cosine, label, scale):
        self.given.append((label.clone(), self.class_margin(label, cosine).clone()))
        return super().forward(cosine, label, scale)


def prepare(script, config, seed=0):
    """The loader, the network, the head and the optimiser, in upstream's order."""
    torch.manual_seed(seed)
    script.__dict__.update(NAMES)
    register(config)
    writer = script.SummaryWriter(log_dir="")
    loader = script.get_dataloader(config.rec, 0, config.batch_size, config.dali, False, 1, 0)
    backbone = script.get_model("mbf", dropout=0.0).train()
    head = script.PartialFC_V2(
        script.CombinedMarginLoss(64, 1.0, 0.5, 0.0, 0), SIZE, config.num_classes, config.sample_rate, False
    )
    head.train()
    parameters = [{"params": backbone.parameters()}, {"params": head.parameters()}]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    return types.SimpleNamespace(writer=writer, loader=loader, backbone=backbone, head=head, optimizer=optimizer)


def train(run, config, epochs, look=lambda *_: None) -> list[float]:
    """The losses; `look` is shown the images, the labels, the embeddings and the loss of each step."""
    losses, step = [], 0
    for epoch in epochs:
        if isinstance(run.loader, sys.modules["train_v2"].DataLoader):
            run.loader.sampler.set_epoch(epoch)
        for _, (images, labels) in enumerate(run.loader):
            step += 1
            embeddings = run.backbone(images)
            loss = run.head(embeddings, labels)
            look(images, labels, embeddings.detach(), loss.detach())
            loss.backward()
            if step % config.gradient_acc == 0:
                run.optimizer.step()
                run.optimizer.zero_grad()
            run.backbone.eval()(torch.randn(1, 3, 2, 2))  # a verification set
            run.backbone.train()
            losses.append(loss.item())
    return losses


def checkpoint(run) -> dict:
    parts = ("backbone", "head", "optimizer")
    return copy.deepcopy({part: getattr(run, part).state_dict() for part in parts})


def restore(run, state) -> None:
    for part, value in state.items():
        getattr(run, part).load_state_dict(value)


def numbered_batches(epoch) -> list[list[int]]:
    """The positions of this rank's images, from the sampler alone."""
    sampler = DistributedSampler(Images())
    sampler.set_epoch(epoch)
    ids = list(sampler)
    return [ids[i : i + 3] for i in range(0, len(ids) - 2, 3)]


def slow_embeddings(momentum):
    """A function that is shown the network and images, and gives the embeddings of a float64 copy that follows it."""
    copies = []

    def embed(backbone, images):
        if not copies:
            copies.append(copy.deepcopy(backbone).double())
        else:
            for xi, theta in zip(copies[0].state_dict().values(), backbone.state_dict().values()):
                xi.copy_(momentum * xi + (1 - momentum) * theta.double() if xi.is_floating_point() else theta)
        with torch.no_grad():
            return copies[0].eval()(images.double())

    return embed


logging.getLogger().setLevel(logging.INFO)
