"""Language models end to end: training, every cell of criterion x technique, extraction, fine-tuning, perplexity."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning import configuration
from pruning.bin import extract, finetune, perplexity, prune, train
from pruning.core.low_rank import linear_names
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.measurement import PERPLEXITY, Measurement, Utterances, path_of
from pruning.kinds import language_model
from pruning.kinds import train_and_prune as runs
from pruning.kinds.language_model import LanguageModelKind
from pruning.methods.choice import new_pruner
from pruning.methods.criterion import CriterionPruning
from pruning.methods.low_rank import LowRankPruning, calibrate
from pruning.methods.names import HJ, L0, METHODS, NO_CELL, TECHNIQUES
from pruning.models.facts import read_facts
from pruning.models.transformer_lm import TransformerLM
from pruning.speech.text import bpe
from pruning.training.task import StepInfo
from tests.speech.text.test_sentences import lines

TRAINER = """
trainer: {max_steps: 24, num_threads: 1, valid_interval: 12, log_interval: 8, tensorboard: false, average_period: 4,
  optimiser: {lr: 1.0e-2}, schedule: {type: cosine, warmup_steps: 4}}
data: {max_tokens: 200, max_length: 60}
"""
MODEL = "model: {d_model: 16, num_layers: 2, head_dim: 4, num_heads: [4], ffn_dim: [32], dropout: 0.1}\n"
LLAMA = """model: {d_model: 16, num_layers: 2, head_dim: 4, num_heads: [4], shared_by: [[2, 2]], ffn_dim: [22],
  dropout: 0.1, norm: rms, gated: true, activation: silu, biased: [in_proj]}
"""
PRUNE = """
constraint: {size: 0.5, ramp: cubic, ramp_share: 0.6}
criterion: {interval: 3}
low_rank: {calibration_batches: 2}
distillation: {weight: 0.5, temperature: 2.0}
"""
CELLS = [(method, technique) for technique in TECHNIQUES for method in METHODS
         if (method, technique) not in NO_CELL]  # fmt: skip
OF_LLAMA = [("l0", "structured"), ("taylor", "structured"), ("wanda", "low_rank")]
"""Cells of a network of the Llama family that are tested by default: its other cells have the same units."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, tokens, configurations and a dense language model."""
    place = tmp_path_factory.mktemp("lm")
    (place / "train.txt").write_text("\n".join(lines(300)))
    (place / "dev.txt").write_text("\n".join(lines(340)[300:]))
    (place / "train.yaml").write_text(MODEL + TRAINER)
    (place / "prune.yaml").write_text(TRAINER + PRUNE)
    (place / "finetune.yaml").write_text(TRAINER)
    bpe.train(lines(300), place / "lang", 28, "unigram")
    train.main(["--config", str(place / "train.yaml"), "--exp-dir", str(place / "dense"), *data(place)])
    return place


@pytest.fixture(scope="module")
def llama(work: Path) -> Path:
    """A dense language model of the Llama family."""
    (work / "llama.yaml").write_text(LLAMA + TRAINER)
    train.main(["--config", str(work / "llama.yaml"), "--exp-dir", str(work / "llama"), *data(work)])
    return work / "llama"


def data(place: Path) -> list[str]:
    return ["--train-text", str(place / "train.txt"), "--dev-text", str(place / "dev.txt"),
            "--lang-dir", str(place / "lang")]  # fmt: skip


def repair(place: Path) -> list[str]:
    return ["--repair", "50", "--train-text", str(place / "train.txt"), "--lang-dir", str(place / "lang")]


def measured(place: Path) -> Measurement:
    """What the perplexity command recorded of the dev text."""
    return Measurement.read(path_of(place, PERPLEXITY, "dev"))


def test_repair_alone_brings_the_outputs_nearer(work: Path, tmp_path: Path) -> None:
    """Without training, least squares reduces the loss of the cut network."""
    losses = {}
    prune.main(["--config", str(work / "prune.yaml"), "trainer.optimiser.lr=0", "distillation.weight=0", "--method",
                "magnitude", "--scheduler", "one_shot", "--teacher", str(work / "dense"),
                "--exp-dir", str(tmp_path / "pruned"), *data(work)])  # fmt: skip
    for name, more in {"cut": [], "repaired": repair(work)}.items():
        extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / name), *more])
        perplexity.main(["--exp-dir", str(tmp_path / name), "--text", str(work / "dev.txt"), "--lang-dir",
                         str(work / "lang")])  # fmt: skip
        losses[name] = measured(tmp_path / name).total("nll") or 0.0
    assert losses["repaired"] < losses["cut"]


