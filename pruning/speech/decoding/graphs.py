"""Word n-gram models as k2 decoding graphs: ``LG`` over word pieces, for transducers, and ``HLG``, for CTC heads.

Graphs are built as in icefall. A graph is one safetensors file, which also contains its words.

The score of a path is its natural-log probability under the model. Back-off arcs also lead to words that have a
longer n-gram, so the best path of k2 uses the best way of backing off. Its score is the model's own unless a lower
order gives a higher probability, which is rare in interpolated models.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pruning import optional
from pruning.errors import UserError
from pruning.files import PathLike, atomic_path, write_text
from pruning.speech.decoding import ctc
from pruning.speech.ngrams import arpa, ngram
from pruning.speech.ngrams.ngram import NgramModel
from pruning.speech.text import lexicon
from pruning.speech.text.bpe import Tokenizer

EPSILON, BACK_OFF = "<eps>", "#0"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DecodingGraph:
    """A decoding graph whose output labels are words.

    Attributes:
        kind: type of the graph, one of ``GRAPH_KINDS``.
        arcs: (A, 4) int32: source, destination, label, bits of the score, as in k2.
        splits: (A + 1,) int32: index in ``outputs`` of the first word of each arc.
        outputs: (O,) int32: word ids.
        words: words in order of their ids.
        tokenizer: tokeniser whose pieces spell the words.
    """

    kind: str
    arcs: Tensor
    splits: Tensor
    outputs: Tensor
    words: tuple[str, ...]
    tokenizer: Tokenizer

    def fsa(self, scale: float, device: str) -> Any:
        """Return the graph as a k2 FSA, with its scores multiplied by ``scale``."""
        import k2

        arcs = self.arcs.clone()
        scores = arcs[:, 3].contiguous().view(torch.float32)
        scores = scores * scale if scale else torch.zeros_like(scores)  # minus infinity times 0 would be NaN
        arcs[:, 3] = scores.view(torch.int32)
        splits, outputs = self.splits.to(device), self.outputs.to(device)
        shape = k2.ragged.create_ragged_shape2(splits, None, outputs.numel())
        return k2.Fsa(arcs.to(device), aux_labels=k2.RaggedTensor(shape, outputs))

    def tokens(self, words: Sequence[int]) -> list[int]:
        """Return the pieces that spell a sequence of word ids."""
        return [token for word in words for token in self.tokenizer.encode(self.words[word])]

    def save(self, path: PathLike) -> None:
        """Write the graph to a file."""
        text = torch.frombuffer(bytearray("\n".join(self.words).encode()), dtype=torch.uint8)
        tensors = {"arcs": self.arcs, "splits": self.splits, "outputs": self.outputs, "words": text}
        metadata = {"graph": json.dumps({"kind": self.kind, "tokenizer": self.tokenizer.describe()})}
        with atomic_path(path) as temporary:
            save_file({name: value.contiguous() for name, value in tensors.items()}, str(temporary), metadata)


def path_of(lang_dir: PathLike, kind: str) -> Path:
    """Return the path of a graph in a language directory."""
    return Path(lang_dir) / f"{kind}.safetensors"


def load(path: PathLike, kind: str, tokenizer: Tokenizer) -> DecodingGraph:
    """Read a graph.

    Args:
        path: file of the graph.
        kind: required type, one of ``GRAPH_KINDS``.
        tokenizer: tokeniser of the network to decode with.

    Raises:
        UserError: the file is missing, damaged, not a graph, of another type, or uses other tokens.
    """
    remedy = f"create it with local/make_graphs.py --arpa FILE --lang-dir {tokenizer.lang_dir} --which {kind}"
    if not Path(path).is_file():
        raise UserError(f"decoding graph {path} does not exist", remedy)
    try:
        with safe_open(str(path), framework="pt") as stream:
            recorded = json.loads((stream.metadata() or {})["graph"])
            arcs, splits, outputs, text = (stream.get_tensor(n) for n in ("arcs", "splits", "outputs", "words"))
        words = tuple(text.numpy().tobytes().decode().split("\n"))
        _check_tensors(arcs, splits, outputs, len(words))
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a decoding graph or is damaged ({error})", remedy) from None
    if recorded["kind"] != kind:
        raise UserError(f"{path} is a graph of type {recorded['kind']}, not {kind}", remedy)
    if recorded["tokenizer"] != tokenizer.describe():
        raise UserError(f"{path} was made with other tokens than those of {tokenizer.lang_dir}", remedy)
    return DecodingGraph(kind, arcs, splits, outputs, words, tokenizer)


def _check_tensors(arcs: Tensor, splits: Tensor, outputs: Tensor, words: int) -> None:
    """Raise ValueError for tensors with which k2 would read out of bounds."""
    types = {tensor.dtype for tensor in (arcs, splits, outputs)}
    if types != {torch.int32} or arcs.dim() != 2 or arcs.size(1) != 4 or not len(arcs):
        raise ValueError("invalid arcs")
    sources, states = arcs[:, 0], int(arcs[:, :2].max()) + 1
    if int(arcs[:, :2].min()) < 0 or states > len(arcs) + 1 or bool((sources[1:] < sources[:-1]).any()):
        raise ValueError("states out of order")
    steps = splits[1:] - splits[:-1]
    if splits.shape != (len(arcs) + 1,) or int(splits[0]) or int(splits[-1]) != len(outputs) or bool((steps < 0).any()):
        raise ValueError("words do not match the arcs")
    if len(outputs) and not -1 <= int(outputs.min()) <= int(outputs.max()) < words:
        raise ValueError("word ids out of range")


def build(arpa_path: PathLike, tokenizer: Tokenizer, kinds: Sequence[str], order: Optional[int] = None) -> list[Path]:
    """Build graphs and write them to the tokenizer's language directory, with ``words.txt`` and ``lexicon.txt``.

    Words that the pieces cannot spell, and ``<unk>``, are left out of the graphs and cannot be recognised. The two
    text files are only for reading; icefall's own are not overwritten, since its graphs need them.

    Args:
        arpa_path: word n-gram model in ARPA format, gzipped if the name ends in ``.gz``.
        tokenizer: tokeniser of the network to decode with.
        kinds: types of the graphs to build, from ``GRAPH_KINDS``.
        order: longest n-grams to use; None: all.

    Returns:
        The paths of the graphs.

    Raises:
        UserError: kaldilm or k2 is missing, the file is not an ARPA file, the model does not have the order, a word is
            a symbol of the graphs, no word can be spelled, or there are too many tokens for ``HLG``.
    """
    optional.package("kaldilm", "making a decoding graph", extra="graphs")
    optional.package("k2", "making a decoding graph", extra=None)
    if "HLG" in kinds:
        ctc.check_vocabulary(tokenizer.vocab_size, "decode with fast_beam_search_LG: --which LG")
    model = arpa.read(arpa_path)
    _check(model, order, arpa_path)
    words = (EPSILON, ngram.UNKNOWN, *model.vocabulary, BACK_OFF, ngram.START, ngram.END)
    spelled = lexicon.spellings(model.vocabulary, tokenizer)
    lg = _compose(_lexicon(spelled, words, tokenizer.vocab_size), _grammar(model, words, order), words, tokenizer)
    paths = []
    for kind in kinds:
        fsa = lg if kind == "LG" else _with_topology(lg, tokenizer.vocab_size)
        logger.info("%s: %d states, %d arcs, %d words", kind, fsa.shape[0], fsa.num_arcs, len(spelled))
        paths.append(path_of(tokenizer.lang_dir, kind))
        _graph(kind, fsa, words, tokenizer).save(paths[-1])
    if not any((tokenizer.lang_dir / name).exists() for name in ("L.pt", "L_disambig.pt")):  # icefall's
        pieces = tokenizer.tokens()
        rows = (f"{word} {' '.join(pieces[token] for token in tokens)}\n" for word, tokens in spelled.items())
        write_text(tokenizer.lang_dir / "lexicon.txt", "".join(rows))
        write_text(tokenizer.lang_dir / "words.txt", _table(words))
    return paths


def _check(model: NgramModel, order: Optional[int], path: PathLike) -> None:
    if order is not None and not 1 <= order <= model.order:
        raise UserError(
            f"{path} has n-grams of up to {model.order} words, not {order}", "give an order that the model has"
        )
    reserved = {EPSILON, BACK_OFF} & set(model.vocabulary)
    if reserved:
        what = f"{path} contains the word {min(reserved)}, which is a symbol of decoding graphs"
        raise UserError(what, "remove it from the text")


def _table(words: Sequence[str]) -> str:
    return "".join(f"{word} {index}\n" for index, word in enumerate(words))


def _lexicon(spelled: dict[str, lexicon.Spelling], words: Sequence[str], symbol: int) -> Any:
    """Return ``L``; ``symbol`` is the id of ``#0`` among the pieces."""
    ids = {word: index for index, word in enumerate(words)}
    pieces = lexicon.disambiguated(list(spelled.values()), symbol)
    return lexicon.transducer([(ids[word], one) for word, one in zip(spelled, pieces)], symbol, ids[BACK_OFF])


