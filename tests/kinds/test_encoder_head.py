"""Encoders with a head, from speech to a small network by the commands: CTC and intents, samples and features."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from pruning import configuration
from pruning.bin import classify, decode, extract, finetune, gradient_shares, prune, train
from pruning.core.constraint import ConstraintConfig
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.measurement import Measurement, path_of, sample
from pruning.kinds import encoder_head, heard
from pruning.kinds import train_and_prune as runs
from pruning.kinds.encoder_head import EncoderHeadKind
from pruning.kinds.kind import Inputs
from pruning.methods.choice import new_pruner
from pruning.models import facts
from pruning.models.speech_encoder import SpeechEncoder
from pruning.models.speech_model import SpeechModel, SpeechModelConfig
from pruning.speech.data.batches import evaluation_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.scoring.word_errors import read_transcripts
from pruning.speech.text import bpe
from pruning.speech.text.intents import Intent, write_table
from pruning.training.trainer_config import TrainerConfig
from tests.models.test_speech_model import description

INTENTS = (("alarm", "set", 300.0), ("play", "music", 600.0), ("news", "query", 1200.0))
WORDS = {"alarm": "ONE TWO", "play": "TWO", "news": "ONE"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with utterances whose pitch is their intent: recordings, features and output tables."""
    from lhotse import CutSet, Fbank, FbankConfig, LilcomChunkyWriter, Recording, SupervisionSegment

    place, generator = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    for part, count in (("train", 24), ("dev", 6)):
        cuts = []
        for index in range(count):
            scenario, action, pitch = INTENTS[index % 3]
            time = np.arange(6000 + 300 * (index % 4)) / 16000
            wave = 0.3 * np.sin(2 * np.pi * pitch * time) + generator.normal(0, 0.05, len(time))
            path = place / f"{part}-{index}.flac"
            soundfile.write(path, wave, 16000)
            recording = Recording.from_file(path, recording_id=path.stem)
            cut = recording.to_cut()
            custom = {"scenario": scenario, "action": action}
            cut.supervisions = [SupervisionSegment(path.stem, recording.id, 0.0, recording.duration,
                                                   text=WORDS[scenario], custom=custom)]  # fmt: skip
            cuts.append(cut)
        extractor = Fbank(FbankConfig(num_mel_bins=20))
        with LilcomChunkyWriter(str(place / f"feats-{part}")) as storage:
            found = CutSet.from_cuts(cut.compute_and_store_features(extractor, storage) for cut in cuts)
            found.to_file(place / f"slurp_cuts_{part}.jsonl.gz")
    bpe.train(list(WORDS.values()) * 20, place / "lang", None, "char")
    write_table([Intent(scenario, action) for scenario, action, _ in INTENTS], place / "lang")
    return place


def settings(work: Path, path: Path, task: str, **values: Any) -> Path:
    common = {"task": task, "data": {"max_duration": 4.0, "num_buckets": 1, "num_workers": 0,
                                     "spec_augment": {"time_warp_factor": 0}},
              "trainer": {"max_steps": 6, "valid_interval": 3, "num_threads": 1, "tensorboard": False,
                          "optimiser": {"lr": 2e-3}}}  # fmt: skip
    for key, value in values.items():
        common[key] = {**common[key], **value} if isinstance(common.get(key), dict) else value
    path.write_text(yaml.safe_dump(json.loads(json.dumps(common))))
    return path


def options(work: Path, exp_dir: Path, config: Path) -> list[str]:
    data = [word for part in ("train", "dev") for word in (f"--{part}-cuts", str(work / f"slurp_cuts_{part}.jsonl.gz"))]
    return ["--config", str(config), "--exp-dir", str(exp_dir), "--lang-dir", str(work / "lang"), *data]


def dense(work: Path, place: Path, kind: str, task: str, **values: Any) -> Path:
    """A trained model."""
    place.mkdir(exist_ok=True)
    model = {"encoder": description(kind), "task": task, "hidden": 8}
    config = settings(work, place / "train.yaml", task, model=model, **values)
    train.main(options(work, place / "dense", config))
    return place / "dense"