@pytest.mark.parametrize(("method", "technique"), CELLS)
def test_every_cell_prunes_to_its_target(work: Path, tmp_path: Path, method: str, technique: str) -> None:
    """The extraction is exact, reloads, and has the requested size."""
    check_cell(work, work / "dense", tmp_path, method, technique)


@pytest.mark.parametrize(("method", "technique"), [
    pytest.param(*cell, marks=[] if cell in OF_LLAMA else pytest.mark.long) for cell in CELLS])  # fmt: skip
def test_every_cell_of_a_llama(work: Path, llama: Path, tmp_path: Path, method: str, technique: str) -> None:
    check_cell(work, llama, tmp_path, method, technique)


def check_cell(work: Path, dense: Path, tmp_path: Path, method: str, technique: str) -> None:
    """Check that the extraction of a pruned network is exact, reloads, and has the requested size."""
    settings = ["l0.gate_lr=0.5"] if method in (L0, *HJ) else []
    settings += {"hj-mac": ["constraint.macs=0.5"],
                 "hj-sepsize": ["constraint.parts={size:attention: 0.48, size:ffn: 0.5}"]}.get(method, [])  # fmt: skip
    prune.main(["--config", str(work / "prune.yaml"), *settings, "--method", method, "--technique", technique,
                "--teacher", str(dense), "--exp-dir", str(tmp_path / "pruned"), *data(work)])  # fmt: skip
    extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "small")])
    model, header = LanguageModelKind.load_network(tmp_path / "small")
    assert header["exactness"] < 1e-4
    facts = read_facts(tmp_path / "small")
    removed = facts["dense"]["parameters"] - facts["parameters" if technique != "unstructured" else
                                                   "nonzero_parameters"]  # fmt: skip
    if method == "hj-mac":
        assert facts["macs_per_token"] / facts["dense"]["macs_per_token"] == pytest.approx(0.5, abs=0.02)
    else:
        assert removed / facts["dense"]["blocks_parameters"] == pytest.approx(0.5, abs=0.02)
    if technique == "low_rank":
        assert model.config.ranks
    if technique == "unstructured":
        assert facts["parameters"] == facts["dense"]["parameters"]


@pytest.mark.parametrize("method", ["l0", "taylor", "wanda"])
def test_a_narrower_stream_by_the_commands(work: Path, tmp_path: Path, method: str) -> None:
    """The residual width goes with the other units, embedding included, and what follows it can be repaired."""
    kinds = "[heads,ffn,width]"
    settings = [f"criterion.kinds={kinds}", "criterion.ranking=group"]
    if method == "l0":
        settings = [f"l0.gates.kinds={kinds}", "l0.gate_lr=0.5"]
    prune.main(["--config", str(work / "prune.yaml"), *settings, "--method", method, "--technique", "structured",
                "--teacher", str(work / "dense"), "--exp-dir", str(tmp_path / "pruned"), *data(work)])  # fmt: skip
    extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "small"),
                  *(repair(work) if method == "wanda" else [])])  # fmt: skip
    model, header = LanguageModelKind.load_network(tmp_path / "small")
    assert header["exactness"] < 1e-4
    facts = read_facts(tmp_path / "small")
    assert facts["blocks_parameters"] / facts["dense"]["blocks_parameters"] == pytest.approx(0.5, abs=0.02)
    dense, _ = LanguageModelKind.load_network(work / "dense")
    assert model.config.d_model == model.embedding.weight.shape[1] < dense.config.d_model


