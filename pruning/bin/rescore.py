"""Rescore n-best lists of any recogniser with a language model: of this toolkit, imported, or an n-gram.

An n-best list has lines of UTTERANCE SCORE TEXT; larger scores are better. With --dev-nbest and --dev-references, the
weights of --lm-scales and --word-bonuses with the lowest WER there are chosen; they are then used for --nbest. Writes
the re-ranked list, and with --exp-dir also the weights and the measurement.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from pruning import provenance
from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.limits import COUNT, NATURAL, NON_NEGATIVE, NUMBER
from pruning.speech.scoring.scored_words import NORMALISERS, scored_words, version_of
from pruning.speech.scoring.word_errors import SCORED, Transcript, count_errors
from pruning.speech.text.recordings import LIBRISPEECH, by_recording
from pruning.speech.text.written_form import WRITTEN

if TYPE_CHECKING:
    from pruning.speech.decoding.n_best import Merged
    from pruning.speech.decoding.n_best_rescoring import Rescorer, Tuned, Weights
    from pruning.speech.decoding.text_scorer import ScoringFacts, TextScorer

logger = logging.getLogger(__name__)
SCALES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
BONUSES = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0)


def _parser() -> argparse.ArgumentParser:
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--nbest", type=Path, help="n-best list to rescore; default: only choose weights")
    parser.add_argument("--output", type=Path, help="file for the re-ranked list with the new scores")
    parser.add_argument("--references", type=Path, help="references for --nbest, to print its WER")
    parser.add_argument("--exp-dir", type=Path, help="directory for rescore-SET.json, rescored-SET.txt, weights.json;"
                        " what is there with the same lists and settings is not repeated")  # fmt: skip
    parser.add_argument("--set", dest="set_name", help="name of the set of --nbest; default: that of its file")
    _add_model(parser)
    _add_weights(parser)
    _add_texts(parser)
    _add_tables(parser)
    parser.add_argument("--max-tokens", type=COUNT.parse, default=2048, help="tokens in a batch")
    parser.add_argument("--num-threads", type=COUNT.parse, default=1, help="number of threads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("language model")
    group.add_argument("--lm-exp-dir", type=Path, help="experiment directory of a language model")
    group.add_argument(
        "--lang-dir", type=Path, help="with --lm-exp-dir: its lang dir, with bpe.model or tokenizer.json"
    )
    group.add_argument("--arpa", type=Path, help="ARPA file of an n-gram, instead of --lm-exp-dir")
    group.add_argument("--without-lm", action="store_true", help="no language model: only merge, and add --word-bonus")
    group.add_argument("--lm-name", help="name in the measurement; default: that of the directory or the file")
    group.add_argument("--max-length", type=NATURAL.parse, default=0,
                       help="largest number of tokens of context and text; default 0: as in training")  # fmt: skip


def _add_weights(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("weights")
    group.add_argument("--lm-scale", type=NON_NEGATIVE.parse, help="weight of the language model")
    group.add_argument("--word-bonus", type=NUMBER.parse, default=0.0, help="with --lm-scale: score of a word")
    group.add_argument("--dev-nbest", type=Path, help="n-best list on which the weights are chosen")
    group.add_argument(
        "--dev-references", type=Path, help="references for --dev-nbest: lines of UTTERANCE WORDS, or recogs-*"
    )
    group.add_argument(
        "--lm-scales", type=NON_NEGATIVE.parse, nargs="+", default=list(SCALES), help="weights to try on --dev-nbest"
    )
    group.add_argument(
        "--word-bonuses", type=NUMBER.parse, nargs="+", default=list(BONUSES), help="scores of a word to try on it"
    )


def _add_texts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("texts")
    group.add_argument("--form", choices=WRITTEN, default="as-is", help="how hypotheses are written for the language "
                       "model: as they are, in lower case, as an English sentence, as LibriSpeech's words")  # fmt: skip
    group.add_argument("--score-end", type=arguments.boolean, metavar="true|false", help="score the end of a text; "
                       "default: true, but false for a language model of running text")  # fmt: skip
    group.add_argument("--context", type=NATURAL.parse, default=0, help="number of earlier utterances of the recording "
                       "whose best hypotheses precede a text; for a language model of running text")  # fmt: skip
    group.add_argument("--recording-pattern", default=LIBRISPEECH, metavar="REGEX", help="with --context: names of "
                       "utterances, with the recording as the first group; default: LibriSpeech's")  # fmt: skip
    group.add_argument("--normalise", choices=NORMALISERS, help="normalise texts before they are merged and scored")
    group.add_argument("--score-in", choices=SCORED, default="words", help="characters: each CJK character is a word")
    group.add_argument("--unique", type=NATURAL.parse, default=20,
                       help="largest number of different hypotheses of an utterance; 0: any number")  # fmt: skip


def _add_tables(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tables of utterances")
    for name, use in (
        ("utt2rec", "recordings, instead of --recording-pattern"),
        ("utt2dur", "seconds, for the real-time factor"),
        ("utt2spk", "speakers, which the bootstrap draws"),
    ):
        group.add_argument(f"--{name}", type=Path, nargs="+", default=[], help=f"files of UTTERANCE VALUE: {use}")
    group.add_argument("--cuts", type=Path, nargs="+", default=[], help="cuts, instead of --utt2dur and --utt2spk")


class _Part(NamedTuple):
    """Lists to rescore: merged, with their fingerprint, and references if there are any."""

    merged: Merged
    fingerprint: str
    references: Optional[dict[str, list[str]]]


class _Rescored(NamedTuple):
    """A rescored set: its name, the best words and the speaker of each utterance, parameters and facts."""

    set: str
    best: dict[str, list[str]]
    speakers: dict[str, str]
    parameters: dict[str, Any]
    facts: dict[str, Any]


class _Lists:
    """Reads lists and references as the options say."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.words_in = scored_words(options.score_in, options.normalise)

    def read(self, nbest: Path, references: Optional[Path]) -> _Part:
        """Read an n-best list and its references."""
        from pruning.experiments.rescoring_results import fingerprint
        from pruning.speech.decoding.n_best import merged, read_nbest
        from pruning.speech.scoring.references import read_references

        lists = read_nbest(nbest)
        words = None if references is None else read_references(references, lists, self.words_in)
        found = merged(lists, self.words_in, self._options.unique)
        if found.empty:
            logger.warning("%s: %d empty hypotheses", nbest, found.empty)
        print(f"{nbest}: {len(lists)} utterances, {found.hypotheses} hypotheses, {found.unique} different, "
              f"{found.left_out} left out")  # fmt: skip
        return _Part(found, fingerprint([lists, words]), words)


