"""Draws a face, part by part. A point is a complex number x + iy: x points to the right, y down, the unit is half of
the head's height, and 0 is the middle of the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .people import Person

SIDE = 112  # pixels
SCALE, CENTRE = 43.0, 56 + 60j  # pixels per unit, and where the middle of the head is
FRACTION = 4  # bits of a pixel's fraction, in OpenCV's polygons
CIRCLE = np.exp(2j * np.pi * np.arange(20) / 20)
ACROSS = np.linspace(-1, 1, 13)
SKULL = np.cos(np.linspace(np.pi, 0, 22))  # heights of the corners of one half of the outline
DARK, WHITE, TEETH, MOUTH, RIM = np.array([[14, 12, 12], [240, 238, 234], [232, 228, 220], [60, 22, 24], [40, 36, 34]])


@dataclass(frozen=True)
class Shot:
    """Pose and expression. Angles are in radians; the others are 0 in a neutral face, but for blink, which is 1."""

    yaw: float
    pitch: float
    roll: float
    shift: complex  # pixels
    zoom: float
    blink: float
    smile: float
    gape: float
    gaze: float
    frown: float


class Drawing:
    """A canvas (112, 112, 3), RGB, and the functions that draw on it."""

    def __init__(self, who: Person, shot: Shot, background: np.ndarray):
        self.who, self.shot, self.shape = who, shot, who.shape
        self.canvas = np.empty((SIDE, SIDE, 3), np.uint8)
        self.canvas[:] = background
        self.turn = SCALE * shot.zoom * complex(np.exp(1j * shot.roll))
        self.sines, self.cosines = ((float(f(shot.yaw)), float(f(shot.pitch))) for f in (np.sin, np.cos))
        self.outline = self._outline()

    def face(self) -> None:
        """Draw the person, what is farther away first."""
        who = self.who
        if who.style in ("long", "curly"):
            self._back_hair()
        self._neck_and_ears()
        self.flat(self.outline, who.skin)
        for side in (-1, 1):
            self.on_face(ellipse(side * 0.4 + 0.36j, 0.15, 0.11), 0.93 * who.skin + [16, 2, 2])
        if who.beard in ("stubble", "full"):
            self._beard()
        self._nose()
        self._mouth()
        if who.beard in ("moustache", "full"):
            self._moustache()
        for side in (-1, 1):
            self._eye(side)
            self._brow(side)
        if who.style != "bald":
            self._front_hair()
        if who.wears_glasses:
            self.glasses(RIM)

    def project(self, points: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """The pixels at which points of the face, `lift` above its surface, are seen."""
        x, y = points.real, points.imag
        z = 0.8 * np.sqrt(np.maximum(0.0, 1 - (x / 0.95) ** 2 - (y / 1.25) ** 2)) + lift
        (sin_yaw, sin_pitch), (cos_yaw, cos_pitch) = self.sines, self.cosines
        # The head turns about the neck, and the crop follows the face: 0.35 above its middle stays where it is.
        seen_x, z = x * cos_yaw + (z - 0.35) * sin_yaw, z * cos_yaw - x * sin_yaw - 0.35
        return self.place(seen_x + 1j * (y * cos_pitch - z * sin_pitch))

    def place(self, points: np.ndarray) -> np.ndarray:
        """Pixels of points in the picture's plane."""
        return points * self.turn + (CENTRE + self.shot.shift)

    def flat(self, points: np.ndarray, colour: np.ndarray) -> None:
        self.fill(self.place(points), colour)

    def on_face(self, points: np.ndarray, colour: np.ndarray, lift: float = 0.0) -> None:
        self.fill(self.project(points, lift), colour)

    def fill(self, pixels: np.ndarray, colour: np.ndarray) -> None:
        cv2.fillPoly(self.canvas, [_corners(pixels)], colour.tolist(), cv2.LINE_AA, FRACTION)

    def line(self, points: np.ndarray, colour: np.ndarray, width: int = 1, closed: bool = False) -> None:
        corners = _corners(self.project(points))
        cv2.polylines(self.canvas, [corners], closed, colour.tolist(), width, cv2.LINE_AA, FRACTION)

    def glasses(self, rim: np.ndarray, glass: np.ndarray | None = None) -> None:
        shape = self.shape
        for side in (-1, 1):
            edge = ellipse(side * (shape["eye_apart"] + 0.01) + 1j * (shape["eye_height"] + 0.02), 0.22, 0.16)
            if glass is not None:
                self.on_face(edge, glass)
            self.line(edge, rim, closed=True)
        self.line(np.array([-0.1, 0.1]) + 1j * shape["eye_height"], rim)

    def _outline(self, grow: float = 0.0) -> np.ndarray:
        """The silhouette: the right half from the top down, then the left half upwards."""
        shape, y, down = self.shape, SKULL, SKULL.clip(0, 1) ** 1.5
        width = (1 - np.abs(y) ** shape["roundness"]) ** (1 / shape["roundness"])
        width = width * (shape["width"] + (shape["jaw"] - shape["width"]) * down * (3 - 2 * down))
        half = width + grow * (1 - 0.4 * y.clip(0, 1))
        lean = (0.1 * self.sines[0] + 1j) * y * (1 + grow)
        return np.concatenate([lean + half, (lean - half)[::-1]])

    def _back_hair(self) -> None:
        curly = self.who.style == "curly"
        hair = self._outline(self.shape["volume"] + (0.12 if curly else 0.04))
        if not curly:  # it falls to the shoulders
            low = hair.imag > 0.1
            hair[low] = np.sign(hair[low].real) * (self.shape["width"] + 0.1) + 1.35j * hair[low].imag
        self.flat(hair, 0.8 * self.who.hair)

    def _neck_and_ears(self) -> None:
        neck, size = 0.72 * self.shape["jaw"], self.shape["ear"]
        self.flat(neck * np.array([-1, 1, 1.1, -1.1]) + 1j * np.array([0.5, 0.5, 1.6, 1.6]), 0.82 * self.who.skin)
        for side in (-1, 1):
            seen = size * float(np.clip(0.62 - 0.9 * side * self.sines[0], 0.05, 1.1))  # the far one is hidden
            self.flat(ellipse(side * (self.shape["width"] - 0.01) + 0.1j, seen, 1.25 * size), 0.9 * self.who.skin)

    def _beard(self) -> None:
        strength = 0.22 if self.who.beard == "stubble" else 0.85
        jaw = self.outline[self.outline.imag > 0.28]
        inner = -0.62 * self.shape["jaw"] * ACROSS + 1j * (0.70 - 0.32 * np.abs(ACROSS) ** 3)
        edge = np.concatenate([jaw, inner[::-1]])
        self.flat(edge, (1 - strength) * self.who.skin + strength * self.who.hair)

    def _moustache(self) -> None:
        y = self.shape["mouth_height"] - self.shape["upper_lip"]
        x = 1.05 * self.shape["mouth_width"] * ACROSS
        self.on_face(band(x, y - 0.085 + 0.07 * ACROSS**2, y + 0.015 + 0.05 * ACROSS**2), self.who.hair, 0.04)

    def _nose(self) -> None:
        shape, skin = self.shape, self.who.skin
        top, tip = shape["eye_height"] + 0.02, shape["eye_height"] + shape["nose_length"]
        pair = np.array([-1, 1]) * shape["nose_width"]
        bridge, wings = self.project(0.3 * pair + 1j * top, 0.05), self.project(pair[::-1] + 1j * tip, 0.06)
        point = self.project(0.45 * pair[::-1] + 1j * (tip + 0.03), shape["nose_tip"])
        self.fill(np.concatenate([bridge, wings[:1], point, wings[1:]]), 0.90 * skin)
        self.fill(np.concatenate([bridge, point]), np.minimum(1.06 * skin + 4, 255))
        for x in 0.55 * pair:
            self.on_face(ellipse(x + 1j * (tip + 0.015), 0.26 * shape["nose_width"], 0.022), 0.45 * skin, 0.16)

    def _mouth(self) -> None:
        shape, shot, lips = self.shape, self.shot, self.who.lips
        x = shape["mouth_width"] * (1 + 0.16 * shot.smile) * ACROSS
        middle, bow = shape["mouth_height"] - 0.055 * shot.smile * ACROSS**2, (1 - ACROSS**2) ** 0.8
        cupid = 1 - 0.28 * np.exp(-((ACROSS / 0.18) ** 2))
        gape = 0.09 * shot.gape * (1 - ACROSS**2)
        upper, lower = middle - 0.3 * gape, middle + 0.7 * gape
        self.on_face(band(x, upper - shape["upper_lip"] * bow * cupid, upper), 0.9 * lips, 0.06)
        self.on_face(band(x, lower, lower + shape["lower_lip"] * bow), np.minimum(1.05 * lips, 255), 0.06)
        self.on_face(band(x, upper, lower), MOUTH, 0.05)
        if shot.gape > 0.4:
            self.on_face(band(0.8 * x, upper, upper + 0.45 * (lower - upper)), TEETH, 0.05)
        self.line(x + 1j * upper, 0.45 * lips)

    def _eye(self, side: int) -> None:
        shape, shot = self.shape, self.shot
        x = side * shape["eye_apart"] + shape["eye_width"] * ACROSS
        middle = shape["eye_height"] - side * shape["eye_tilt"] * shape["eye_width"] * ACROSS
        lid = shape["eye_open"] * shot.blink * (1 - ACROSS**2) ** 0.75
        upper, lower, centre = middle - lid, middle + 0.75 * lid, x[6] + 1j * middle[6]
        self.on_face(ellipse(centre - 0.02j, 1.35 * shape["eye_width"], 0.13), 0.92 * self.who.skin)
        self.on_face(band(x, upper, lower), WHITE)
        for radius, colour in ((shape["iris"], self.who.iris), (0.45 * shape["iris"], DARK)):
            disc = ellipse(centre + 0.06 * shot.gaze - 0.01j, radius, radius)
            seen = disc.imag.clip(np.interp(disc.real, x, upper), np.interp(disc.real, x, lower))
            self.on_face(disc.real + 1j * seen, colour)
        self.line(x + 1j * upper, 0.25 * self.who.skin)
        self.line(x[3:-3] + 1j * (upper[3:-3] - 0.05), 0.72 * self.who.skin)

    def _brow(self, side: int) -> None:
        shape, out = self.shape, ACROSS * side  # 1 is at the temple, -1 at the nose
        x = side * (shape["eye_apart"] + 0.02) + shape["brow_width"] * ACROSS
        y = shape["eye_height"] - shape["brow_height"] - shape["brow_arch"] * (1 - 0.7 * (out - 0.2) ** 2)
        y -= (shape["brow_tilt"] + 0.03 * self.shot.frown) * out
        thick = shape["brow_thick"] * (1 - 0.55 * out.clip(0, 1) ** 2)
        self.on_face(band(x, y - thick, y + thick), 0.75 * self.who.hair + 0.1 * self.who.skin)

    def _front_hair(self) -> None:
        shape, style = self.shape, self.who.style
        skull = np.roll(self._outline(shape["volume"] * (1.6 if style == "curly" else 1.0)), len(SKULL))
        low = 0.30 if style == "long" else -0.05
        u = ACROSS[::-1]
        line = shape["hairline"] + 0.25 * shape["parting"] * u + (0.26 if style == "fringe" else 0.0)
        line += (0.6 * low - 0.75 * shape["hairline"]) * np.abs(u) ** 5  # down at the temples
        if style == "short":
            line += 0.12 * np.cos(6 * u + 4 * shape["parting"])
        front = self.project(0.93 * shape["width"] * u + 1j * np.minimum(line, low + 0.1))
        self.fill(np.concatenate([self.place(skull[skull.imag < low]), front]), self.who.hair)
        shine = 0.5 * shape["width"] * ACROSS - 1j * (0.86 + 0.08 * (1 - ACROSS**2))
        self.line(shine, np.minimum(1.2 * self.who.hair + 8, 255), 2)


def ellipse(centre: complex, width: float, height: float) -> np.ndarray:
    return centre + width * CIRCLE.real + 1j * height * CIRCLE.imag


def band(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """The polygon between two curves over the same x."""
    return np.concatenate([x + 1j * top, (x + 1j * bottom)[::-1]])


def _corners(pixels: np.ndarray) -> np.ndarray:
    return np.rint(pixels.view(np.float64).reshape(-1, 2) * (1 << FRACTION)).astype(np.int32)
