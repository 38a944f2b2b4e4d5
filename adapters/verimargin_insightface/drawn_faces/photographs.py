"""Photographs of drawn people: what differs between the images of one person."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from .drawing import ACROSS, SCALE, SIDE, Drawing, Shot, ellipse
from .people import Person

ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE].astype(np.float32)


def photograph(who: Person, seed: int, number: int, shot: int) -> np.ndarray:
    """An image (112, 112, 3) of a person, RGB, uint8; the same numbers give the same bytes."""
    random = np.random.default_rng([seed, number, 1 + shot])
    drawing = Drawing(who, _shot(random), (random.uniform(60, 200) + random.normal(0, 28, 3)).clip(0, 255))
    drawing.face()
    _cover(drawing, random)
    return _expose(drawing, random)


def _shot(random: Generator) -> Shot:
    return Shot(
        yaw=float(np.clip(random.normal(0, 0.30), -0.7, 0.7)),
        pitch=float(np.clip(random.normal(0, 0.15), -0.35, 0.35)),
        roll=random.normal(0, 0.08),
        shift=complex(*random.normal(0, 1.6, 2)),
        zoom=float(np.exp(random.normal(0, 0.05))),
        blink=0.15 if random.random() < 0.06 else random.uniform(0.7, 1.2),
        smile=random.uniform(-0.3, 1.0),
        gape=max(0.0, random.normal(0.0, 0.6)),
        gaze=random.uniform(-0.5, 0.5),
        frown=random.normal(0, 0.4),
    )


def _cover(drawing: Drawing, random: Generator) -> None:
    """Sunglasses, a mask, a hat or something in front of the face, in a quarter of the images."""
    kind, colour = random.integers(0, 16), random.uniform(20, 230, 3)
    if kind == 0:
        drawing.glasses(0.15 * colour, 0.2 * colour)
    elif kind == 1:
        upper = 0.62 * ACROSS + 1j * (0.32 + 0.10 * np.abs(ACROSS))
        lower = 0.52 * ACROSS[::-1] + 1j * (0.62 + 0.42 * (1 - ACROSS**2))
        drawing.on_face(np.concatenate([upper, lower]), colour, 0.08)
    elif kind == 2:
        brim = 1.02 * ACROSS - 1j * (0.52 + 0.1 * (1 - ACROSS**2))
        crown = 0.95 * ACROSS[::-1] - 1j * (0.6 + 0.75 * (1 - ACROSS**2) ** 0.5)
        drawing.flat(np.concatenate([brim, crown]), colour)
    elif kind == 3:
        drawing.flat(ellipse(complex(*random.uniform(-0.6, 0.6, 2)), *random.uniform(0.2, 0.4, 2)), colour)


def _expose(drawing: Drawing, random: Generator) -> np.ndarray:
    """Light from one side, its brightness and colour; then the camera's blur, resolution and noise."""
    centre = complex(drawing.place(np.zeros(1, complex))[0])
    x, y = (COLUMNS - centre.real) / (0.85 * SCALE), (ROWS - centre.imag) / (1.1 * SCALE)
    z = np.sqrt(np.maximum(0.05, 1 - x * x - y * y))
    light = random.normal(0, 1, 3) * [0.75, 0.5, 0.25] + [0, -0.35, 1.0]
    light, ambient = (light / np.linalg.norm(light)).tolist(), random.uniform(0.30, 0.70)
    shade = ambient + (1.15 * (1 - ambient)) * np.maximum(0, x * light[0] + y * light[1] + z * light[2])
    gain = np.exp(random.normal(0, 0.22) + random.normal(0, 0.07, 3)).astype(np.float32)
    seen = drawing.canvas * shade[..., None] * gain
    seen = cv2.GaussianBlur(seen, (7, 7), random.uniform(0.3, 1.3))
    if random.random() < 0.15:  # a small image, enlarged
        small = int(random.integers(28, 56))
        seen = cv2.resize(cv2.resize(seen, (small, small), interpolation=cv2.INTER_AREA), (SIDE, SIDE))
    seen += np.float32(random.uniform(1, 9)) * random.standard_normal(seen.shape, np.float32)
    return np.rint(seen).clip(0, 255).astype(np.uint8)