def _check(options: argparse.Namespace) -> None:
    if (options.lm_scale is None) == (options.dev_nbest is None) or (
        (options.dev_nbest is None) != (options.dev_references is None)
    ):
        raise UserError("cannot tell which weight the language model has",
                        "give either --lm-scale, or both --dev-nbest and --dev-references")  # fmt: skip
    if options.nbest is None and (options.dev_nbest is None or options.exp_dir is None):
        raise UserError("no list to rescore", "give --nbest, or choose weights: --dev-nbest with --exp-dir")
    if options.nbest is not None and options.output is None and options.exp_dir is None:
        raise UserError("no place for the re-ranked list", "give --output or --exp-dir")
    if sum((options.arpa is not None, options.lm_exp_dir is not None, options.without_lm)) != 1:
        raise UserError(
            "no language model given, or two", "give exactly one of --lm-exp-dir and --arpa, or --without-lm"
        )
    if options.lm_exp_dir is not None and options.lang_dir is None:
        options.lang_dir = options.lm_exp_dir / "lang"  # that of an imported network
        if not options.lang_dir.is_dir():
            raise UserError("--lm-exp-dir needs --lang-dir", "give the lang dir of the language model")
    if options.exp_dir is not None and options.nbest is not None and options.references is None:
        raise UserError("--exp-dir needs references to measure", "give --references")


def _scorer(options: argparse.Namespace) -> tuple[TextScorer, dict[str, Any]]:
    """Return the language model, its fingerprints and the settings of its use."""
    from pruning.kinds.language_model import LanguageModelKind
    from pruning.speech.decoding.network_scorer import NetworkScorer
    from pruning.speech.decoding.text_scorer import NgramScorer, NoScorer
    from pruning.speech.ngrams import arpa
    from pruning.speech.text.lm_tokens import read_tokens, text_tokens

    if options.without_lm:
        return NoScorer(), {"weights": None, "settings": _settings(options, None)}
    if options.arpa is not None:
        end = options.score_end is not False
        model, weights = arpa.read(options.arpa), provenance.file_fingerprint(options.arpa)
        return NgramScorer(model, end), {"weights": weights, "settings": _settings(options, end)}
    tokens = read_tokens(options.lang_dir)
    network, _ = LanguageModelKind.load_network(options.lm_exp_dir, tokens)
    network.to(arguments.check_device(options.device)).eval()
    of_text = text_tokens(tokens)
    end = not of_text.takes_context if options.score_end is None else options.score_end
    room = options.max_length or network.config.positions
    scorer = NetworkScorer(network, of_text, end, room, options.max_tokens)
    return scorer, {"weights": provenance.weights_fingerprint(network), "tokens": tokens.fingerprint,
                    "settings": _settings(options, end)}  # fmt: skip


