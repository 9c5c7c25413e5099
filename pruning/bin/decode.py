"""Decode test sets with a network that recognises words: hypotheses, word error rate, real-time factor and memory.

The results go to EXP/METHOD/: recogs-, errs- and wer-summary-SET-SUFFIX.txt and decode-SET-SUFFIX.json. A set that was
already decoded with the same weights and settings is not decoded again.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from pruning import provenance
from pruning.bin import command
from pruning.bin.arguments import boolean, check_device, words_of
from pruning.errors import UserError
from pruning.files import read_json, write_json
from pruning.finished import Record, paths_of
from pruning.kinds.forms import FORMS
from pruning.limits import COUNT, NATURAL, POSITIVE, ranges
from pruning.models.chunk import FRAME_MS, Chunk
from pruning.speech.data.manifests import set_name_of
from pruning.speech.decoding.config import GRAPHS, N_BEST, SETTINGS, WEIGHT_OF, WITH_LM, DecodingConfig
from pruning.speech.scoring.scored_words import NORMALISERS, scored_words, version_of
from pruning.speech.scoring.word_errors import SCORED, Score, recogs_path, write_results

if TYPE_CHECKING:
    from pruning.kinds.expected import Networks
    from pruning.models.zipformer_stream import ZipformerStream
    from pruning.speech.data.checks import TrainedOn
    from pruning.speech.data.data_config import DataConfig
    from pruning.speech.data.sources import Source
    from pruning.speech.decoding import graphs
    from pruning.speech.decoding.methods import LanguageModel
    from pruning.speech.decoding.recognition import FeatureTiming, Recognition
    from pruning.speech.text.table import Spelling

logger = logging.getLogger(__name__)

ENGINES = ("own", "sherpa-onnx")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--exp-dir", type=Path, help="experiment directory: decode with its best checkpoint, or with --epoch"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint file, instead of --exp-dir; results go to its directory"
    )
    parser.add_argument("--exported", type=Path, help="directory that pruning.bin.export wrote, instead of --exp-dir")
    parser.add_argument(
        "--form", choices=FORMS, default="float32", help="with --exported: form of the exported files (default float32)"
    )
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0],
                        help="with --exported: own search on features, or sherpa-onnx on the recordings")  # fmt: skip
    parser.add_argument(
        "--epoch", type=COUNT.parse, help="use the checkpoint at the end of this epoch (counted from 1)"
    )
    parser.add_argument("--avg", type=COUNT.parse, help="number of epochs to average, ending with --epoch")
    parser.add_argument(
        "--use-averaged-model",
        type=boolean,
        default=True,
        metavar="true|false",
        help="with --avg: average over all steps of these epochs, not only over their ends (default true)",
    )
    parser.add_argument("--cuts", nargs="+", type=Path, required=True, help="cuts with features, one file per test set")
    parser.add_argument("--lang-dir", type=Path, required=True, help="lang dir, with the tokens of the network")
    parser.add_argument(
        "--lm-exp-dir", type=Path, help="experiment of the language model, for decoding methods with one"
    )
    parser.add_argument(
        "--scales-from", type=Path, help="file of language-model weights that pruning.bin.tune_lm wrote"
    )
    parser.add_argument(
        "--lm-name", help="name of the language model in file names; default: the name of its directory"
    )
    parser.add_argument(
        "--max-duration", type=POSITIVE.parse, default=200.0, help="seconds of audio in a batch (default 200)"
    )
    parser.add_argument("--num-threads", type=COUNT.parse, default=1, help="number of threads (default 1)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--score-in", choices=SCORED, default="words", help="characters: each CJK character is a word (default words)"
    )
    parser.add_argument(
        "--normalise",
        choices=NORMALISERS,
        help="normalise texts before scoring; english: as in Whisper's evaluation",
    )
    settings = parser.add_argument_group("decoding")
    settings.add_argument("--graph", type=Path, help=f"for {', '.join(GRAPHS)}: graph that local/make_graphs.py "
                          "wrote (default: the one in --lang-dir)")  # fmt: skip
    help_text = f"for {', '.join(N_BEST)}: also write the N best hypotheses of each utterance, for pruning.bin.rescore"
    settings.add_argument("--nbest", type=NATURAL.parse, default=0, metavar="N", help=help_text)
    help_text = "for causal networks: frames of a chunk, of 20 ms (default 0: the whole utterance)"
    settings.add_argument("--chunk-size", type=NATURAL.parse, default=0, metavar="FRAMES", help=help_text)
    help_text = "with --chunk-size: earlier frames that are attended to (default 0: all)"
    settings.add_argument("--left-context-frames", type=NATURAL.parse, default=0, metavar="FRAMES", help=help_text)
    known = ranges(DecodingConfig)
    for field in fields(DecodingConfig):
        users = [method for method, names in SETTINGS.items() if field.name in names]
        default = field.default
        settings.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=boolean if isinstance(default, bool) else known[field.name].parse if field.name in known else str,
            default=default,
            metavar="true|false" if isinstance(default, bool) else None,
            help=(f"for {', '.join(users)}" if users else f"one of {', '.join(SETTINGS)}") + f" (default {default})",
        )
    return parser


class _Source(NamedTuple):
    """The network to decode with.

    Attributes:
        model: network with encoder, decoder and joiner.
        directory: directory for the results.
        name: part of the result names that identifies the weights.
        feature_dim: bins per frame; None if the network takes samples as input.
        fingerprint: fingerprint of the weights.
        hears: what the network takes as input: features or samples of a cut.
        tokens: tokens of the network.
        stream: encodes streams by the same chunks and left context; None if all earlier frames are seen.
        silence: frames of silence that ``hears`` adds.
        trained: the features that the network was trained on; None: unknown, or it takes samples.
    """

    model: Any
    directory: Path
    name: str
    feature_dim: Optional[int]
    fingerprint: str
    hears: Source
    tokens: Spelling
    stream: Optional[ZipformerStream] = None
    silence: int = 0
    trained: Optional[TrainedOn] = None


def _load(arguments: argparse.Namespace) -> _Source:
    from pruning.experiments import decoding_results
    from pruning.experiments.checkpoint import load_model
    from pruning.experiments.structure_files import check_extracted
    from pruning.kinds import kind as kinds
    from pruning.speech.data.checks import TrainedOn
    from pruning.speech.data.sources import of_beginning, with_silence

    if sum(option is not None for option in (arguments.exp_dir, arguments.checkpoint, arguments.exported)) != 1:
        raise UserError(
            "no network, or several, given to decode with", "give exactly one of --exp-dir, --checkpoint and --exported"
        )
    if arguments.engine != ENGINES[0] and arguments.exported is None:
        raise UserError(f"--engine {arguments.engine} needs an exported network", "give --exported")
    source = arguments.exp_dir or arguments.checkpoint or arguments.exported
    if not source.exists():
        raise UserError(f"{source} does not exist", "train it first, or correct the path")
    if arguments.exported is not None:
        if arguments.chunk_size:
            raise UserError("--chunk-size has no effect with an export, which has its own", "leave it out")
        return _load_exported(arguments)
    model, header = load_model(source, arguments.epoch, arguments.avg, arguments.use_averaged_model)
    check_extracted(header, source)
    found = kinds.of(model).recogniser(model, source)
    possible = kinds.of(model).capabilities(model).decodings
    if arguments.method not in possible:
        raise UserError(
            f"{source} does not support decoding method {arguments.method}", f"choose one of {', '.join(possible)}"
        )
    stream = None
    if arguments.chunk_size:
        stream = kinds.of(model).see(model, Chunk(arguments.chunk_size, arguments.left_context_frames))
    tokens = kinds.of(model).spelling(arguments.lang_dir)
    fingerprint = provenance.weights_fingerprint(model)
    of_network = {key: value for key, value in header["model"]["config"].items() if key == "vocab_size"}
    tokens.check_matches({**of_network, **header.get("tokenizer", {})}, str(source))
    name = decoding_results.weights_name(arguments.epoch, arguments.avg, arguments.use_averaged_model)
    place, name = (source, name) if arguments.checkpoint is None else (source.parent, source.stem)
    hears = with_silence(of_beginning(found.hears), found.silence)
    trained = TrainedOn.of(str(source), header)
    return _Source(found.network, place, name, found.feature_dim, fingerprint, hears, tokens, stream, found.silence,
                   trained)  # fmt: skip


def _load_exported(arguments: argparse.Namespace) -> _Source:
    from pruning.deploy import sherpa_decoding as sherpa
    from pruning.deploy.exported import read_parts
    from pruning.kinds.transducer import by_ctc
    from pruning.kinds.transducer_export import PARTS, ExportedTransducer
    from pruning.kinds.zipformer_streaming_export import STREAM
    from pruning.models import facts
    from pruning.speech.data.sources import FEATURES
    from pruning.speech.text.bpe import TABLE, Tokenizer

    if (arguments.exported / "model.onnx").is_file():
        raise UserError(f"{arguments.exported} contains an exported encoder with a head, which cannot be decoded",
                        "decode its experiment: give --exp-dir")  # fmt: skip
    if sherpa.is_encoder_decoder(arguments.exported):
        return _load_encoder_decoder(arguments)
    tokenizer = Tokenizer(arguments.lang_dir)
    files = read_parts(arguments.exported, PARTS, arguments.form, arguments.num_threads)
    model = ExportedTransducer(files, arguments.exported)
    tokenizer.check_matches({"vocab_size": model.decoder.vocab_size}, str(arguments.exported))
    tokenizer.check_table(arguments.exported / TABLE, "give the --lang-dir that it was exported with")
    if by_ctc(arguments.method):
        raise UserError(f"{arguments.method} needs a CTC head, which an export does not contain",
                        "choose greedy_search or a beam search")  # fmt: skip
    if arguments.device != "cpu":
        raise UserError(f"an export runs only on the CPU, got --device {arguments.device}", "leave out --device")
    fingerprint = " ".join(provenance.file_fingerprint(part.path)[:12] for part in files.values())
    place = arguments.exported / arguments.form
    streaming = STREAM in files["encoder"].metadata
    if arguments.engine == ENGINES[0]:
        if streaming:
            raise UserError(f"{arguments.exported} is exported as a stream, which only sherpa-onnx decodes",
                            "give --engine sherpa-onnx, or decode its experiment with --chunk-size")  # fmt: skip
        return _Source(model, place, "best", model.feature_dim, fingerprint, FEATURES, tokenizer)
    if arguments.method != "greedy_search":
        raise UserError(f"--engine {arguments.engine} does not support {arguments.method}", "choose greedy_search")
    rate = sherpa.sampling_rate(arguments.cuts)
    theirs = sherpa.recogniser(
        arguments.exported, arguments.form, arguments.num_threads, model.feature_dim, rate, streaming
    )
    known = facts.read_facts(place)
    place = place.with_name(f"{arguments.form}-{arguments.engine}")
    write_json(place / facts.FILE, known)
    return _Source(theirs, place, "best", model.feature_dim, fingerprint, FEATURES, tokenizer)


def _load_encoder_decoder(arguments: argparse.Namespace) -> _Source:
    """Load the export of a Whisper or a Moonshine, which only sherpa-onnx decodes."""
    from pruning.deploy import sherpa_decoding as sherpa
    from pruning.deploy.exported import read_parts
    from pruning.models import facts
    from pruning.speech.data.sources import audio
    from pruning.speech.text.network_tokens import NetworkTokens

    if arguments.engine == ENGINES[0]:
        raise UserError(f"{arguments.exported} contains an exported encoder-decoder, which only sherpa-onnx decodes",
                        f"give --engine {ENGINES[1]}, or decode its experiment: give --exp-dir")  # fmt: skip
    if arguments.method != "decoder_greedy_search":
        raise UserError(f"--engine {arguments.engine} does not support {arguments.method}",
                        "choose decoder_greedy_search")  # fmt: skip
    tokens = NetworkTokens(arguments.lang_dir)
    files = read_parts(arguments.exported, sherpa.encoder_decoder_parts(arguments.exported), arguments.form)
    fingerprint = " ".join(provenance.file_fingerprint(part.path)[:12] for part in files.values())
    theirs = sherpa.encoder_decoder_recogniser(arguments.exported, arguments.form, arguments.num_threads)
    place = arguments.exported / f"{arguments.form}-{arguments.engine}"
    write_json(place / facts.FILE, facts.read_facts(arguments.exported / arguments.form))
    hears = replace(audio(facts.SAMPLES_PER_SECOND, lambda samples: samples), longest=sherpa.longest_heard(files))
    return _Source(theirs, place, "best", None, fingerprint, hears, tokens)


def _load_lm(arguments: argparse.Namespace) -> Optional[LanguageModel]:
    """Load the language model if the decoding method needs one.

    Raises:
        UserError: a language model is needed but not given, or given but not needed, or it has other tokens.
    """
    from pruning.kinds.language_model import LanguageModelKind
    from pruning.speech.decoding.methods import LanguageModel
    from pruning.speech.text.bpe import Tokenizer
    from pruning.speech.text.sentences import boundary_id

    wanted = arguments.method in WITH_LM
    if wanted != (arguments.lm_exp_dir is not None):
        if wanted:
            raise UserError(f"{arguments.method} needs a language model", "give --lm-exp-dir")
        raise UserError(f"--lm-exp-dir has no effect with {arguments.method}", f"choose one of {', '.join(WITH_LM)}")
    if not wanted:
        return None
    tokenizer = Tokenizer(arguments.lang_dir)
    network, _ = LanguageModelKind.load_network(arguments.lm_exp_dir, tokenizer)
    return LanguageModel(network.to(arguments.device).eval(), boundary_id(tokenizer))


def _graph_path(arguments: argparse.Namespace) -> Optional[Path]:
    """Return the path of the decoding graph, if the decoding method needs one."""
    from pruning.speech.decoding import graphs

    if arguments.method not in GRAPHS:
        if arguments.graph is not None:
            raise UserError(f"--graph has no effect with {arguments.method}", f"choose one of {', '.join(GRAPHS)}")
        return None
    return arguments.graph or graphs.path_of(arguments.lang_dir, GRAPHS[arguments.method][0])


def _weights(config: DecodingConfig) -> dict[str, float]:
    """Return the weights of the language model and of the internal language model that is subtracted."""
    internal = config.ilm_scale if config.method in WITH_LM else 0.0
    return {"lm_scale": getattr(config, WEIGHT_OF[config.method]), "ilm_scale": internal}


def _data(arguments: argparse.Namespace) -> DataConfig:
    from pruning.speech.data.data_config import DataConfig

    return DataConfig(max_duration=arguments.max_duration, num_workers=0)  # worker processes would disturb the timing


def _decode_set(
    model: Any,
    source: _Source,
    cuts: Path,
    config: DecodingConfig,
    arguments: argparse.Namespace,
    lm: Optional[LanguageModel],
    graph: Optional[graphs.DecodingGraph],
) -> tuple[Recognition, Optional[FeatureTiming]]:
    from pruning.deploy import sherpa_decoding as sherpa
    from pruning.speech.data.batches import evaluation_batches
    from pruning.speech.decoding.recognition import FeatureTiming, recognise, time_features

    batches = evaluation_batches(_data(arguments), [cuts], source=source.hears)
    words_in = scored_words(arguments.score_in, arguments.normalise)
    if arguments.engine != ENGINES[0]:
        found = sherpa.recognise(model, cuts, words_in)
        return found, FeatureTiming(0.0, found.audio_seconds)  # its time includes feature extraction
    tokens = source.tokens
    recognition = recognise(
        model, batches, tokens.decode, config, arguments.device, words_in, lm, graph, arguments.nbest, tokens.form
    )
    own = source.hears.recorded and source.hears.extract is None  # the front end is part of the network
    timed = FeatureTiming(0.0, recognition.audio_seconds) if own else time_features(cuts, source.hears.extract)
    return recognition, timed


def _write_n_best(
    source: _Source, set_name: str, suffix: str, recognition: Recognition, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Write the n-best lists if asked for; return what the measurement says about them."""
    from pruning.experiments import decoding_results
    from pruning.speech.decoding.n_best import write_nbest

    if not arguments.nbest:
        return {}
    path = decoding_results.n_best_path(source.directory, arguments.method, set_name, suffix)
    write_nbest(path, recognition.entries)
    return {"nbest": path.name, "num_hypotheses": arguments.nbest}


