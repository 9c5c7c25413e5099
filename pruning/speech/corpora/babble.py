"""Test sets with babble noise: every utterance with the voices of other speakers behind it."""

from __future__ import annotations

import io
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from pruning import files
from pruning.errors import UserError
from pruning.speech.data import manifests
from pruning.speech.data.audio import recording
from pruning.speech.data.sources import load_audio, rate_of

_PEAK = 0.9  # of full scale: louder mixtures are attenuated instead of clipped


def mix(speech: np.ndarray, voices: Sequence[np.ndarray], snr: float, generator: random.Random) -> np.ndarray:
    """Return ``speech`` with babble of ``voices``.

    Every voice has the same power and begins at a random place, from which it is repeated up to the end of the speech.

    Args:
        speech: ``(samples,)`` float.
        voices: ``(samples',)`` float each.
        snr: ratio in dB of the power of the speech to that of the babble, both over the whole utterance.
        generator: only source of randomness.

    Returns:
        ``(samples,)`` float, at most 0.9 of full scale, or of the speech's own peak.
    """
    babble = np.zeros(len(speech))
    for voice in voices:
        begin = generator.randrange(len(voice))
        places = (begin + np.arange(len(speech))) % len(voice)
        babble += (voice / np.sqrt(np.mean(voice**2)))[places]
    gain = np.sqrt(np.mean(speech**2) / np.mean(babble**2) / 10 ** (snr / 10))
    mixed: np.ndarray = speech + gain * babble
    limit = max(_PEAK, float(np.abs(speech).max()))
    return mixed * min(1.0, limit / float(np.abs(mixed).max()))


def write_part(source: Path, output: Path, audio_dir: Path, snr: float, talkers: int, seed: int) -> None:
    """Write the cuts of a part with babble of the part's other speakers; existing cuts are skipped.

    The choice of voices depends on the seed and on the id of the cut. Cuts keep their ids.

    Args:
        source: cuts with recordings and speakers.
        output: cuts to write.
        audio_dir: directory for their FLAC files.
        snr: signal-to-noise ratio in dB.
        talkers: number of voices, each of another speaker.
        seed: seed of the choices.

    Raises:
        UserError: a cut has no speaker or is silent, or there are too few other speakers.
    """
    from lhotse import CutSet

    if output.is_file():
        logging.info("%s already exists", output)
        return
    cuts = list(manifests.iterate_cuts(manifests.check_exists([source])[0]))
    by_speaker = _by_speaker(cuts, source)
    if len(by_speaker) <= talkers:
        raise UserError(f"{source} has {len(by_speaker)} speakers, too few for {talkers} other ones",
                        "give a lower --talkers")  # fmt: skip
    made = CutSet.from_cuts(_mixed(cuts, by_speaker, audio_dir, snr, talkers, seed))
    with files.atomic_path(output) as temporary:
        made.to_file(temporary)
    logging.info("%s: %d cuts with %d voices at %g dB", output, len(cuts), talkers, snr)


def _by_speaker(cuts: Sequence[Any], source: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for cut in cuts:
        if not _speaker(cut):
            raise UserError(f"{source}: cut {cut.id} has no speaker", "write the speakers into the manifests")
        found.setdefault(_speaker(cut), []).append(cut)
    return found


def _mixed(
    cuts: Sequence[Any], by_speaker: Mapping[str, list[Any]], audio_dir: Path, snr: float, talkers: int, seed: int
) -> Iterator[Any]:
    for cut in cuts:
        generator = random.Random(f"{seed} {cut.id}")  # all bits of a string go into the seed
        others = sorted(set(by_speaker) - {_speaker(cut)})
        chosen = [generator.choice(by_speaker[name]) for name in generator.sample(others, talkers)]
        rate = rate_of(cut)
        speech, *voices = (_samples(one, rate) for one in (cut, *chosen))
        path, encoded = audio_dir / f"{cut.id}.flac", io.BytesIO()
        mixed = np.round(mix(speech, voices, snr, generator) * 32767).astype(np.int16)
        soundfile.write(encoded, mixed, rate, format="FLAC", subtype="PCM_16")
        with files.atomic_path(path) as temporary:
            temporary.write_bytes(encoded.getvalue())
        yield _cut(cut, recording(path, cut.id))


def _speaker(cut: Any) -> str:
    return str((cut.supervisions[0].speaker if cut.supervisions else None) or "")


def _samples(cut: Any, rate: int) -> np.ndarray:
    samples: np.ndarray = load_audio(rate, cut).double().numpy()
    if not samples.any():
        raise UserError(f"the audio of cut {cut.id} is silent", "remove the cut")
    return samples


def _cut(original: Any, noisy: Any) -> Any:
    """Return the cut of a noisy recording, with id and transcript of the original one."""
    from lhotse.utils import fastcopy

    spoken = [fastcopy(one, recording_id=noisy.id, channel=0) for one in original.supervisions]
    return fastcopy(noisy.to_cut(), id=original.id, supervisions=spoken)
