"""Speak and record utterances, each in its own process; write corpora atomically."""

from __future__ import annotations

import io
import logging
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import soundfile

from pruning import files
from pruning.errors import UserError
from pruning.speech.corpora.synthetic import acoustics
from pruning.speech.corpora.synthetic.espeak import Espeak
from pruning.speech.corpora.synthetic.voices import Speaker

DONE_MARK = ".synthetic.json"


@dataclass(frozen=True)
class Utterance:
    """An utterance to be spoken; its ``seed`` makes it independent of the order of speaking and of the process."""

    identifier: str
    text: str
    speaker: Speaker
    conditions: acoustics.Conditions
    seed: tuple[int, ...]


_espeak: Optional[Espeak] = None  # initialised before the fork, speaks only after it: see espeak.py


def speak_all(tasks: Sequence[tuple[Utterance, Path]], num_workers: int) -> dict[str, float]:
    """Speak every utterance into its FLAC file, in an existing directory; return durations in seconds by identifier.

    Raises:
        UserError: eSpeak NG is missing or fails.
    """
    global _espeak
    _espeak = Espeak()
    context = multiprocessing.get_context("fork")
    seconds: dict[str, float] = {}
    with context.Pool(num_workers, maxtasksperchild=1) as pool:
        for result in pool.imap_unordered(_speak, tasks, chunksize=1):
            name, value = result
            if isinstance(value, str):
                raise UserError(name, value)
            seconds[name] = value
    return seconds


def _speak(task: tuple[Utterance, Path]) -> Union[tuple[str, float], tuple[str, str]]:
    """Speak and record one utterance into its file; return its identifier and duration in seconds.

    A UserError is returned as what and remedy, because it cannot be raised again in another process.
    """
    utterance, path = task
    try:
        return utterance.identifier, _record(utterance, path)
    except UserError as error:
        return error.what, error.remedy


def _record(utterance: Utterance, path: Path) -> float:
    assert _espeak is not None
    generator = np.random.default_rng(utterance.seed)
    voice = utterance.speaker.voice.jittered(generator)
    speech = _espeak.speak(utterance.text, voice, int(generator.integers(2**31)))
    wave = acoustics.record(speech, _espeak.sampling_rate, utterance.conditions, generator)
    encoded = io.BytesIO()  # so that a full disk raises OSError and not an error of libsndfile
    soundfile.write(encoded, wave, acoustics.SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    path.write_bytes(encoded.getvalue())
    return len(wave) / acoustics.SAMPLING_RATE


def make_whole(
    output_dir: Path, config: Mapping[str, Any], build: Callable[[Path], Mapping[str, Mapping[str, float]]]
) -> None:
    """Let ``build`` write a corpus to ``output_dir``, which appears by rename; do nothing if it already exists.

    Args:
        output_dir: directory of the corpus.
        config: configuration of the corpus.
        build: writes the corpus to the directory it is given, and returns statistics of its parts.

    Raises:
        UserError: ``output_dir`` contains something else, or a synthetic corpus with another configuration.
    """
    mark = output_dir / DONE_MARK
    wanted = _plain(config)
    if mark.is_file():
        if _plain(files.read_json(mark, f"remove {output_dir}")["config"]) != wanted:
            raise UserError(
                f"{output_dir} contains a corpus made with other options", "remove it or choose another --output-dir"
            )
        logging.info("%s already exists", output_dir)
        return
    _check_empty(output_dir)
    with files.atomic_path(output_dir) as temporary:
        temporary.mkdir()
        statistics = build(temporary)
        files.write_json(temporary / DONE_MARK, {"config": wanted, "parts": statistics})
        _check_empty(output_dir)  # the rename would replace whatever was written there meanwhile
    for name, values in statistics.items():
        logging.info("%s: %s", name, ", ".join(f"{value} {key}" for key, value in values.items()))


def _check_empty(directory: Path) -> None:
    if directory.exists() and any(directory.iterdir()):
        raise UserError(f"{directory} exists and is not a synthetic corpus", "choose another --output-dir")


def statistics(utterances: Sequence[Utterance], seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the number of utterances, words, distinct words, speakers and hours in a part."""
    words = [word for utterance in utterances for word in utterance.text.split()]
    return {
        "utterances": len(utterances),
        "words": len(words),
        "vocabulary": len(set(words)),
        "speakers": len({utterance.speaker.number for utterance in utterances}),
        "hours": round(sum(seconds[utterance.identifier] for utterance in utterances) / 3600, 3),
    }


def _plain(value: Any) -> Any:
    """Return ``value`` as it looks after a round trip through JSON, without settings that are None, for comparison."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value