def _chunk_facts(source: _Source, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the milliseconds of a chunk, of what is heard ahead of it, and of computing it, of a network by chunks."""
    from pruning.measure.chunk_latency import seconds_per_chunk
    from pruning.models.zipformer_stream import AHEAD

    if not arguments.chunk_size:
        return {}
    computing = None if source.stream is None else round(1000 * seconds_per_chunk(source.stream), 2)
    return {"chunk_ms": FRAME_MS * arguments.chunk_size, "ahead_ms": FRAME_MS // 2 * AHEAD, "computing_ms": computing}


def _log(set_name: str, result: Score, facts: dict[str, Any]) -> None:
    low, high = result.interval
    without = "" if facts["features_included"] else " (features excluded)"
    logger.info(
        "%s: WER %.2f %% (%.2f to %.2f), %d errors in %d words: %d ins, %d del, %d sub; real-time factor %.4f%s",
        set_name, result.wer, low, high, result.errors, result.words, result.insertions, result.deletions,
        result.substitutions, facts["real_time_factor"], without,
    )  # fmt: skip


class _Decoding(NamedTuple):
    """A set to decode: its cuts, the ``path`` of its measurement, and the parameters to record there."""

    cuts: Path
    path: Path
    parameters: dict[str, Any]


def _was_done(record: Record) -> bool:
    """Return whether the same command has decoded all sets before; if so, mark its results as the newest."""
    from pruning.experiments import decoding_results

    if not record.holds():
        return False
    results = [path for path in record.files() if decoding_results.is_one(path)]
    for path in results:
        decoding_results.note_asked(path)
        logger.info("%s is done", path)
    record.written_again(results)
    return True


def _pending(source: _Source, config: DecodingConfig, arguments: argparse.Namespace, suffix: str) -> list[_Decoding]:
    """Return the sets still to decode with these settings, after checking all of them."""
    from pruning.experiments import decoding_results
    from pruning.experiments.checkpoint import file_of
    from pruning.speech.data import checks

    pending, graph_path = [], _graph_path(arguments)
    for cuts in arguments.cuts:
        path = decoding_results.path_of(source.directory, config.method, set_name_of(cuts), suffix)
        parameters = {
            "weights": source.fingerprint,
            "bpe_model": source.tokens.fingerprint,
            "cuts": provenance.file_fingerprint(cuts),
            "decoding": {"method": config.method, **config.settings()},
            "max_duration": arguments.max_duration,
            "num_threads": arguments.num_threads,
            "device": arguments.device,
            **({"engine": arguments.engine} if arguments.engine != ENGINES[0] else {}),
            **({"normalise": version_of(arguments.normalise)} if arguments.normalise else {}),
            **({"chunk": [arguments.chunk_size, arguments.left_context_frames]} if arguments.chunk_size else {}),
            **({"lm": provenance.file_fingerprint(file_of(arguments.lm_exp_dir))} if arguments.lm_exp_dir else {}),
            **({"silence": source.silence} if source.silence else {}),
            **({"graph": provenance.file_fingerprint(graph_path)} if graph_path is not None else {}),
        }
        if decoding_results.is_done(path, parameters, arguments.nbest):
            decoding_results.note_asked(path)
            logger.info("%s: %s is done", set_name_of(cuts), path)
        else:
            words_in = scored_words(arguments.score_in, arguments.normalise)
            longest = _data(arguments).longest_evaluated
            checks.check_test_set(cuts, source.tokens, source.feature_dim, words_in, source.hears, longest,
                                  source.trained)  # fmt: skip
            pending.append(_Decoding(cuts, path, parameters))
    return pending


def _check(arguments: argparse.Namespace) -> None:
    """Check the options alone."""
    if arguments.nbest and arguments.method not in N_BEST:
        raise UserError(
            f"--nbest has no effect with {arguments.method}, which does not rank hypotheses",
            f"choose one of {', '.join(N_BEST)}",
        )
    if not 0 <= arguments.nbest <= arguments.beam_size:
        raise UserError(
            f"--nbest must be at most --beam-size ({arguments.beam_size}), got {arguments.nbest}",
            "increase --beam-size",
        )
    if arguments.left_context_frames and not arguments.chunk_size:
        raise UserError("--left-context-frames has no effect without chunks", "give --chunk-size")


def _check_inputs(arguments: argparse.Namespace) -> None:
    """Check cuts and device, and warn of options without effect, before any network or cut is read."""
    for cuts in arguments.cuts:
        if not cuts.is_file():
            raise UserError(f"cuts {cuts} do not exist", "run the feature stage first")
    repeated = [name for name, count in Counter(map(set_name_of, arguments.cuts)).items() if count > 1]
    if repeated:
        raise UserError(
            f"several files of --cuts are named after the same set, {repeated[0]}",
            "rename them, or decode them one at a time",
        )
    check_device(arguments.device)
    defaults = DecodingConfig()
    for name in (field.name for field in fields(DecodingConfig) if field.name != "method"):
        if getattr(arguments, name) != getattr(defaults, name) and name not in SETTINGS[arguments.method]:
            logger.warning("--%s has no effect with %s", name.replace("_", "-"), arguments.method)


def _config(arguments: argparse.Namespace) -> DecodingConfig:
    """Return how to search, after checking the options."""
    config = DecodingConfig(**{field.name: getattr(arguments, field.name) for field in fields(DecodingConfig)})
    _check(arguments)
    return config if arguments.engine == ENGINES[0] else _of_sherpa(config)


def _of_sherpa(config: DecodingConfig) -> DecodingConfig:
    """Return the settings that sherpa-onnx has, instead of those of the own search.

    Raises:
        UserError: another limit of tokens was asked for.
    """
    from pruning.speech.decoding.sherpa_rules import TOKENS_PER_SECOND

    if config.tokens_per_second not in (DecodingConfig.tokens_per_second, TOKENS_PER_SECOND):
        raise UserError(f"--tokens-per-second has no effect with --engine {ENGINES[1]}, which allows "
                        f"{TOKENS_PER_SECOND}", "leave it out")  # fmt: skip
    return replace(config, tokens_per_second=float(TOKENS_PER_SECOND))


def check(argv: Sequence[str], networks: Networks) -> None:
    """Raise what the command would raise for its options and the dimensions of the network; read no cuts."""
    from pruning.experiments.checkpoint import check_choice
    from pruning.kinds import kind as kinds

    arguments = _parser().parse_args(argv)
    _config(arguments)
    check_choice(arguments.epoch, arguments.avg)
    network = networks.find(arguments.exp_dir) if arguments.chunk_size and arguments.exp_dir is not None else None
    if network is not None:
        kinds.of(network).see(network, Chunk(arguments.chunk_size, arguments.left_context_frames))


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    record = None if arguments.exp_dir is None else Record(arguments.exp_dir, "decode", words_of(argv))
    if record is not None and _was_done(record):
        return
    if arguments.scales_from is not None:
        if arguments.method not in WEIGHT_OF:
            raise UserError(f"--scales-from has no effect with {arguments.method}", "leave it out")
        remedy = "choose them with pruning.bin.tune_lm"
        try:
            chosen = read_json(arguments.scales_from, remedy)["best"]
            arguments.ilm_scale = float(chosen["ilm_scale"])
            setattr(arguments, WEIGHT_OF[arguments.method], float(chosen["lm_scale"]))
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{arguments.scales_from} contains no language-model weights", remedy) from None
    config = _config(arguments)
    _check_inputs(arguments)

    import torch
    from torch import nn

    from pruning.experiments import decoding_results
    from pruning.speech.data import manifests
    from pruning.speech.decoding import graphs
    from pruning.speech.text.bpe import Tokenizer

    torch.set_num_threads(arguments.num_threads)
    source = _load(arguments)
    graph_path = _graph_path(arguments)
    graph = None
    if graph_path is not None:
        graph = graphs.load(graph_path, GRAPHS[config.method][0], Tokenizer(arguments.lang_dir))
    lm = _load_lm(arguments)
    named = arguments.lm_exp_dir.name if arguments.lm_exp_dir is not None else arguments.graph and arguments.graph.stem
    lm_name = arguments.lm_name or named or ("ngram" if graph_path is not None else None)
    suffix = f"{source.name}-{config.suffix()}" + ("-characters" if arguments.score_in == "characters" else "")
    if arguments.chunk_size:
        suffix += f"-chunk-{arguments.chunk_size}-left-context-{arguments.left_context_frames}"
    suffix += f"-lm-{lm_name}" if lm_name is not None else ""
    suffix += f"-normalise-{arguments.normalise}" if arguments.normalise else ""
    pending = _pending(source, config, arguments, suffix)
    model = source.model.to(arguments.device).eval() if isinstance(source.model, nn.Module) else source.model
    directory = source.directory / config.method
    for cuts, path, parameters in pending:
        set_name = set_name_of(cuts)
        path.unlink(missing_ok=True)  # it would describe files that are overwritten now
        recognition, features = _decode_set(model, source, cuts, config, arguments, lm, graph)
        speakers = manifests.speakers(cuts)
        found = [t._replace(set=set_name, speaker=speakers[t.id]) for t in recognition.transcripts]
        result = write_results(directory, set_name, suffix, found)
        facts = {
            "method": config.method,
            "suffix": suffix,
            **decoding_results.time_facts(recognition, features),
            **({"lm": lm_name, **_weights(config)} if config.method in WEIGHT_OF else {}),
            **({"normalise": arguments.normalise, "words": recognition.words} if arguments.normalise else {}),
            "recogs": recogs_path(directory, set_name, suffix).name,
            **_chunk_facts(source, arguments),
            **_write_n_best(source, set_name, suffix, recognition, arguments),
        }
        environment = provenance.environment("pruning.bin.decode", argv, arguments.device)
        decoding_results.measured(set_name, found, parameters, facts, environment).write(path)
        _log(set_name, result, facts)
        number = decoding_results.count_decoding(source.directory, set_name, config.method, suffix)
        logger.info("%s: decoding %d of this set with %s", set_name, number, source.directory)
    if record is not None:
        made = [decoding_results.path_of(source.directory, config.method, set_name_of(cuts), suffix)
                for cuts in arguments.cuts]  # fmt: skip
        record.write(paths_of(arguments), [*made, *(file for path in made for file in decoding_results.files_of(path))])


if __name__ == "__main__":
    command.run(main)
