import hashlib

import numpy as np
from verimargin_insightface.drawn_faces.people import person
from verimargin_insightface.drawn_faces.photographs import photograph

CODE = """
import hashlib
from verimargin_insightface.drawn_faces.people import person
from verimargin_insightface.drawn_faces.photographs import photograph
for number, shot in reversed([(n, k) for n in range(4) for k in range(3)]):
    print(number, shot, hashlib.sha256(photograph(person(7, number), 7, number, shot).tobytes()).hexdigest())
"""


def test_images_are_the_same_bytes_in_any_order_and_process(python):
    elsewhere = python("-c", CODE).stdout.splitlines()
    here = [
        f"{n} {k} {hashlib.sha256(photograph(person(7, n), 7, n, k).tobytes()).hexdigest()}"
        for n in range(4)
        for k in range(3)
    ]
    assert sorted(elsewhere) == sorted(here)
    assert len({line.split()[2] for line in here}) == 12


def test_images_of_a_person_are_alike_and_not_the_same():
    images = np.array([[photograph(person(0, n), 0, n, k) for k in range(8)] for n in range(12)])
    assert images.shape[2:] == (112, 112, 3)
    assert images.dtype == np.uint8
    small = images.reshape(12, 8, 28, 4, 28, 4, 3).mean((3, 5, 6))[:, :, 6:24, 6:22].reshape(12, 8, -1)
    small = (small - small.mean(2, keepdims=True)) / small.std(2, keepdims=True)
    similar = np.einsum("nkx,mlx->nkml", small, small) / small.shape[2]
    own = np.array([similar[n, :, n][~np.eye(8, dtype=bool)].mean() for n in range(12)])
    others = np.array([np.delete(similar[n], n, 1).mean() for n in range(12)])
    assert (own > others).mean() > 0.8
    assert own.max() < 0.95
