"""Zipformer transducers by the commands, on seconds of data: trained, pruned, extracted, decoded in chunks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pruning import configuration
from pruning.bin import decode, extract, prune
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import read_json
from pruning.kinds import train_and_prune as runs
from pruning.kinds.transducer import PruneConfig, RunConfig, TransducerKind
from pruning.models import facts
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.models.zipformer_config import ZipformerConfig
from pruning.reports import report
from pruning.speech.data.data_config import DataConfig
from pruning.speech.losses.combined import LossConfig
from pruning.tasks.chunks import ChunkConfig
from pruning.tasks.transducer import LossTerms, TransducerTask
from pruning.training.task import StepInfo
from pruning.training.trainer_config import TrainerConfig
from tests.kinds.test_transducer import COMMON, inputs

CONF = Path(__file__).resolve().parents[2] / "egs" / "librispeech" / "conf"
RECIPES = ("zipformer_s", "zipformer_m", "zipformer_l", "mini_zipformer")
CHUNKS = ChunkConfig((8, 16, 0), (16, 0), valid_size=16, valid_left_context=16)
PRUNING = """
chunks: {sizes: [8, 16, 0], left_contexts: [16, 0], valid_size: 16, valid_left_context: 16}
distillation: {layers: [0, 2], output_weight: 0.1}
constraint: {size: 0.4, ramp_share: 0.4}
l0: {gate_lr: 0.5, multiplier_lr: 1.0}
criterion: {interval: 2}
"""


def dimensions(causal: bool = True) -> TransducerConfig:
    encoder = ZipformerConfig(
        widths=(16, 24),
        stack_layers=(1, 1),
        downsampling=(1, 2),
        num_heads=(2,),
        query_dim=(4,),
        position_dim=(2,),
        value1_dim=(4,),
        value2_dim=(4,),
        ffn1_dim=(16,),
        ffn2_dim=(24,),
        ffn3_dim=(24,),
        nonlin_dim=(12,),
        conv1_channels=(16,),
        conv2_channels=(16,),
        conv_kernel=(5,),
        encoding_dim=8,
        subsampling_channels=(4, 6, 8),
        convnext_dim=12,
        causal=causal,
    )
    return TransducerConfig(zipformer=encoder, decoder_dim=12, joiner_dim=12)


def training(causal: bool = True, steps: int = 4) -> RunConfig:
    trainer = TrainerConfig(max_steps=steps, num_threads=1, tensorboard=False, state_interval=1, valid_interval=2)
    return RunConfig(
        model=dimensions(causal),
        loss=LossConfig(backend="torch", ctc_weight=0.3),
        data=DataConfig(max_duration=15, num_buckets=2, num_workers=0),
        trainer=trainer,
        chunks=CHUNKS if causal else None,
    )


@pytest.fixture(scope="module")
def work(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a causal teacher and a configuration of pruning."""
    directory = tmp_path_factory.mktemp("zipformer")
    runs.train(TransducerKind(training(), inputs(data_dir)), directory / "teacher")
    (directory / "prune.yaml").write_text(COMMON + PRUNING)
    return directory


