import cv2
import numpy as np
import pytest
import torch
from verimargin_insightface.mxnet_names import flip, imdecode, modules, open_indexed, resize_short, transpose
from verimargin_insightface.recordio import RecordError


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def test_imdecode_is_rgb(image):
    """OpenCV writes BGR, mxnet reads RGB."""
    encoded = cv2.imencode(".png", image[..., ::-1])[1]
    for given in (encoded.tobytes(), encoded):
        decoded = imdecode(given)
        np.testing.assert_array_equal(decoded.asnumpy(), image)
        assert type(decoded.asnumpy()) is np.ndarray
    np.testing.assert_array_equal(imdecode(encoded, to_rgb=False), image[..., ::-1])
    assert imdecode(encoded, flag=0).shape == (6, 9, 1)


@pytest.mark.parametrize("damaged", [b"", b"no image"])
def test_what_is_no_image_is_said(damaged):
    with pytest.raises(RecordError, match=r"bytes that are not an image"):
        imdecode(damaged)


@pytest.mark.parametrize(("shape", "expected"), [((6, 9, 3), (4, 6, 3)), ((9, 6, 3), (6, 4, 3))])
def test_resize_short_makes_the_shorter_side_so_long(shape, expected):
    resized = resize_short(np.full(shape, 7, np.uint8), 4)
    assert resized.shape == expected
    assert (resized.asnumpy() == 7).all()


def test_flip_and_transpose(image):
    """torch can take them too, although it refuses the negative strides of a flipped view."""
    assert torch.from_numpy(flip(data=image, axis=2).asnumpy()).is_contiguous()
    assert torch.from_numpy(transpose(image, axes=(2, 0, 1)).asnumpy()).is_contiguous()
    np.testing.assert_array_equal(flip(data=image, axis=1).asnumpy(), image[:, ::-1])
    assert transpose(image, axes=(2, 0, 1)).asnumpy().shape == (3, 6, 9)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="sym"):
        getattr(modules()["mxnet"], "sym")  # noqa: B009


def test_open_indexed_writes_and_reads(tmp_path):
    paths = str(tmp_path / "a.idx"), str(tmp_path / "a.rec")
    writer = open_indexed(*paths, "w")
    writer.write_idx(4, b"payload")
    writer.close()
    reader = open_indexed(*paths, "r")
    assert (list(reader.keys), reader.read_idx(4)) == ([4], b"payload")
    with pytest.raises(ValueError, match="flag is 'a'"):
        open_indexed(*paths, "a")
