"""Decoding graphs of n-gram models: scores compared with the model's own, and search with graphs."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruning.errors import UserError
from pruning.speech.decoding import graphs
from pruning.speech.decoding.config import GRAPH_KINDS, DecodingConfig
from pruning.speech.decoding.graphs import DecodingGraph
from pruning.speech.decoding.methods import decode
from pruning.speech.ngrams import arpa
from pruning.speech.ngrams.kneser_ney import estimate
from pruning.speech.ngrams.ngram import NgramModel, State
from pruning.speech.text import bpe, lexicon
from pruning.speech.text.bpe import Tokenizer

ROOT = Path(__file__).resolve().parents[3]
TEXTS = ["THE CAT SAT", "THE CATS SAT", "A CAT SAT ON THE MAT", "THE MAT", "ON A MAT THE CATS SAT", "A CAT",
         "THE CAT SAT"]  # fmt: skip
TOO = "DOG"  # can be spelled, but is not a word of the model


@pytest.fixture(scope="module")
def lang_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a language directory with word pieces and a trigram model, ``3-gram.arpa.gz``."""
    directory = tmp_path_factory.mktemp("lang")
    bpe.train([*TEXTS, "DOG GOD"], directory, 24, "bpe")
    arpa.write(estimate(TEXTS, 3), directory / "3-gram.arpa.gz")
    return directory


@pytest.fixture(scope="module")
def built(lang_dir: Path) -> Path:
    """Return the language directory with both graphs."""
    pytest.importorskip("k2", reason="k2 is not installed for this torch")
    pytest.importorskip("kaldilm", reason="the extra 'graphs' is not installed")
    graphs.build(lang_dir / "3-gram.arpa.gz", Tokenizer(lang_dir), GRAPH_KINDS)
    return lang_dir


def read(directory: Path, kind: str) -> DecodingGraph:
    return graphs.load(graphs.path_of(directory, kind), kind, Tokenizer(directory))


def path_score(fsa: Any, tokens: Sequence[int]) -> float:
    """Return the best score of ``tokens`` in a graph."""
    import k2

    line = k2.arc_sort(k2.linear_fsa(list(tokens)))
    found = k2.create_fsa_vec([k2.intersect(line, fsa)])
    return float(found.get_tot_scores(use_double_scores=True, log_semiring=False))


def backing_off(model: NgramModel, words: Sequence[str]) -> float:
    """Return the best score of a sentence if backing off is always allowed."""

    def after(state: State, word: str) -> list[tuple[float, State]]:
        """Return every way: the word's n-gram after each history that has one, with the back-off weights up to it."""
        index, ways, weight = model.words.index(word), [], 0.0
        for length in range(len(state), -1, -1):
            if length == 0 or state[length - 1] >= 0:
                row = index
                if length:
                    row = model.levels[length].find(state[length - 1] * len(model.words) + index)
                if row >= 0:
                    ways.append((weight + float(model.levels[length].log_probability[row]),
                                 model.advance(state[:length], word)[1]))  # fmt: skip
                if length:
                    weight += float(model.levels[length - 1].back_off[state[length - 1]])
        return ways

    best = {model.start(): 0.0}
    for word in (*words, "</s>"):
        new: dict[State, float] = {}
        for state, score in best.items():
            for more, following in after(state, word):
                new[following] = max(new.get(following, -math.inf), score + more)
        best = new
    return max(best.values())


def sentences(vocabulary: Sequence[str], longest: int) -> list[tuple[str, ...]]:
    # without the empty one: k2 cannot intersect its FSA, which has a single arc
    return [words for length in range(1, longest + 1) for words in itertools.product(vocabulary, repeat=length)]


def build_in(directory: Path, lang_dir: Path, model: NgramModel, order: Optional[int] = None) -> DecodingGraph:
    """Build ``LG`` of a model in ``directory``, with the word pieces of ``lang_dir``."""
    directory.mkdir(exist_ok=True)
    (directory / "bpe.model").write_bytes((lang_dir / "bpe.model").read_bytes())
    arpa.write(model, directory / "model.arpa")
    graphs.build(directory / "model.arpa", Tokenizer(directory), ["LG"], order)
    return read(directory, "LG")


