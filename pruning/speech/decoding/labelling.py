"""Cuts with new texts: the teacher transcribes them, and interrupted work is continued at the next batch."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import torch
from tqdm import tqdm

from pruning.errors import UserError
from pruning.files import atomic_path, read_json, write_json
from pruning.speech.data import manifests, sampler
from pruning.speech.data.batches import evaluation_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.data.sources import Source, of_beginning
from pruning.speech.decoding.config import DecodingConfig
from pruning.speech.decoding.own_decoder import Bounds, transcribe
from pruning.speech.interfaces import EncoderDecoderNetwork
from pruning.speech.text.labels import Labeller, Said
from pruning.speech.text.network_tokens import NetworkTokens

logger = logging.getLogger(__name__)


class Transcriber:
    """Transcribes cuts with an encoder-decoder.

    Args:
        network: in evaluation mode, on ``device``.
        source: what the network takes as input.
        tokens: the network's tokens.
        config: decoding method and settings.
        max_duration: seconds of audio in a batch.
        device: device to compute on.

    Attributes:
        longest: seconds of the longest cut that fits the network; None: any cut fits.
    """

    def __init__(
        self,
        network: EncoderDecoderNetwork,
        source: Source,
        tokens: NetworkTokens,
        config: DecodingConfig,
        max_duration: float,
        device: str = "cpu",
    ) -> None:
        self._network, self._source, self._tokens = network, of_beginning(source), tokens
        self.longest = source.longest
        self._config, self._device = config, device
        self._data = DataConfig(max_duration=max_duration, num_workers=0)

    @torch.no_grad()
    def batches(self, cuts: Path, skip: int) -> Iterator[dict[str, Said]]:
        """Yield what is said in the cuts of each batch, without the first ``skip`` batches."""
        for batch in evaluation_batches(self._data, [cuts], source=self._source, skip_batches=skip):
            batch = batch.to(self._device)
            encoded = self._network.encoder(batch.features, batch.lengths)
            bounds = Bounds.of(self._tokens.form, batch.durations, self._config.tokens_per_second,
                               self._network.decoder.room)  # fmt: skip
            found = transcribe(self._network, encoded.output, encoded.lengths, self._config, bounds)
            said = (Said(self._tokens.decode(tokens), len(tokens) < most)
                    for tokens, most in zip(found.tokens, bounds.most))  # fmt: skip
            yield dict(zip(batch.ids, said))


def label(
    cuts: Path,
    output: Path,
    labeller: Labeller,
    transcriber: Optional[Transcriber],
    parameters: Mapping[str, Any],
) -> None:
    """Write cuts with new texts, by rename; a file that was written with the same parameters is kept.

    Each supervision has its transcript as ``transcript`` among its custom fields.

    Args:
        cuts: manifest of cuts.
        output: manifest to write; beside it, ``NAME.labels.json`` records parameters and counts, and, until it is
            finished, ``NAME.part.jsonl`` has what the teacher said in each batch.
        labeller: chooses texts.
        transcriber: the teacher; None if no text of a teacher is needed.
        parameters: what decides whether the file must be written again (JSON values).

    Raises:
        UserError: the manifest is damaged, or no cut is left.
    """
    record, part = (output.with_name(f"{output.name}.{ending}") for ending in ("labels.json", "part.jsonl"))
    if output.is_file() and record.is_file():
        known = read_json(record, f"remove {record}")
        if isinstance(known, dict) and known.get("parameters") == parameters:
            logger.info("%s is done: %s", output, known.get("counts"))
            return
    said = {} if transcriber is None else _said(cuts, part, transcriber, parameters)
    record.unlink(missing_ok=True)
    _write(cuts, output, labeller, said, None if transcriber is None else transcriber.longest)
    write_json(record, {"parameters": parameters, "counts": str(labeller.counts), **vars(labeller.counts)})
    part.unlink(missing_ok=True)
    logger.info("%s: %s", output, labeller.counts)


def _said(cuts: Path, part: Path, transcriber: Transcriber, parameters: Mapping[str, Any]) -> dict[str, Said]:
    """Return what is said in all cuts; each batch is appended to ``part``, whose first line has the parameters."""
    first = json.dumps(parameters, sort_keys=True)
    lines = part.read_text(encoding="utf-8").split("\n")[:-1] if part.is_file() else []  # the last may be incomplete
    if not lines or lines[0] != first:
        lines = [first]
    found: dict[str, Said] = {}
    for line in lines[1:]:
        found.update({name: Said(*values) for name, values in json.loads(line).items()})
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("w", encoding="utf-8") as stream:
        stream.write("".join(f"{line}\n" for line in lines))
        for batch in tqdm(transcriber.batches(cuts, len(lines) - 1), unit="batch", disable=None):
            stream.write(json.dumps({name: [said.text, said.ended] for name, said in batch.items()}) + "\n")
            stream.flush()
            found.update(batch)
    return found


def _write(cuts: Path, output: Path, labeller: Labeller, said: Mapping[str, Said], longest: Optional[float]) -> None:
    """Write the cuts of at most ``longest`` seconds of which a text is left."""
    from lhotse import CutSet
    from lhotse.utils import fastcopy

    def labelled() -> Iterator[Any]:
        for cut in manifests.iterate_cuts(cuts):
            if longest is not None and cut.duration > longest:
                labeller.counts.long += 1
                continue
            transcript = sampler.transcript(cut)
            text = labeller.text(transcript, said.get(cut.id, Said("")))
            if text:
                one = cut.supervisions[0]
                custom = {**(one.custom or {}), "transcript": transcript}
                yield fastcopy(cut, supervisions=[fastcopy(one, text=text, custom=custom)])

    with atomic_path(output) as temporary:
        CutSet.from_cuts(labelled()).to_file(temporary)
    if not labeller.counts.replaced + labeller.counts.kept:
        output.unlink()
        raise UserError(f"no text is left of {cuts} ({labeller.counts})", "give a teacher that recognises its speech")
