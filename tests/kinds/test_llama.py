"""An imported language model by the commands: pruned with calibration text, measured, exported."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pruning.bin import export, one_shot, perplexity
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.measurement import PERPLEXITY, Measurement, path_of
from pruning.importers.llama import configuration
from pruning.kinds.language_model import LanguageModelKind
from pruning.kinds.llama_hf import hf_values
from pruning.models.facts import read_facts
from pruning.speech.text.network_tokens import NetworkTokens
from pruning.speech.text.sentences import Sentences, TextConfig
from tests.importers.test_llama import BASE, LLAMA3, imported

transformers = pytest.importorskip("transformers", reason="the extra 'hf' is not installed")
LINES = ["THE BIRDS ARE HERE", "IS IT THE END", "I SEE 12 BIRDS", "IT IS", "HERE THEY ARE AND I AM THERE TOO"]
SENTENCES = ["The birds are here.", "Is it the end.", "I see 12 birds.", "It is.", "Here they are and I am there too."]
SETTINGS = """
trainer: {max_steps: 8, num_threads: 1, valid_interval: 8, tensorboard: false, average_period: 4,
  optimiser: {lr: 1.0e-3}}
data: {form: sentence, block: 32, max_tokens: 128}
constraint: {size: 0.4}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported network with random weights, and text in upper case."""
    place = tmp_path_factory.mktemp("llama")
    imported(place, ("<|endoftext|>", "<|im_start|>"), positions=256, bos_token="<|im_start|>",
             tokenizer_class="PreTrainedTokenizerFast")  # fmt: skip
    (place / "dev.txt").write_text("\n".join(LINES))
    (place / "train.txt").write_text("\n".join(LINES * 8))
    (place / "prune.yaml").write_text(SETTINGS)
    return place


def measured(work: Path, *options: str, name: str, network: Path | None = None) -> Measurement:
    exp_dir = network or work / "exp"
    perplexity.main(["--exp-dir", str(exp_dir), "--text", str(work / "dev.txt"), "--lang-dir",
                     str(work / "exp" / "lang"), *options])  # fmt: skip
    return Measurement.read(path_of(exp_dir, PERPLEXITY, name))


def expected(work: Path, texts: list[tuple[str, str]]) -> list[float]:
    """Return the nats of each text behind another one, computed by transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(work / "source").eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(work / "source" / "tokenizer.json"))
    nats = []
    for before, text in texts:
        whole = tokenizer(before + text).input_ids
        first = len(tokenizer(before).input_ids) if before else 0
        assert tokenizer.decode(whole[first:]) == text
        with torch.no_grad():
            scores = model(torch.tensor([[0, *whole]])).logits[0].log_softmax(dim=1)
        nats.append(-sum(float(scores[at, token]) for at, token in enumerate(whole) if at >= first))
    return nats


@pytest.mark.parametrize(("form", "lines"), [("as-is", LINES), ("sentence", SENTENCES)])
@pytest.mark.parametrize("context", [0, 1, 3])
def test_perplexity_is_that_of_transformers(work: Path, form: str, lines: list[str], context: int) -> None:
    name = {"as-is": "dev", "sentence": "dev-sentence"}[form] + (f"-context{context}" if context else "")
    found = measured(work, "--form", form, "--context", str(context), name=name)
    texts = [(" ".join(lines[max(0, at - context) : at]), f"{' ' * (at > 0 < context)}{line}")
             for at, line in enumerate(lines)]  # fmt: skip
    nats = expected(work, texts)
    assert found.columns["nll"] == pytest.approx(nats, abs=2e-3) == found.columns["word_nll"]
    assert found.columns["words"] == [len(line.split()) for line in lines] and found.total("ends") == 0
    words = sum(map(len, map(str.split, lines)))
    total = found.total("word_nll")
    assert total is not None and math.exp(total / words) == pytest.approx(math.exp(sum(nats) / words), rel=1e-3)


def test_lines_in_blocks_are_the_same_lines(work: Path) -> None:
    """In a block that holds all text, a line is scored behind all before it; ends are words of their own."""
    whole = measured(work, "--block", "200", name="dev-block200")
    behind = measured(work, "--context", "9", name="dev-context9")
    assert whole.columns["nll"] == pytest.approx(behind.columns["nll"], abs=2e-3)
    ended = measured(work, "--score-end", "true", name="dev-ends")
    assert ended.total("ends") == len(LINES) and ended.columns["words"][3] == 3
    cut = measured(work, "--block", "8", name="dev-block8")
    assert cut.total("words") == whole.total("words") and cut.columns["nll"] != whole.columns["nll"]