@pytest.mark.parametrize("method", ["l0", "taylor"])
def test_trained_pruned_extracted_and_decoded_in_chunks(
    work: Path, data_dir: Path, tmp_path: Path, method: str
) -> None:
    data = inputs(data_dir)
    files = ["--lang-dir", str(data.lang_dir), "--train-cuts", *map(str, data.train), "--dev-cuts", *map(str, data.dev)]
    prune.main(["--config", str(work / "prune.yaml"), "--method", method, "--teacher", str(work / "teacher"),
                "--exp-dir", str(tmp_path / "pruned"), *files, "trainer.valid_interval=12",
                "trainer.log_interval=12"])  # fmt: skip
    small = str(tmp_path / "small")
    extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", small])
    network, header = checkpoint.load_model(small)
    assert header["exactness"] < 1e-4
    known = facts.read_facts(small)
    assert 1 - known["encoder_parameters"] / known["dense"]["encoder_parameters"] == pytest.approx(0.4, abs=0.05)
    assert known["encoder_parameters"] == sum(parameter.numel() for parameter in network.encoder.parameters())
    decoding = ["--exp-dir", small, "--cuts", str(data.dev[0]), "--lang-dir", str(data.lang_dir), "--method",
                "greedy_search"]  # fmt: skip
    decode.main(decoding)
    decode.main([*decoding, "--chunk-size", "16", "--left-context-frames", "32"])
    found = {path.name for path in (tmp_path / "small" / "greedy_search").glob("recogs-*.txt")}
    assert found == {f"recogs-dev-best-greedy_search{end}.txt" for end in ("", "-chunk-16-left-context-32")}
    whole, chunks = report.collect([("small", small)], ["dev"], "greedy_search")
    assert (whole.title, chunks.title) == ("small", "small, chunks of 320 ms and 640 ms before")
    assert whole.latency == "-" and re.fullmatch(r"450 \+ \d+", chunks.latency)
    for path in (tmp_path / "small" / "greedy_search").glob("wer-*.json"):
        assert read_json(path)["parameters"]["silence"] == 30, "as in icefall, behind utterances of a causal network"
    with pytest.raises(UserError, match="a chunk of 3 frames is not a multiple"):
        decode.main([*decoding, "--chunk-size", "3"])
    with pytest.raises(UserError, match="--left-context-frames has no effect without chunks; give --chunk-size"):
        decode.main([*decoding, "--left-context-frames", "32"])


class _Stopped(Exception):
    pass


def test_interrupted_training_draws_the_same_chunks(
    work: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = TransducerTask.terms

    def stopping(task: TransducerTask, batch: object, step: StepInfo) -> LossTerms:
        if step.step == 3 and step.training:
            raise _Stopped
        return terms(task, batch, step)  # type: ignore[arg-type]

    kind = TransducerKind(training(), inputs(data_dir))
    monkeypatch.setattr(TransducerTask, "terms", stopping)
    with pytest.raises(_Stopped):
        runs.train(kind, tmp_path / "teacher")
    monkeypatch.undo()
    runs.train(kind, tmp_path / "teacher")
    whole, resumed = (weights(place / "teacher") for place in (work, tmp_path))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def weights(place: Path) -> Mapping[str, Tensor]:
    return checkpoint.load_model(checkpoint.epoch_path(place, 1))[0].state_dict()


def test_a_network_that_is_not_causal_has_no_chunks(data_dir: Path, tmp_path: Path) -> None:
    data = inputs(data_dir)
    config = training(causal=False, steps=1)
    refused = TransducerKind(replace(config, chunks=CHUNKS), data)
    with pytest.raises(UserError, match="not causal, but the configuration has chunks"):
        runs.train(refused, tmp_path / "refused")
    runs.train(TransducerKind(config, data), tmp_path / "teacher")
    with pytest.raises(UserError, match="not causal, so it cannot compute chunk by chunk; give no chunk size"):
        decode.main(["--exp-dir", str(tmp_path / "teacher"), "--cuts", str(data.dev[0]), "--lang-dir",
                     str(data.lang_dir), "--method", "greedy_search", "--chunk-size", "16"])  # fmt: skip


def test_a_causal_network_of_a_recipe_computes_the_default_chunks() -> None:
    causal = configuration.load(RunConfig, CONF / "zipformer_s" / "teacher.yaml", ["model.zipformer.causal=true"])
    assert causal.model is not None
    ChunkConfig().check(Transducer(replace(causal.model, vocab_size=2)).encoder)


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_configurations_are_complete(name: str) -> None:
    teacher = configuration.load(RunConfig, CONF / name / "teacher.yaml")
    assert teacher.model is not None and teacher.model.zipformer is not None
    stacks = len(teacher.model.zipformer.widths)
    for config in (configuration.load(RunConfig, CONF / name / "finetune.yaml"),
                   configuration.load(PruneConfig, CONF / name / "prune.yaml")):  # fmt: skip
        assert max(config.distillation.layers) == stacks, "outputs after stacks"
    configuration.load(RunConfig, CONF / name / "uniform.yaml")
