import os

import numpy as np
import pytest
import torch
from verimargin.files.embeddings import Embeddings, read_embeddings, write_embeddings

IDS = ["id1/a/0", "id1/a/1", "id2/b/0"]
ROWS = np.arange(1.0, 7.0).reshape(3, 2)


def same(read, ids=IDS):
    assert read.ids == ids
    assert read.vectors.dtype == torch.float32
    np.testing.assert_array_equal(read.vectors, ROWS)


def test_each_format(tmp_path):
    write_embeddings(tmp_path / "own.npz", Embeddings(IDS, torch.from_numpy(ROWS)))
    same(read_embeddings(tmp_path / "own.npz"))
    np.savez(tmp_path / "numbers.npz", ids=np.array([7, 8, 9]), embeddings=ROWS)
    same(read_embeddings(tmp_path / "numbers.npz"), ["7", "8", "9"])
    # as compute_embedding_loop of SpeechBrain's script has them: (1, size) each
    torch.save({name: torch.from_numpy(row)[None] for name, row in zip(IDS, ROWS)}, tmp_path / "dict.pt")
    same(read_embeddings(tmp_path / "dict.pt"))
    for name, row in zip(IDS, ROWS):
        file = tmp_path / "folder" / f"{name}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, row)
    same(read_embeddings(tmp_path / "folder"))
    assert not list(tmp_path.glob(".*"))


def test_sizes_are_kept(tmp_path):
    write_embeddings(tmp_path / "e.npz", Embeddings(IDS, torch.from_numpy(ROWS), sizes=np.array([1.5, 2.0, 7.0])))
    assert read_embeddings(tmp_path / "e.npz").sizes.tolist() == [1.5, 2.0, 7.0]
    np.savez(tmp_path / "images.npz", ids=IDS, embeddings=ROWS, sizes=[1, 2, 3])
    assert read_embeddings(tmp_path / "images.npz").sizes.dtype == float
    write_embeddings(tmp_path / "none.npz", Embeddings(IDS, torch.from_numpy(ROWS)))
    assert read_embeddings(tmp_path / "none.npz").sizes is None


@pytest.mark.parametrize(
    "sizes", [[1.0, 2.0], [1.0, 0.0, 2.0], [1.0, np.nan, 2.0], ["1", "2", "3"], [1.0, np.inf, 2.0]]
)
def test_wrong_sizes_are_named(tmp_path, sizes):
    np.savez(tmp_path / "e.npz", ids=IDS, embeddings=ROWS, sizes=sizes)
    with pytest.raises(ValueError, match=r"the `sizes` of .*e\.npz are .* for 3 embeddings"):
        read_embeddings(tmp_path / "e.npz")


def npz(**arrays):
    return "e.npz", lambda path: np.savez(path, **arrays)


def saved(value):
    return "e.pt", lambda path: torch.save(value, path)


def changed(value):
    rows = ROWS.copy()
    rows[1] = value
    return rows


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (npz(ids=["a", "b", "a"], embeddings=ROWS), "has the id a more than once"),
        (npz(ids=IDS, embeddings=changed(0)), "embedding of id1/a/1 has norm 0"),
        (npz(ids=IDS, embeddings=changed(np.nan)), "embedding of id1/a/1 has norm nan"),
        (npz(ids=IDS[:2], embeddings=ROWS), r"has 2 ids and float64 embeddings of shape \(3, 2\)"),
        (npz(ids=IDS, embeddings=ROWS[None]), "give one row of numbers per id"),
        (npz(ids=IDS, features=ROWS), "holds ids, features: save it with `ids` and `embeddings`"),
        (npz(ids=np.array(IDS, dtype=object), embeddings=ROWS), "save `ids` as strings or numbers"),
        (npz(ids=IDS, labels=["a", "", "b"], embeddings=ROWS), "the label of id1/a/1 is empty: give the identity"),
        (npz(ids=IDS, labels=[0.0, 1.0, 1.0], embeddings=ROWS), "the labels in .* are float64: give whole numbers"),
        (npz(ids=[], embeddings=np.zeros((0, 2))), "has 0 ids"),
        (saved([1.0]), "holds no dictionary of tensors"),
        (saved({}), "holds no dictionary of tensors"),
        (saved({"a": torch.ones(2), "b": torch.ones(3)}), r"embeddings of the sizes \[2, 3\]"),
        (("e.pt", lambda path: path.write_bytes(b"no")), "is damaged, or holds more than tensors: give an .npz"),
        (("e.npz", lambda path: path.write_bytes(b"no")), "cannot be read"),
        (("e.npy", lambda path: np.save(path, ROWS)), "has no known format of embeddings: give an .npz"),
        (("e", lambda path: path.mkdir()), "holds no .npy"),
        (("e.npz", lambda path: None), "do not exist: give an .npz"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, file, message):
    name, write = file
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        read_embeddings(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("vox1 test", {"description": "vox1 test"}),
        ('["x"]', {"description": '["x"]'}),
        ("", {}),
        (["vox1"] * 3, {}),
        ('{"kind": "real"}', {"kind": "real"}),
    ],
)
def test_a_source_of_somebody_elses_is_no_reason_to_refuse(tmp_path, source, expected):
    np.savez(tmp_path / "e.npz", ids=IDS, embeddings=ROWS, source=source, encoder=["x", "y"])
    read = read_embeddings(tmp_path / "e.npz")
    assert read.source == expected
    assert read.encoder == ""


def test_the_entry_that_cannot_be_read_is_named(tmp_path):
    np.savez(tmp_path / "e.npz", ids=IDS, embeddings=ROWS, labels=np.array(["a", 1, None], dtype=object))
    with pytest.raises(ValueError, match="save `labels` as strings or numbers, not as objects"):
        read_embeddings(tmp_path / "e.npz")


def test_embeddings_that_contradict_themselves_are_refused():
    for ids, labels in ((IDS[:2], []), (IDS, ["a"])):
        with pytest.raises(ValueError, match="give one id per embedding, and one label per embedding or none"):
            Embeddings(ids, torch.from_numpy(ROWS), labels)
    assert Embeddings(IDS, torch.from_numpy(ROWS)) != Embeddings(IDS, torch.from_numpy(ROWS))


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path):
    np.save(tmp_path / "a.npy", ROWS[0])
    os.mkfifo(tmp_path / "b.npy")
    with pytest.raises(ValueError, match=r"b\.npy is a pipe or a device"):
        read_embeddings(tmp_path)