def test_the_small_network_is_tuned_and_measured(work: Path, tmp_path: Path) -> None:
    """Zeros stay zero in fine-tuning; perplexity is per word and per token, with a vocabulary or without."""
    prune.main(["--config", str(work / "prune.yaml"), "--method", "wanda", "--technique", "unstructured", "--scheduler",
                "one_shot", "--teacher", str(work / "dense"), "--exp-dir", str(tmp_path / "pruned"),
                *data(work)])  # fmt: skip
    with pytest.raises(UserError, match="not for weights; leave it out"):
        extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "small"), *repair(work)])
    extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "small")])
    finetune.main(["--config", str(work / "finetune.yaml"), "--init", str(tmp_path / "small"), "--exp-dir",
                   str(tmp_path / "tuned"), *data(work)])  # fmt: skip
    before, _ = LanguageModelKind.load_network(tmp_path / "small")
    after, _ = LanguageModelKind.load_network(tmp_path / "tuned")
    for name in linear_names(before):
        old, new = (model.get_parameter(f"{name}.weight") for model in (before, after))
        assert torch.equal(old == 0, new == 0) and not torch.equal(old, new)
    (work / "words.txt").write_text("ONE 5\nTWO 4\n")
    common = ["--exp-dir", str(tmp_path / "tuned"), "--text", str(work / "dev.txt"), "--lang-dir", str(work / "lang")]
    perplexity.main(common)
    found = measured(tmp_path / "tuned")
    assert found.utterances == Utterances.sentences(40) and found.total("left_out") == 0
    assert (found.total("word_nll") or 0) > 0 and found.total("word_nll") == pytest.approx(found.total("nll"), abs=0.1)
    perplexity.main([*common, "--vocabulary", str(work / "words.txt")])
    fewer = measured(tmp_path / "tuned")
    assert (fewer.total("left_out") or 0) + (fewer.total("words") or 0) == found.total("words")
    assert all(fewer.columns[name] == found.columns[name] for name in ("nll", "tokens"))


@pytest.mark.parametrize(("method", "technique"), list(NO_CELL))
def test_cells_without_a_definition_are_refused_with_the_reason(work: Path, method: str, technique: str) -> None:
    with pytest.raises(UserError, match=f"method {method} does not support {technique}: .+"):
        configuration.load(
            language_model.PruneConfig, work / "prune.yaml", [f"method={method}", f"technique={technique}"]
        )


_RESTING = ["trainer.max_steps=40", "constraint.size=0.7", "constraint.ramp=linear", "constraint.ramp_share=0.9",
            "snapshots=[0.2,0.4]", "criterion.interval=2", "criterion.rest=5"]  # fmt: skip


