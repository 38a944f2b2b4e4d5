import time

import numpy as np
import pytest
from small_speech import CORPUS, make_corpus
from verimargin_speechbrain import experiment, synthesis


@pytest.fixture
def corpus(synthetic_corpus):
    return synthetic_corpus


def recorded(wav):
    return {path.relative_to(wav).as_posix(): path.read_bytes() for path in wav.rglob("*.wav")}


def test_the_corpus_is_the_same_byte_for_byte(corpus, tmp_path):
    """68 of 1,064 recordings differed from run to run: eSpeak NG seeds its own generator with the time."""
    time.sleep(1.1)
    again = make_corpus(tmp_path / "corpus")
    files = sorted(path.relative_to(corpus) for path in corpus.rglob("*.*"))
    assert len(files) == 6 * 6 + 4 * 3 + 1
    assert all((corpus / file).read_bytes() == (again / file).read_bytes() for file in files)
    assert len(set(recorded(corpus / "wav").values())) == 6 * 6 + 4 * 3


def test_neither_the_order_nor_the_number_of_processes_makes_a_difference(tmp_path):
    """All kinds of voices whose sound depends on what the process said before, and a corpus that is made in parts."""
    kinds = ["f1", "f3", "klatt2", "klatt4", "caleb", "sandro", "grandma", "Alicia"]
    people = synthesis._speakers([2] * 8, kinds, 5)
    assert sorted(person.voice.split("+")[1] for person in people) == sorted(kinds)
    assert len(list(synthesis._record_all(people, tmp_path / "whole"))) == 8
    assert len(list(synthesis._record_all(people[:2:-1], tmp_path / "parts"))) == 5
    stopped = synthesis._record_all(people[:3], tmp_path / "parts")
    next(stopped)
    stopped.close()
    assert sorted(synthesis._record_all(people[:3], tmp_path / "parts")) == ["id10001", "id10002", "id10003"]
    assert len(recorded(tmp_path / "whole")) == 16
    assert recorded(tmp_path / "parts") == recorded(tmp_path / "whole")


def test_a_process_that_fails_is_named(tmp_path):
    speaker = synthesis._speakers([1], ["f1"], 0)[0]._replace(voice="gmw/nobody")
    with pytest.raises(RuntimeError, match="the process of id10001 ended with status 1: its error is above"):
        list(synthesis._record_all([speaker], tmp_path))


def test_speakers_differ(corpus):
    first = [experiment.read_wav(corpus / "wav" / f"id{10001 + k}" / "s00" / "00000.wav") for k in range(6)]
    assert all(len(x) == 3 * 16_000 and 0.4 < float(x.abs().max()) <= 0.5 for x in first)


def test_an_interrupted_corpus_does_not_look_finished(tmp_path):
    made = synthesis.make_corpus(tmp_path / "corpus", **CORPUS, seed=0)
    next(made)
    made.close()
    assert not (tmp_path / "corpus").exists()


def test_each_pair_of_test_recordings_is_a_trial(corpus):
    lines = [line.split() for line in (corpus / "veri_test.txt").read_text().splitlines()]
    recordings = sorted({name for _, *names in lines for name in names})
    assert len(recordings) == 4 * 3
    assert len(lines) == 12 * 11 // 2 == len({frozenset(names) for _, *names in lines})
    assert all((label == "1") == (a.split("/")[0] == b.split("/")[0]) for label, a, b in lines)
    assert all((corpus / "wav" / name).is_file() for name in recordings)


def test_every_voice_speaks_before_any_speaks_again():
    people = synthesis._speakers(range(1, 8), ["anna", "bert", "cleo"], 0)
    voices = [person.voice.split("+")[1] for person in people]
    assert sorted(voices[:3]) == sorted(voices[3:6]) == ["anna", "bert", "cleo"]
    assert [person.name for person in people] == [f"id{10001 + k}" for k in range(7)]
    assert len({person.tract for person in people}) == 7
    assert [person.utterances for person in people] == [1, 2, 3, 4, 5, 6, 7]
    assert len({person.seed for person in people}) == 7


@pytest.mark.parametrize("length", [100, 300, 1000])
def test_a_recording_is_cut_or_repeated_to_its_length(length):
    speech = np.arange(length, dtype=np.float32)
    cut = synthesis._cut(speech, 300, np.random.default_rng(0))
    assert len(cut) == 300
    assert set(np.diff(cut)) <= {1.0, 1.0 - len(speech)}  # in order, from the beginning again after the end


def test_a_session_has_a_room_and_a_noise_of_its_own():
    speech = np.sin(np.arange(16_000) / 20).astype(np.float32)
    random = np.random.default_rng(0)
    first, second = (synthesis._Channel(random).record(speech, random) for _ in range(2))
    assert first.dtype == np.float32
    assert len(first) == len(speech)
    assert np.abs(first).max() == pytest.approx(0.5)
    assert np.corrcoef(first, second)[0, 1] < 0.999
