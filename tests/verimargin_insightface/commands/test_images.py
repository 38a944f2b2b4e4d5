import numpy as np
import pytest
import torch
from verimargin_insightface.commands.images import embed_images


def encoder(images):
    return torch.from_numpy(images[:, 0, 0].astype(np.float64))


def pixels(n):
    return np.full((112, 112, 3), n, np.uint8)


def test_batches_and_what_a_killed_run_left(tmp_path):
    asked = []

    def some(n):
        asked.append(n)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return pixels(n)

    out = tmp_path / "out.npz"
    with pytest.raises(KeyboardInterrupt):
        embed_images(out, 7, some, encoder, ["a key"], batch_size=2)
    (left,) = tmp_path.iterdir()
    assert np.fromfile(left, np.float32).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    found = embed_images(out, 7, some, encoder, ["a key"], batch_size=2)
    np.testing.assert_array_equal(found, np.arange(7)[:, None] * np.ones(3))
    assert found.dtype == np.float32
    assert asked[6:] == [0, 4, 5, 6]  # the first one tells the size
    assert not list(tmp_path.iterdir())


def test_what_another_key_left_is_not_taken(tmp_path):
    for key in ("one", "other"):
        with pytest.raises(ZeroDivisionError):
            embed_images(tmp_path / "out.npz", 2, lambda n: pixels(n) if n < 1 else 1 / 0, encoder, key, batch_size=1)
    assert len(list(tmp_path.iterdir())) == 2