@pytest.mark.k2
@pytest.mark.parametrize("order", [1, 2, 3])
def test_sentences_score_as_in_the_model(order: int, built: Path, tmp_path: Path) -> None:
    model = estimate(TEXTS, order)
    graph = build_in(tmp_path, built, model)
    fsa = graph.fsa(1.0, "cpu")
    for words in sentences(model.vocabulary, 3):
        found, own = path_score(fsa, graph.tokenizer.encode(" ".join(words))), sum(model.score(words))
        assert found == pytest.approx(backing_off(model, words), abs=1e-3)
        assert found >= own - 1e-3
        if order < 3:
            assert found == pytest.approx(own, abs=1e-3)
    for text in TEXTS:
        assert path_score(fsa, graph.tokenizer.encode(text)) == pytest.approx(sum(model.score(text.split())), abs=1e-3)


@pytest.mark.k2
def test_longer_ngrams_can_be_left_out(built: Path, tmp_path: Path) -> None:
    model = estimate(TEXTS, 3)
    graph = build_in(tmp_path, built, model, order=1)
    fsa = graph.fsa(1.0, "cpu")
    pairs = [("THE", "CAT"), ("CAT", "THE")]
    one, two = (path_score(fsa, graph.tokenizer.encode(" ".join(words))) for words in pairs)
    assert one == pytest.approx(two, abs=1e-3)  # without histories the order of words does not matter
    with pytest.raises(UserError, match="up to 3 words, not 4"):
        graphs.build(tmp_path / "model.arpa", graph.tokenizer, ["LG"], 4)


@pytest.mark.k2
def test_graphs_say_the_words_of_their_pieces(built: Path) -> None:
    import k2

    graph = read(built, "LG")
    for text in TEXTS:
        line = k2.arc_sort(k2.linear_fsa(graph.tokenizer.encode(text)))
        path = k2.shortest_path(k2.create_fsa_vec([k2.intersect(line, graph.fsa(1.0, "cpu"))]), True)
        words = [word for arc in path.aux_labels.tolist() for word in arc if word > 0]
        assert " ".join(graph.words[word] for word in words) == text
        assert graph.tokenizer.decode(graph.tokens(words)) == text


@pytest.mark.k2
def test_the_same_model_gives_the_same_files(built: Path, tmp_path: Path) -> None:
    names = ["LG.safetensors", "HLG.safetensors", "words.txt", "lexicon.txt"]
    before = [(built / name).read_bytes() for name in names]
    graphs.build(built / "3-gram.arpa.gz", Tokenizer(built), GRAPH_KINDS)
    assert [(built / name).read_bytes() for name in names] == before
    words = [line.split() for line in (built / "words.txt").read_text().splitlines()]
    assert [int(index) for _, index in words] == list(range(len(words)))
    assert tuple(word for word, _ in words) == read(built, "HLG").words


@pytest.mark.k2
def test_the_word_list_of_icefall_is_left_alone(built: Path, tmp_path: Path) -> None:
    for name, text in (("words.txt", "<eps> 0\n"), ("L_disambig.pt", "")):
        (tmp_path / name).write_text(text)
    graph = build_in(tmp_path, built, estimate(TEXTS, 2))
    assert (tmp_path / "words.txt").read_text() == "<eps> 0\n" and not (tmp_path / "lexicon.txt").exists()
    assert "CATS" in graph.words


def test_only_spellings_that_need_it_are_disambiguated() -> None:
    plain = [(5, 6), (5,), (5, 6), (7,), (7, 8, 9), (8,)]
    assert lexicon.disambiguated(plain, 20) == [(5, 6, 21), (5, 21), (5, 6, 22), (7, 21), (7, 8, 9), (8,)]


def sharp(tokens: Sequence[int], vocab_size: int, certainty: float = 12.0) -> Tensor:
    """Return CTC log-probabilities (1, T, V) with two frames per token, each followed by two of blank."""
    frames = [one for token in tokens for one in (token, token, 0, 0)] or [0]
    return (certainty * torch.nn.functional.one_hot(torch.tensor([frames]), vocab_size).float()).log_softmax(dim=-1)


