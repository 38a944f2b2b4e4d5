import numpy as np
import pytest
import torch
from verimargin.files.embeddings import Embeddings, read_embeddings, write_embeddings
from verimargin.files.templates import read_templates

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
        (npz(ids=np.array(IDS, dtype=object), embeddings=ROWS), "save `ids` as strings or integers"),
        (npz(ids=[], embeddings=np.zeros((0, 2))), "has 0 ids"),
        (saved([1.0]), "holds no dictionary of tensors"),
        (saved({}), "holds no dictionary of tensors"),
        (saved({"a": torch.ones(2), "b": torch.ones(3)}), r"embeddings of the sizes \[2, 3\]"),
        (("e.pt", lambda path: path.write_bytes(b"no")), "cannot be read: give an .npz"),
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


@pytest.fixture
def protocol(tmp_path):
    """Five images: template 4 of media 1 (two images) and 2, template 9 of media 1 and 3."""
    (tmp_path / "ijbc_face_tid_mid.txt").write_text("a.jpg 9 1\nb.jpg 4 1\nc.jpg 4 1\nd.jpg 4 2\ne.jpg 9 3\n")
    (tmp_path / "ijbc_name_5pts_score.txt").write_text(
        "".join(f"{n}.jpg 1 2 3 4 5 6 7 8 9 10 0.{n}\n" for n in range(5, 10))
    )
    (tmp_path / "ijbc_template_pair_label.txt").write_text("4 9 0\n")
    x, flipped = np.random.default_rng(0).normal(size=(2, 5, 3))
    np.savez(tmp_path / "result.npz", embs=x, embs_f=flipped)
    return tmp_path, (x + flipped) * np.array([0.5, 0.6, 0.7, 0.8, 0.9])[:, None]


def test_templates_of_ijb(protocol):
    folder, x = protocol
    read = read_templates(folder / "result.npz", folder / "ijbc_template_pair_label.txt")
    assert read.ids == ["4", "9"]
    np.testing.assert_allclose(read.vectors, [(x[1] + x[2]) / 2 + x[3], x[0] + x[4]], rtol=1e-6)


def test_a_protocol_that_does_not_fit_is_named(protocol):
    folder, _ = protocol
    with pytest.raises(ValueError, match="give the protocol's own list"):
        read_templates(folder / "result.npz", folder / "ijbc_face_tid_mid.txt")
    np.savez(folder / "result.npz", embs=np.ones((4, 3)), embs_f=[])
    with pytest.raises(ValueError, match=r"has 4 embeddings, .* 5 and .* 5 lines"):
        read_templates(folder / "result.npz", folder / "ijbc_template_pair_label.txt")
