"""Encoders of pre-trained Whispers and Moonshines with a head: from their directory to a small network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pruning import configuration
from pruning.bin import decode, extract, finetune, prune, train
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.measurement import Measurement
from pruning.importers.encoders import load_encoder
from pruning.kinds import encoder_head
from pruning.kinds import train_and_prune as runs
from pruning.kinds.encoder_head import EncoderHeadKind
from pruning.kinds.heard import input_length
from pruning.kinds.kind import Inputs
from pruning.models import facts
from pruning.models.speech_model import SpeechModel
from tests.counter import count_macs
from tests.kinds.test_encoder_head import options, settings
from tests.kinds.test_encoder_head import work as speech
from tests.models.encoder_decoders import BOTH, MOONSHINE, WHISPER, save_hf, shape_name

__all__ = ["speech"]

both = pytest.mark.parametrize("shape", BOTH, ids=shape_name)
NARROW = "l0.gates.kinds=[frontend,heads,ffn,width]"


def kind_of(work: Path, config: Path, *overrides: str) -> EncoderHeadKind:
    data = [[work / f"slurp_cuts_{part}.jsonl.gz"] for part in ("train", "dev")]
    return EncoderHeadKind(configuration.load(encoder_head.RunConfig, config, overrides), Inputs(*data, work / "lang"))


def started(work: Path, place: Path, shape: dict[str, Any], task: str = "ctc", **values: Any) -> Path:
    """Train for a few steps from a Hugging Face directory."""
    save_hf(place / "hf", shape)
    config = settings(work, place / "train.yaml", task, model={"task": task}, pretrained=str(place / "hf"), **values)
    train.main(options(work, place / "dense", config))
    return place / "dense"


@both
def test_a_directory_is_a_start(speech: Path, tmp_path: Path, shape: dict[str, Any]) -> None:
    """Without transformers; a freeze by the name of the front end holds it to the bit."""
    theirs = save_hf(tmp_path / "hf", shape).encoder
    config = settings(speech, tmp_path / "ctc.yaml", "ctc", model={"task": "ctc"}, pretrained=str(tmp_path / "hf"))
    kind = kind_of(speech, config, "hears=samples")
    model = runs.fresh(kind)
    assert isinstance(model, SpeechModel) and model.encoder.described() == theirs.described()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor)
    assert kind.origin() == {"pretrained": "hf"} and kind.stands_on()["pretrained"][0].is_file()
    assert all(any(name.startswith(prefixes) for name, _ in model.named_parameters())
               for part, prefixes in kind.parts().items() if part != "subsampling")  # fmt: skip
    with pytest.raises(UserError, match="takes samples as input, but the configuration says hears=features"):
        runs.fresh(kind_of(speech, config, "hears=features"))
    task = kind_of(speech, config, "loss.freeze=[front_end]").task(model, None)
    trained = {name for group in task.parameter_groups() for parameter in group.parameters
               for name, other in model.named_parameters() if other is parameter}  # fmt: skip
    assert not any("front_end" in name or "positions" in name for name in trained)
    assert "encoder.layers.0.ffn.linear1.weight" in trained


def sharded(place: Path) -> list[Path]:
    """Divide the weights of a Hugging Face directory among two files, and return these."""
    whole = place / "model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    names = sorted(tensors)
    shards = {f"model-{number + 1}.safetensors": names[number::2] for number in range(2)}
    for name, of_shard in shards.items():
        save_file({tensor: tensors[tensor] for tensor in of_shard}, place / name)
    index = {"weight_map": {tensor: name for name, of_shard in shards.items() for tensor in of_shard}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    return [place / name for name in shards]


def test_every_file_of_the_weights_is_part_of_the_run(speech: Path, tmp_path: Path) -> None:
    """Another shard is noticed, although the index is the same."""
    save_hf(tmp_path / "hf", WHISPER)
    shards = sharded(tmp_path / "hf")
    config = settings(speech, tmp_path / "ctc.yaml", "ctc", model={"task": "ctc"}, pretrained=str(tmp_path / "hf"),
                      trainer={"max_steps": 1, "valid_interval": 1})  # fmt: skip
    assert kind_of(speech, config).stands_on() == {"pretrained": shards}
    train.main(options(speech, tmp_path / "dense", config))
    train.main(options(speech, tmp_path / "dense", config))  # does nothing
    other = load_file(shards[1])
    save_file({name: tensor + 1 for name, tensor in other.items()}, shards[1])
    with pytest.raises(UserError, match="was started with inputs.pretrained="):
        train.main(options(speech, tmp_path / "dense", config))


def test_a_tail_is_part_of_the_network(speech: Path, tmp_path: Path) -> None:
    """It is set once, recorded in the checkpoint, and counts in MACs; the counter finds the same ones."""
    dense = started(speech, tmp_path, WHISPER, tail=0.1)
    model, _ = EncoderHeadKind.load_network(dense)
    assert model.encoder.window == (60, 0.1)
    whole = load_encoder(tmp_path / "hf")
    assert [input_length(one, 0.3) for one in (model.encoder, whole)] == [40, 60]
    for seconds in (0.3, 0.5, 10.0):
        for encoder in (model.encoder, whole):
            length = input_length(encoder, seconds)
            macs = sum(term.macs * int(torch.tensor([dict_of(encoder)[name] for name in term.groups]).prod())
                       for term in encoder.cost_terms(length))  # fmt: skip
            features = torch.zeros(1, length, encoder.bins)
            assert macs == count_macs(lambda: encoder.encode(features, torch.tensor([length])))  # noqa: B023
    assert EncoderHeadKind.reference(model) == (60, "10 s in a window of 0.6 s")
    assert facts.read_facts(dense)["macs_10s"] == facts.read_facts(dense)["macs_30s"], "both fill its window of 0.6 s"
    config = settings(speech, tmp_path / "again.yaml", "intent", model={"task": "intent"}, pretrained=str(dense))
    again = runs.fresh(kind_of(speech, config))
    assert isinstance(again, SpeechModel) and again.encoder.window == (60, 0.1)
    save_hf(tmp_path / "moonshine", MOONSHINE)
    with pytest.raises(UserError, match="moonshine takes samples, so that its recordings have no tail; leave out the"):
        runs.fresh(kind_of(speech, config, f"pretrained={tmp_path / 'moonshine'}", "tail=1.0"))
    with pytest.raises(UserError, match="tail is only for a pretrained encoder"):
        kind_of(speech, config, "pretrained=null", "tail=1.0")


def dict_of(encoder: Any) -> dict[str, int]:
    return {group.name: group.size for group in encoder.unit_groups()}


def test_recordings_that_do_not_fit_are_named_first(speech: Path, tmp_path: Path) -> None:
    """Before training: a window of 0.4 s is shorter than some recordings."""
    save_hf(tmp_path / "hf", WHISPER, max_source_positions=20)
    config = settings(speech, tmp_path / "ctc.yaml", "ctc", model={"task": "ctc"}, pretrained=str(tmp_path / "hf"))
    with pytest.raises(UserError, match=r"cut \S+: audio of 0.4125 s does not fit Whisper's window of 0.4 s"):
        train.main(options(speech, tmp_path / "dense", config))
    assert not (tmp_path / "dense" / "config.yaml").exists()


def test_other_directories_are_refused(speech: Path, tmp_path: Path) -> None:
    save_hf(tmp_path / "hf", WHISPER)
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "bart"}))
    with pytest.raises(
        UserError, match="model_type 'bart'; give a checkpoint of wav2vec2, hubert, wavlm, whisper, moon"
    ):
        load_encoder(tmp_path / "hf")


PRUNING: dict[str, dict[str, Any]] = {
    "hj-mac": {"constraint": {"size": 0.0, "macs": 0.4}},
    "hj-size": {"constraint": {"size": 0.4}},
    "hj-sepsize": {"constraint": {"size": 0.0, "parts": {"size:frontend": 0.33, "size:attention+ffn": 0.5}}},
    "width": {"constraint": {"size": 0.0, "macs": 0.5}, "method": "l0",
              "l0": {"gates": {"kinds": ["frontend", "heads", "ffn", "width"]}}},
    "taylor": {"constraint": {"size": 0.4}},
    "low_rank": {"constraint": {"size": 0.3}, "method": "wanda", "technique": "low_rank"},
}  # fmt: skip
QUICK = ((WHISPER, "hj-mac"), (MOONSHINE, "width"))
IN_CI = ((WHISPER, "width"), (WHISPER, "low_rank"), (MOONSHINE, "hj-mac"))


def marks_of(shape: dict[str, Any], name: str) -> tuple[pytest.MarkDecorator, ...]:
    if (shape, name) in QUICK:
        return ()
    return (pytest.mark.slow if (shape, name) in IN_CI else pytest.mark.long,)


def macs_of_a_second(exp_dir: Path) -> float:
    """Return the MACs of a network for a second of audio, the length at which these runs constrain them."""
    model, _ = EncoderHeadKind.load_network(exp_dir)
    return facts.cost_model(model, 1.0).dense["macs"]


@pytest.mark.parametrize(
    ("shape", "name"),
    [pytest.param(shape, name, marks=marks_of(shape, name), id=f"{shape_name(shape)}-{name}")
     for shape in BOTH for name in PRUNING],
)  # fmt: skip
def test_from_the_directory_to_a_small_network(speech: Path, tmp_path: Path, name: str, shape: dict[str, Any]) -> None:
    """With distillation of layers and outputs; the result is decoded and exported."""
    task = "intent" if name == "taylor" else "ctc"
    teacher = started(speech, tmp_path, shape, task)
    distillation = {"layers": [0, 2, 3], "output_weight": 0.5}
    changes = {"method": name, **PRUNING[name]}
    changes["constraint"] = {**changes["constraint"], "ramp_share": 0.5, "seconds": 1.0}
    changes["l0"] = {**changes.get("l0", {}), "gate_lr": 0.5, "multiplier_lr": 5.0}
    steps = {"max_steps": 12, "valid_interval": 12}
    config = settings(speech, tmp_path / "prune.yaml", task, distillation=distillation, trainer=steps,
                      criterion={"interval": 2}, **changes)  # fmt: skip
    prune.main([*options(speech, tmp_path / "pruned", config), "--teacher", str(teacher)])
    cuts = str(speech / "slurp_cuts_train.jsonl.gz")
    extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "small"), "--train-cuts", cuts,
                  "--lang-dir", str(speech / "lang")])  # fmt: skip
    tuning = settings(speech, tmp_path / "finetune.yaml", task, distillation=distillation)
    finetune.main([*options(speech, tmp_path / "tuned", tuning), "--init", str(tmp_path / "small"), "--teacher",
                   str(teacher)])  # fmt: skip
    model, header = EncoderHeadKind.load_network(tmp_path / "tuned")
    assert checkpoint.read_header(checkpoint.best_path(tmp_path / "small"))["exactness"] < 1e-4
    assert header[checkpoint.PRETRAINED] == "hf"
    before, after = facts.read_facts(teacher), facts.read_facts(tmp_path / "tuned")
    size, macs = (changes["constraint"].get(cost, 0.0) for cost in ("size", "macs"))
    assert not size or 1 - after["encoder_parameters"] / before["encoder_parameters"] == pytest.approx(size, abs=0.06)
    whole, left = (macs_of_a_second(place) for place in (teacher, tmp_path / "tuned"))
    assert not macs or 1 - left / whole == pytest.approx(macs, abs=0.06)
    if name == "width":
        assert model.encoder.width < shape.get("d_model", shape.get("hidden_size"))
    if task == "ctc":
        decode.main(["--exp-dir", str(tmp_path / "tuned"), "--cuts", str(speech / "slurp_cuts_dev.jsonl.gz"),
                     "--lang-dir", str(speech / "lang"), "--method", "ctc_greedy_search"])  # fmt: skip
        found = Measurement.read(next((tmp_path / "tuned" / "ctc_greedy_search").glob("decode-dev-*.json")))
        assert len(found.utterances.ids) == 6 and found.facts["features_included"]
