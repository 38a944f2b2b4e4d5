"""The speech synthesiser eSpeak NG. Needs espeakng-loader."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

# Voices that are effects rather than people.
EFFECTS = ("whisper", "robo", "unirobot", "anikarobot", "demonic", "announcer", "croak", "fast", "klatt6", "tweaky")


class Espeak:
    """The library of eSpeak NG, called through its C interface (speak_lib.h); make only one per process.

    What a voice says depends on what the process has said before: the positions of its flutter, and the filters of
    breath and of the Klatt voices, are static variables that nothing sets back. Each speaker needs a new process.
    """

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
        self._c = ctypes.CDLL(None)  # what the process has loaded, of which the C library is a part
        self._parts: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._receive)  # kept, or it would be freed while the library still calls it
        self._library.espeak_SetSynthCallback(self._callback)

    def voices(self) -> list[str]:
        names = sorted(path.name for path in Path(self._data, "voices", "!v").iterdir())
        return [name for name in names if not name.lower().startswith(EFFECTS)]

    def say(self, text: str, voice: str, pitch: int, pitch_range: int, words_per_minute: int) -> np.ndarray:
        """The spoken text as float32 samples at `rate`."""
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"eSpeak NG has no voice {voice!r}")
        for parameter, value in ((self.SPEED, words_per_minute), (self.PITCH, pitch), (self.RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._parts.clear()
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # of breath and the Klatt voices; else it is the time
        self._c.srand(1)  # of the voices with "klatt 6", which take their noise from the C library
        data = text.encode()
        self._library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, self.UTF8, None, None)
        return np.concatenate(self._parts).astype(np.float32) / 32768.0

    def _receive(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0
