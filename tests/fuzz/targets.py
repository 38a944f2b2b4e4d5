"""The readers, each with a small file that it reads and what has to be true of whatever it returns.

A target's `make` writes the files to a folder and returns those to be damaged, and `read` reads the folder and checks
the result. A reader may refuse a damaged file by a ValueError or OSError of one line that names a file of the folder.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import verimargin as vm
from verimargin.files.anchors import anchors_from_prototypes
from verimargin.files.calibrations import (
    CalibratedMethod,
    Calibrations,
    FarThreshold,
    read_calibrations,
    write_calibrations,
)
from verimargin.files.class_names import read_class_names
from verimargin.files.embeddings import Embeddings, read_embeddings, write_embeddings
from verimargin.files.kappa_state import read_kappa
from verimargin.files.networks import fingerprint, load_network
from verimargin.files.scorers import read_regressor, write_regressor
from verimargin.files.templates import holds_images, read_templates
from verimargin.files.torchscript import is_torchscript, scripted_state
from verimargin.files.trials import identities, read_trials
from verimargin.scoring.calibration import Calibration

IDS = ["a/1", "a/2", "b/1", "c/1"]


class Target(NamedTuple):
    make: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    needs: tuple[str, ...] = ()  # packages that a target cannot do without


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def check_embeddings(read: Embeddings) -> None:
    assert len(read.ids) == len(set(read.ids)) == len(read.vectors) > 0
    assert len(read.labels) in (0, len(read.ids))
    assert all(isinstance(text, str) for text in [*read.ids, *read.labels, read.encoder])
    assert read.sizes is None or bool((np.isfinite(read.sizes) & (read.sizes > 0)).all())
    assert read.vectors.dtype == torch.float32
    assert read.vectors.dim() == 2
    norms = torch.linalg.vector_norm(read.vectors, dim=1)
    assert bool((norms.isfinite() & (norms > 0)).all())


def make_npz(folder: Path) -> list[Path]:
    write_embeddings(
        folder / "a.npz", Embeddings(IDS, rows(4, 3), list("aabc"), "abc", {"kind": "real"}, np.arange(1.0, 5.0))
    )
    return [folder / "a.npz"]


def make_calibrations(folder: Path) -> list[Path]:
    thresholds = [FarThreshold(0.1, 1.5, (1.0, 2.0)), FarThreshold(0.01, 3.0, None)]
    cosine = CalibratedMethod("cosine", Calibration(-1.5, 8.0, {"size": (0.1, 0.2)}), thresholds)
    write_calibrations(folder / "c.json", Calibrations({"name": "dev.txt"}, "abc", 0.5, {}, {"cosine": cosine}))
    return [folder / "c.json"]


def check_calibrations(folder: Path) -> None:
    read = read_calibrations(folder / "c.json")
    assert math.isfinite(read.prior)
    for method in read.methods.values():
        qualities = {name: (np.ones(2), np.ones(2)) for name in method.calibration.qualities}
        assert np.isfinite(method.calibration(np.zeros(2), qualities)).all()
        assert all(math.isfinite(t.far) and math.isfinite(t.threshold) for t in method.thresholds)


def make_compressed(folder: Path) -> list[Path]:
    np.savez_compressed(folder / "a.npz", embeddings=rows(4, 3).double().numpy(), labels=[5, 5, 6, 7])
    return [folder / "a.npz"]


def read_npz(folder: Path) -> None:
    holds_images(folder / "a.npz")
    check_embeddings(read_embeddings(folder / "a.npz"))


def make_dictionary(folder: Path) -> list[Path]:
    torch.save(dict(zip(IDS, rows(4, 1, 3))), folder / "a.pt")
    return [folder / "a.pt"]


def make_folder(folder: Path) -> list[Path]:
    for name, row in zip("ab", rows(2, 3)):
        np.save(folder / f"{name}.npy", row)
    return [folder / "b.npy"]


def make_templates(folder: Path) -> list[Path]:
    np.savez(folder / "a.npz", embs=rows(4, 3), embs_f=rows(4, 3) + 1)
    (folder / "ijbc_template_pair_label.txt").write_text("7 9 1\n")
    lists = [folder / "ijbc_face_tid_mid.txt", folder / "ijbc_name_5pts_score.txt"]
    lists[0].write_text("".join(f"{n}.jpg {7 + n // 2} {n}\n" for n in range(4)))
    lists[1].write_text("".join(f"{n}.jpg {'1.5 ' * 10}0.{n + 5}\n" for n in range(4)))
    return [folder / "a.npz", *lists]


def make_classifier(folder: Path) -> list[Path]:
    head = vm.PrototypeHead(3, 4, vm.q_margin(alpha=1.5, scale=10.0, margin=0.2))
    torch.save(head.state_dict(), folder / "classifier.ckpt")
    return [folder / "classifier.ckpt"]


def read_classifier(folder: Path) -> None:
    made = anchors_from_prototypes([folder / "classifier.ckpt"])
    assert made.vectors.dtype == torch.float32
    assert len(made.ids) == len(made.vectors)
    assert made.vectors.dim() == 2


def make_regressor(folder: Path) -> list[Path]:
    f, regressor = rows(20, 3), vm.SupportSetRegressor(3, 4, k=2)
    regressor.fit(f, vm.IDAScorer(rows(9, 3) + 1, 2).density(f), epochs=1)
    write_regressor(folder / "a.pt", regressor, "abc")
    return [folder / "a.pt"]


def read_and_use_regressor(folder: Path) -> None:
    found = read_regressor(folder / "a.pt")
    assert isinstance(found.encoder, str)
    assert bool(found.scorer.log_density(rows(2, found.scorer.embedding_size)).isfinite().all())


def make_kappa(folder: Path) -> list[Path]:
    tracker = vm.KappaTracker([4, 2, 1], 3)
    tracker.update(rows(7, 3), torch.tensor([0, 0, 0, 0, 1, 1, 2]))
    tracker.end_epoch()
    torch.save({"tracker": tracker.state_dict(), "extra": {"class_names": list("abc")}}, folder / "kappa.ckpt")
    return [folder / "kappa.ckpt"]


def read_kappa_rows(folder: Path) -> None:
    for number, row in enumerate(read_kappa(folder / "kappa.ckpt")):
        assert row.class_id == number
        assert isinstance(row.name, str)
        assert math.isfinite(row.kappa + row.psi + row.samples)


def make_voxceleb(folder: Path) -> list[Path]:
    (folder / "trials.txt").write_text("1 a/1 a/2\n0 a/1 b/1\n0 c/1.wav a/2.wav\n")
    return [folder / "trials.txt"]


def make_ijb(folder: Path) -> list[Path]:
    (folder / "trials.txt").write_text("1 2 1\n1 3 0\n12 3 0\n")
    return [folder / "trials.txt"]


def read_list(folder: Path, ids: list[str]) -> None:
    trials = read_trials(folder / "trials.txt", ids)
    assert len(trials.enrol) == len(trials.test) == len(trials.same) > 1
    for side in trials[:2]:
        assert 0 <= side.min() <= side.max() < len(ids)
    assert trials.same.dtype == bool
    assert len(identities(trials, ids)) == len(ids)


def make_names(folder: Path) -> list[Path]:
    (folder / "names").write_text("'id1' => 0\n'id2' => 1\n'id3' => 2\n================\n'starting_index' => 0\n")
    return [folder / "names"]


def read_names(folder: Path) -> None:
    assert all(isinstance(name, str) for name in read_class_names(folder / "names"))


def make_scripted(folder: Path) -> list[Path]:
    torch.jit.save(torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.PReLU())), folder / "a.pt")
    return [folder / "a.pt"]


def read_scripted(folder: Path) -> None:
    assert len(fingerprint(folder / "a.pt")) == 64
    if is_torchscript(folder / "a.pt"):
        assert all(isinstance(value, torch.Tensor) for value in scripted_state(folder / "a.pt").values())


def make_onnx(folder: Path) -> list[Path]:
    import onnx

    value, numbers = onnx.helper.make_tensor_value_info, onnx.numpy_helper.from_array(rows(3, 2).numpy(), "w")
    shapes = [[value(name, onnx.TensorProto.FLOAT, ["n", size])] for name, size in (("x", 3), ("y", 2))]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", *shapes, initializer=[numbers])
    made = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.save(made, folder / "a.onnx")
    return [folder / "a.onnx"]


def read_onnx(folder: Path) -> None:
    from verimargin.files.onnx import read_graph

    assert read_graph(folder / "a.onnx").graph.output


def run_onnx(folder: Path) -> None:
    network, known = load_network(str(folder / "a.onnx"))
    assert len(known) == 64
    assert isinstance(network(rows(2, 3)), torch.Tensor)


def make_records(folder: Path) -> list[Path]:
    from verimargin_insightface.recordio import IRHeader, RecordWriter, pack

    with RecordWriter(folder / "train.idx", folder / "train.rec") as writer:
        writer.write_idx(0, pack(IRHeader(2, [4.0, 6.0], 0, 0), b""))
        for key, label in ((1, 0.0), (2, 0.0), (3, 1.0)):
            writer.write_idx(key, pack(IRHeader(0, label, key, 0), b"image"))
        for key, span in ((4, [1.0, 3.0]), (5, [3.0, 4.0])):
            writer.write_idx(key, pack(IRHeader(2, span, key, 0), b""))
    return [folder / "train.idx", folder / "train.rec"]


def read_records(folder: Path) -> None:
    from verimargin_insightface.recordio import RecordReader, class_count, image_keys
    from verimargin_insightface.training_images import open_images

    images = open_images(folder)
    assert len(images.ids) == len(images.labels) > 0
    assert isinstance(images.read(0), bytes)
    with RecordReader(folder / "train.idx", folder / "train.rec") as records:
        assert class_count(records) >= 0
        keys = image_keys(records)
        assert len(records.labels(keys)) == len(keys) == len([records.read_idx(int(key)) for key in keys])


def make_bin(folder: Path) -> list[Path]:
    from verimargin_insightface.verification_set import write_bin

    write_bin(folder / "a.bin", [b"one", b"two", b"three", b""], [True, False])
    return [folder / "a.bin"]


def make_bin_of_arrays(folder: Path) -> list[Path]:
    import pickle

    images = [np.frombuffer(text, np.uint8) for text in (b"one", b"two")]
    (folder / "a.bin").write_bytes(pickle.dumps((images, [np.bool_(True)]), 2))
    return [folder / "a.bin"]


def read_pairs(folder: Path) -> None:
    from verimargin_insightface.verification_set import read_bin

    images, same = read_bin(folder / "a.bin")
    assert len(images) == 2 * len(same)
    assert all(isinstance(image, bytes) for image in images)
    assert all(isinstance(label, bool) for label in same)


def make_annotation(folder: Path) -> list[Path]:
    lines = ["ID, duration, wav, start, stop, spk_id", "a, 1.0, a.wav, 0, 16000, x", "b, 1.0, b.wav, 100, 1600, y"]
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return [folder / "train.csv"]


def read_rows(folder: Path) -> None:
    from verimargin_speechbrain.annotations import COLUMNS, read_annotation

    for row in read_annotation(folder / "train.csv"):
        assert all(isinstance(row[column], str) for column in COLUMNS)
        assert 0 <= int(row["start"]) < int(row["stop"])


TARGETS = {
    "npz": Target(make_npz, read_npz),
    "compressed npz": Target(make_compressed, read_npz),
    "dictionary": Target(make_dictionary, lambda folder: check_embeddings(read_embeddings(folder / "a.pt"))),
    "npy folder": Target(make_folder, lambda folder: check_embeddings(read_embeddings(folder))),
    "templates": Target(
        make_templates,
        lambda folder: check_embeddings(read_templates(folder / "a.npz", folder / "ijbc_template_pair_label.txt")),
    ),
    "classifier": Target(make_classifier, read_classifier),
    "regressor": Target(make_regressor, read_and_use_regressor),
    "kappa": Target(make_kappa, read_kappa_rows),
    "trials by name": Target(make_voxceleb, lambda folder: read_list(folder, IDS)),
    "trials by number": Target(make_ijb, lambda folder: read_list(folder, ["1", "2", "3", "12"])),
    "calibrations": Target(make_calibrations, check_calibrations),
    "class names": Target(make_names, read_names),
    "torchscript": Target(make_scripted, read_scripted),
    "onnx graph": Target(make_onnx, read_onnx, ("onnx",)),
    "onnx network": Target(make_onnx, run_onnx, ("onnx", "onnxruntime")),
    "recordio": Target(make_records, read_records, ("cv2", "typer", "tqdm")),
    "bin": Target(make_bin, read_pairs),
    "bin of arrays": Target(make_bin_of_arrays, read_pairs),
    "annotation": Target(make_annotation, read_rows, ("typer", "soundfile")),
}


def check(target: Target, folder: Path) -> None:
    """Read a folder in which something may be damaged.

    Raises:
        AssertionError: the result is not what the reader promises, or the error does not name a file in one line.
    """
    refused = None
    try:
        target.read(folder)
    except (ValueError, OSError) as error:
        refused = error
    if refused is not None:
        assert str(folder) in str(refused), f"no file is named by {refused!r}"
        assert "\n" not in str(refused).strip(), f"more than a line: {refused!r}"