def kinds_and_tasks(in_ci: Sequence[str], other: Sequence[str]) -> pytest.MarkDecorator:
    """Parametrise a test with KIND TASK, which CI runs or leaves out."""
    marked = [(name, pytest.mark.slow) for name in in_ci] + [(name, pytest.mark.long) for name in other]
    cases = [pytest.param(*name.split(), marks=mark, id=name.replace(" ", "-")) for name, mark in marked]
    return pytest.mark.parametrize(("kind", "task"), cases)


@kinds_and_tasks(
    in_ci=["conformer ctc", "speech_encoder ctc", "speech_encoder_large intent"],
    other=["conformer intent", "speech_encoder intent", "speech_encoder_large ctc"],
)
def test_from_speech_to_a_small_network(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, task: str
) -> None:
    """L0 pruning for MACs with distillation, extraction and fine-tuning; the result is smaller and reloads strictly."""
    teacher = dense(work, tmp_path, kind, task)
    distillation = {"layers": [0, 2], "output_weight": 0.5}
    pruning = settings(work, tmp_path / "prune.yaml", task, method="l0", distillation=distillation,
                       constraint={"size": 0.0, "macs": 0.4, "ramp_share": 0.5, "seconds": 1.0},
                       l0={"gate_lr": 0.5, "multiplier_lr": 5.0}, trainer={"max_steps": 12})  # fmt: skip
    prune.main([*options(work, tmp_path / "pruned", pruning), "--teacher", str(teacher)])
    extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "small"), "--train-cuts",
                  str(work / "slurp_cuts_train.jsonl.gz"), "--lang-dir", str(work / "lang")])  # fmt: skip
    tuning = settings(work, tmp_path / "finetune.yaml", task, distillation=distillation)
    capsys.readouterr()
    for config, source in ((pruning, "pruned"), (tuning, "small")):
        words = options(work, tmp_path, config)
        gradient_shares.main([*words[:2], *words[4:], "--init", str(tmp_path / source), "--teacher", str(teacher)])
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split()[:2] == ["term", "blocks"] and lines[0].split()[-1] == "network"
        assert [line.split()[0] for line in lines[2:]] == ["task", "distil_layers", "distil_output"]
    finetune.main([*options(work, tmp_path / "tuned", tuning), "--init", str(tmp_path / "small"), "--teacher",
                   str(teacher)])  # fmt: skip
    model, header = EncoderHeadKind.load_network(tmp_path / "tuned", encoder_head.table_of(task, work / "lang"))
    assert model.config.task == task and "structure" in header
    before, after = (
        facts.cost_model(one, 1.0).dense["macs"] for one in (EncoderHeadKind.load_network(teacher)[0], model)
    )
    assert after == pytest.approx(0.6 * before, abs=0.015 * before)
    of_dense, of_teacher = facts.read_facts(tmp_path / "tuned")["dense"], facts.read_facts(teacher)
    assert all(of_dense[key] == of_teacher[key] for key in ("parameters", "encoder_parameters", "macs_10s"))


def test_an_intent_is_learned(work: Path, tmp_path: Path) -> None:
    """The intents differ in pitch."""
    place = dense(work, tmp_path, "conformer", "intent",
                  trainer={"max_steps": 150, "valid_interval": 50, "optimiser": {"lr": 5e-3}})  # fmt: skip
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "dev"][-1]
    assert last["accuracy"] == 1.0 and last["task"] < 0.5
    arguments = ["--exp-dir", str(place), "--cuts", str(work / "slurp_cuts_dev.jsonl.gz"), "--lang-dir",
                 str(work / "lang")]  # fmt: skip
    classify.main(arguments)
    path = path_of(place, "intents", "dev")
    found, facts = Measurement.read(path), Measurement.read(path).facts
    assert {found.total(name) for name in ("correct", "scenario", "action")} == {len(found.utterances.ids)}
    assert found.columns["found"][0] == "alarm_set" and found.utterances.ids[0] == "dev-0"
    assert facts["unseen_intents"] == {} and sample([found]).interval == (0.0, 0.0, 0.0)
    assert facts["real_time_factor"] == pytest.approx(facts["seconds"] / facts["audio_seconds"])
    classify.main(arguments)  # does nothing
    assert Measurement.read(path) == found