class Head(torch.nn.Module):
    """A network whose encoder outputs are CTC log-probabilities."""

    def ctc(self, encoder_out: Tensor) -> Tensor:
        return encoder_out


def hlg(graph: DecodingGraph, log_probs: Tensor, lengths: Optional[list[int]] = None, **settings: float) -> list[str]:
    config = DecodingConfig(method="hlg_decoding", search_beam=30.0, output_beam=20.0, **settings)  # type: ignore[arg-type]
    frames = torch.tensor(lengths or [log_probs.size(1)] * len(log_probs))
    network: Any = Head()
    return [graph.tokenizer.decode(tokens) for tokens in decode(network, log_probs, frames, config, graph=graph)]


@pytest.mark.k2
def test_sharp_frames_give_their_words(built: Path) -> None:
    graph = read(built, "HLG")
    lines = [sharp(graph.tokenizer.encode(text), graph.tokenizer.vocab_size) for text in TEXTS]
    longest = max(line.size(1) for line in lines)
    padded = torch.cat([torch.nn.functional.pad(line, (0, 0, 0, longest - line.size(1))) for line in lines])
    assert hlg(graph, padded, [line.size(1) for line in lines]) == TEXTS
    assert [hlg(graph, line)[0] for line in lines] == TEXTS


def ambiguous(graph: DecodingGraph, one: str, other: str, lead: float) -> Tensor:
    """Return frames in which ``one`` is slightly more probable than ``other``, which has as many pieces.

    Args:
        graph: decoding graph with the pieces.
        one: a text.
        other: another text.
        lead: difference of their log-probabilities.
    """
    encode, size = graph.tokenizer.encode, graph.tokenizer.vocab_size
    assert len(encode(one)) == len(encode(other))
    first, second = sharp(encode(one), size).exp(), sharp(encode(other), size).exp()
    differing = (first.argmax(dim=2) != second.argmax(dim=2)).sum()
    weight = torch.sigmoid(torch.tensor(lead) / differing)
    return (weight * first + (1 - weight) * second).log()


@pytest.mark.k2
def test_the_language_model_decides_between_ambiguous_frames(built: Path) -> None:
    graph = read(built, "HLG")
    model = arpa.read(built / "3-gram.arpa.gz")
    pieces = {word: graph.tokenizer.encode(word) for word in model.vocabulary}
    pairs = [
        (" ".join(one), " ".join(other))
        for one, other in itertools.permutations(itertools.product(model.vocabulary, repeat=2), 2)
        if [len(pieces[word]) for word in one] == [len(pieces[word]) for word in other]
        and sum(model.score(one)) < sum(model.score(other)) - 3
    ]
    rare, usual = pairs[0]
    log_probs = ambiguous(graph, rare, usual, lead=1.0)
    assert hlg(graph, log_probs, hlg_scale=0.0) == [rare]
    assert hlg(graph, log_probs, hlg_scale=1.0) == [usual]
    gap = sum(model.score(usual.split())) - sum(model.score(rare.split()))
    assert hlg(graph, log_probs, hlg_scale=0.5 / gap) == [rare]
    assert hlg(graph, log_probs, hlg_scale=2.0 / gap) == [usual]


@pytest.mark.k2
def test_words_that_the_model_does_not_know_cannot_come_out(built: Path) -> None:
    graph = read(built, "HLG")
    heard = sharp(graph.tokenizer.encode(f"THE {TOO} SAT"), graph.tokenizer.vocab_size, certainty=6.0)
    (found,) = hlg(graph, heard)
    assert found and TOO not in found and set(found.split()) <= set(graph.words)
    lexical = {line.split()[0] for line in (built / "lexicon.txt").read_text().splitlines()}
    assert lexical == set(" ".join(TEXTS).split())


