"""eSpeak NG through ctypes, with the library and data of the package ``espeakng-loader``.

The library has global state that outlives an utterance (echo, phase, random numbers), so the same sentence sounds
slightly different the second time. To get bit-equal audio, each utterance must be spoken by a process whose library is
initialised but has not spoken before: ``pruning.speech.corpora.synthetic.speaking`` forks one process per utterance.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from pruning.errors import UserError
from pruning.speech.corpora.synthetic.voices import Voice

# Constants of espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_POSITION_CHARACTER = 1
_CHARACTERS_UTF8 = 1
_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """The speech synthesiser; create one instance per process, since the library is global.

    Attributes:
        sampling_rate: sampling rate of the audio that ``speak`` returns, in hertz.

    Raises:
        UserError: ``espeakng-loader`` is not installed or its library cannot be initialised.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise UserError(
                "the Python package espeakng-loader is not installed",
                "install it with `pip install espeakng-loader`; only the synthetic corpus needs it",
            ) from None
        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        self.data_path = Path(espeakng_loader.get_data_path())
        self.sampling_rate: int = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, str(self.data_path).encode(), 0
        )
        if self.sampling_rate <= 0:
            raise UserError(f"eSpeak NG cannot read its data in {self.data_path}", "reinstall espeakng-loader")
        self._chunks: list[np.ndarray] = []
        self._callback = _CALLBACK(self._collect)  # a reference, since ctypes does not keep it alive
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0  # continue

    def speak(self, text: str, voice: Voice, seed: int) -> np.ndarray:
        """Speak ``text``.

        Args:
            text: words in lower case.
            voice: voice, speed and pitch.
            seed: seed of the library's own random numbers (breath, roughness).

        Returns:
            (samples,) int16 at ``sampling_rate``.

        Raises:
            UserError: eSpeak NG has no such voice or produces no audio.
        """
        self._chunks.clear()
        # The library reads voice names in lower case and file names of variants as they are written.
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise UserError(f"eSpeak NG has no voice {voice.name}", "reinstall espeakng-loader")
        if hasattr(self._library, "espeak_ng_SetRandSeed"):
            self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._library.espeak_SetParameter(_PARAMETER_RATE, voice.words_per_minute, 0)
        self._library.espeak_SetParameter(_PARAMETER_PITCH, voice.pitch, 0)
        self._library.espeak_SetParameter(_PARAMETER_RANGE, voice.pitch_range, 0)
        encoded = text.encode("utf-8")
        status = self._library.espeak_Synth(
            encoded, len(encoded) + 1, 0, _POSITION_CHARACTER, 0, _CHARACTERS_UTF8, None, None
        )
        self._library.espeak_Synchronize()
        if status != 0 or not self._chunks:
            raise UserError(f"eSpeak NG produces no audio for {text!r}", "choose other words")
        return np.concatenate(self._chunks)