def test_a_context_is_shortened_to_what_the_network_takes(work: Path, tmp_path: Path) -> None:
    """And a longer line is refused."""
    (tmp_path / "long.txt").write_text(f"{' '.join(['SO'] * 80)}\n{' '.join(['IT'] * 30)}\n")
    common = ["--exp-dir", str(work / "exp"), "--lang-dir", str(work / "exp" / "lang"), "--context", "1", "--text"]
    perplexity.main([*common, str(tmp_path / "long.txt")])
    (tmp_path / "longer.txt").write_text(" ".join(["SO"] * 99))
    with pytest.raises(
        UserError,
        match="longer.txt: line 1, empty lines not counted, has .* tokens, but the language model takes 256; split it",
    ):
        perplexity.main([*common, str(tmp_path / "longer.txt")])
    with pytest.raises(UserError, match="--block has neither ends nor contexts; leave out"):
        measured(work, "--block", "8", "--context", "1", name="")
    with pytest.raises(UserError, match="blocks of 300 tokens are longer than what the language model takes, 256"):
        measured(work, "--block", "300", name="")


@pytest.mark.parametrize("scaling", [{"rope_type": "default"}, LLAMA3])
def test_written_configurations_are_read_by_all_transformers(scaling: dict[str, object]) -> None:
    """Files of transformers 5 nest the settings of positions where version 4 does not read them."""
    given = {name: value for name, value in BASE.items() if name != "rope_theta"}
    given["rope_parameters"] = {**scaling, "rope_theta": 5000.0}
    config = configuration(given)
    values = hf_values(config, given)
    assert values["rope_parameters"] == given["rope_parameters"] and values["rope_theta"] == 5000.0
    older = {name: value for name, value in values.items() if name != "rope_parameters"}
    assert configuration(older) == configuration(values) == config and config.rotary_base == 5000.0
    assert (values["rope_scaling"] is None) == (scaling["rope_type"] == "default")


def test_lines_without_words_are_empty_in_the_form_of_words(work: Path, tmp_path: Path) -> None:
    (tmp_path / "dashes.txt").write_text("THE BIRDS\n- -\nARE HERE\n")
    common = ["--exp-dir", str(work / "exp"), "--lang-dir", str(work / "exp" / "lang"), "--text",
              str(tmp_path / "dashes.txt"), "--form", "words"]  # fmt: skip
    with pytest.raises(UserError, match="dashes.txt line 2 is empty; remove it, or give --on-empty skip"):
        perplexity.main(common)
    perplexity.main([*common, "--on-empty", "skip"])
    assert Measurement.read(path_of(work / "exp", PERPLEXITY, "dashes-words")).columns["words"] == [2, 2]
    tokens = NetworkTokens(work / "exp" / "lang")
    config = TextConfig(max_tokens=64, form="words", block=64, on_empty="skip")
    row = next(Sentences([tmp_path / "dashes.txt"], tokens, config).evaluation_batches()).targets[0]
    assert [int(token) for token in row if token >= 0] == tokens.encode("THE BIRDS ARE HERE")


def test_lines_are_packed_into_blocks_of_running_text(work: Path) -> None:
    """All tokens once, in order, with nothing between them but the spaces of the text; each block starts again."""
    tokens = NetworkTokens(work / "exp" / "lang")
    config = TextConfig(max_tokens=64, form="sentence", block=16)
    blocks = list(Sentences([work / "dev.txt"], tokens, config).evaluation_batches())
    rows = sorted((int(place), row.tolist()) for batch in blocks for place, row in zip(batch.places, batch.targets))
    flat = [token for _, row in rows for token in row if token >= 0]
    assert flat == tokens.encode(" ".join(SENTENCES)) and {len(row) for _, row in rows[:-1]} == {16}
    for batch in blocks:
        assert batch.inputs.shape == batch.targets.shape and (batch.inputs[:, 0] == 0).all()
        inside = batch.mask[:, 1:]
        assert torch.equal(batch.inputs[:, 1:][inside], batch.targets[:, :-1][inside])
    lines = next(Sentences([work / "dev.txt"], tokens, TextConfig()).evaluation_batches())
    assert lines.mask.sum() == sum(len(tokens.encode(line)) for line in LINES), "ends are not predicted"
    ended = Sentences([work / "dev.txt"], tokens, TextConfig(ends=True))
    assert next(ended.evaluation_batches()).mask.sum() == lines.mask.sum() + len(LINES) == ended.num_tokens
    with pytest.raises(ValueError, match="blocks of running text have no ends"):
        TextConfig(block=16, ends=True)
    with pytest.raises(UserError, match="max_tokens must be at least block"):
        TextConfig(block=5000)