@pytest.mark.slow
def test_a_fresh_frontend_is_told_of_the_spectrum(work: Path, tmp_path: Path) -> None:
    """The loss falls and its layer is not part of the network; encoders of features refuse it."""
    place = dense(work, tmp_path, "speech_encoder", "ctc", loss={"spectrum_weight": 1.0},
                  trainer={"max_steps": 40, "valid_interval": 20, "optimiser": {"lr": 5e-3}})  # fmt: skip
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    first, last = ([row for row in rows if row["kind"] == "dev"][index] for index in (0, -1))
    assert last["spectrum"] < first["spectrum"] < 1.5 and last["loss"] == pytest.approx(last["task"] + last["spectrum"])
    assert not any("spectrum" in name for name in EncoderHeadKind.load_network(place)[0].state_dict())
    with pytest.raises(UserError, match="spectrum_weight is only for encoders that take samples; leave it out"):
        dense(work, tmp_path / "other", "conformer", "ctc", loss={"spectrum_weight": 1.0})


def test_an_intent_that_training_lacks_is_an_error(
    work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from lhotse import load_manifest

    place = dense(work, tmp_path, "speech_encoder", "intent")
    cuts = load_manifest(work / "slurp_cuts_dev.jsonl.gz").to_eager()
    next(iter(cuts)).supervisions[0].custom = {"scenario": "audio", "action": "volume_other"}
    cuts.to_file(tmp_path / "slurp_cuts_test.jsonl.gz")
    with caplog.at_level("WARNING"):
        classify.main(["--exp-dir", str(place), "--cuts", str(tmp_path / "slurp_cuts_test.jsonl.gz"), "--lang-dir",
                       str(work / "lang")])  # fmt: skip
    found = Measurement.read(path_of(place, "intents", "test"))
    assert found.facts["unseen_intents"] == {"audio_volume_other": 1} and found.columns["correct"][0] == 0
    assert "1 utterances have intents that do not occur in training; they count as errors: audio_vol" in caplog.text
    ctc = dense(work, tmp_path / "ctc", "conformer", "ctc")
    with pytest.raises(UserError, match="is not the table"):
        classify.main(["--exp-dir", str(ctc), "--cuts", str(work / "slurp_cuts_dev.jsonl.gz"), "--lang-dir",
                       str(work / "lang")])  # fmt: skip


@pytest.mark.parametrize("kind", ["conformer", "speech_encoder_large"])
def test_ctc_is_decoded(work: Path, tmp_path: Path, kind: str) -> None:
    """The decode command finds the greedy path of the head's log-probabilities."""
    place = dense(work, tmp_path, kind, "ctc")
    cuts = str(work / "slurp_cuts_dev.jsonl.gz")
    arguments = ["--exp-dir", str(place), "--cuts", cuts, "--lang-dir", str(work / "lang")]
    decode.main([*arguments, "--method", "ctc_greedy_search"])
    measured = Measurement.read(next((place / "ctc_greedy_search").glob("decode-dev-*.json")))
    assert len(measured.utterances.ids) == 6 and measured.facts["features_included"]
    model, _ = EncoderHeadKind.load_network(place)
    tokenizer, found = bpe.Tokenizer(work / "lang"), {}
    source = heard.source_of(model.eval().encoder)
    with torch.no_grad():
        for batch in evaluation_batches(DataConfig(num_workers=0), [cuts], source=source):
            output = model(batch.features, batch.lengths)
            for name, rows, length in zip(batch.ids, output.logits.argmax(dim=2).tolist(), output.encoded.lengths):
                path = [symbol for symbol, _ in itertools.groupby(rows[: int(length)]) if symbol]
                found[name] = tokenizer.decode(path).split()
    transcripts = read_transcripts(place / "ctc_greedy_search" / str(measured.facts["recogs"]))
    assert {one.id: one.hypothesis for one in transcripts} == found
    with pytest.raises(UserError, match="not support decoding method greedy_search; choose one of ctc_greedy_search"):
        decode.main([*arguments, "--method", "greedy_search"])
    intents = dense(work, tmp_path / "intents", "conformer", "intent")
    with pytest.raises(UserError, match="use pruning.bin.classify"):
        decode.main(["--exp-dir", str(intents), *arguments[2:], "--method", "ctc_greedy_search"])


def test_an_encoder_goes_from_task_to_task(work: Path, tmp_path: Path) -> None:
    """`pretrained` loads the encoder of an experiment; frozen parts do not change by a bit."""
    first = dense(work, tmp_path, "speech_encoder", "ctc")
    config = settings(work, tmp_path / "intent.yaml", "intent", model={"task": "intent"}, pretrained=str(first),
                      loss={"freeze": ["encoder.feature_extractor"]})  # fmt: skip
    train.main(options(work, tmp_path / "intent", config))
    ours, theirs = (checkpoint.load_model(place)[0].state_dict() for place in (tmp_path / "intent", first))
    name = "encoder.feature_extractor.conv_layers.1.conv.weight"
    assert torch.equal(ours[name], theirs[name])
    name = "encoder.encoder.layers.0.feed_forward.output_dense.weight"
    assert not torch.equal(ours[name], theirs[name]) and ours[name].shape == theirs[name].shape


@pytest.mark.slow
def test_the_start_is_part_of_the_run(work: Path, tmp_path: Path) -> None:
    """The run does not resume with another start; checkpoints of all derived networks name the pre-trained encoder."""
    first = dense(work, tmp_path / "first", "speech_encoder", "ctc")
    other = dense(work, tmp_path / "other", "speech_encoder", "ctc", trainer={"seed": 5})
    tensors, header = checkpoint.load_model(first)
    checkpoint.save_model(checkpoint.best_path(first), tensors, {**header, checkpoint.PRETRAINED: "wav2vec2-base"})
    config = settings(work, tmp_path / "intent.yaml", "intent", model={"task": "intent"}, pretrained=str(first))
    train.main(options(work, tmp_path / "intent", config))
    pruning = settings(work, tmp_path / "prune.yaml", "intent", method="magnitude", constraint={"size": 0.3})
    prune.main([*options(work, tmp_path / "pruned", pruning), "--teacher", str(tmp_path / "intent")])
    extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "small")])
    tuning = settings(work, tmp_path / "finetune.yaml", "intent")
    finetune.main([*options(work, tmp_path / "tuned", tuning), "--init", str(tmp_path / "small")])
    for name in ("intent", "pruned", "small", "tuned"):
        assert checkpoint.read_header(checkpoint.best_path(tmp_path / name))[checkpoint.PRETRAINED] == "wav2vec2-base"
    checkpoint.best_path(first).write_bytes(checkpoint.best_path(other).read_bytes())
    with pytest.raises(UserError, match="was started with inputs.pretrained="):
        train.main(options(work, tmp_path / "intent", config))


