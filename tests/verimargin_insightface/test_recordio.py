import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_disk import files_up_to
from verimargin_insightface.recordio import (
    MAGIC,
    IRHeader,
    RecordError,
    RecordReader,
    RecordWriter,
    class_count,
    image_keys,
    pack,
    unpack,
)

PAYLOADS = st.lists(st.sampled_from([MAGIC, b"x", b"ab", b"\0\0\0\0", MAGIC[:3]]), max_size=12).map(b"".join)


def write(folder, payloads):
    with RecordWriter(folder / "train.idx", folder / "train.rec") as writer:
        for key, payload in enumerate(payloads):
            writer.write_idx(key, payload)


def read(folder):
    with RecordReader(folder / "train.idx", folder / "train.rec") as reader:
        return [bytes(reader.read_idx(key)) for key in reader.keys]


@settings(deadline=None)
@given(st.lists(PAYLOADS, min_size=1, max_size=5))
def test_round_trip(tmp_path_factory, payloads):
    folder = tmp_path_factory.mktemp("set")
    write(folder, payloads)
    assert read(folder) == payloads
    files = [(folder / name).read_bytes() for name in ("train.idx", "train.rec")]
    write(folder, read(folder))
    assert [(folder / name).read_bytes() for name in ("train.idx", "train.rec")] == files


def test_bytes_on_disk(tmp_path):
    """Written by hand from the format: a whole, padded record, and one that is split at its aligned magic number."""
    write(tmp_path, [b"abcde", b"1234" + MAGIC + b"x" + MAGIC])
    magic, word = struct.pack("<I", 0xCED7230A), struct.Struct("<I").pack
    whole = magic + word(5) + b"abcde\0\0\0"
    first, last = magic + word(1 << 29 | 4) + b"1234", magic + word(3 << 29 | 5) + b"x" + magic + b"\0\0\0"
    assert (tmp_path / "train.rec").read_bytes() == whole + first + last
    assert (tmp_path / "train.idx").read_text() == "0\t0\n1\t16\n"


def test_three_parts(tmp_path):
    payload = MAGIC + bytes(4) + MAGIC + MAGIC
    write(tmp_path, [payload])
    data = (tmp_path / "train.rec").read_bytes()
    assert [word >> 29 for word in struct.unpack(f"<{len(data) // 4}I", data) if word >> 29 in (1, 2, 3)] == [
        1,
        2,
        2,
        3,
    ]
    assert read(tmp_path) == [payload]


def test_header_of_one_label_and_of_several():
    assert pack(IRHeader(0, 3.0, 7, 1), b"jpeg") == struct.pack("<IfQQ", 0, 3.0, 7, 1) + b"jpeg"
    several = pack(IRHeader(0, [5.0, 8.0], 0, 0), b"")
    assert several == struct.pack("<IfQQ2f", 2, 0.0, 0, 0, 5.0, 8.0)
    header, image = unpack(several + b"jpeg")
    assert (header.flag, header.label.tolist(), bytes(image)) == (2, [5.0, 8.0], b"jpeg")
    header, image = unpack(pack((0, np.float32(3), 7, 1), b"jpeg"))
    assert (header, bytes(image)) == ((0, 3.0, 7, 1), b"jpeg")


def test_class_count(tmp_path):
    write(tmp_path, [pack(IRHeader(0, [11.0, 14.0], 0, 0), b""), pack(IRHeader(0, 1.0, 1, 0), b"x")])
    with RecordReader(tmp_path / "train.idx", tmp_path / "train.rec") as reader:
        assert class_count(reader) == 3
    write(tmp_path, [pack(IRHeader(0, 1.0, 1, 0), b"x")])
    with RecordReader(tmp_path / "train.idx", tmp_path / "train.rec") as reader:
        assert class_count(reader) == 0


@pytest.mark.parametrize("cut", [1, 9, 13, 20])
def test_a_truncated_record_is_named(tmp_path, cut):
    write(tmp_path, [b"a" * 20, b"b" * 20])
    data = (tmp_path / "train.rec").read_bytes()
    (tmp_path / "train.rec").write_bytes(data[:-cut])
    with RecordReader(tmp_path / "train.idx", tmp_path / "train.rec") as reader:
        assert reader.read_idx(0) == b"a" * 20
        with pytest.raises(RecordError, match=r"record 1 of .*train.rec, at byte 28: .*truncated"):
            reader.read_idx(1)


@pytest.mark.parametrize(("at", "value", "message"), [(28, 0, "instead of 0a23d7ce"), (35, 0x60, "part of kind 3")])
def test_a_corrupt_record_is_named(tmp_path, at, value, message):
    write(tmp_path, [b"a" * 20, b"b" * 20])
    data = bytearray((tmp_path / "train.rec").read_bytes())
    data[at] = value
    (tmp_path / "train.rec").write_bytes(data)
    with (
        RecordReader(tmp_path / "train.idx", tmp_path / "train.rec") as reader,
        pytest.raises(RecordError, match=f"record 1 of .*{message}"),
    ):
        reader.read_idx(1)


@pytest.mark.parametrize("payload", [b"short", struct.pack("<IfQQ", 3, 0, 0, 0) + b"12345678"])
def test_a_damaged_header_is_named(tmp_path, payload):
    write(tmp_path, [payload])
    with (
        RecordReader(tmp_path / "train.idx", tmp_path / "train.rec") as reader,
        pytest.raises(RecordError, match=r"record 0 of .*train.rec"),
    ):
        unpack(reader.read_idx(0))


