from dataclasses import replace

import numpy as np
import pytest
from verimargin_insightface.drawn_faces.drawing import CENTRE, SCALE, Drawing, Shot, band, ellipse
from verimargin_insightface.drawn_faces.people import person

NEUTRAL = Shot(yaw=0, pitch=0, roll=0, shift=0j, zoom=1, blink=1, smile=0, gape=0, gaze=0, frown=0)
POINTS = np.array([0.3 + 0j, -0.3 + 0j, 0.1 + 0.6j])


def drawing(**pose):
    return Drawing(person(0, 0), replace(NEUTRAL, **pose), np.array([90, 100, 110]))


def test_a_neutral_face_is_seen_from_the_front():
    assert np.allclose(drawing().project(POINTS), CENTRE + SCALE * POINTS)
    assert np.allclose(drawing(zoom=1.5, shift=2 - 1j).project(POINTS), CENTRE + 2 - 1j + 1.5 * SCALE * POINTS)
    turned = drawing(roll=np.pi / 2).place(np.array([1 + 0j]))[0]
    assert turned == pytest.approx(CENTRE + 1j * SCALE)  # the right side turns down


def test_a_turned_head_shows_its_depth():
    """What stands out moves farther, and the eye on the far side comes closer to the nose."""
    yaw, front = 0.4, drawing()
    left, right = (drawing(yaw=side * yaw) for side in (-1, 1))
    middle = np.array([0j])
    moved = [float((right.project(middle, lift) - front.project(middle, lift)).real[0]) for lift in (0.0, 0.3)]
    assert 0 < moved[0] < moved[1]
    mirrored = left.project(-POINTS.conj()) - CENTRE
    assert np.allclose(-mirrored.conj(), right.project(POINTS) - CENTRE)
    eyes = np.array([-0.3 + 0j, 0.3 + 0j])
    near, far = np.abs(right.project(eyes) - right.project(middle))
    assert far < near
    x, depth = 0.3, 0.8 * np.sqrt(1 - (0.3 / 0.95) ** 2)  # by hand, on the ellipsoid
    expected = CENTRE.real + SCALE * (x * np.cos(yaw) + (depth - 0.35) * np.sin(yaw))
    assert right.project(np.array([x + 0j])).real[0] == pytest.approx(expected)


def test_the_parts_are_where_they_belong():
    made = drawing()
    made.face()
    skin = made.canvas[int(CENTRE.imag + 0.25 * SCALE), int(CENTRE.real + 0.05 * SCALE)].astype(float)
    assert np.abs(skin - made.who.skin).max() < 60
    assert (made.canvas[0, 0] == [90, 100, 110]).all()
    assert len(np.unique(made.canvas.reshape(-1, 3), axis=0)) > 100  # anti-aliased edges


def area(points):
    return 0.5 * abs(np.imag(np.sum(points.conj() * np.roll(points, -1))))


def test_shapes():
    assert area(ellipse(1 + 2j, 0.5, 0.2)) == pytest.approx(np.pi * 0.5 * 0.2, rel=0.02)
    x = np.linspace(0, 2, 5)
    assert area(band(x, 0 * x, 3 + 0 * x)) == pytest.approx(6)