def test_one_shot_with_text(work: Path, tmp_path: Path) -> None:
    """Units of an imported network are cut and repaired with blocks of calibration text; the result is measured."""
    data = ["--train-text", str(work / "train.txt"), "--dev-text", str(work / "dev.txt"), "--lang-dir",
            str(work / "exp" / "lang")]  # fmt: skip
    one_shot.main(["--config", str(work / "prune.yaml"), "--teacher", str(work / "exp"), "--exp-dir",
                   str(tmp_path / "small"), "--method", "wanda", "--batches", "2", "--repair", "8", *data])  # fmt: skip
    network, header = LanguageModelKind.load_network(tmp_path / "small")
    facts = read_facts(tmp_path / "small")
    assert facts["blocks_parameters"] / facts["dense"]["blocks_parameters"] == pytest.approx(0.6, abs=0.05)
    assert header["exactness"] < 1e-4 and header[checkpoint.PRETRAINED] == "source"
    name = "dev-sentence-block32"
    found = measured(work, "--form", "sentence", "--block", "32", name=name, network=tmp_path / "small")
    assert (found.total("word_nll") or 0) > 0
    with pytest.raises(UserError, match="data.block makes texts of up to 257 tokens, but the network was"):
        one_shot.main(["--config", str(work / "prune.yaml"), "--teacher", str(work / "exp"), "--exp-dir",
                       str(tmp_path / "no"), "--method", "wanda", "--batches", "2", *data,
                       "data.block=257", "data.max_tokens=257"])  # fmt: skip


def small(work: Path, place: Path, *settings: str, method: str = "magnitude") -> Path:
    """Prune the imported network at once, without repair."""
    one_shot.main(["--config", str(work / "prune.yaml"), "--teacher", str(work / "exp"), "--exp-dir", str(place),
                   "--method", method, "--batches", "1", "--repair", "0", "--train-text", str(work / "train.txt"),
                   "--dev-text", str(work / "dev.txt"), "--lang-dir", str(work / "exp" / "lang"),
                   *settings])  # fmt: skip
    return place


def exported(work: Path, network: Path, place: Path, *options: str) -> Path:
    export.main(["--exp-dir", str(network), "--lang-dir", str(work / "exp" / "lang"), "--output", str(place), *options])
    return place


def test_a_uniform_network_is_a_hugging_face_directory(work: Path, tmp_path: Path) -> None:
    """Which unmodified transformers loads, with equal outputs and tokens, and with a card."""
    network = small(work, tmp_path / "small", "criterion.ranking=group", "criterion.kinds=[ffn]")
    measured(work, name="dev", network=network)
    place = exported(work, network, tmp_path / "hf", "--hugging-face")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(place).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    ours, tokens = LanguageModelKind.load_network(network)[0], torch.tensor([[0, *range(30, 50)]])
    with torch.no_grad():
        assert torch.allclose(theirs(tokens).logits, ours(tokens), atol=1e-5)
    assert tokenizer(SENTENCES[0]).input_ids == NetworkTokens(work / "exp" / "lang").encode(SENTENCES[0])
    assert theirs.config.intermediate_size == ours.config.ffn_dim[0] < 40
    card = (place / "README.md").read_text()
    assert "perplexity per word" in card and "parameters of the blocks" in card and "Made from **source**" in card
    assert not (place / "preprocessor_config.json").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["criterion.kinds=[heads]", "constraint.size=0.1"],
            "query heads, but a Hugging Face directory has one",
        ),
        (["criterion.kinds=[ffn]", "constraint.size=0.2"], "the layers have .* hidden units, but a Hugging Face"),
    ],
)
def test_other_shapes_are_refused(work: Path, tmp_path: Path, settings: list[str], message: str) -> None:
    network = small(work, tmp_path / "small", *settings)
    with pytest.raises(UserError, match=f"{message}.*; export it to ONNX, or prune with"):
        exported(work, network, tmp_path / "hf", "--hugging-face")
    assert not (tmp_path / "hf").exists()


def test_onnx_computes_the_same(work: Path, tmp_path: Path) -> None:
    """Also steps with caches of shared keys and values."""
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    network = small(work, tmp_path / "small", method="depth")
    place = exported(work, network, tmp_path / "onnx", "--text", str(work / "dev.txt"))
    assert (place / "lm_step.onnx").is_file() and (place / "tokenizer.json").is_file()
