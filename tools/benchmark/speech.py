"""Speech synthesized from text by espeak-ng, for speech models."""

import io
import re
import subprocess
import wave

import numpy as np

RATE = 16000
WORDS = 50  # about 20 seconds
VOICES = ["en-us", "en-gb", "en-us+f2", "en-gb+m3", "en-us+f4", "en-gb-scotland"]


def clips(text, count):
    """The first `count` pieces of running text of `WORDS` words each, as (text, samples at 16 kHz)."""
    words = re.sub(r"<unk>|@-@|@,@|@\.@|^ *=.*= *$", " ", text, flags=re.MULTILINE)
    words = re.sub(r" +([.,;:!?')])", r"\1", re.sub(r"[^\x20-\x7e]+|\"", " ", words)).split()
    for i in range(count):
        piece = " ".join(words[i * WORDS : (i + 1) * WORDS])
        yield piece, spoken(piece, VOICES[i % len(VOICES)], 140 + 10 * (i % 7))


def spoken(text, voice, speed):
    """Samples of `text`, in -1 to 1, at 16 kHz."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text]
    sound = subprocess.run(command, check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(sound)) as file:
        rate = file.getframerate()
        # The header of a stream does not know its length, so all that is there is read.
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2") / 32768.0
    return resampled(samples.astype(np.float64), rate)


def resampled(samples, rate):
    """To 16 kHz by cutting the spectrum at 8 kHz."""
    length = len(samples) * RATE // rate
    spectrum = np.fft.rfft(samples)[: length // 2 + 1]
    return (np.fft.irfft(spectrum, length) * (length / len(samples))).astype(np.float32)
