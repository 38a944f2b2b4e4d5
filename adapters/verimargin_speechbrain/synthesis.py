"""A small corpus of many speakers in VoxCeleb's layout, made with a real synthesiser for `verimargin demo`.

A speaker is one of eSpeak NG's voices with its own pitch, pitch range, rate, accent and vocal-tract length;
a session is a room, a microphone and a noise. Each speaker is recorded in a process of its own, on all CPUs, and from
random numbers of its own, so that neither the order nor the number of processes makes a difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from verimargin._processes import Send, run_each
from verimargin.files.whole import whole_folder

from .corpus import write_trials
from .espeak import Espeak

RATE = 16_000
SECONDS = 3.0
ACCENTS = tuple(
    f"gmw/en{place}" for place in ("", "-029", "-GB-scotland", "-GB-x-gbclan", "-GB-x-rp", "-US", "-US-nyc")
)
SENTENCES = (
    "The ferry leaves at seven, so bring a coat and something warm to drink.",
    "My neighbour grows tomatoes on the roof, and they are better than mine.",
    "Turn left behind the old brewery, then follow the river to the bridge.",
    "Nobody remembered the password, and the door stayed shut all afternoon.",
    "She counted the coins twice before she put them back into the jar.",
    "A thin fog lay over the harbour when the first boats came home.",
    "Please send me the figures for March as soon as you have them.",
    "He tuned the piano by ear, which took him most of the morning.",
    "The children built a castle of boxes and defended it until dinner.",
    "I would rather walk in the rain than wait another hour for the bus.",
    "Every winter the road to the village is closed for at least a week.",
    "They painted the kitchen yellow, although nobody had asked them to.",
    "Could you repeat the last number more slowly, I am writing it down.",
    "The museum shows clocks from five centuries, and all of them are wrong.",
    "After the storm we found the garden chair on the other side of the lake.",
    "Her grandfather mended shoes, violins, and once even a telescope.",
)


class Speaker(NamedTuple):
    name: str
    voice: str
    pitch: int
    pitch_range: int
    words_per_minute: int
    tract: float  # length of the vocal tract, relative to that of the voice
    utterances: int
    seed: tuple[int, int]  # of the texts, the channels and the noises


def make_corpus(
    folder: Path, train_speakers: int, test_speakers: int, utterances: int, test_utterances: int, seed: int
) -> Iterator[str]:
    """Write a corpus to `folder`, and yield the name of each speaker when that speaker is done.

    The folder appears under its name when it is complete. The same seed gives the same corpus, byte for byte.
    """
    counts = [utterances] * train_speakers + [test_utterances] * test_speakers
    people = _speakers(counts, Espeak().voices(), seed)
    with whole_folder(folder) as partial:
        yield from _record_all(people, partial / "wav")
        tested = [name for who in people[train_speakers:] for name in _names(who)]
        write_trials(partial / "veri_test.txt", itertools.combinations(tested, 2))


def _record_all(people: Sequence[Speaker], wav: Path) -> Iterator[str]:
    """Record each speaker in a new process; yields the name of each who is done."""
    jobs = {speaker.name: (speaker, wav) for speaker in people}
    return (name for name, _ in run_each(_record, jobs, ["torchaudio.functional", "soundfile"]))


def _record(speaker: Speaker, wav: Path, send: Send) -> None:
    """Write the recordings of one speaker; nothing is sent."""
    import soundfile
    import torch
    from torchaudio.functional import resample

    random = np.random.default_rng(speaker.seed)
    synthesiser = Espeak()
    for k, name in enumerate(_names(speaker)):
        if k % 2 == 0:  # two utterances per session
            channel = _Channel(random)
        text = " ".join(random.choice(SENTENCES, 2, replace=False))
        said = synthesiser.say(text, speaker.voice, speaker.pitch, speaker.pitch_range, speaker.words_per_minute)
        # A longer tract lowers all formants, as slower playback does. Steps of 50 Hz keep the resampling filter short.
        played = round(synthesiser.rate / speaker.tract / 50) * 50
        piece = torch.from_numpy(_cut(said, round(SECONDS * played), random))
        path = wav / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, channel.record(resample(piece, played, RATE).numpy(), random), RATE)


def _names(speaker: Speaker) -> list[str]:
    return [f"{speaker.name}/s{k // 2:02d}/{k:05d}.wav" for k in range(speaker.utterances)]


class _Channel:
    """A room, a microphone and a noise."""

    def __init__(self, random: np.random.Generator):
        length = int(random.uniform(0.05, 0.4) * RATE)
        decay = np.exp(-6.9 * np.arange(length) / length)
        self.room = random.normal(size=length) * decay * random.uniform(0.02, 0.12)
        self.room[0] = 1.0
        self.low, self.high = random.uniform(50, 400), random.uniform(2800, 7800)
        self.tilt = random.uniform(-0.8, 0.8)
        self.snr_db = random.uniform(3, 20)
        self.noise_tilt = random.uniform(-1.2, 0.0)

    def record(self, speech: np.ndarray, random: np.random.Generator) -> np.ndarray:
        size = 1 << (len(speech) + len(self.room)).bit_length()  # a power of two, for the Fourier transforms
        frequency = np.fft.rfftfreq(size, 1 / RATE)
        shape = np.maximum(frequency, 50.0) / 1000.0
        noise = np.fft.irfft(np.fft.rfft(random.normal(size=size)) * shape**self.noise_tilt, size)
        voice = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(self.room, size), size)
        noise *= np.sqrt((voice**2).mean() / (noise**2).mean()) * 10 ** (-self.snr_db / 20)
        band = 1 / (1 + (self.low / np.maximum(frequency, 1.0)) ** 4) / (1 + (frequency / self.high) ** 8)
        heard = np.fft.irfft(np.fft.rfft(voice + noise) * band * shape**self.tilt, size)[: len(speech)]
        return (0.5 * heard / np.abs(heard).max()).astype(np.float32)


def _speakers(utterances: Sequence[int], voices: list[str], seed: int) -> list[Speaker]:
    """Random speakers, one for each number of utterances. Every voice is used once before one is used again, with
    other parameters."""
    random = np.random.default_rng(seed)
    number = len(utterances)
    order = [voice for _ in range(-(-number // len(voices))) for voice in random.permutation(voices)]
    return [
        Speaker(
            name=f"id{10001 + k}",
            voice=f"{random.choice(ACCENTS)}+{order[k]}",
            pitch=int(random.integers(25, 75)),
            pitch_range=int(random.integers(25, 75)),
            words_per_minute=int(random.integers(140, 200)),
            tract=float(random.uniform(0.9, 1.12)),
            utterances=utterances[k],
            seed=(seed, k),
        )
        for k in range(number)
    ]


def _cut(speech: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """A random piece of `size` samples; shorter speech is repeated first."""
    speech = np.tile(speech, -(-size // len(speech)))
    start = int(random.integers(0, len(speech) - size + 1))
    return speech[start : start + size]
