"""Simulated recording conditions: rooms, noise and levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
from scipy import signal

SAMPLING_RATE = 16000  # Hz, as LibriSpeech's
_PEAK = 0.9  # of full scale: louder utterances are attenuated instead of clipped


@dataclass(frozen=True)
class Conditions:
    """Recording conditions; every value is drawn uniformly from its range, per utterance.

    Attributes:
        snr: signal-to-noise ratio in dB.
        level: root mean square of the utterance in dB below full scale.
        pause: silence before and after the speech, in seconds.
        reverberation_time: T60 in seconds, the time in which reverberation decays by 60 dB; None: no reverberation.
        direct_to_reverberant: ratio of direct sound to reverberation in dB.
    """

    snr: tuple[float, float]
    level: tuple[float, float] = (-30.0, -20.0)
    pause: tuple[float, float] = (0.1, 0.35)
    reverberation_time: Optional[tuple[float, float]] = None
    direct_to_reverberant: tuple[float, float] = (0.0, 10.0)


def record(speech: np.ndarray, rate: int, conditions: Conditions, generator: np.random.Generator) -> np.ndarray:
    """Record ``speech`` under ``conditions``.

    Args:
        speech: (samples,) int16 at ``rate`` hertz.
        rate: sampling rate of ``speech``.
        conditions: recording conditions.
        generator: only source of randomness.

    Returns:
        (samples',) int16 at 16 kHz, never clipped.
    """
    divisor = int(np.gcd(rate, SAMPLING_RATE))
    clean = signal.resample_poly(trim(speech, rate) / 32768.0, SAMPLING_RATE // divisor, rate // divisor)
    before, after = (int(SAMPLING_RATE * generator.uniform(*conditions.pause)) for _ in range(2))
    power = float(np.mean(clean**2))
    wave = np.pad(clean, (before, after))
    if conditions.reverberation_time is not None:
        time = generator.uniform(*conditions.reverberation_time)
        ratio = generator.uniform(*conditions.direct_to_reverberant)
        wave = signal.fftconvolve(wave, room_response(time, ratio, generator))[: len(wave)]
    noise = coloured_noise(len(wave), generator.uniform(0.0, 2.0), generator)
    wave = wave + noise * np.sqrt(power / 10 ** (generator.uniform(*conditions.snr) / 10))
    gain = 10 ** (generator.uniform(*conditions.level) / 20) / np.sqrt(np.mean(wave**2))
    gain = min(gain, _PEAK / np.abs(wave).max())
    return np.round(wave * gain * 32767).astype(np.int16)


def trim(speech: np.ndarray, rate: int, threshold: int = 32, margin: float = 0.02) -> np.ndarray:
    """Remove the synthesiser's own silence from both ends.

    Samples (int16) up to ``threshold`` count as silence; ``margin`` seconds of it are kept at each end so that no word
    is cut off.
    """
    sounding = np.flatnonzero(np.abs(speech.astype(np.int32)) > threshold)
    if len(sounding) == 0:
        return speech
    keep = int(margin * rate)
    return speech[max(0, sounding[0] - keep) : sounding[-1] + keep + 1]


def coloured_noise(length: int, slope: float, generator: np.random.Generator) -> np.ndarray:
    """Return (length,) noise of power 1 whose spectrum falls as 1 / f**slope: 0 is white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(generator.standard_normal(length))
    frequency = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLING_RATE), 20.0)  # flat below the audible range
    noise = np.fft.irfft(spectrum * frequency ** (-slope / 2), length)
    return noise / np.sqrt(np.mean(noise**2))


def room_response(
    reverberation_time: float, direct_to_reverberant: float, generator: np.random.Generator
) -> np.ndarray:
    """Impulse response of a room: the direct sound, then noise that decays by 60 dB in ``reverberation_time`` seconds.

    Simplest model of late reverberation, after Polack (1988): amplitude exp(-t ln(1000) / T60).
    ``direct_to_reverberant`` is the energy ratio of the two parts in dB.
    """
    time = np.arange(int(reverberation_time * SAMPLING_RATE)) / SAMPLING_RATE
    tail = generator.standard_normal(len(time)) * np.exp(-time * np.log(1000.0) / reverberation_time)
    tail[0] = 0.0
    tail *= np.sqrt(10 ** (-direct_to_reverberant / 10) / np.sum(tail**2))
    tail[0] = 1.0
    return tail
