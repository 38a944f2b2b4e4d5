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


def crafted(kind, state, size=8):
    """A pickle of one array scalar, whose dtype has any kind and state."""
    dtype = b"cnumpy\ndtype\n(X" + len(kind).to_bytes(4, "little") + kind + b"I00\nI01\ntR" + state
    return (
        b"\x80\x02](cnumpy.core.multiarray\nscalar\n(" + dtype + b"C" + bytes([size]) + bytes(size) + b"tRe]\x88a\x86."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (crafted(b"O8", b""), "it holds an array of 'O8'"),
        (crafted(b"V8", b"(I3\nX\x01\x00\x00\x00|NNNI8\nI1\nI27\ntb"), "it holds an array of 'V8'"),
        (crafted(b"u1", b""), "an array of 8 bytes has the shape"),
        (b"\x80\x02}(" + b")" + 1_000_000 * b"\x85" + b"K\x01u.", "it has the instruction EMPTY_DICT"),
        (b"\x80\x02]r\xff\xff\xff\xff]\x86.", "uses the memo 4294967295"),
        (pickle.dumps(([b"a", np.array(["b"], object)], [True])), "it holds an array of 'O8'"),
        (pickle.dumps(([b"a", np.ones(3)], [True])), "it holds an array of 'f8'"),
        (pickle.dumps(([b"a", "b"], [True])), "an image is a str, not bytes"),
        (pickle.dumps(([b"a", b"b"], [2])), "a label is 2, neither true nor false"),
        (
            b"\x80\x02](c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zlibtRe]\x86.",
            "damaged or not a verification",
        ),
    ],
)
def test_what_no_set_holds_is_refused(tmp_path, content, message):
    """A crafted dtype, a key of a million tuples and a number of the memo each ended the process, or filled it."""
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.bin is damaged or not a verification set: .*{message}|{message}"):
        read_bin(tmp_path / "a.bin")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_each_protocol_and_form_is_read(tmp_path, protocol):
    arrays = [np.frombuffer(image, np.uint8) for image in IMAGES]
    for images in (IMAGES, arrays, [array.copy() for array in arrays]):
        for same in (SAME, [np.bool_(label) for label in SAME], np.array(SAME)):
            (tmp_path / "a.bin").write_bytes(pickle.dumps((images, same), protocol))
            assert read_bin(tmp_path / "a.bin") == (IMAGES, SAME)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"a\.bin is a pipe or a device"):
        read_bin(tmp_path / "a.bin")