_LOW_RANK = ["--method", "fisher", "--technique", "low_rank"]
_GATES = ["--method", "l0", "--technique", "structured", "trainer.max_steps=70", "constraint.match.macs=0.3",
          "l0.gate_lr=0.1", "l0.multiplier_lr=1"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "stop"),
    [(_LOW_RANK, 16), ([*_LOW_RANK, *_RESTING], 12), (_GATES, 58)],
    ids=["on the ramp", "at rest", "another cost matched"],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    work: Path, tmp_path: Path, settings: list[str], stop: int
) -> None:
    """Rotated weights and moments and the metric are restored from state and data.

    At step 10 the run rests; the level of the targets, found at step 50, is kept.
    """
    common = ["--config", str(work / "prune.yaml"), "--teacher", str(work / "dense"), *data(work),
              "trainer.state_interval=5", *settings]  # fmt: skip
    prune.main([*common, "--exp-dir", str(tmp_path / "whole")])

    class Stop(Exception):
        pass

    def stopping(self: runs.Trainer) -> None:
        original(self)
        if self.step == stop:
            raise Stop

    original = runs.Trainer._after_step
    runs.Trainer._after_step = stopping  # type: ignore[method-assign]
    try:
        with pytest.raises(Stop):
            prune.main([*common, "--exp-dir", str(tmp_path / "broken")])
    finally:
        runs.Trainer._after_step = original  # type: ignore[method-assign]
    prune.main([*common, "--exp-dir", str(tmp_path / "broken")])
    ours, theirs = (checkpoint.load_model(tmp_path / name)[0].state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    if "snapshots=[0.2,0.4]" in settings:
        ends = [[checkpoint.read_header(checkpoint.snapshot_path(tmp_path / name, f"size-{kept}"))["step"]
                 for kept in (80, 60)] for name in ("whole", "broken")]  # fmt: skip
        assert ends[0] == ends[1] and ends[0][0] - 5 < 10 < ends[0][0], "the state was saved during a rest"


def test_a_rotation_changes_neither_the_network_nor_its_descent(work: Path) -> None:
    """The outputs do not change, and a step along the rotated first moment moves ``U V`` as before, to first order."""
    model, _ = LanguageModelKind.load_network(work / "dense")
    config = configuration.load(
        language_model.PruneConfig, work / "prune.yaml", ["method=magnitude", "technique=low_rank"]
    )
    pruner = new_pruner(model, config, config.trainer.seed)
    assert isinstance(pruner, LowRankPruning)
    group = pruner.units.chosen[0]
    layer = pruner.network.get_submodule(group.name.rpartition(".")[0])
    u, v = layer.u.weight, layer.v.weight
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # as if training had continued
        u.add_(0.1 * torch.randn(u.shape, generator=generator))
        v.add_(0.1 * torch.randn(v.shape, generator=generator))
    kept = torch.arange(0, group.size, 2)
    product = (u[:, kept] @ v[kept]).clone()
    moments = {weight: {"exp_avg": torch.randn(weight.shape, generator=generator),
                        "exp_avg_sq": torch.rand(weight.shape, generator=generator)} for weight in (u, v)}  # fmt: skip
    by_left = (moments[u]["exp_avg"][:, kept] * u[:, kept]).sum()
    pruner.attach_moments(moments)
    pruner.keep.fill_(1)
    start = 0
    pruner.keep[start : start + group.size] = 0
    pruner.keep[kept] = 1
    pruner.after_cut()
    rank = len(kept)
    assert pruner.keep[:rank].all() and not pruner.keep[rank : group.size].any()
    assert torch.allclose(u @ v, product, atol=1e-5)
    assert torch.allclose(u[:, :rank].norm(dim=0), v[:rank].norm(dim=1), atol=1e-4)
    # the inner product of gradient and weights does not depend on the basis
    assert torch.allclose((moments[u]["exp_avg"] * u).sum(), by_left, atol=1e-3)
    assert bool((moments[u]["exp_avg_sq"] >= 0).all())


def test_metrics_come_from_the_data(work: Path) -> None:
    """Fisher's rows are the root of summed squared gradients; the factor of the inputs is that of their moments."""
    model, _ = LanguageModelKind.load_network(work / "dense")
    from pruning.speech.text.sentences import Sentences, TextConfig
    from pruning.tasks.language_model import LmDistillationConfig, LmTask

    tokenizer = bpe.Tokenizer(work / "lang")
    batches = list(Sentences([work / "train.txt"], tokenizer, TextConfig(200, 60)).training_batches(1, 1))[:2]
    task = LmTask(model, LmDistillationConfig())
    name = "layers.1.ffn.linear2"
    rows = calibrate(task, [name], batches, "fisher")[name].rows
    total = torch.zeros(16, dtype=torch.float64)
    for batch in batches:
        model.zero_grad()
        task(batch, StepInfo(1, 0, 0, training=False))[0].backward()
        total += (model.get_parameter(f"{name}.weight").grad.double() ** 2).sum(dim=1)
    assert rows is not None and torch.allclose(rows, total.sqrt(), rtol=1e-3)
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0].flatten(0, -2)))
    for batch in batches:
        task(batch, StepInfo(1, 0, 0, training=False))
    handle.remove()
    columns = calibrate(task, [name], batches, "wanda")[name].columns
    gram = torch.cat(seen).double().T @ torch.cat(seen).double()
    assert columns is not None
    jitter = 1e-3 * gram.diagonal().mean() * torch.eye(32)
    assert torch.allclose(columns @ columns.T, gram + jitter, rtol=1e-4, atol=1e-6)
    assert calibrate(task, [name], batches, "taylor") == {}


def test_settings_may_follow_options_with_several_values(work: Path, tmp_path: Path) -> None:
    train.main(["--config", str(work / "train.yaml"), "--exp-dir", str(tmp_path / "exp"), "--lang-dir",
                str(work / "lang"), "--dev-text", str(work / "dev.txt"), "trainer.max_steps=2", "--train-text",
                str(work / "train.txt"), "trainer.valid_interval=1", "data.max_length=50"])  # fmt: skip
    written = (tmp_path / "exp" / "config.yaml").read_text()
    assert "max_steps: 2" in written and "valid_interval: 1" in written and "max_length: 50" in written


def test_data_of_another_kind_are_refused(work: Path) -> None:
    with pytest.raises(
        UserError, match="cannot tell whether to train on cuts or on text; give --train-cuts and --dev-cuts"
    ):
        train.main(["--config", str(work / "train.yaml"), "--exp-dir", str(work / "no"), "--lang-dir", "x",
                    "--train-text", "a", "--dev-cuts", "b"])  # fmt: skip
    with pytest.raises(UserError, match="--train-cuts is not for .*, which contains a language model"):
        cuts = work / "cuts.jsonl"
        cuts.write_text("{}")
        prune.main(["--config", str(work / "prune.yaml"), "--method", "magnitude", "--teacher", str(work / "dense"),
                    "--exp-dir", str(work / "kind"), *data(work)])  # fmt: skip
        extract.main(["--pruned", str(work / "kind"), "--exp-dir", str(work / "no"), "--train-cuts", str(cuts),
                      "--lang-dir", str(work / "lang")])  # fmt: skip
    model, _ = LanguageModelKind.load_network(work / "dense")
    assert isinstance(model, TransformerLM)