def test_a_conformer_keeps_the_statistics_of_its_data(work: Path, tmp_path: Path) -> None:
    """Feature statistics come from the first batches; batch norms are re-estimated for the small network."""
    teacher = dense(work, tmp_path, "conformer", "ctc")
    model, _ = EncoderHeadKind.load_network(teacher)
    batches = evaluation_batches(DataConfig(num_workers=0), [work / "slurp_cuts_train.jsonl.gz"],
                                 encoder_head.table_of("ctc", work / "lang"))  # fmt: skip
    frames = torch.cat([batch.features[row, :length] for batch in batches for row, length in enumerate(batch.lengths)])
    torch.testing.assert_close(model.encoder.feature_mean, frames.mean(dim=0), atol=1e-2, rtol=1e-3)
    pruning = settings(work, tmp_path / "prune.yaml", "ctc", method="magnitude", constraint={"size": 0.3})
    prune.main([*options(work, tmp_path / "pruned", pruning), "--teacher", str(teacher)])
    means = []
    for name, data in (("with", ["--train-cuts", str(work / "slurp_cuts_train.jsonl.gz"), "--lang-dir",
                                 str(work / "lang")]), ("without", [])):  # fmt: skip
        extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / name), *data])
        state = EncoderHeadKind.load_network(tmp_path / name)[0].state_dict()
        means.append(torch.cat([value for key, value in state.items() if key.endswith("running_mean")]))
        torch.testing.assert_close(state["encoder.feature_mean"], model.encoder.feature_mean)
    assert not torch.equal(*means)
    fresh = ["--reinitialise", "1"]
    extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "fresh"), *fresh])
    found = EncoderHeadKind.load_network(tmp_path / "fresh")[0].encoder.feature_mean
    torch.testing.assert_close(found, model.encoder.feature_mean)


