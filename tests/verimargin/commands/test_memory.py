import re

import numpy as np
import pytest
from verimargin.commands import memory
from verimargin.commands.memory import block_bytes, size_of
from verimargin.scoring.methods import BLOCK


@pytest.fixture
def files(tmp_path):
    (tmp_path / "t.txt").write_text("1 a b\n" * 10_000)
    np.savez(tmp_path / "e.npz", embeddings=np.zeros((100, 10), np.float32))
    (tmp_path / "cohort").mkdir()
    np.save(tmp_path / "cohort" / "x.npy", np.zeros(10**6))
    return tmp_path / "t.txt", tmp_path / "e.npz", [tmp_path / "cohort", None]


def least(message):
    """The sizes that a refusal names."""
    return [float(size) for size in re.findall(r"([\d.]+)GiB", message)]


@pytest.mark.parametrize(
    ("text", "size"), [("2", 2**31), ("0.5", 2**29), ("3GiB", 3 * 2**30), ("3G", 3 * 2**30), ("1500MiB", 1500 * 2**20)]
)
def test_sizes(text, size):
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "x", "2TB", "-1", "2 GiB more", "GiB"])
def test_what_is_no_size_is_named(text):
    with pytest.raises(ValueError, match=rf"--max-memory is '{text}': give a size in GiB, such as 4, or with a unit"):
        size_of(text)


def test_too_little_is_refused_with_what_is_needed(files, monkeypatch):
    monkeypatch.setattr(memory, "count_lines", lambda path: 10**7)
    with pytest.raises(ValueError, match=r"is 1GiB, but 10,000,000 trials and 3 methods need about") as refused:
        block_bytes("1GiB", *files, methods=3, intervals=True)
    needed, with_intervals, without = least(str(refused.value).partition("need")[2])
    assert needed == with_intervals > without > 1
    assert block_bytes(f"{needed}GiB", *files, methods=3, intervals=True) > 0
    assert block_bytes(f"{without}GiB", *files, methods=3, intervals=False) > 0
    with pytest.raises(ValueError, match="need about") as refused:
        block_bytes("1GiB", *files, methods=3, intervals=False)
    assert "--no-intervals" not in str(refused.value)


def test_what_is_needed_grows_with_each_part(files, monkeypatch):
    trials, embeddings, others = files
    monkeypatch.setattr(memory, "_resident", lambda: 0)
    monkeypatch.setattr(memory, "_shown", lambda size: f"{size}GiB")

    def needed(trials=trials, embeddings=embeddings, others=others, methods=1, intervals=False):
        with pytest.raises(ValueError, match="need about") as refused:
            block_bytes("1MiB", trials, embeddings, others, methods, intervals)
        return least(str(refused.value))[0]

    size = embeddings.stat().st_size
    assert needed() - needed(embeddings=embeddings.with_name("none")) == memory.SCORED_COPIES * size
    assert needed() - needed(others=[]) == memory.OTHER_COPIES * (others[0] / "x.npy").stat().st_size
    assert needed(methods=5) - needed() == 10_000 * 4 * memory.SCORED
    assert needed(intervals=True) - needed() == 10_000 * (memory.INTERVALS - memory.CURVE)
    none, listed = trials.with_name("none"), memory.LISTED + memory.SCORED + memory.CURVE
    assert needed() - needed(trials=none) == 10_000 * listed
    (trials.parent / "ijb.txt").write_text("1 2 1\n" * 10_000)
    assert needed(trials=trials.parent / "ijb.txt") - needed(trials=none) == 10_000 * memory.TEMPLATES


def test_blocks_take_what_is_left(files, monkeypatch):
    assert block_bytes(None, *files, methods=1, intervals=False) == BLOCK
    assert block_bytes("1000", *files, methods=1, intervals=False) == BLOCK
    monkeypatch.setattr(memory, "_resident", lambda: 2**29)
    smaller, larger = (block_bytes(f"{size}MiB", *files, methods=1, intervals=False) for size in (900, 1000))
    assert memory.SMALLEST_BLOCK < smaller < larger < BLOCK
    assert larger - smaller == 100 * 2**20
