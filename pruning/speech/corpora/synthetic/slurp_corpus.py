"""A synthetic corpus in SLURP's official layout: template sentences or real annotations, spoken by eSpeak NG."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

import numpy as np

from pruning import files
from pruning.errors import UserError
from pruning.speech.corpora import slurp
from pruning.speech.corpora.synthetic import acoustics, commands, speaking
from pruning.speech.corpora.synthetic.commands import Command
from pruning.speech.corpora.synthetic.config import SlurpCorpusConfig
from pruning.speech.corpora.synthetic.voices import ACCENTS, HELD_OUT_VARIANTS, TRAINING_VARIANTS, draw_speaker

TRAIN, DEVEL, TEST = "train", "devel", "test"
_PARTS = {TRAIN: 1, DEVEL: 2, TEST: 3}  # key of each part's random numbers


def draw_parts(config: SlurpCorpusConfig) -> dict[str, list[dict[str, Any]]]:
    """Draw template sentences and return annotations by part, in SLURP's format, without recordings.

    Test is drawn first, and its sentences with slots are not in other parts.
    """
    counts = {TEST: config.test_sentences, DEVEL: config.devel_sentences, TRAIN: config.train_sentences}
    used: set[str] = set()
    parts = {}
    for part, count in counts.items():
        drawn = commands.draw_all(np.random.default_rng([config.seed, _PARTS[part]]), count, used)
        used.update(command.sentence for command in drawn)
        parts[part] = [annotation(command, 10000 * _PARTS[part] + index) for index, command in enumerate(drawn)]
    return parts


def annotation(command: Command, slurp_id: int) -> dict[str, Any]:
    """Return a line of SLURP's annotations; lemmas and parts of speech are left empty."""
    marked = list(command.words)
    for kind, first, last in command.entities:
        marked[first] = f"[{kind} : {marked[first]}"
        marked[last] += "]"
    return {
        "slurp_id": slurp_id,
        "sentence": command.sentence,
        "sentence_annotation": " ".join(marked),
        "intent": f"{command.scenario}_{command.action}",
        "action": command.action,
        "tokens": [{"surface": word, "id": place, "lemma": "", "pos": ""} for place, word in enumerate(command.words)],
        "scenario": command.scenario,
        "recordings": [],
        "entities": [{"span": list(range(first, last + 1)), "type": kind} for kind, first, last in command.entities],
    }


def read_parts(annotations: Path, config: SlurpCorpusConfig) -> dict[str, list[dict[str, Any]]]:
    """Read real annotations by part: ``devel.jsonl`` is split into train and devel, ``test.jsonl`` is test.

    Args:
        annotations: directory with ``dataset/slurp``.
        config: configuration of the corpus.

    Raises:
        UserError: a file is missing or broken.
    """
    rows = {}
    for part in (DEVEL, TEST):
        path = slurp.annotation_path(annotations, part)
        for _ in slurp.read_annotations(path, slurp.Faults("error")):
            pass  # every line is checked
        rows[part] = [json.loads(line) for line in files.read_lines(path) if line.strip()]
    order = np.random.default_rng([config.seed, 0]).permutation(len(rows[DEVEL]))
    count = max(1, round(config.devel_share * len(order)))
    held_out = set(order[:count].tolist())
    return {
        TRAIN: [row for place, row in enumerate(rows[DEVEL]) if place not in held_out],
        DEVEL: [row for place, row in enumerate(rows[DEVEL]) if place in held_out],
        TEST: rows[TEST],
    }


def fingerprint(annotations: Path) -> str:
    """Return a fingerprint of the real annotations from which a corpus is made.

    Raises:
        UserError: a file is missing.
    """
    digest = hashlib.sha256()
    for part in (DEVEL, TEST):
        path = slurp.annotation_path(annotations, part)
        if not path.is_file():
            raise UserError(f"{path} does not exist", "give the directory that contains dataset/slurp/*.jsonl")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def spoken(sentence: str) -> str:
    """Return a sentence for the synthesiser, without marks that it would read aloud."""
    return " ".join(re.sub(r"[^\w'\s.,?!-]", " ", sentence).split())


def plan(config: SlurpCorpusConfig, parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[tuple[str, int, Any]]:
    """Yield part, index of the sentence in the part, and utterance, for every recording."""
    conditions = acoustics.Conditions(snr=config.snr)
    for part, rows in parts.items():
        key = _PARTS[part]
        variants = HELD_OUT_VARIANTS if part == TEST else TRAINING_VARIANTS[: config.variants]
        for take in range(config.recordings if part == TRAIN else 1):
            generator = np.random.default_rng([config.seed, key, 1, take])
            for place, row in enumerate(rows):
                if place % config.sentences_per_speaker == 0:
                    number = 100000 * key + 10000 * take + place // config.sentences_per_speaker
                    speaker = draw_speaker(generator, number, variants, ACCENTS[: config.accents])
                name = f"audio-{key}{take}{place:06d}"
                seed = (config.seed, key, 2, take, place)
                yield part, place, speaking.Utterance(name, spoken(str(row["sentence"])), speaker, conditions, seed)


def make_corpus(
    config: SlurpCorpusConfig, output_dir: Path, num_workers: int, annotations: Optional[Path] = None
) -> None:
    """Write the corpus to ``output_dir``, which appears by rename (see `speaking.make_whole`).

    Args:
        config: configuration of the corpus.
        output_dir: gets ``dataset/slurp/*.jsonl``, ``dataset/slurp/metadata.json`` and ``slurp_real/*.flac``.
        num_workers: number of processes; does not affect the audio.
        annotations: directory with real annotations in ``dataset/slurp``; None: use templates.
    """

    def build(directory: Path) -> dict[str, dict[str, float]]:
        parts = draw_parts(config) if annotations is None else read_parts(annotations, config)
        planned = list(plan(config, parts))
        audio = directory / "slurp_real"
        audio.mkdir()
        seconds = speaking.speak_all([(one, audio / f"{one.identifier}.flac") for _, _, one in planned], num_workers)
        _write(directory, parts, planned)
        of_part = {part: [one for name, _, one in planned if name == part] for part in parts}
        return {part: speaking.statistics(utterances, seconds) for part, utterances in of_part.items()}

    speaking.make_whole(output_dir, asdict(config), build)


def _write(
    directory: Path, parts: Mapping[str, Sequence[Mapping[str, Any]]], planned: Sequence[tuple[str, int, Any]]
) -> None:
    made: dict[tuple[str, int], list[Any]] = {}
    for part, place, utterance in planned:
        made.setdefault((part, place), []).append(utterance)
    metadata: dict[str, Any] = {}
    for part, rows in parts.items():
        lines = []
        for place, row in enumerate(rows):
            names = [f"{one.identifier}.flac" for one in made[part, place]]
            recordings = [{"file": name, "wer": 0.0, "ent_wer": 0.0, "status": "correct"} for name in names]
            lines.append(json.dumps({**row, "recordings": recordings}, ensure_ascii=False))
            users = {name: {"usrid": f"{one.speaker.sex}{one.speaker.number}"} for name, one in
                     zip(names, made[part, place])}  # fmt: skip
            metadata[str(row["slurp_id"])] = {"recordings": users}
        files.write_text(slurp.annotation_path(directory, part), "".join(f"{line}\n" for line in lines))
    files.write_json(directory / "dataset" / "slurp" / "metadata.json", metadata)
