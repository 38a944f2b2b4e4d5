"""A training set of a few images, as an image folder and as a RecordIO set, and an encoder of them."""

import cv2
import numpy as np
import torch
from verimargin_insightface.commands.pack import pack_folder

COUNTS = {"ann": 3, "bea": 1, "cid": 4}
LABELS = np.repeat(np.arange(3), list(COUNTS.values()))


class Mean(torch.nn.Module):
    """Three numbers, the mean of each channel over the left half, so that mirroring matters."""

    def forward(self, x):
        return x[..., :56].mean((2, 3))


def make(out):
    """The folders `folder` and `rec`, and mean.pt. An image has 10 n in its left half, and 200 in blue in the other."""
    n = 0
    for name, count in COUNTS.items():
        (out / "folder" / name).mkdir(parents=True)
        for i in range(count):
            image = np.zeros((112, 112, 3), np.uint8)
            image[:, :56] = 10 * n
            image[:, 56:, 0] = 200  # blue, the last channel of RGB
            assert cv2.imwrite(str(out / "folder" / name / f"{i}.png"), image)
            n += 1
    pack_folder(out / "folder", out / "rec")
    torch.jit.script(Mean()).save(str(out / "mean.pt"))
    return out