@pytest.mark.parametrize("technique", ["unstructured", "low_rank"])
@pytest.mark.parametrize("kind", ["zipformer", "conformer"])
def test_encoders_of_features_are_pruned_by_every_technique(
    work: Path, tmp_path: Path, kind: str, technique: str
) -> None:
    """The small network reloads, is decoded, and gives its encoder to another one with its ranks."""
    teacher = dense(work, tmp_path, kind, "ctc", trainer={"max_steps": 2, "valid_interval": 2})
    pruning = settings(work, tmp_path / "prune.yaml", "ctc", method="magnitude", constraint={"size": 0.3},
                       trainer={"max_steps": 2, "valid_interval": 2})  # fmt: skip
    prune.main([*options(work, tmp_path / "pruned", pruning), "--teacher", str(teacher), "--technique", technique])
    small = tmp_path / "small"
    extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(small)])
    model, header = EncoderHeadKind.load_network(small)
    assert header["exactness"] < 1e-4 and bool(model.config.ranks) == (technique == "low_rank")
    known = facts.read_facts(small)
    counted = "encoder_parameters" if technique == "low_rank" else "nonzero_parameters"
    assert known[counted] < 0.8 * known["dense"][counted]
    decode.main(["--exp-dir", str(small), "--cuts", str(work / "slurp_cuts_dev.jsonl.gz"), "--lang-dir",
                 str(work / "lang"), "--method", "ctc_greedy_search"])  # fmt: skip
    config = settings(work, tmp_path / "intent.yaml", "intent", model={"task": "intent"}, pretrained=str(small))
    data = [[work / f"slurp_cuts_{part}.jsonl.gz"] for part in ("train", "dev")]
    start = runs.fresh(
        EncoderHeadKind(configuration.load(encoder_head.RunConfig, config), Inputs(*data, work / "lang"))
    )
    assert start.config.ranks == model.config.ranks
    assert all(torch.equal(tensor, start.encoder.state_dict()[name])
               for name, tensor in model.encoder.state_dict().items())  # fmt: skip


def test_a_hugging_face_checkpoint_is_a_start(work: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="it writes the checkpoint")
    from tests.models.speech_encoders import SHAPES, hf_values

    torch.manual_seed(0)
    values = transformers.Wav2Vec2Config(**{k: v for k, v in hf_values(SHAPES[0]).items() if k != "model_type"})
    theirs = transformers.Wav2Vec2Model(values)
    theirs.save_pretrained(tmp_path / "hf")
    config = settings(work, tmp_path / "ctc.yaml", "ctc", model={"task": "ctc"}, pretrained=str(tmp_path / "hf"))
    recipe = EncoderHeadKind(
        configuration.load(encoder_head.RunConfig, config),
        Inputs([work / "slurp_cuts_train.jsonl.gz"], [work / "slurp_cuts_dev.jsonl.gz"], work / "lang"),
    )
    model = runs.fresh(recipe)
    assert isinstance(model, SpeechModel) and isinstance(model.encoder, SpeechEncoder)
    name = "feature_extractor.conv_layers.1.conv.weight"
    assert torch.equal(model.encoder.state_dict()[name], theirs.state_dict()[name])
    assert model.encoder.config.normalise_audio, "as in Hugging Face without a preprocessor configuration"
    assert recipe.origin() == {"pretrained": "hf"} and recipe.stands_on()["pretrained"][0].is_file()


HJ = {
    "hj-size": {"size": 0.4},
    "hj-mac": {"macs": 0.4},  # size keeps its default, which has no effect
    "hj-sepsize": {"parts": {"size:frontend": 0.3, "size:attention+ffn": 0.5}},
}