@pytest.mark.k2
def test_words_that_the_pieces_cannot_spell_are_left_out_and_told(
    built: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = build_in(tmp_path, built, estimate(["THE CAT", "THE ZÜRICH", "A CAT"], 2))
    assert "1 of 4 words cannot be spelled" in caplog.text and "ZÜRICH" in caplog.text
    assert "ZÜRICH" not in (tmp_path / "lexicon.txt").read_text()
    assert path_score(graph.fsa(1.0, "cpu"), graph.tokenizer.encode("THE ZÜRICH")) == -math.inf
    with pytest.raises(UserError, match="none of the 1 words"):
        build_in(tmp_path, built, estimate(["Ü Ü Ü"], 2))


@pytest.mark.k2
def test_others_arpa_files_are_read(built: Path, tmp_path: Path) -> None:
    """Without ``<unk>``, or with ``<UNK>``; with a back-off weight that makes an n-gram worse than backing off."""
    text = "\\data\\\nngram 1=4\nngram 2=2\n\n\\1-grams:\n-99 <s> -0.1\n-0.5 </s>\n-0.7 CAT -0.2\n-0.9 THE\n\n"
    text += "\\2-grams:\n-2.0 <s> CAT\n-0.3 CAT THE\n\n\\end\\\n"
    for name, content in (("plain", text), ("unknown", text.replace("1=4", "1=5").replace("-0.9", "-3 <UNK>\n-0.9"))):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "bpe.model").write_bytes((built / "bpe.model").read_bytes())
        (directory / "other.arpa").write_text(content)
        graphs.build(directory / "other.arpa", Tokenizer(directory), ["LG"])
        fsa = read(directory, "LG").fsa(1.0, "cpu")
        encode = Tokenizer(directory).encode
        assert path_score(fsa, encode("THE")) == pytest.approx(math.log(10) * -1.5, abs=1e-3)
        assert path_score(fsa, encode("CAT THE")) == pytest.approx(math.log(10) * -1.6, abs=1e-3)  # backs off


class Decoder(torch.nn.Module):
    """A decoder whose output is 0."""

    blank_id, context_size = 0, 1

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def forward(self, tokens: Tensor, pad: bool) -> Tensor:
        return torch.zeros(len(tokens), 1, self.vocab_size)


class Joiner(torch.nn.Module):
    """A joiner that adds; its input is log-probabilities."""

    encoder_proj = decoder_proj = torch.nn.Identity()

    def forward(self, encoder_out: Tensor, decoder_out: Tensor, project: bool = True) -> Tensor:
        return encoder_out + decoder_out


class Toy(torch.nn.Module):
    """A transducer whose encoder outputs are the log-probabilities of its tokens."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.decoder, self.joiner = Decoder(vocab_size), Joiner()


def emitted(log_probs: Tensor) -> Tensor:
    """Return every second CTC frame: a transducer emits a token once."""
    return log_probs[:, ::2]


def fast_beam(graph: DecodingGraph, log_probs: Tensor, **settings: float) -> list[str]:
    config = DecodingConfig(method="fast_beam_search_LG", **settings)  # type: ignore[arg-type]
    network: Any = Toy(graph.tokenizer.vocab_size)
    frames = torch.tensor([log_probs.size(1)] * len(log_probs))
    return [graph.tokenizer.decode(tokens) for tokens in decode(network, log_probs, frames, config, graph=graph)]


@pytest.mark.k2
def test_fast_beam_search_keeps_to_the_words_of_the_graph(built: Path) -> None:
    graph = read(built, "LG")
    encode, size = graph.tokenizer.encode, graph.tokenizer.vocab_size
    for text in TEXTS:
        assert fast_beam(graph, emitted(sharp(encode(text), size))) == [text]
    (found,) = fast_beam(graph, emitted(sharp(encode(f"THE {TOO} SAT"), size, certainty=6.0)), beam=100.0)
    assert found and set(found.split()) <= set(graph.words)


@pytest.mark.k2
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000), lengths=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    beam=st.sampled_from([0.1, 1.0, 20.0]), contexts=st.integers(1, 4), states=st.integers(1, 4),
)  # fmt: skip
def test_a_narrow_beam_over_a_graph_ends_with_some_words(
    built: Path, seed: int, lengths: list[int], beam: float, contexts: int, states: int
) -> None:
    """Where no path reaches an end of the graph, too: k2's lattice of it has been one that crashed what came next."""
    graph = read(built, "LG")
    size = graph.tokenizer.vocab_size
    noise = torch.randn(len(lengths), max([*lengths, 1]), size, generator=torch.Generator().manual_seed(seed)) * 4
    config = DecodingConfig(method="fast_beam_search_LG", beam=beam, max_contexts=contexts, max_states=states)
    network: Any = Toy(size)
    found = decode(network, noise.log_softmax(dim=2), torch.tensor(lengths), config, graph=graph)
    for tokens, length in zip(found, lengths):
        assert set(graph.tokenizer.decode(tokens).split()) <= set(graph.words)
        assert length or not tokens