def _lm_name(options: argparse.Namespace) -> str:
    place = options.lm_exp_dir or options.arpa
    return options.lm_name or ("none" if place is None else place.stem)


def _settings(options: argparse.Namespace, score_end: Optional[bool]) -> dict[str, Any]:
    """Return the settings that decide about scores and words."""
    found = {key: getattr(options, key) for key in ("form", "context", "score_in", "unique", "max_length")}
    found["score_end"] = score_end
    found["normalise"] = options.normalise and version_of(options.normalise)
    if options.context:
        known = [provenance.file_fingerprint(path) for path in options.utt2rec]
        found["recordings"] = known or options.recording_pattern
    return found


def _rescorer(options: argparse.Namespace, part: _Part, scorer: TextScorer) -> Rescorer:
    """Return what rescores a list.

    Raises:
        UserError: the language model takes no context, or cannot score a hypothesis, or a recording is unknown.
    """
    from pruning.speech.data.utterance_tables import joined
    from pruning.speech.decoding.n_best_rescoring import Rescorer

    candidates, recordings = part.merged.candidates, []
    if options.context:
        if not scorer.takes_context:
            raise UserError("--context needs a language model of running text, with its own tokens", "leave it out")
        recordings = by_recording(candidates, options.recording_pattern, joined(options.utt2rec))
    found = Rescorer(candidates, scorer, WRITTEN[options.form], options.context, recordings)
    if scorer.facts.changed:
        what = "the tokens of %d hypotheses do not spell them back (first: %r); they are scored as they are"
        logger.warning(what, len(scorer.facts.changed), scorer.facts.changed[0])
    return found


def _weights(
    options: argparse.Namespace, dev: _Part, scorer: TextScorer, made_of: dict[str, Any], argv: Optional[Sequence[str]]
) -> Weights:
    """Return the weights with the lowest WER on dev, and print all of them."""
    from pruning.experiments import rescoring_results
    from pruning.speech.decoding.n_best_rescoring import oracle_errors, tune

    assert dev.references is not None
    scales = [0.0] if options.without_lm else options.lm_scales
    parameters = {**made_of, "dev": dev.fingerprint, "lm_scales": scales, "word_bonuses": options.word_bonuses}
    if options.exp_dir is not None:
        known = rescoring_results.read_weights(options.exp_dir, parameters)
        if known is not None:
            logger.info("%s has the weights", options.exp_dir / rescoring_results.WEIGHTS)
            return known
    rescorer = _rescorer(options, dev, scorer)
    tuned = tune(rescorer, dev.references, scales, options.word_bonuses)
    oracle = sum(oracle_errors(rescorer.candidates, dev.references).values())
    print(f"\nWER % on dev (oracle: {100 * oracle / sum(map(len, dev.references.values())):.2f} %)\n\n{_grid(tuned)}\n")
    best = tuned.best
    print(f"dev, scale {best.weights.lm_scale:g}, word bonus {best.weights.word_bonus:g}: WER {best.wer:.2f} %")
    if best.weights.lm_scale == 0 and not options.without_lm:
        logger.warning("the language model does not help on dev: the best scale is 0")
    for weight in tuned.at_edge:
        logger.warning("%s is at the edge of the values that were tried; try more of them", weight)
    if options.exp_dir is not None:
        made = provenance.environment("pruning.bin.rescore", argv, options.device)
        rescoring_results.write_weights(options.exp_dir, tuned, parameters, made)
    return best.weights


def _grid(tuned: Tuned) -> str:
    """Return the table of tried weights: a row for each scale, a column for each word bonus."""
    from pruning.reports.document import tabulated

    rows: dict[float, dict[str, str]] = {}
    for one in tuned.tried:
        row = rows.setdefault(one.weights.lm_scale, {"scale": f"{one.weights.lm_scale:g}"})
        row[f"word bonus {one.weights.word_bonus:g}"] = f"{one.wer:.2f}{' *' if one is tuned.best else ''}"
    return tabulated(list(rows.values()), "simple")


