import fcntl

import numpy as np
import pytest
from verimargin.commands.resumable import embed_resumably


def rows(batch):
    return np.array([[n, -n] for n in batch], np.float64)


@pytest.mark.parametrize("left", [b"", np.arange(8, dtype=np.float32).tobytes() + b"ab"])
@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_all_rows_in_order(tmp_path, left, batch_size):
    partial = tmp_path / "x.partial"
    partial.write_bytes(left)
    made = []

    def embed(batch):
        made.extend(batch)
        return rows(batch)

    found = embed_resumably(range(7), embed, partial, batch_size, "step")
    kept = len(left) // 8 // batch_size * batch_size  # whole batches of rows of two float32
    np.testing.assert_array_equal(found[:kept], np.arange(8, dtype=np.float32).reshape(4, 2)[:kept])
    np.testing.assert_array_equal(found[kept:], rows(range(kept, 7)))
    assert made == ([0] if left else []) + list(range(kept, 7))
    assert not partial.exists()


def test_rows_that_were_all_made_are_not_made_again(tmp_path):
    (tmp_path / "x.partial").write_bytes(rows(range(7)).astype(np.float32).tobytes())
    found = embed_resumably(range(7), lambda batch: rows(batch[:1]), tmp_path / "x.partial", 2, "step")
    np.testing.assert_array_equal(found, rows(range(7)))


def test_another_process_is_refused(tmp_path):
    with (tmp_path / "x.partial").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"another process is making these embeddings \(.*x\.partial is in use\)"):
            embed_resumably(range(7), rows, tmp_path / "x.partial", 2, "step")
