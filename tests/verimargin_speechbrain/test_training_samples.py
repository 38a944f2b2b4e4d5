import pytest
import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from verimargin_speechbrain import TrainingSamples

ROWS = [("s3", "cleo"), ("s1", "anna"), ("s2", "cleo"), ("s4", "bert")]
NAMES = ["bert", "cleo", "anna"]  # the label encoder's order is its own


def written(folder, rows=ROWS, names=NAMES):
    folder.mkdir(exist_ok=True)
    lines = [f"{name}, 1.0, {name}.wav, 0, 16000, {speaker}" for name, speaker in rows]
    (folder / "train.csv").write_text("\n".join(["ID, duration, wav, start, stop, spk_id", *lines]) + "\n")
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(names)
    encoder.save(folder / "label_encoder.txt")
    return TrainingSamples(str(folder / "train.csv"), str(folder / "label_encoder.txt"))


def test_knows_the_speakers_and_samples_of_both_files(tmp_path):
    samples = written(tmp_path)
    assert samples.names == NAMES
    assert samples.numbers == {"s3": 0, "s1": 1, "s2": 2, "s4": 3}
    assert samples.class_counts.tolist() == [1, 2, 1]


def test_reads_the_files_when_they_are_first_needed(tmp_path):
    samples = TrainingSamples(str(tmp_path / "train.csv"), str(tmp_path / "label_encoder.txt"))
    assert not samples.exist()
    with pytest.raises(ValueError, match=r"train\.csv does not exist: give train_annotation"):
        _ = samples.numbers
    written(tmp_path)
    assert samples.exist()
    assert samples.names == NAMES
    (tmp_path / "label_encoder.txt").unlink()
    with pytest.raises(ValueError, match=r"label_encoder\.txt does not exist"):
        _ = TrainingSamples(str(tmp_path / "train.csv"), str(tmp_path / "label_encoder.txt")).names


def test_a_batch_carries_the_numbers_in_its_speakers(tmp_path):
    samples = written(tmp_path)
    examples = [
        {"id": name, "sig": torch.ones(4), "spk_id_encoded": torch.tensor([NAMES.index(speaker)])}
        for name, speaker in [ROWS[2], ("of the validation set", "anna"), ROWS[3]]
    ]
    batch = samples(examples)
    packed = batch.spk_id_encoded.data
    assert packed.tolist() == [[1 + 3 * 3], [2], [0 + 3 * 4]]
    assert samples.unpack(packed).tolist() == [[2], [-1], [3]]
    assert packed.tolist() == [[1], [2], [0]]  # the speakers alone, in place


def test_a_fingerprint_is_of_the_samples_their_order_and_their_speakers(tmp_path):
    other_speaker = [*ROWS[:3], ("s4", "anna")]
    prints = [written(tmp_path / str(n), rows).fingerprint for n, rows in enumerate([ROWS, ROWS[::-1], other_speaker])]
    assert len(set(prints)) == 3
    assert written(tmp_path / "again", ROWS, NAMES[::-1]).fingerprint == prints[0]


def test_files_of_different_training_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"label_encoder\.txt has the speaker 'dora', .*train\.csv has not"):
        _ = written(tmp_path / "a", names=[*NAMES, "dora"]).class_counts
    with pytest.raises(ValueError, match=r"train\.csv has the speaker 'anna', .*label_encoder\.txt has not"):
        _ = written(tmp_path / "b", names=["bert", "cleo"]).class_counts
    with pytest.raises(ValueError, match="has an ID twice"):
        _ = written(tmp_path / "c", [*ROWS, ROWS[0]]).numbers