@pytest.mark.parametrize("method", list(HJ))
@pytest.mark.parametrize("kind", ["speech_encoder", "speech_encoder_large", "whisper", "moonshine"])
def test_hj_pruning_by_name(method: str, kind: str) -> None:
    """HJ-Pruning has gates on channels, heads and hidden units but not on modules, and meets its own constraint."""
    trainer = TrainerConfig(max_steps=100)
    constraint = ConstraintConfig(**{**HJ[method], "seconds": 1.0})  # type: ignore[arg-type]
    config = encoder_head.PruneConfig(task="ctc", method=method, constraint=constraint, trainer=trainer)
    model = SpeechModel(SpeechModelConfig(description(kind), outputs=7))
    pruner = new_pruner(model, config, config.trainer.seed)
    wanted = HJ[method].get("parts", HJ[method])
    assert pruner.targets == wanted
    assert {group.kind for group in pruner.units.chosen} == {"frontend", "heads", "ffn"}
    reached = pruner.costs.structure_sparsity(pruner.structure())
    assert {cost: reached[cost] for cost in wanted} == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize(
    ("method", "constraint", "message"),
    [
        ("hj-mac", {}, "hj-mac needs constraint.macs"),
        ("hj-sepsize", {}, "hj-sepsize needs constraint.parts"),
        ("hj-sepsize", {"parts": {"size:frontend": 0.5}}, "needs sizes of at least two parts"),
        ("hj-sepsize", {"parts": {"size:frontend": 0.5, "macs:ffn": 0.5}}, "needs sizes of at least two parts"),
        ("hj-size", {"size": 0.0, "macs": 0.5}, "hj-size needs constraint.size"),
    ],
)
def test_hj_pruning_without_its_constraint(
    tmp_path: Path, work: Path, method: str, constraint: dict[str, Any], message: str
) -> None:
    path = settings(work, tmp_path / "prune.yaml", "ctc", method=method, constraint=constraint)
    with pytest.raises(UserError, match=message):
        configuration.load(encoder_head.PruneConfig, path)


def test_what_does_not_fit_is_refused(work: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="task must be one of .*, got 'translation'"):
        configuration.load(encoder_head.RunConfig, settings(work, tmp_path / "x.yaml", "translation"))
    with pytest.raises(UserError, match="task is 'ctc', but model.task is 'intent'"):
        configuration.load(encoder_head.RunConfig, settings(work, tmp_path / "x.yaml", "ctc", model={"task": "intent"}))
    place = dense(work, tmp_path, "conformer", "ctc")
    other = settings(work, tmp_path / "y.yaml", "intent")
    with pytest.raises(UserError, match="is not the table that the checkpoint was trained with"):
        finetune.main([*options(work, tmp_path / "z", other), "--init", str(place)])
    for wrong in ({"ctc_weight": 1.0}, {"loss": "cofi"}):
        path = settings(work, tmp_path / "x.yaml", "ctc", distillation=wrong)
        with pytest.raises(UserError, match="ctc_weight and distillation.loss=cofi are only for transducers"):
            configuration.load(encoder_head.RunConfig, path)
    frozen = settings(work, tmp_path / "frozen.yaml", "ctc", loss={"freeze": ["feature_extractor"]})
    with pytest.raises(UserError, match="loss.freeze has 'feature_extractor', but no parameter name starts with it"):
        finetune.main([*options(work, tmp_path / "z", frozen), "--init", str(place)])
    with pytest.raises(UserError, match="takes features as input, but the configuration says hears=samples"):
        finetune.main([*options(work, tmp_path / "z", settings(work, tmp_path / "h.yaml", "ctc", hears="samples")),
                       "--init", str(place)])  # fmt: skip
    with pytest.raises(UserError, match="the configuration has no model.encoder; give its dimensions, or pretrained="):
        train.main(options(work, tmp_path / "z", settings(work, tmp_path / "n.yaml", "ctc", model={"task": "ctc"})))
    deep = settings(work, tmp_path / "deep.yaml", "ctc", distillation={"layers": [9]})
    with pytest.raises(UserError, match="distillation.layers has 9"):
        finetune.main([*options(work, tmp_path / "z", deep), "--init", str(place), "--teacher", str(place)])
    limit = {"max_duration": 0.3, "max_evaluated_duration": 0.3}
    with pytest.raises(UserError, match="cuts of dev and test sets may last 0.3 s"):
        finetune.main([*options(work, tmp_path / "z", settings(work, tmp_path / "l.yaml", "ctc", data=limit)),
                       "--init", str(place)])  # fmt: skip
