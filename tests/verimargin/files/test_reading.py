import ast
import io
import os
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from verimargin.files.reading import check_regular, read_array, read_arrays, read_tensors, read_text

ROWS = np.arange(6.0).reshape(3, 2)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_npz(path):
    with open(path, "wb") as file:
        np.savez(file, ids=["a"], embeddings=ROWS)


def write_script(path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(path)


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.txt", "b")


def header(text, data=b""):
    """An .npy of version 1.0 whose header says what it likes."""
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


def described(dtype, shape):
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"


def zipped(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def test_what_numpy_wrote_is_read(tmp_path):
    arrays = {"rows": ROWS, "fortran": np.asfortranarray(ROWS), "ids": np.array(["a", "bé"]), "one": np.array(3)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays, other=np.ones(2))
        held, names = read_arrays(tmp_path / "a.npz", [*arrays, "missing"])
        assert names == [*arrays, "other"]
        assert held.keys() == arrays.keys()
        for name, array in arrays.items():
            assert np.array_equal(held[name], array)
            assert held[name].dtype == array.dtype
    np.save(tmp_path / "a.npy", ROWS)
    assert np.array_equal(read_array(tmp_path / "a.npy"), ROWS)


def test_embeddings_that_compress_well_are_no_bomb(tmp_path):
    """Ten million labels of two identities, and embeddings of few distinct numbers as float64."""
    labels = np.repeat([5, 6], 1_000_000)
    rows = np.random.default_rng(0).integers(0, 16, (20_000, 64)).astype(np.float64)
    np.savez_compressed(tmp_path / "a.npz", labels=labels, embeddings=rows)
    held, _ = read_arrays(tmp_path / "a.npz", ("labels", "embeddings"))
    assert np.array_equal(held["labels"], labels)
    assert np.array_equal(held["embeddings"], rows)


def test_a_file_that_would_fill_the_memory_is_refused_before_it_does(tmp_path):
    """11 MB inflated to 12 GB. Here 200 kB would become 200 MB."""
    path = zipped(tmp_path / "a.npz", embeddings=npy(np.zeros((100, 250_000))))
    with pytest.raises(
        ValueError, match=r"a\.npz cannot be read \(its .* bytes would become 200,000,128, more than 50"
    ):
        read_arrays(path, ["embeddings"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(described("<f8", (10**10, 100)), bytes(16)), "the header tells of float64 in the shape"),
        (header(described("<U0", (10**13,))), "the header tells of <U0 in the shape"),
        (header(described("<f8", (-1, 2)), bytes(16)), "the header tells of"),
        (header(described("<f8", (1, 1)), bytes(16)), "but 16 bytes follow it"),
        (header(described("|O", (2,)), bytes(16)), "it holds objects"),
        (header(described("<U1", (2,)), b"a\0\0\0\0\0\x11\0"), "its strings are no text"),
        (header(described(">U1", (2,)), b"\0\0\0a\0\x11\0\0"), "its strings are no text"),
        (header(described("<U1", (1,)), b"\0\xd8\0\0"), "its strings are no text"),
        (header("{'descr': [], 'shape': ", bytes(16)), "cannot be read"),
        (npy(ROWS)[:-1], "the header tells of"),
        (b"\x93NUMPY\x03\x00" + npy(ROWS)[8:], "version 3.0"),
        (b"\x80\x04no array", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_an_array_whose_header_is_wrong_is_refused(tmp_path, content, message):
    path = zipped(tmp_path / "a.npz", embeddings=content)
    with pytest.raises(ValueError, match=rf"a\.npz .*{message}.*`embeddings`"):
        read_arrays(path, ["embeddings"])
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.npy .*{message}"):
        read_array(tmp_path / "a.npy")


def test_a_damaged_archive_is_named(tmp_path):
    """An empty one ended the command with "Aborted."; others with the traceback of what unpacks them."""
    np.savez_compressed(tmp_path / "whole.npz", embeddings=ROWS)
    content = bytearray((tmp_path / "whole.npz").read_bytes())
    at = content.find(b"embeddings.npy") + 60
    for damaged in (b"", content[: len(content) // 2], content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]):
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.npz cannot be read"):
            read_arrays(tmp_path / "a.npz", ["embeddings"])
    content[content.rfind(b"PK\x01\x02") + 8] |= 1  # says that it is encrypted
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read"):
        read_arrays(tmp_path / "a.npz", ["embeddings"])
    with pytest.raises(FileNotFoundError, match="none"):
        read_arrays(tmp_path / "none.npz", ["embeddings"])


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (check_regular, read_text, read_array, read_tensors, lambda path: read_arrays(path, [])):
        with pytest.raises(ValueError, match="pipe is a pipe or a device"):
            read(tmp_path / "pipe")


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "names").write_bytes("é".encode())
    assert read_text(tmp_path / "names") == "é"
    (tmp_path / "names").write_bytes("a\né".encode("latin-1"))
    with pytest.raises(ValueError, match="names is not a text file in UTF-8: byte 2 is no part of a letter"):
        read_text(tmp_path / "names")


class TestTensors:
    def test_tensors_and_plain_values_are_read(self, tmp_path):
        content = {"a": torch.ones(2), "more": [torch.zeros(1, dtype=torch.int64), "text", 3], "size": torch.Size([1])}
        torch.save(content, tmp_path / "a.pt")
        assert str(read_tensors(tmp_path / "a.pt")) == str(content)
        torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
        assert str(read_tensors(tmp_path / "old.pt")) == str(content)

    @pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x80\x02}q\x00."])
    def test_a_damaged_file_is_named(self, tmp_path, content):
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.pt is (empty|damaged).*: give a checkpoint"):
            read_tensors(tmp_path / "a.pt", "a checkpoint")

    @pytest.mark.parametrize(
        ("write", "message"),
        [
            (lambda path: path.write_bytes(b""), "is empty"),
            (lambda path: path.write_bytes(npy(ROWS)), r"is an array of np\.save"),
            (write_npz, "is an .npz with the arrays .ids., .embeddings."),
            (write_script, "is a network in TorchScript"),
            (write_zip, "is a zip archive of something else"),
            (lambda path: torch.save(torch.nn.Linear(2, 2), path), "is damaged, or holds more than tensors"),
            (lambda path: path.write_text("1 a b"), "is damaged, or holds more than tensors"),
        ],
    )
    def test_a_file_of_another_kind_is_named_without_torchs_own_words(self, tmp_path, write, message):
        """A user read of an inline_container.cc:180, or that weights_only=False will likely succeed."""
        write(tmp_path / "a.pt")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match=message) as told:
                read_tensors(tmp_path / "a.pt", "a checkpoint")
        assert str(told.value).endswith(": give a checkpoint")
        assert not re.search(r"inline_container|miniz|weights_only|Pytorch", str(told.value))

    def test_a_folder_is_named(self, tmp_path):
        with pytest.raises(ValueError, match="is a folder: give a file"):
            read_tensors(tmp_path)

    def test_a_truncated_or_unlike_file_is_named(self, tmp_path):
        torch.save({"a": torch.ones(100)}, tmp_path / "a.pt")
        content = (tmp_path / "a.pt").read_bytes()
        for cut in range(0, len(content), 97):
            (tmp_path / "a.pt").write_bytes(content[:cut])
            with pytest.raises(ValueError, match=r"a\.pt"):
                read_tensors(tmp_path / "a.pt")
        with pytest.raises(FileNotFoundError):
            read_tensors(tmp_path / "none.pt")

    @pytest.mark.parametrize(
        "value",
        [
            torch.ones(1).expand(10**9, 512),
            {n: torch.ones(2**14).expand(2**14, -1) for n in range(8)},
            torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (10**9, 512)),
            torch.empty(3, device="meta"),
        ],
    )
    def test_tensors_that_are_larger_than_the_file_are_refused(self, tmp_path, value):
        """A file of a kilobyte held an embedding that fills the memory when it is read as one."""
        torch.save({"a": value}, tmp_path / "a.pt")
        with pytest.raises(
            ValueError, match=r"a\.pt cannot be read \(its .* would become|is sparse, quantised or without"
        ):
            read_tensors(tmp_path / "a.pt")

    def test_a_record_that_inflates_is_refused(self, tmp_path):
        torch.save({"a": torch.zeros(20_000_000)}, tmp_path / "whole.pt")
        with (
            zipfile.ZipFile(tmp_path / "whole.pt") as whole,
            zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as packed,
        ):
            for name in whole.namelist():
                packed.writestr(name, whole.read(name))
        with pytest.raises(ValueError, match="more than 50 times as many"):
            read_tensors(tmp_path / "a.pt")


# Checkpoints of many ranks are mapped into memory, not read, and train_v2.py's own call is passed on to torch.
ELSEWHERE = {"rank_files.py", "checkpointing.py"}


def test_nothing_else_opens_files_of_torch():
    """Three readers had wrapped torch.load, each with an understanding of its own of what it raises."""
    root = Path(__file__).resolve().parents[3]
    sources = [path for folder in ("plugin", "adapters") for path in (root / folder).rglob("*.py")]
    calls = [
        path.name
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert set(calls) == {"reading.py", *ELSEWHERE}


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "t").write_text("ann\n", encoding="utf-8-sig")
    assert read_text(tmp_path / "t") == "ann\n"
