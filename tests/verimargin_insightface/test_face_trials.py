import cv2
import numpy as np
import pytest
from verimargin_insightface.face_trials import LANDMARKS, aligned, open_face_trials
from verimargin_insightface.verification_set import write_bin


def image(value, shape=(112, 112)):
    return np.full((*shape, 3), value, np.uint8)


def encoded(value):
    return cv2.imencode(".png", image(value))[1].tobytes()


def test_a_list_of_images_in_a_folder(tmp_path):
    for n, name in enumerate(("a/0.png", "a/1.png", "b/0.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), image(n))
    (tmp_path / "list.txt").write_text("1 a/0.png a/1.png\n0 a/1.png b/0.png\n")
    faces = open_face_trials(tmp_path / "list.txt", tmp_path)
    assert faces.ids == faces.images == ["a/0.png", "a/1.png", "b/0.png"]
    assert [int(faces.pixels(n)[5, 5, 0]) for n in range(3)] == [0, 1, 2]
    assert faces.identities == {"a", "b"}
    (tmp_path / "a" / "1.png").unlink()
    (tmp_path / "b" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"list\.txt names a/1\.png and 1 more, not in "):
        open_face_trials(tmp_path / "list.txt", tmp_path)
    with pytest.raises(ValueError, match=r"no folder is given: give theirs as --data"):
        open_face_trials(tmp_path / "list.txt", None)
    with pytest.raises(ValueError, match=r"none\.txt does not exist"):
        open_face_trials(tmp_path / "none.txt", None)


def test_pairs_of_a_bin_each_once(tmp_path):
    one, two, three = (encoded(n) for n in (1, 2, 3))
    write_bin(tmp_path / "x.bin", [one, two, one, three, one, two], [True, False, True])
    faces = open_face_trials(tmp_path / "x.bin", None)
    assert [int(faces.pixels(n)[0, 0, 0]) for n in range(3)] == [1, 2, 3]
    a, b, c = faces.ids
    assert faces.list_text == f"1 {a} {b}\n0 {a} {c}\n"


def test_a_protocol_aligns_its_images(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "loose_crop").mkdir()
    points = 2 * LANDMARKS + 7
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8), (240, 240))
    cv2.imwrite(str(tmp_path / "loose_crop" / "1.png"), picture)
    line = " ".join(map(str, ["1.png", *points.reshape(-1), 0.9]))
    (tmp_path / "meta" / "ijbc_name_5pts_score.txt").write_text(line + "\n")
    (tmp_path / "meta" / "ijbc_face_tid_mid.txt").write_text("1.png 17 3\n")
    pairs = tmp_path / "meta" / "ijbc_template_pair_label.txt"
    pairs.write_text("17 17 1\n")
    faces = open_face_trials(pairs, None)
    assert (faces.ids, list(faces.images), faces.of_templates) == (["17"], ["1.png"], True)
    expected = picture[7:231:2, 7:231:2, ::-1].astype(int)  # scaled by 2 and shifted by 7
    assert np.abs(faces.pixels(0).astype(int) - expected).max() <= 1
    (tmp_path / "meta" / "ijbc_name_5pts_score.txt").write_text("1.png 1 2 3\n")
    with pytest.raises(ValueError, match=r"line 1 of .*score\.txt is not '<name> <10 landmarks> <score>'"):
        open_face_trials(pairs, None)
    (tmp_path / "meta" / "ijbc_face_tid_mid.txt").unlink()
    with pytest.raises(ValueError, match=r"tid_mid\.txt does not exist"):
        open_face_trials(pairs, None)


def umeyama(source, target):
    """The matrix (2, 3) of the similarity with the least squared error, by Umeyama (1991), equations 40 to 43."""
    means = source.mean(0), target.mean(0)
    centred = source - means[0], target - means[1]
    u, singular, vt = np.linalg.svd(centred[1].T @ centred[0])
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    scaled = (singular * sign).sum() / (centred[0] ** 2).sum() * (u * sign) @ vt
    return np.column_stack([scaled, means[1] - scaled @ means[0]])


def test_alignment_is_the_similarity_of_least_squares():
    rng = np.random.default_rng(1)
    picture = cv2.resize(rng.integers(0, 256, (15, 15, 3), dtype=np.uint8), (150, 150))
    points = LANDMARKS @ np.array([[1.1, 0.3], [-0.3, 1.1]]) + rng.normal(scale=3.0, size=(5, 2)) + 10
    expected = cv2.warpAffine(picture, umeyama(points, LANDMARKS), (112, 112), borderValue=0.0)
    assert np.abs(aligned(picture, points).astype(int) - expected.astype(int)).max() <= 1
