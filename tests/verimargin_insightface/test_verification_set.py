import os
import pickle

import numpy as np
import pytest
from verimargin_insightface.verification_set import read_bin, write_bin

IMAGES, SAME = [b"\x89a", b"b", b"", b"\xffd"], [True, False]


def test_round_trip_is_byte_identical(tmp_path):
    write_bin(tmp_path / "a.bin", IMAGES, SAME)
    assert read_bin(tmp_path / "a.bin") == (IMAGES, SAME)
    write_bin(tmp_path / "b.bin", *read_bin(tmp_path / "a.bin"))
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_arrays_and_numpy_bools(tmp_path):
    arrays = [np.frombuffer(image, np.uint8) for image in IMAGES]
    (tmp_path / "a.bin").write_bytes(pickle.dumps((arrays, [np.bool_(label) for label in SAME])))
    assert read_bin(tmp_path / "a.bin") == (IMAGES, SAME)


def test_what_python_2_wrote(tmp_path):
    r"""By hand: (['\x89a', 'b'], [True]) in protocol 2, in which a str is a SHORT_BINSTRING."""
    (tmp_path / "a.bin").write_bytes(b"\x80\x02](U\x02\x89aU\x01be]\x88a\x86.")
    assert read_bin(tmp_path / "a.bin") == ([b"\x89a", b"b"], [True])


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps((IMAGES, SAME))[:-9], pickle.dumps((1, 2))])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.bin is damaged or not a verification set"):
        read_bin(tmp_path / "a.bin")


def test_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "a.bin").write_bytes(pickle.dumps(([Evil()], [])))
    with pytest.raises(ValueError, match=r"it names posix.mkdir"):
        read_bin(tmp_path / "a.bin")
    assert not (tmp_path / "ran").exists()


def test_an_odd_number_of_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"3 images for 2 pairs"):
        write_bin(tmp_path / "a.bin", IMAGES[:3], SAME)
    assert not (tmp_path / "a.bin").exists()