@pytest.mark.k2
def test_fast_beam_search_weighs_the_language_model(built: Path) -> None:
    graph = read(built, "LG")
    rare, usual = "A CAT SAT", "THE CAT SAT"
    log_probs = emitted(ambiguous(graph, rare, usual, lead=0.1))
    model = arpa.read(built / "3-gram.arpa.gz")
    assert sum(model.score(rare.split())) < sum(model.score(usual.split())) - 0.2
    assert fast_beam(graph, log_probs, ngram_lm_scale=0.0) == [rare]
    assert fast_beam(graph, log_probs, ngram_lm_scale=1.0) == [usual]


@pytest.mark.k2
def test_a_method_without_its_graph_is_a_fault_of_the_caller(built: Path) -> None:
    network, config = Head(), DecodingConfig(method="hlg_decoding")
    for graph in (None, read(built, "LG")):
        with pytest.raises(ValueError, match="graph of type HLG"):
            decode(network, torch.zeros(1, 2, 24), torch.tensor([2]), config, graph=graph)  # type: ignore[arg-type]


@pytest.mark.k2
def test_graphs_that_do_not_fit_are_refused(built: Path, tmp_path: Path) -> None:
    tokenizer, path = Tokenizer(built), tmp_path / "graph"
    with pytest.raises(UserError, match=r"graph does not exist; create it with local/make_graphs.py .*--which HLG"):
        graphs.load(path, "HLG", tokenizer)
    path.write_bytes(graphs.path_of(built, "LG").read_bytes())
    with pytest.raises(UserError, match="of type LG, not HLG"):
        graphs.load(path, "HLG", tokenizer)
    bpe.train(TEXTS, tmp_path / "other", 20, "bpe")
    with pytest.raises(UserError, match="other tokens"):
        graphs.load(path, "LG", Tokenizer(tmp_path / "other"))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="damaged"):
        graphs.load(path, "LG", tokenizer)
    save_file({"arcs": torch.zeros(1)}, str(path))
    with pytest.raises(UserError, match="not a decoding graph"):
        graphs.load(path, "LG", tokenizer)
    tensors = load_file(graphs.path_of(built, "LG"))
    tensors["arcs"][0, 1] = 10**6
    save_file(tensors, str(path), {"graph": json.dumps({"kind": "LG", "tokenizer": tokenizer.describe()})})
    with pytest.raises(UserError, match="damaged"):
        graphs.load(path, "LG", tokenizer)


def program(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, str(ROOT / "local" / "make_graphs.py"), "--lang-dir", str(directory), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.k2
def test_the_program_makes_what_is_asked_for(built: Path, tmp_path: Path) -> None:
    (tmp_path / "bpe.model").write_bytes((built / "bpe.model").read_bytes())
    done = program(tmp_path, "--arpa", str(built / "3-gram.arpa.gz"), "--which", "LG")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"bpe.model", "LG.safetensors", "words.txt", "lexicon.txt"}
    assert (tmp_path / "LG.safetensors").read_bytes() == (built / "LG.safetensors").read_bytes()
    done = program(tmp_path, "--arpa", str(tmp_path / "none.arpa"))
    assert done.returncode == 1 and re.fullmatch(r"error: .*none.arpa does not exist; .*", done.stderr.strip())


def test_a_missing_package_is_told_with_the_way_to_get_it(lang_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, remedy in (("kaldilm", "--extras graphs"), ("k2", "install k2")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "kaldilm", sys)
            patch.setitem(sys.modules, name, None)  # makes the import fail
            with pytest.raises(UserError, match=f"needs the package {name} .*{remedy}"):
                graphs.build(lang_dir / "3-gram.arpa.gz", Tokenizer(lang_dir), ["LG"])
