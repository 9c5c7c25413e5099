#!/usr/bin/env python3
"""Decode recordings with a Whisper or a Moonshine in this package and in transformers: word errors and time.

Both are given the samples of one recording at a time and search greedily, with the same limit on tokens, on one thread.
They take turns in an order that is drawn for each recording. What is compared is the processor's time, from samples to
tokens, which other programs disturb less than the clock. Moonshine needs transformers 4.48 or newer. In the recipe's
folder:
    . ./path.sh && python local/compare_transformers.py --networks /networks/moonshine-tiny \\
        --cuts data/real/cuts/librispeech_cuts_dev-3.jsonl.gz
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from pruning.bin import command
from pruning.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from pruning.speech.text.network_tokens import NetworkTokens

OURS, THEIRS = "ours", "transformers"
RATE = 16000
WARM_UP = 2

Recognise = Callable[["Tensor"], list[int]]
"""Map samples (S,) to the tokens of the text."""


class Utterance(NamedTuple):
    """A decoded recording: its text as the corpus has it, and tokens and seconds of each program."""

    id: str
    speaker: str
    reference: str
    tokens: dict[str, list[int]]
    seconds: dict[str, float]


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Decode and write ``OUTPUT`` (JSON) and a table with the suffix .md."""
    options = parse(argv)

    import torch

    from pruning import provenance
    from pruning.files import write_json, write_text
    from pruning.optional import package

    package("transformers", "the comparison", "hf")
    torch.set_num_threads(1)
    rows = []
    for directory in options.networks:
        with tempfile.TemporaryDirectory() as scratch:
            tokens, programs = load(directory, Path(scratch))
        for cuts in options.cuts:
            found = list(decoded(cuts, programs, options.first))
            rows.append({"network": directory.name, **summary(cuts, found, tokens)})
            print(rows[-1], file=sys.stderr)
    facts = provenance.of_script("local/compare_transformers.py", argv)
    facts["transformers"] = package("transformers", "the comparison", "hf").__version__
    write_json(options.output, {"rows": rows, **facts})
    write_text(options.output.with_suffix(".md"), document(rows, facts))


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """Parse and return the options."""
    from pruning.limits import COUNT

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", type=Path, required=True, help="Hugging Face directories")
    parser.add_argument("--cuts", nargs="+", type=Path, required=True, help="cuts with recordings of 16 kHz")
    parser.add_argument("--first", type=COUNT.parse, help="use the first FIRST cuts of each file only")
    parser.add_argument("--output", type=Path, default=Path("results/pretrained/equality/transformers.json"))
    return parser.parse_args(argv)


def load(directory: Path, scratch: Path) -> tuple[NetworkTokens, dict[str, Recognise]]:
    """Return the tokens of a network, and the programs that decode with it by name.

    Args:
        directory: Hugging Face directory of the network.
        scratch: directory for a copy of its tokens.
    """
    import torch

    from pruning.importers import hf_tokens
    from pruning.importers.encoder_decoder import load_encoder_decoder
    from pruning.kinds.heard import source_of
    from pruning.speech.decoding.config import DecodingConfig
    from pruning.speech.decoding.own_decoder import Bounds, transcribe

    network = load_encoder_decoder(directory).eval()
    tokens = hf_tokens.write_lang_dir(directory, network.config, scratch / "lang")
    extract, config = source_of(network.encoder).extract, DecodingConfig("decoder_greedy_search")

    def bounds_of(samples: Tensor) -> Bounds:
        return Bounds.of(tokens.form, [len(samples) / RATE], config.tokens_per_second)

    @torch.no_grad()
    def ours(samples: Tensor) -> list[int]:
        inputs = (samples if extract is None else extract(samples))[None]
        encoded = network.encoder(inputs, torch.tensor([inputs.shape[1]]))
        return transcribe(network, encoded.output, encoded.lengths, config, bounds_of(samples)).tokens[0]

    theirs, inputs_of = of_transformers(directory, network.config.encoder.family, network.encoder.bins)
    around = {*tokens.form.start, tokens.form.end}

    @torch.no_grad()
    def transformers(samples: Tensor) -> list[int]:
        limit = {"max_new_tokens": bounds_of(samples).most[0] + 1}
        found = theirs.generate(**inputs_of(samples), do_sample=False, num_beams=1, **limit)
        return [token for token in found[0].tolist() if token not in around]

    return tokens, {OURS: ours, THEIRS: transformers}


