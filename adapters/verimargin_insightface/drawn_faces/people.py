"""What tells people apart: the proportions, colours and styles of a face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Lengths are in halves of a head's height: mean and standard deviation over people.
SHAPE = {
    "width": (0.75, 0.055),  # of the head
    "jaw": (0.60, 0.075),
    "roundness": (2.4, 0.25),  # exponent of the outline: 2 is an ellipse
    "ear": (0.17, 0.03),
    "eye_apart": (0.31, 0.030),
    "eye_height": (0.02, 0.045),
    "eye_width": (0.155, 0.017),
    "eye_open": (0.075, 0.015),
    "eye_tilt": (0.0, 0.09),
    "iris": (0.068, 0.006),
    "brow_height": (0.18, 0.030),
    "brow_width": (0.21, 0.028),
    "brow_thick": (0.034, 0.013),
    "brow_tilt": (-0.02, 0.035),
    "brow_arch": (0.05, 0.025),
    "nose_length": (0.42, 0.055),
    "nose_width": (0.155, 0.030),
    "nose_tip": (0.30, 0.06),  # how far it stands out
    "mouth_height": (0.60, 0.035),
    "mouth_width": (0.25, 0.032),
    "upper_lip": (0.045, 0.014),
    "lower_lip": (0.065, 0.018),
    "hairline": (-0.62, 0.085),
    "parting": (0.0, 0.35),
    "volume": (0.13, 0.045),
}
SKIN = np.array([[246, 220, 200], [232, 190, 160], [205, 155, 120], [160, 110, 78], [112, 74, 54], [74, 50, 40]])
HAIR = np.array(
    [[30, 24, 22], [60, 40, 28], [104, 68, 40], [170, 120, 66], [206, 170, 110], [140, 60, 30], [168, 166, 164]]
)
IRIS = np.array([[74, 46, 28], [96, 68, 40], [100, 112, 66], [80, 116, 150], [110, 120, 126]])
LIPS = np.array([165, 60, 66])
STYLES = ("short", "short", "fringe", "long", "long", "curly", "bald")
BEARDS = ("none", "none", "none", "stubble", "moustache", "full")


@dataclass(frozen=True, eq=False)
class Person:
    """Colours are RGB, 0..255."""

    shape: dict[str, float]
    skin: np.ndarray
    lips: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    style: str
    beard: str
    wears_glasses: bool


def person(seed: int, number: int) -> Person:
    """A random person; the same seed and number give the same one."""
    random = np.random.default_rng([seed, number])
    shape = {name: mean + std * float(np.clip(random.normal(), -2.2, 2.2)) for name, (mean, std) in SHAPE.items()}
    tone = random.uniform(0, len(SKIN) - 1)
    dark = tone > 2.5  # dark skin seldom comes with light hair or eyes
    skin = _between(SKIN, tone) + random.normal(0, 5, 3)
    hair = HAIR[random.integers(0, 3 if dark else len(HAIR))] * random.uniform(0.8, 1.15) + random.normal(0, 4, 3)
    iris = IRIS[random.integers(0, 2 if dark else len(IRIS))] + random.normal(0, 5, 3)
    lips = 0.62 * skin + 0.38 * LIPS + random.normal(0, 6, 3)
    style, beard = str(random.choice(STYLES)), str(random.choice(BEARDS))
    return Person(
        shape, skin, lips, hair, iris, style, "none" if style == "long" else beard, bool(random.random() < 0.2)
    )


def _between(colours: np.ndarray, at: float) -> np.ndarray:
    n = min(int(at), len(colours) - 2)
    return colours[n] + (at - n) * (colours[n + 1] - colours[n])
