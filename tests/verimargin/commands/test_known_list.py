import hashlib
from dataclasses import replace

import numpy as np
import pytest
import small_trials
import torch
from verimargin.commands import known_list
from verimargin.commands.trial_set import read_trial_set
from verimargin.files.embeddings import Embeddings, read_embeddings, write_embeddings


@pytest.fixture
def folder(tmp_path):
    return small_trials.make(tmp_path)


def read(folder, name):
    return read_trial_set(folder / "e.npz", folder / name)


def test_a_list_is_known_in_any_order_and_told_from_others(folder):
    dev = read(folder, "dev.txt")
    kept = known_list.marks(dev)
    lines = [line.split() for line in (folder / "dev.txt").read_text().splitlines()]
    turned = [f"{label} {test} {enrol}" for label, enrol, test in lines]
    (folder / "turned.txt").write_text("\n".join(np.random.default_rng(0).permutation(turned)) + "\n")
    assert known_list.is_same(kept, read(folder, "turned.txt"))
    assert known_list.marks(read(folder, "turned.txt")) == kept
    (folder / "part.txt").write_text("\n".join(turned[1:]) + "\n")
    assert not known_list.is_same(kept, read(folder, "part.txt"))
    assert not known_list.is_same(kept, replace(dev, trials=dev.trials._replace(same=~dev.trials.same)))
    assert not known_list.is_same({}, dev)


def test_identities_are_known_by_their_hashes(folder):
    kept = known_list.marks(read(folder, "dev.txt"))
    names = [f"d{n}" for n in range(small_trials.DEV)]
    assert kept["hashed"] == "folders"
    assert set(kept["hashes"].split()) == {hashlib.sha256(name.encode()).hexdigest()[:12] for name in names}
    assert known_list.shared(kept, read(folder, "trials.txt")) == []
    ids = read_embeddings(folder / "e.npz").ids
    small_trials.write_list(folder / "mixed.txt", [*ids[5:15], *ids[-10:]])
    assert known_list.shared(kept, read(folder, "mixed.txt")) == ["d1", "d2"]
    assert known_list.shared({}, read(folder, "mixed.txt")) == []


def test_a_wrong_label_hides_no_identity(folder):
    """With it the folders are no identities, and embeddings were compared with folders."""
    kept = known_list.marks(read(folder, "dev.txt"))
    (folder / "wrong.txt").write_text("1 d1/0 d1/1\n1 d2/0 j3/0\n0 d1/0 d2/0\n")
    assert known_list.marks(read(folder, "wrong.txt"))["hashed"] == "embeddings"
    assert known_list.shared(kept, read(folder, "wrong.txt")) == ["d1", "d2"]


def test_a_list_with_equal_embeddings_is_known_in_any_order(tmp_path):
    """Equal hashes had places of their own, which depended on the order."""
    numbers = [str(n) for n in range(40)]
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32).repeat(2, axis=0)
    lines = [f"{a} {b} {int(b == a + 2)}" for a in range(0, 38, 2) for b in (a + 2, (a + 5) % 40)]
    kept = {}
    for name, order in (("one", range(40)), ("other", range(39, -1, -1))):
        ids = [numbers[n] for n in order]
        write_embeddings(tmp_path / f"{name}.npz", Embeddings(ids, torch.from_numpy(vectors[list(order)])))
        (tmp_path / f"{name}.txt").write_text("\n".join(lines if name == "one" else lines[::-1]) + "\n")
        kept[name] = known_list.marks(read_trial_set(tmp_path / f"{name}.npz", tmp_path / f"{name}.txt"))
    assert kept["one"] == kept["other"]


def test_numbers_are_known_by_their_embeddings(folder):
    held = read_embeddings(folder / "e.npz")
    numbers = [str(n) for n in range(len(held.ids))]
    write_embeddings(folder / "one.npz", Embeddings(numbers, held.vectors))
    write_embeddings(folder / "other.npz", Embeddings(numbers, held.vectors.flip(0)))
    (folder / "n.txt").write_text("0 1 1\n0 7 0\n")
    kept = known_list.marks(read_trial_set(folder / "one.npz", folder / "n.txt"))
    assert kept["hashed"] == "embeddings"
    (folder / "m.txt").write_text("0 7 1\n0 9 0\n")
    assert known_list.shared(kept, read_trial_set(folder / "one.npz", folder / "m.txt")) == ["0", "7"]
    assert known_list.shared(kept, read_trial_set(folder / "other.npz", folder / "m.txt")) == []
    assert not known_list.is_same(kept, read_trial_set(folder / "other.npz", folder / "n.txt"))
