#!/usr/bin/env python3
"""Write lhotse manifests of CMU AN4: train, dev (speakers held out from training) and test.

Input is the content of an4_sphere.tar.gz: etc/an4_{train,test}.fileids, etc/an4_{train,test}.transcription, wav/. The
parts become Kaldi data directories, which are then read like any other. Audio is converted to FLAC once, because lhotse
would need sph2pipe to read NIST SPHERE.
"""

from __future__ import annotations

import argparse
import logging
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from pruning import files
from pruning.bin import command
from pruning.errors import UserError
from pruning.limits import COUNT, SEED
from pruning.speech.data import kaldi_dir, manifests

PARTS = ("train", "dev", "test")
_RESTORE = "unpack an4_sphere.tar.gz again, or give another --corpus-dir"


@dataclass(frozen=True)
class Utterance:
    """One recording of AN4: a sentence spelled or read by one speaker."""

    id: str
    speaker: str
    audio: Path
    text: str


def read_list(corpus_dir: Path, name: str) -> list[Utterance]:
    """Return the utterances of one of AN4's two lists.

    Args:
        corpus_dir: directory with ``etc`` and ``wav``.
        name: ``train`` or ``test``.

    Raises:
        UserError: with the list that is missing or empty, the malformed line, the audio file that does not exist, or
            the utterance without words, without transcript or without a line in the list of files.
    """
    if not corpus_dir.is_dir():
        raise UserError(f"the corpus directory {corpus_dir} does not exist", _RESTORE)
    if not any(corpus_dir.iterdir()):
        raise UserError(f"the corpus directory {corpus_dir} is empty", _RESTORE)
    listed = corpus_dir / "etc" / f"an4_{name}.fileids"
    transcribed = corpus_dir / "etc" / f"an4_{name}.transcription"
    texts = dict(_transcript(transcribed, number, line) for number, line in enumerate(_lines(transcribed), 1))
    utterances = []
    for entry in _lines(listed):
        audio = corpus_dir / "wav" / f"{entry}.sph"
        if audio.stem not in texts:
            raise UserError(f"{transcribed} has no line for {audio.stem}, or {listed} has two", _RESTORE)
        if not audio.is_file():
            raise UserError(f"{audio}, listed in {listed}, does not exist", _RESTORE)
        utterances.append(Utterance(audio.stem, audio.parent.name, audio, texts.pop(audio.stem)))
    if texts:
        raise UserError(f"{transcribed} has a line for {min(texts)}, which is not in {listed}", _RESTORE)
    return utterances


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path} does not exist", _RESTORE)
    found = [line.strip() for line in files.read_lines(path) if line.strip()]
    if not found:
        raise UserError(f"{path} is empty", _RESTORE)
    return found


def _transcript(path: Path, number: int, line: str) -> tuple[str, str]:
    """Split ``<s> WORDS </s> (identifier)`` into identifier and words; the test list has no sentence marks."""
    found = re.fullmatch(r"(?:<s>)?(.*?)(?:</s>)?\s*\((\S+)\)", line)
    if found is None:
        raise UserError(f"{path}, line {number}: '{line}' is not `words (utterance)`", _RESTORE)
    words, identifier = found[1].split(), found[2]
    if not words:
        raise UserError(f"{path}: the transcript of {identifier} is empty", "add its words")
    return identifier, " ".join(words)


def hold_out(utterances: Sequence[Utterance], count: int, seed: int) -> tuple[list[Utterance], list[Utterance]]:
    """Split utterances into training and dev by speaker.

    Names that differ in a last digit (mdcs, mdcs2) may be one person, so they stay together and count once.

    Args:
        utterances: utterances of AN4's training list.
        count: number of dev speakers.
        seed: seed of the random choice.

    Returns:
        the utterances for training and those for dev, in order.

    Raises:
        UserError: there are too few speakers.
    """
    people = sorted({_person(utterance) for utterance in utterances})
    if not 0 < count < len(people):
        raise UserError(f"cannot hold out {count} of {len(people)} speakers", "give another --dev-speakers")
    chosen = set(random.Random(seed).sample(people, count))
    train = [utterance for utterance in utterances if _person(utterance) not in chosen]
    return train, [utterance for utterance in utterances if _person(utterance) in chosen]


def _person(utterance: Utterance) -> str:
    return utterance.speaker.rstrip("0123456789")


def write_kaldi_dir(utterances: Sequence[Utterance], directory: Path) -> None:
    """Write ``wav.scp``, ``text`` and ``utt2spk``, sorted by utterance as Kaldi requires."""
    ordered = sorted(utterances, key=lambda utterance: utterance.id)
    files.write_text(directory / "wav.scp", "".join(f"{each.id} {each.audio}\n" for each in ordered))
    files.write_text(directory / "text", "".join(f"{each.id} {each.text}\n" for each in ordered))
    files.write_text(directory / "utt2spk", "".join(f"{each.id} {each.speaker}\n" for each in ordered))


def check_made(paths: manifests.Paths, utterances: Mapping[str, Sequence[Utterance]]) -> None:
    """Check that existing manifests contain these utterances; otherwise dev speakers could be in train, too.

    Raises:
        UserError: with the first manifest that differs.
    """
    from lhotse import load_manifest

    for part, expected in utterances.items():
        path = paths.supervisions(part)
        if not path.is_file():
            continue
        with manifests.naming(path):
            made = {each.id for each in load_manifest(path)}
        if made != {utterance.id for utterance in expected}:
            remedy = "give those or another --data-dir, or remove manifests and features of train and dev"
            raise UserError(f"{path} was made with another corpus, --dev-speakers or --seed", remedy)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the options and write the manifests; existing manifests are skipped."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--corpus-dir", type=Path, required=True, help="directory with etc/ and wav/")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts to prepare")
    options.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="directory for manifests/, kaldi/ and audio/"
    )
    options.add_argument(
        "--dev-speakers", type=COUNT.parse, default=8, help="number of speakers held out from training"
    )
    options.add_argument("--seed", type=SEED.parse, default=1, help="seed of the choice of speakers")
    values = options.parse_args(argv)
    train, dev = hold_out(read_list(values.corpus_dir, "train"), values.dev_speakers, values.seed)
    utterances = {"train": train, "dev": dev, "test": read_list(values.corpus_dir, "test")}
    paths = manifests.Paths(values.data_dir / "manifests", "an4")
    check_made(paths, utterances)
    for part in values.parts:
        if paths.recordings(part).is_file() and paths.supervisions(part).is_file():
            logging.info("%s: manifests already exist", part)
            continue
        directory = values.data_dir / "kaldi" / part
        write_kaldi_dir(utterances[part], directory)
        recordings, supervisions = kaldi_dir.read(directory, values.data_dir / "audio")
        manifests.write(recordings, supervisions, paths, part)
        speakers = len({utterance.speaker for utterance in utterances[part]})
        logging.info("%s: %d utterances by %d speakers", part, len(supervisions), speakers)


if __name__ == "__main__":
    command.run(main)