def _rescore(
    options: argparse.Namespace, test: _Part, scorer: TextScorer, weights: Weights, made_of: dict[str, Any]
) -> Optional[_Rescored]:
    """Rescore the list, print what changed, and write the list; return nothing if it is done."""
    from pruning.experiments import rescoring_results as results
    from pruning.experiments.measurement import is_done
    from pruning.speech.data.utterance_tables import UtteranceTables
    from pruning.speech.decoding.n_best import write_nbest
    from pruning.speech.decoding.n_best_rescoring import reordered
    from pruning.speech.decoding.text_scorer import ScoringFacts

    name = options.set_name or options.nbest.name.split(".")[0]
    names = list(test.merged.candidates if test.references is None else test.references)
    tables = UtteranceTables.read(names, options.utt2dur, options.utt2spk, options.cuts)
    parameters = {**made_of, **weights._asdict(), "lists": test.fingerprint, "tables": results.fingerprint(tables)}
    output = options.output or results.n_best_path(options.exp_dir, name)
    if options.exp_dir is not None and output.is_file() and is_done(results.path_of(options.exp_dir, name), parameters):
        logger.info("%s is done", results.path_of(options.exp_dir, name))
        return None
    scorer.facts = ScoringFacts()
    began = time.perf_counter()
    rescorer = _rescorer(options, test, scorer)
    totals = {key: of[0] for key, of in rescorer.totals([weights]).items()}
    seconds = time.perf_counter() - began
    found = reordered(rescorer.candidates, totals)
    write_nbest(output, [entry for entries in found.values() for entry in entries])
    best = {key: list(rescorer.candidates[key][int(of.argmax())].words) for key, of in totals.items()}
    changed = sum(best[key] != list(test.merged.first[key]) for key in best)
    print(f"scale {weights.lm_scale:g}, word bonus {weights.word_bonus:g}: the best hypothesis changed for "
          f"{changed} of {len(best)} utterances")  # fmt: skip
    _print_counts(scorer.facts)
    spoken = None if tables.seconds is None else round(sum(tables.seconds.values()), 3)
    facts = {"lm": _lm_name(options), **weights._asdict(), **made_of["settings"], **test.merged.counts(),
             **scorer.facts.described(options.context), "changed": changed, "seconds": round(seconds, 4),
             "audio_seconds": spoken, "real_time_factor": spoken and seconds / spoken,
             "output": output.name}  # fmt: skip
    return _Rescored(name, best, tables.speakers or {}, parameters, facts)


def _print_counts(facts: ScoringFacts) -> None:
    if facts.computed:
        print(f"{facts.computed} tokens were computed; without sharing beginnings: {facts.asked}, "
              f"{facts.asked / facts.computed:.2f} times as many")  # fmt: skip
    if facts.shortened:
        logger.warning("%d of %d contexts were cut to what the language model takes", facts.shortened, facts.contexts)


def _report(options: argparse.Namespace, test: _Part, found: _Rescored, argv: Optional[Sequence[str]]) -> None:
    """Print the WER of a rescored set, and write its measurement if there is a place for it."""
    from pruning.experiments import rescoring_results as results
    from pruning.speech.decoding.n_best_rescoring import oracle_errors

    if test.references is None:
        return
    transcripts = [Transcript(key, words, found.best.get(key, []), found.set, found.speakers.get(key, ""))
                   for key, words in test.references.items()]  # fmt: skip
    before = [one._replace(hypothesis=list(test.merged.first.get(one.id, ()))) for one in transcripts]
    oracle = oracle_errors(test.merged.candidates, test.references)
    words = sum(map(len, test.references.values()))
    first, errors = (sum(count_errors(one)["total"] for one in of) for of in (before, transcripts))
    print(f"oracle WER of the list {100.0 * sum(oracle.values()) / words:.2f} %")
    print(f"WER {100.0 * first / words:.2f} % -> {100.0 * errors / words:.2f} %")
    if options.exp_dir is not None:
        made = provenance.environment("pruning.bin.rescore", argv, options.device)
        facts = {**found.facts, "first_errors": first}
        measured = results.measured(found.set, transcripts, oracle, found.parameters, facts, made)
        measured.write(results.path_of(options.exp_dir, found.set))


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    options = _parser().parse_args(argv)
    _check(options)

    import torch

    from pruning.speech.decoding.n_best_rescoring import Weights

    torch.set_num_threads(options.num_threads)
    lists = _Lists(options)
    test = None if options.nbest is None else lists.read(options.nbest, options.references)
    dev = None if options.dev_nbest is None else lists.read(options.dev_nbest, options.dev_references)
    scorer, made_of = _scorer(options)
    if dev is None:
        weights = Weights(options.lm_scale, options.word_bonus)
    else:
        weights = _weights(options, dev, scorer, made_of, argv)
    if test is not None:
        found = _rescore(options, test, scorer, weights, made_of)
        if found is not None:
            _report(options, test, found, argv)


if __name__ == "__main__":
    command.run(main)
