"""A small recognition model for the insightface package, and folders of noise images of several people."""

import cv2
import numpy as np
import torch
from torch import nn
from verimargin_insightface.onnx_export import export_onnx

SIDE, SIZE = 112, 8


class SmallFaceNet(nn.Module):
    def __init__(self, size=SIZE):
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(3, 6, 16, stride=16), nn.Linear(6 * 7 * 7, size)

    def forward(self, x):
        return self.linear(self.convolution(x).relu().view(x.size(0), -1))


def recognition_model(path, size=SIZE, seed=0):
    """A model of insightface's zoo from an ONNX file that our export writes."""
    from insightface.model_zoo import get_model

    torch.manual_seed(seed)
    export_onnx(SmallFaceNet(size), path)
    return get_model(str(path), providers=["CPUExecutionProvider"])


def people(folder, names, images=2, seed=0, side=SIDE):
    """A folder of PNG images for each name: coarse noise of the person, with fine noise of the image."""
    random = np.random.default_rng(seed)
    for name in names:
        own = random.integers(0, 256, (7, 7, 3))
        for n in range(images):
            noisy = np.clip(own + random.normal(0, 15, own.shape), 0, 255).astype(np.uint8)
            (folder / name).mkdir(parents=True, exist_ok=True)
            image = cv2.resize(noisy, (side, side), interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(folder / name / f"{n}.png"), image)
    return folder
