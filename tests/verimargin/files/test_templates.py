import numpy as np
import pytest
from verimargin.files.templates import holds_images, read_templates


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
    assert read.sizes.tolist() == [3, 2]
    np.testing.assert_allclose(read.vectors, [(x[1] + x[2]) / 2 + x[3], x[0] + x[4]], rtol=1e-6)


def test_a_protocol_that_does_not_fit_is_named(protocol):
    folder, _ = protocol
    with pytest.raises(ValueError, match="give the protocol's own list"):
        read_templates(folder / "result.npz", folder / "ijbc_face_tid_mid.txt")
    np.savez(folder / "result.npz", embs=np.ones((4, 3)), embs_f=[])
    with pytest.raises(ValueError, match=r"has 4 embeddings, .* 5 and .* 5 lines"):
        read_templates(folder / "result.npz", folder / "ijbc_template_pair_label.txt")


def test_without_flipped_images_the_images_count_alone(protocol):
    folder, _ = protocol
    x = np.random.default_rng(1).normal(size=(5, 3))
    scaled = x * np.array([0.5, 0.6, 0.7, 0.8, 0.9])[:, None]
    for arrays in ({"embs": x}, {"embs": x, "embs_f": np.zeros((0, 3))}):
        np.savez(folder / "result.npz", **arrays)
        read = read_templates(folder / "result.npz", folder / "ijbc_template_pair_label.txt")
        wanted = [(scaled[1] + scaled[2]) / 2 + scaled[3], scaled[0] + scaled[4]]
        np.testing.assert_allclose(read.vectors, wanted, rtol=1e-6)


def test_which_files_hold_images(protocol):
    folder, _ = protocol
    assert holds_images(folder / "result.npz")
    np.savez(folder / "embeddings.npz", ids=["a"], embeddings=np.ones((1, 2)))
    (folder / "broken.npz").write_bytes(b"no")
    for other in ("embeddings.npz", "broken.npz", "ijbc_face_tid_mid.txt", "none.npz"):
        assert not holds_images(folder / other)


def test_a_cut_line_is_named(protocol):
    """Its last landmark was taken for the detector's score."""
    folder, _ = protocol
    scores = folder / "ijbc_name_5pts_score.txt"
    scores.write_text(scores.read_text().rstrip().rpartition(" ")[0] + "\n")
    with pytest.raises(ValueError, match=r"5pts_score.txt is not '<name> <10 landmarks> <score>' on every line"):
        read_templates(folder / "result.npz", folder / "ijbc_template_pair_label.txt")


@pytest.mark.parametrize("embs", [np.ones(5), np.ones((5, 3, 1)), np.full((5, 3), "a"), np.ones((5, 3), complex)])
def test_images_that_are_no_rows_of_numbers_are_named(protocol, embs):
    folder, _ = protocol
    np.savez(folder / "result.npz", embs=embs)
    with pytest.raises(ValueError, match=r"result\.npz holds .* of the shape .*: give one row of numbers per image"):
        read_templates(folder / "result.npz", folder / "ijbc_template_pair_label.txt")
    np.savez(folder / "result.npz", embs=np.ones((5, 3)), embs_f=np.ones((5, 2)))
    with pytest.raises(ValueError, match=r"result\.npz holds float64 of the shape \(5, 2\)"):
        read_templates(folder / "result.npz", folder / "ijbc_template_pair_label.txt")


def test_a_damaged_list_is_named(protocol):
    folder, _ = protocol
    (folder / "ijbc_face_tid_mid.txt").write_text("1.jpg 4\n")
    with pytest.raises(ValueError, match=r"ijbc_face_tid_mid\.txt is not '<name> <template> <medium>' on every line"):
        read_templates(folder / "result.npz", folder / "ijbc_template_pair_label.txt")