def _grammar(model: NgramModel, words: Sequence[str], order: Optional[int]) -> Any:
    """Return ``G``, built by kaldilm, which needs an uncompressed file with ``<unk>`` spelled as in the word table."""
    import k2
    import kaldilm

    with tempfile.TemporaryDirectory(prefix="pruning-graph-") as directory:
        text, table = Path(directory) / "model.arpa", Path(directory) / "words.txt"
        arpa.write(model, text)
        write_text(table, _table(words))
        found = kaldilm.arpa2fst(
            str(text), disambig_symbol=BACK_OFF, read_symbol_table=str(table), max_order=-1 if order is None else order
        )
    return k2.Fsa.from_openfst(found.strip(), acceptor=False)


def _compose(lexical: Any, grammar: Any, words: Sequence[str], tokenizer: Tokenizer) -> Any:
    """Return ``LG`` without disambiguation symbols and epsilons."""
    import k2

    lg = k2.connect(k2.compose(k2.arc_sort(lexical), k2.arc_sort(grammar)))
    if not lg.num_arcs:
        raise UserError("the language model has no sentence of words that can be spelled", "check its training text")
    lg = k2.connect(k2.determinize(lg))
    labels = lg.labels.clone()
    labels[labels >= tokenizer.vocab_size] = 0
    lg.labels = labels
    outputs = _ragged(lg.aux_labels)
    outputs.values[outputs.values >= words.index(BACK_OFF)] = 0
    lg.aux_labels = outputs
    lg = k2.connect(k2.remove_epsilon(lg))
    lg.aux_labels = _ragged(lg.aux_labels).remove_values_eq(0)
    return k2.arc_sort(lg)


def _ragged(labels: Any) -> Any:
    """Return output labels as a ragged tensor: k2 gives one label per arc if that is enough."""
    import k2

    return labels if isinstance(labels, k2.RaggedTensor) else k2.RaggedTensor(labels.to(torch.int32).unsqueeze(1))


def _with_topology(lg: Any, vocab_size: int) -> Any:
    """Return ``HLG``."""
    import k2

    return k2.arc_sort(k2.connect(k2.compose(k2.ctc_topo(vocab_size - 1, modified=False), lg)))


def _graph(kind: str, fsa: Any, words: Sequence[str], tokenizer: Tokenizer) -> DecodingGraph:
    arcs = torch.cat((fsa.arcs.values()[:, :3], fsa.scores.detach().view(torch.int32).unsqueeze(1)), dim=1)
    outputs = _ragged(fsa.aux_labels)
    return DecodingGraph(kind, arcs, outputs.shape.row_splits(1), outputs.values, tuple(words), tokenizer)