@pytest.mark.parametrize(
    "index", ["", "0\t0\n1", "0\tx\n", "0\t0\t5\n1\t8\t2\n", "0\t0\n\0\0\0", "0\t1.5\n", "0\t-8\n"]
)
def test_a_damaged_index_is_named(tmp_path, index):
    write(tmp_path, [b"a"])
    (tmp_path / "train.idx").write_text(index)
    with pytest.raises(RecordError, match=r"train.idx (is not an index|has a negative)"):
        RecordReader(tmp_path / "train.idx", tmp_path / "train.rec")


def test_keys_in_any_order(tmp_path):
    with RecordWriter(tmp_path / "train.idx", tmp_path / "train.rec") as writer:
        for key in (7, 2, 10**12):
            writer.write_idx(key, str(key).encode())
    with RecordReader(tmp_path / "train.idx", tmp_path / "train.rec") as reader:
        assert list(reader.keys) == [7, 2, 10**12]
        assert [reader.read_idx(key) for key in (2, 7, 10**12)] == [b"2", b"7", b"1000000000000"]
        assert [key in reader for key in (0, 2, 3, 8, 10**13)] == [False, True, False, False, False]


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "train.rec").write_bytes(b"")
    (tmp_path / "train.idx").write_text("0\t0\n")
    with pytest.raises(RecordError, match=r"train.rec is empty"):
        RecordReader(tmp_path / "train.idx", tmp_path / "train.rec")


def test_a_missing_key_is_named(tmp_path):
    write(tmp_path, [b"a"])
    with (
        RecordReader(tmp_path / "train.idx", tmp_path / "train.rec") as reader,
        pytest.raises(RecordError, match=r"train.idx has no record 5: the index is not whole"),
    ):
        reader.read_idx(5)


def test_a_reader_goes_to_another_process(tmp_path):
    write(tmp_path, [b"a", b"b"])
    with RecordReader(tmp_path / "train.idx", tmp_path / "train.rec") as reader:
        assert pickle.loads(pickle.dumps(reader)).read_idx(1) == b"b"


def test_nothing_is_left_of_a_set_that_failed(tmp_path):
    write(tmp_path, [b"before"])
    with pytest.raises(TypeError), RecordWriter(tmp_path / "train.idx", tmp_path / "train.rec") as writer:
        writer.write_idx(0, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.idx", "train.rec"]
    assert read(tmp_path) == [b"before"]


def face_set(folder, ranges=((1, 3), (3, 4)), first=4, end=6):
    """Three images of two classes, with record 0 and the ranges of keys as upstream's sets have them."""
    images = [pack(IRHeader(0, float(label), 0, 0), b"x") for label in (0, 0, 1)]
    entries = [pack(IRHeader(2, np.array(span, float), 0, 0), b"") for span in ranges]
    write(folder, [pack(IRHeader(2, np.array([first, end], float), 0, 0), b""), *images, *entries])
    return RecordReader(folder / "train.idx", folder / "train.rec")


def test_a_lost_line_of_the_index_is_named(tmp_path):
    """It was a KeyError, in the middle of the computing."""
    assert image_keys(face_set(tmp_path)).tolist() == [1, 2, 3]
    lines = (tmp_path / "train.idx").read_text().splitlines(keepends=True)
    (tmp_path / "train.idx").write_text("".join(lines[:2] + lines[3:]))
    with pytest.raises(RecordError, match=r"train\.idx has no record 2, .*the index is not whole"):
        image_keys(RecordReader(tmp_path / "train.idx", tmp_path / "train.rec"))


@pytest.mark.parametrize(("first", "end"), [(np.nan, 6), (-1, 6), (6, 4), (4, np.inf), (1e30, 2e30)])
def test_a_record_0_that_tells_of_impossible_keys_is_named(tmp_path, first, end):
    with pytest.raises(RecordError, match=r"train\.(rec has a record whose range of keys|idx has no record)"):
        image_keys(face_set(tmp_path, first=first, end=end))


@pytest.mark.parametrize("label", [np.nan, np.inf, -np.inf, 0.5])
def test_a_label_that_is_no_class_is_named(tmp_path, label):
    write(tmp_path, [pack(IRHeader(0, label, 0, 0), b"x")])
    with (
        RecordReader(tmp_path / "train.idx", tmp_path / "train.rec") as reader,
        pytest.raises(RecordError, match=r"record 0 of .*train\.rec has the label .*, which is no class"),
    ):
        reader.labels(reader.keys)


@pytest.mark.parametrize("name", ["train.idx", "train.rec"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    write(tmp_path, [b"a"])
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is a pipe or a device"):
        RecordReader(tmp_path / "train.idx", tmp_path / "train.rec")


@pytest.mark.parametrize("size", [40, 400])
def test_on_a_full_disk_neither_file_is_left(tmp_path, size):
    """The records had their name already when the index could not be written."""
    with files_up_to(size), pytest.raises(OSError, match=r"File too large: '.*train\.(rec|idx)'"):
        write(tmp_path, [b"abc"] * 40)
    assert not list(tmp_path.iterdir())
    writer = RecordWriter(tmp_path / "train.idx", tmp_path / "train.rec")
    for key in range(50):
        writer.write_idx(10**15 + key, b"")  # 8 bytes of records, and more of their index
    with files_up_to(500), pytest.raises(OSError, match=r"File too large: '.*train\.idx'"):
        writer.close()
    assert not list(tmp_path.iterdir())


def test_a_position_that_no_file_has_is_named(tmp_path):
    """The sum of it and the length of a header wrapped, which was an IndexError."""
    write(tmp_path, [pack(IRHeader(0, 1.0, 1, 0), b"x")])
    (tmp_path / "train.idx").write_text(f"0\t{2**63 - 1}\n")
    with (
        RecordReader(tmp_path / "train.idx", tmp_path / "train.rec") as reader,
        pytest.raises(RecordError, match=r"record 0 of .*train\.rec, at byte 9223372036854775807: the file ends"),
    ):
        reader.labels(reader.keys)
