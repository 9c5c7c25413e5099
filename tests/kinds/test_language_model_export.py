"""Exported language models compute what PyTorch does: whole or by steps; dense, cut, factored or with zeros."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pruning import registry
from pruning.bin import export
from pruning.core import low_rank
from pruning.core.extraction import extract
from pruning.deploy.export import export_onnx
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.kinds.language_model_export import ExportedLM, agreement, by_steps, continued
from pruning.measure.lm_benchmark import exported_lm
from pruning.models.facts import network_facts
from pruning.models.transformer_lm import TransformerLM
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.bpe import train as train_bpe
from pruning.speech.text.sentences import boundary_id
from tests.methods.test_l0 import network as transducer
from tests.models.test_transformer_lm import network, random_structure, sentences

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
pytest.importorskip("onnx", reason="the extra 'export' is not installed")


def cut(technique: str, **changes: object) -> TransformerLM:
    """Return a small network after pruning and extraction."""
    model: nn.Module = network(**changes)
    if technique == "low_rank":
        model = low_rank.factorise(model, low_rank.linear_names(model))
    assert isinstance(model, TransformerLM)
    small = extract(model, random_structure(model, 4, 0.5, technique)).eval()
    assert isinstance(small, TransformerLM)
    return small


NETWORKS: dict[str, Callable[[], TransformerLM]] = {
    "dense": network,
    "untied": lambda: network(tied=False),
    "structured": lambda: cut("structured"),
    "narrower": lambda: cut("width"),
    "modules gone": lambda: network(num_heads=(2, 0, 1), ffn_dim=(0, 8, 0)),
    "a layer gone": lambda: cut("structured", num_heads=(2, 0, 3), ffn_dim=(20, 0, 16)),
    "no attention": lambda: network(num_heads=[0]),
    "factored": lambda: cut("low_rank"),
    "unstructured": lambda: cut("unstructured"),
}


def test_the_networks_are_what_they_are_called() -> None:
    config = NETWORKS["structured"]().config
    assert len(set(config.num_heads)) > 1 or len(set(config.ffn_dim)) > 1
    assert NETWORKS["factored"]().config.ranks
    assert NETWORKS["narrower"]().config.d_model < NETWORKS["dense"]().config.d_model
    facts = network_facts(NETWORKS["unstructured"]())
    assert facts["nonzero_parameters"] < 0.7 * facts["parameters"]


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_sentences_and_steps_agree(name: str, tmp_path: Path) -> None:
    """For any number of sentences and tokens, to 1e-4 nats; histories of different lengths step together."""
    model = NETWORKS[name]()
    export_onnx(model, tmp_path)
    exported = exported_lm(tmp_path)
    batches = [sentences(3, 7), sentences(5, 1), sentences(1, 40)]
    for tokens in batches:
        with torch.no_grad():
            wanted = model(tokens).log_softmax(dim=2)
        assert torch.allclose(exported.log_probs(tokens), wanted, atol=1e-4)
        assert torch.allclose(by_steps(exported, tokens)[0], wanted, atol=1e-4)
    same = agreement(model, exported, batches)
    assert same.whole < 1e-4 and same.steps < 1e-4 and same.sentences == 9 and same.differing == []
    _check_mixed(model, exported)
    near = agreement(model, exported_lm(tmp_path, "int8"), batches)
    assert 0 < near.whole < 0.1 and 0 < near.steps < 0.1


@torch.no_grad()
def _check_mixed(model: TransformerLM, exported: ExportedLM) -> None:
    """Check histories of 4 and 2 tokens, with random values beyond the shorter one, selected in another order."""
    long, short = sentences(2, 5), sentences(2, 3).flip(0)
    _, four = by_steps(exported, long[:, :4])
    _, two = by_steps(exported, short[:, :2])
    caches = tuple(torch.cat([a, torch.nn.functional.pad(b, (0, 0, 0, 2), value=9.0)])
                   for a, b in zip(four.caches, two.caches))  # fmt: skip
    joined = four._replace(caches=caches, lengths=torch.cat([four.lengths, two.lengths]))
    order = torch.tensor([3, 0, 2, 1])
    last = torch.cat([long[:, 4], short[:, 2]])[order]
    found, after = exported.step(last, joined.select(order))
    assert after.lengths.tolist() == [3, 5, 3, 5]
    assert all(cache.shape[2] == 5 for cache in after.caches)
    _, again = exported.step(last[[0, 2]], after.select(torch.tensor([0, 2])))
    assert all(cache.shape[2] == 5 for cache in again.caches), "there was free space"
    histories: list[Tensor] = [short[1], long[0], short[0], long[1]]
    for row, history in enumerate(histories):
        assert torch.allclose(found[row], model(history[None]).log_softmax(dim=2)[0, -1], atol=1e-4)


def talkative() -> TransformerLM:
    """Return a network that does not repeat one token."""
    model = network(tied=False)
    model.norm.reset_parameters()
    return model


def test_greedy_continuations(tmp_path: Path) -> None:
    model, tokens = talkative(), sentences(2, 3)
    export_onnx(model, tmp_path, int8=False)
    found = continued(model, tokens, 12)
    assert torch.equal(continued(exported_lm(tmp_path), tokens, 12), found)
    assert len(set(found.flatten().tolist())) > 2
    for _ in range(12):
        tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(dim=1, keepdim=True)], dim=1)
    assert torch.equal(found, tokens[:, 3:])


def test_an_export_of_other_weights_is_told(tmp_path: Path) -> None:
    export_onnx(talkative(), tmp_path, int8=False)
    other = talkative()
    assert other.output is not None
    with torch.no_grad():
        other.output.weight.mul_(-1)
    same = agreement(other, exported_lm(tmp_path), [sentences()])
    assert same.whole > 1e-2 and same.steps > 1e-2 and same.differing == [0, 1, 2]
    with torch.no_grad():
        other.norm.weight.fill_(torch.nan)
    assert not agreement(other, exported_lm(tmp_path), [sentences()]).whole <= 1e-4


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_in_the_file_once(tied: bool, tmp_path: Path) -> None:
    model = network(vocab_size=4000, tied=tied)
    export_onnx(model, tmp_path, int8=False)
    parameters = 4 * sum(parameter.numel() for parameter in model.parameters())
    for name in ("lm", "lm_step"):
        assert (tmp_path / f"{name}.onnx").stat().st_size == pytest.approx(parameters, rel=0.3)
    assert agreement(model, exported_lm(tmp_path), [sentences()]).whole < 1e-4


@pytest.fixture(scope="module")
def lang_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lang") / "lang_bpe_24"
    texts = ["SOME WORDS OF A TEXT", "ANOTHER LINE WITH LETTERS", "QUITE ENOUGH OF THEM"]
    train_bpe(texts, directory, 24, "unigram")
    return directory


def save(model: nn.Module, directory: Path, lang_dir: Path, **more: object) -> list[str]:
    """Write an experiment; return the command's options for it."""
    tokenizer = Tokenizer(lang_dir)
    header = {"model": registry.describe(model), "tokenizer": tokenizer.describe(), **more}
    checkpoint.save_model(checkpoint.best_path(directory), model, header)
    return ["--exp-dir", str(directory), "--lang-dir", str(lang_dir), "--output", str(directory / "export")]