@pytest.mark.parametrize("technique", ["low_rank", "structured", "unstructured"])
def test_one_run_delivers_several_sizes(work: Path, tmp_path: Path, technique: str) -> None:
    """Each snapshot is a complete experiment of its size, equal to a run that stops there."""
    common = ["--config", str(work / "prune.yaml"), "constraint.ramp=linear", "criterion.interval=2", "--method",
              "magnitude", "--technique", technique, "--teacher", str(work / "dense"), *data(work)]  # fmt: skip
    prune.main([*common, "constraint.size=0.7", "snapshots=[0.25,0.5]", "--exp-dir", str(tmp_path / "several")])
    extract.main(["--pruned", str(tmp_path / "several"), "--exp-dir", str(tmp_path / "several/sizes/size-30")])
    count = "nonzero_parameters" if technique == "unstructured" else "parameters"
    for kept in (75, 50, 30):
        place = tmp_path / "several" / "sizes" / f"size-{kept}"
        facts = read_facts(place)
        removed = (facts["dense"]["parameters"] - facts[count]) / facts["dense"]["blocks_parameters"]
        assert removed == pytest.approx(1 - kept / 100, abs=0.03)
        perplexity.main(["--exp-dir", str(place), "--text", str(work / "dev.txt"), "--lang-dir", str(work / "lang")])
    steps = [checkpoint.read_header(checkpoint.snapshot_path(tmp_path / "several", f"size-{kept}"))["step"]
             for kept in (75, 50)]  # fmt: skip
    assert 0 < steps[0] < steps[1] and not any(step % 2 for step in steps)
    prune.main([*common, "constraint.size=0.7", "snapshots=[0.25,0.5]", "--exp-dir", str(tmp_path / "several")])


def test_snapshots_rest_as_long_as_asked(work: Path) -> None:
    """A snapshot is kept ``rest`` steps after its cut; nothing is cut in these steps, and then the ramp continues."""
    model, _ = LanguageModelKind.load_network(work / "dense")
    settings = ["method=magnitude", "snapshots=[0.2,0.4]", "constraint.size=0.7", "constraint.ramp=linear",
                "constraint.ramp_share=0.9", "criterion.interval=2", "criterion.rest=5"]  # fmt: skip
    pruner = new_pruner(model, configuration.load(language_model.PruneConfig, work / "prune.yaml", settings), seed=1)
    assert isinstance(pruner, CriterionPruning)
    cut, kept = [], {}
    for step in range(40):
        info = StepInfo(1, 0, step, total_steps=40)
        name = pruner.snapshot_due(info)
        if name is not None:
            kept[name] = step
        pruner.after_step(info)
        cut.append(round(0.7 * pruner.cut_at.item(), 9))
    assert set(kept) == {"size-80", "size-60"} and cut[-1] == 0.7
    for name, sparsity in (("size-80", 0.2), ("size-60", 0.4)):
        assert kept[name] - cut.index(sparsity) == 5  # steps at rest
        assert cut.count(sparsity) <= 5 + 2  # and at the next cut after that
    # without rests, sparsity follows the ramp: 26 steps to 0.7
    moving = [value for index, value in enumerate(cut) if index == 0 or value != cut[index - 1]]
    assert len(moving) >= 9 and cut.index(0.7) + 1 == 36


def test_snapshots_that_cannot_be(work: Path) -> None:
    for settings, message in (["snapshots=[0.6]"], "between 0 and the target, 0.5"), (
        ["snapshots=[0.3,0.2]"], "snapshots must ascend"), (
        ["method=l0", "snapshots=[0.2]"], "criteria that rank"):  # fmt: skip
        with pytest.raises(UserError, match=message):
            configuration.load(language_model.PruneConfig, work / "prune.yaml", ["method=taylor", *settings])


