import subprocess
import sys

import numpy as np
import pytest
from verimargin_speechbrain.espeak import Espeak

SPEECH = """
import sys, time
from verimargin_speechbrain.espeak import Espeak
espeak = Espeak()
time.sleep(float(sys.argv[1]))
for voice in ("f3", "klatt4", "caleb"):
    print(espeak.say("My neighbour grows tomatoes.", f"gmw/en+{voice}", 50, 50, 170).tobytes().hex())
"""


@pytest.fixture(scope="module")
def espeak():
    return Espeak()


def spoken(seconds):
    said = [sys.executable, "-c", SPEECH, str(seconds)]
    return subprocess.run(said, check=True, capture_output=True, text=True).stdout.split()


def test_voices_with_breath_and_noise_say_the_same_at_another_time():
    """eSpeak NG 1.52 seeds its own generator with the time, so that srand of the C library changes nothing."""
    first = spoken(0)
    assert len(set(first)) == 3
    assert min(map(len, first)) > 8 * 10_000
    assert spoken(1.1) == first


def hertz(speech, rate):
    """The pitch, from the lag with the highest autocorrelation."""
    repeats = np.fft.irfft(np.abs(np.fft.rfft(speech, 2 * len(speech))) ** 2)
    first, last = rate // 300, rate // 50
    return rate / (first + repeats[first:last].argmax())


def test_a_voice_speaks_faster_and_higher_as_told(espeak):
    text = "Turn left behind the old brewery."
    slow, fast = (espeak.say(text, "gmw/en+m3", 50, 50, speed) for speed in (140, 200))
    assert len(fast) < 0.85 * len(slow)
    low, high = (hertz(espeak.say(text, "gmw/en+m3", pitch, 0, 170), espeak.rate) for pitch in (20, 80))
    assert high > 1.2 * low


def test_effects_are_no_voices_and_a_voice_that_is_not_there_is_named(espeak):
    assert len(espeak.voices()) > 50
    assert not {"whisper", "robosoft", "croak"} & set(espeak.voices())
    with pytest.raises(RuntimeError, match="no voice 'gmw/en-xx"):
        espeak.say("hello", "gmw/en-xx", 50, 50, 170)