def test_the_command_exports_and_compares(lang_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = save(cut("structured", vocab_size=24), tmp_path, lang_dir)
    export.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split(":")[0]).name for line in lines[:-2]] == [
        "lm.onnx", "lm.int8.onnx", "lm_step.onnx", "lm_step.int8.onnx"]  # fmt: skip
    assert [line.split(":")[0] for line in lines[-2:]] == ["float32", "int8"]
    assert "0 of 12 greedy continuations differ" in lines[-2]
    place = tmp_path / "export"
    assert (place / "tokens.txt").read_text() == (lang_dir / "tokens.txt").read_text()
    assert (place / "int8/model.json").is_file()
    assert not [path for path in place.rglob("*") if path.name.startswith(".tmp")]
    boundary = boundary_id(Tokenizer(lang_dir))
    for form in ("float32", "int8"):
        exported = exported_lm(place, form)
        assert (exported.vocab_size, exported.boundary) == (24, boundary)
    (tmp_path / "text.txt").write_text("SOME WORDS\nOF A TEXT\n")
    made = (place / "lm.onnx").stat().st_mtime_ns
    export.main([*arguments, "--check", "--text", str(tmp_path / "text.txt")])
    assert "0 of 2 greedy continuations differ" in capsys.readouterr().out
    assert (place / "lm.onnx").stat().st_mtime_ns == made
    save(cut("structured", vocab_size=24, tied=False), tmp_path, lang_dir)  # other weights
    with pytest.raises(UserError, match="the outputs of the float32 export differ by"):
        export.main([*arguments, "--check"])


def test_what_the_command_refuses(lang_dir: Path, tmp_path: Path) -> None:
    model = network(vocab_size=24)
    with pytest.raises(UserError, match="is of a pruning run; extract it first"):
        export.main(save(model, tmp_path / "pruned", lang_dir, found_structure={}))
    arguments = save(model, tmp_path / "lm", lang_dir)
    with pytest.raises(UserError, match="export contains no export of this kind of network; leave out --check"):
        export.main([*arguments, "--check"])
    for option in (["--torchscript"], ["--cuts", "x"]):
        with pytest.raises(UserError, match=f"{option[0]} is not .*for .*lm, which contains a language model; leave"):
            export.main([*arguments, *option])
    with pytest.raises(UserError, match="--left-context-frames has no effect without chunks; give --chunk-size"):
        export.main([*arguments, "--left-context-frames", "64"])
    with pytest.raises(UserError, match="--text is not for .*asr, which contains a transducer"):
        export.main([*save(transducer(), tmp_path / "asr", lang_dir), "--text", "x"])
    with pytest.raises(UserError, match="vocab|tokens"):
        export.main(save(network(), tmp_path / "other", lang_dir, tokenizer={"vocab_size": 11}))
    (tmp_path / "file").write_text("no checkpoint")
    with pytest.raises(UserError):
        export.main(["--exp-dir", str(tmp_path / "file"), *arguments[2:]])


def test_missing_and_broken_exports_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lm.onnx does not exist; export it"):
        exported_lm(tmp_path)
    with pytest.raises(UserError, match="lm.pt does not exist"):
        exported_lm(tmp_path, "torchscript")
    export_onnx(network(), tmp_path, int8=False)
    (tmp_path / "lm_step.onnx").write_bytes((tmp_path / "lm.onnx").read_bytes()[:900])
    with pytest.raises(UserError, match="lm_step.onnx cannot be loaded"):
        exported_lm(tmp_path)
