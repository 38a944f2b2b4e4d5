"""A small corpus of many speakers in VoxCeleb's layout, made with a real synthesiser for `verimargin demo`.

A speaker is one of eSpeak NG's voices with its own pitch, pitch range, rate, accent and vocal-tract length;
a session is a room, a microphone and a noise. Needs espeakng-loader and soundfile.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from verimargin.files.whole import whole_folder

RATE = 16_000
SECONDS = 3.0
ACCENTS = tuple(
    f"gmw/en{place}" for place in ("", "-029", "-GB-scotland", "-GB-x-gbclan", "-GB-x-rp", "-US", "-US-nyc")
)
# Voices that are effects rather than people.
EFFECTS = ("whisper", "robo", "unirobot", "anikarobot", "demonic", "announcer", "croak", "fast", "klatt6", "tweaky")
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


def make_corpus(
    folder: Path, train_speakers: int, test_speakers: int, utterances: int, test_utterances: int, seed: int
) -> Iterator[str]:
    """Write a corpus to `folder`, and yield the name of each speaker when that speaker is done.

    The folder appears under its name when it is complete. The same seed gives the same corpus in every new process
    (but not within one process, because some of eSpeak's voices depend on what they said before).
    """
    import soundfile

    random = np.random.default_rng(seed)
    synthesiser = Espeak()
    people = _speakers(train_speakers + test_speakers, synthesiser.voices(), random)
    tests: list[tuple[str, str]] = []
    with whole_folder(folder) as partial:
        for number, speaker in enumerate(people):
            testing = number >= train_speakers
            for k in range(test_utterances if testing else utterances):
                if k % 2 == 0:  # two utterances per session
                    channel = _Channel(random)
                speech = synthesiser.say(" ".join(random.choice(SENTENCES, 2, replace=False)), speaker)
                name = f"{speaker.name}/s{k // 2:02d}/{k:05d}.wav"
                path = partial / "wav" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, channel.record(_cut(speech, random), random), RATE)
                if testing:
                    tests.append((speaker.name, name))
            yield speaker.name
        lines = [f"{int(a == b)} {x} {y}" for (a, x), (b, y) in itertools.combinations(tests, 2)]
        (partial / "veri_test.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


class Espeak:
    """The library of eSpeak NG, called through its C interface (speak_lib.h); make only one per process."""

    SYNCHRONOUS, UTF8 = 2, 1  # synchronous: the synthesis returns after it has delivered all samples
    SPEED, PITCH, RANGE = 1, 3, 4

    def __init__(self) -> None:
        import espeakng_loader

        self._library = espeakng_loader.load_library()
        self._data = espeakng_loader.get_data_path()
        if self._library is None:
            raise RuntimeError("eSpeak NG's library does not load here: reinstall espeakng-loader for this platform")
        self.rate = self._library.espeak_Initialize(self.SYNCHRONOUS, 0, self._data.encode(), 0)
        if self.rate <= 0:
            raise RuntimeError(f"eSpeak NG does not start with its data in {self._data}: reinstall espeakng-loader")
        self._c = ctypes.CDLL(ctypes.util.find_library("c"))
        self._parts: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._receive)  # kept, or it would be freed while the library still calls it
        self._library.espeak_SetSynthCallback(self._callback)

    def voices(self) -> list[str]:
        names = sorted(path.name for path in Path(self._data, "voices", "!v").iterdir())
        return [name for name in names if not name.lower().startswith(EFFECTS)]

    def say(self, text: str, speaker: Speaker) -> np.ndarray:
        """The spoken text as float32 samples at RATE."""
        import torch
        from torchaudio.functional import resample

        if self._library.espeak_SetVoiceByName(speaker.voice.encode()):
            raise RuntimeError(f"eSpeak NG has no voice {speaker.voice!r}")
        for parameter, value in (
            (self.SPEED, speaker.words_per_minute),
            (self.PITCH, speaker.pitch),
            (self.RANGE, speaker.pitch_range),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._parts.clear()
        self._c.srand(1)  # breath and flutter are random, but the same text has to give the same samples
        data = text.encode()
        self._library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, self.UTF8, None, None)
        speech = torch.from_numpy(np.concatenate(self._parts).astype(np.float32) / 32768.0)
        # A longer tract lowers all formants, like slower playback. A rate in steps of 50 Hz keeps the filter short.
        played = round(self.rate / speaker.tract / 50) * 50
        return resample(speech, played, RATE).numpy()

    def _receive(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


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


def _speakers(number: int, voices: list[str], random: np.random.Generator) -> list[Speaker]:
    """Random speakers. Every voice is used once before one is used again, with other parameters."""
    order = [voice for _ in range(-(-number // len(voices))) for voice in random.permutation(voices)]
    return [
        Speaker(
            name=f"id{10001 + k}",
            voice=f"{random.choice(ACCENTS)}+{order[k]}",
            pitch=int(random.integers(25, 75)),
            pitch_range=int(random.integers(25, 75)),
            words_per_minute=int(random.integers(140, 200)),
            tract=float(random.uniform(0.9, 1.12)),
        )
        for k in range(number)
    ]


def _cut(speech: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A random piece of SECONDS seconds; shorter speech is repeated first."""
    size = int(SECONDS * RATE)
    speech = np.tile(speech, -(-size // len(speech)))
    start = int(random.integers(0, len(speech) - size + 1))
    return speech[start : start + size]