def test_one_shot_low_rank_is_the_svd_of_what_was_trained(work: Path) -> None:
    """Factors that training changed are brought into SVD form again before they are scored and cut."""
    model, _ = LanguageModelKind.load_network(work / "dense")
    settings = ["method=magnitude", "technique=low_rank", "constraint.ramp=one_shot", "constraint.size=0.6"]
    pruner = new_pruner(model, configuration.load(language_model.PruneConfig, work / "prune.yaml", settings), seed=1)
    assert isinstance(pruner, LowRankPruning)
    before = {}
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for group in pruner.units.chosen:
            name = group.name.rpartition(".")[0]
            layer = pruner.network.get_submodule(name)
            for weight in (layer.u.weight, layer.v.weight):
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
            before[group.name] = (layer.u.weight @ layer.v.weight).double()
    pruner.after_step(StepInfo(1, 0, 20, total_steps=24))
    for group, part in zip(pruner.units.chosen, pruner.kept().split(pruner.units.sizes)):
        layer = pruner.network.get_submodule(group.name.rpartition(".")[0])
        product = (layer.u.weight[:, part] @ layer.v.weight[part]).double()
        u, s, vh = torch.linalg.svd(before[group.name], full_matrices=False)
        rank = int(part.sum())
        assert torch.allclose(product, u[:, :rank] @ torch.diag(s[:rank]) @ vh[:rank], atol=1e-4)


def test_a_structure_of_zeros_with_fresh_weights(work: Path, tmp_path: Path) -> None:
    prune.main(["--config", str(work / "prune.yaml"), "--method", "magnitude", "--technique", "unstructured",
                "--teacher", str(work / "dense"), "--exp-dir", str(tmp_path / "pruned"), *data(work)])  # fmt: skip
    for name, more in {"small": [], "fresh": ["--reinitialise", "3"]}.items():
        extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / name), *more])
    small, _ = LanguageModelKind.load_network(tmp_path / "small")
    fresh, _ = LanguageModelKind.load_network(tmp_path / "fresh")
    for name in linear_names(small):
        old, new = (model.get_parameter(f"{name}.weight") for model in (small, fresh))
        assert torch.equal(old == 0, new == 0) and not torch.equal(old, new)


def test_low_rank_is_not_pruned_again(work: Path, tmp_path: Path) -> None:
    common = ["--config", str(work / "prune.yaml"), "--method", "magnitude", *data(work)]
    prune.main([*common, "--technique", "low_rank", "--teacher", str(work / "dense"), "--exp-dir", str(tmp_path / "a")])
    extract.main(["--pruned", str(tmp_path / "a"), "--exp-dir", str(tmp_path / "small"), "--round-to", "4"])
    ranks = LanguageModelKind.load_network(tmp_path / "small")[0].config.ranks
    assert ranks and all(rank % 4 == 0 or rank < 4 for rank in ranks.values())
    for technique in TECHNIQUES:
        with pytest.raises(UserError, match="the network already has low-rank layers; prune the dense network"):
            prune.main([*common, "--technique", technique, "--teacher", str(tmp_path / "small"), "--exp-dir",
                        str(tmp_path / "b")])  # fmt: skip
    with pytest.raises(UserError, match="reopen does not work with low_rank"):
        configuration.load(language_model.PruneConfig, work / "prune.yaml",
                           ["method=movement", "technique=low_rank", "criterion.reopen=true"])  # fmt: skip


def test_snapshots_need_room_and_hold_averages_up(work: Path, tmp_path: Path) -> None:
    common = ["--config", str(work / "prune.yaml"), "--method", "magnitude", "--teacher", str(work / "dense"),
              *data(work), "snapshots=[0.2,0.3,0.4]"]  # fmt: skip
    with pytest.raises(UserError, match="3 snapshots of 3 steps each delay the ramp beyond the last step; lower"):
        prune.main([*common, "constraint.ramp=one_shot", "constraint.ramp_share=0.9", "--exp-dir", str(tmp_path / "a")])
    model, _ = LanguageModelKind.load_network(work / "dense")
    settings = ["method=magnitude", "snapshots=[0.2,0.4]", "constraint.ramp=one_shot", "constraint.ramp_share=0.3"]
    pruner = new_pruner(model, configuration.load(language_model.PruneConfig, work / "prune.yaml", settings), seed=1)
    still = []
    for step in range(24):
        info = StepInfo(1, 0, step, total_steps=24)
        pruner.after_step(info)
        still.append(pruner.at_rest(info))
    assert not any(still[:12]) and all(still[-6:])