def of_transformers(directory: Path, family: str, bins: int) -> tuple[Any, Callable[[Tensor], dict[str, Any]]]:
    """Return the network of transformers, and what makes its inputs of samples (S,)."""
    from pruning.optional import package

    transformers = package("transformers", "the comparison", "hf")
    name = f"{family.capitalize()}ForConditionalGeneration"
    if not hasattr(transformers, name):
        raise UserError(f"transformers {transformers.__version__} has no {name}", "install a newer one")
    network = getattr(transformers, name).from_pretrained(directory).eval()
    if not bins:
        return network, lambda samples: {"input_values": samples[None]}
    features = transformers.WhisperFeatureExtractor(feature_size=bins)

    def inputs_of(samples: Tensor) -> dict[str, Any]:
        found = features(samples.numpy(), sampling_rate=RATE, return_tensors="pt").input_features
        return {"input_features": found, "return_timestamps": False}

    return network, inputs_of


def decoded(cuts: Path, programs: Mapping[str, Recognise], first: Optional[int]) -> Iterator[Utterance]:
    """Decode the ``first`` cuts of a file (None: all), after `WARM_UP` that do not count."""
    from tqdm import tqdm

    from pruning.speech.data import manifests, sampler
    from pruning.speech.data.sources import load_audio

    order = random.Random(0)
    chosen = list(manifests.iterate_cuts(cuts))[:first]
    for index, cut in enumerate(tqdm([*chosen[:WARM_UP], *chosen], unit="utt.", disable=None)):
        samples = load_audio(RATE, cut)
        tokens: dict[str, list[int]] = {}
        seconds: dict[str, float] = {}
        for name in order.sample(sorted(programs), len(programs)):
            started = time.process_time()
            tokens[name] = programs[name](samples)
            seconds[name] = time.process_time() - started
        if index >= WARM_UP:
            yield Utterance(cut.id, cut.supervisions[0].speaker, sampler.transcript(cut), tokens, seconds)


def summary(cuts: Path, found: Sequence[Utterance], tokens: NetworkTokens) -> dict[str, Any]:
    """Return word errors and seconds of both programs on a set of cuts."""
    from pruning.speech.data.manifests import set_name_of
    from pruning.speech.scoring.scored_words import scored_words
    from pruning.speech.scoring.word_errors import Transcript, score

    words_of = scored_words("words", "english")
    row: dict[str, Any] = {"set": set_name_of(cuts), "utterances": len(found)}
    for name in (OURS, THEIRS):
        of = score([Transcript(one.id, words_of(one.reference), words_of(tokens.decode(one.tokens[name])),
                               speaker=one.speaker) for one in found])  # fmt: skip
        row[name] = {"errors": of.errors, "words": of.words, "wer": round(of.wer, 2),
                     "seconds": [round(one.seconds[name], 4) for one in found]}  # fmt: skip
    row["equal_tokens"] = sum(one.tokens[OURS] == one.tokens[THEIRS] for one in found)
    row["different"] = [one.id for one in found if one.tokens[OURS] != one.tokens[THEIRS]]
    return row


def document(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Return Markdown: word error rates, equal transcripts, and the time of transformers in relation to ours."""
    from tabulate import tabulate

    lines = []
    for row in rows:
        ratios = [theirs / ours for ours, theirs in zip(row[OURS]["seconds"], row[THEIRS]["seconds"])]
        low, *_, high = statistics.quantiles(ratios, n=20)
        lines.append({
            "network": row["network"], "set": row["set"], "utterances": row["utterances"],
            "equal tokens": row["equal_tokens"], "WER % here": f"{row[OURS]['wer']:.2f}",
            "WER % transformers": f"{row[THEIRS]['wer']:.2f}",
            "seconds here": f"{sum(row[OURS]['seconds']):.1f}",
            "time of transformers / time here": f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})",
        })  # fmt: skip
    return "\n".join([
        "# The same networks here and in transformers", "",
        "Greedy search, one recording at a time, one thread; seconds of the processor from samples to tokens. Ratios "
        "of an", "utterance: median, and 5th to 95th percentile. Words after Whisper's English normaliser.", "",
        tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True), "",
        f"{facts['processor']}, torch {facts['torch']}, transformers {facts['transformers']}; commit "
        f"{facts['commit']}, {facts['date']};", f"`{facts['command']}`.", "",
    ])  # fmt: skip


if __name__ == "__main__":
    command.run(main)
