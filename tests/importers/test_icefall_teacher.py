"""From an icefall checkpoint to a pruned network with one command, on seconds of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.bin import decode, export, extract, import_icefall, prune
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import read_json
from pruning.importers import icefall_teacher
from pruning.importers.icefall_checkpoint import Choice
from pruning.models import icefall_encoder
from pruning.models.facts import cost_model
from pruning.models.icefall_encoder import IcefallEncoder
from pruning.models.names import NARROW
from pruning.models.transducer import Transducer
from pruning.models.uniform import narrowed_config
from tests.icefall import networks
from tests.icefall.networks import PLACES, PRUNED, REWORKED, STATELESS
from tests.importers.test_icefall_zipformer import icefall_state, transducer
from tests.kinds.test_transducer import inputs

CONFIG = """
loss: {backend: torch, ctc_weight: 0}
data: {max_duration: 15, num_buckets: 2, num_workers: 0}
distillation: {layers: [0, 3], output_weight: 0.1}
constraint: {size: 0.5, ramp_share: 0.4}
gating: {gate_lr: 0.3, multiplier_lr: 0.3}
criterion: {interval: 2}
trainer: {max_steps: 10, num_threads: 1, valid_interval: 5, state_interval: 1, tensorboard: false, log_interval: 2}
"""
TRUSTING: dict[str, Any] = {"weights_only": False} if torch.__version__ >= "2" else {}


def experiment(place: Path, directory: Path, recipe: str) -> Path:
    """Write an icefall experiment with one epoch."""
    exp_dir = place / recipe / "exp"
    exp_dir.mkdir(parents=True)
    state = networks.state(networks.encoder(directory, recipe), recipe)
    torch.save({"model": state, "optimizer": None, "exp_dir": exp_dir, "feature_dim": 80}, exp_dir / "epoch-1.pt")
    return exp_dir


def choose(exp_dir: Path) -> list[str]:
    return ["--teacher-icefall", str(exp_dir), "--epoch", "1", "--use-averaged-model", "false"]


def data_options(data_dir: Path) -> list[str]:
    data = inputs(data_dir)
    return ["--lang-dir", str(data.lang_dir), "--train-cuts", *map(str, data.train),
            "--dev-cuts", *map(str, data.dev)]  # fmt: skip


def kept(small: Transducer, teacher: Path) -> float:
    """Return the share of the encoder's parameters that are left and not 0."""
    dense = read_json(teacher / "model.json", "")["encoder_parameters"]
    return sum(int(parameter.count_nonzero()) for parameter in small.encoder.parameters()) / dense


@pytest.mark.processes
@pytest.mark.parametrize("place", PLACES)
def test_a_reworked_conformer_is_pruned_in_its_own_modules(
    place: Callable[[], Path], data_dir: Path, tmp_path: Path
) -> None:
    directory = place()
    (tmp_path / "prune.yaml").write_text(CONFIG)
    source = experiment(tmp_path, directory, REWORKED)
    arguments = ["--config", str(tmp_path / "prune.yaml"), "--exp-dir", str(tmp_path / "pruned"), "--method", "l0",
                 *choose(source), "--icefall-dir", str(directory), *data_options(data_dir)]  # fmt: skip
    prune.main(arguments)
    model, header = checkpoint.load_model(tmp_path / "pruned")
    assert isinstance(model, Transducer) and isinstance(model.encoder, IcefallEncoder)
    extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "extracted")])
    small, header = checkpoint.load_model(tmp_path / "extracted")
    assert isinstance(small, Transducer) and small.config.icefall is None and header["exactness"] < 1e-4
    assert kept(small, tmp_path / "pruned" / "teacher") < 0.51
    lang_dir, dev = data_options(data_dir)[1], str(inputs(data_dir).dev[0])
    decode.main(["--exp-dir", str(tmp_path / "extracted"), "--cuts", dev, "--lang-dir", lang_dir,
                 "--method", "modified_beam_search"])  # fmt: skip
    assert list((tmp_path / "extracted" / "modified_beam_search").glob("recogs-*.txt"))
    export.main(["--exp-dir", str(tmp_path / "extracted"), "--lang-dir", lang_dir,
                 "--output", str(tmp_path / "onnx")])  # fmt: skip
    prune.main(arguments)  # again: all is done


@pytest.mark.processes
@pytest.mark.parametrize("method", [pytest.param("l0", marks=pytest.mark.long), "taylor"])
def test_a_zipformer_is_pruned_and_decodes(method: str, data_dir: Path, tmp_path: Path) -> None:
    """From an experiment of icefall's, by one command; then the small network is repaired and decodes."""
    (tmp_path / "prune.yaml").write_text(CONFIG.replace("layers: [0, 3]", "layers: [0, 1, 3]"))
    source = tmp_path / "zipformer" / "exp"
    source.mkdir(parents=True)
    settings = {"query_head_dim": "5", "pos_head_dim": "2", "value_head_dim": "3", "feature_dim": 80}
    state = icefall_state(transducer(vocabulary=networks.VOCABULARY))
    torch.save({"model": state, "optimizer": None, **settings}, source / "epoch-1.pt")
    prune.main(["--config", str(tmp_path / "prune.yaml"), "--exp-dir", str(tmp_path / "pruned"), "--method", method,
                *choose(source), *data_options(data_dir)])  # fmt: skip
    lang_dir, data = data_options(data_dir)[1], inputs(data_dir)
    repaired = ["--repair", "20", "--lang-dir", lang_dir, "--train-cuts", str(data.train[0])]
    extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "small"), *repaired])
    small, header = checkpoint.load_model(tmp_path / "small")
    assert isinstance(small, Transducer) and small.config.zipformer is not None and header["exactness"] < 1e-4
    assert kept(small, tmp_path / "pruned" / "teacher") < 0.51
    decode.main(["--exp-dir", str(tmp_path / "small"), "--cuts", str(data.dev[0]), "--lang-dir", lang_dir])


@pytest.mark.processes
@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "technique", "own_modules"),
    [("taylor", "structured", True), ("magnitude", "structured", False), ("activation", "structured", False),
     ("magnitude", "low_rank", False), ("wanda", "low_rank", False), ("magnitude", "unstructured", False)],
)  # fmt: skip
def test_every_method_prunes_it(method: str, technique: str, own_modules: bool, data_dir: Path, tmp_path: Path) -> None:
    """With the checkout's modules unless a method needs the layers' inputs; also one-shot pruning with repair."""
    (tmp_path / "prune.yaml").write_text(CONFIG)
    teacher, target = tmp_path / "teacher", 0.5 if technique == "structured" else 0.2  # it has large convolutions
    import_icefall.main(["--source", str(experiment(tmp_path, networks.STAND_IN, REWORKED)), "--epoch", "1",
                         "--use-averaged-model", "false", "--icefall-dir", str(networks.STAND_IN),
                         *data_options(data_dir)[:2], "--exp-dir", str(teacher)])  # fmt: skip
    prune.main(["--config", str(tmp_path / "prune.yaml"), "--exp-dir", str(tmp_path / "pruned"), "--method", method,
                "--technique", technique, "--teacher", str(teacher), *data_options(data_dir),
                f"constraint.size={target}"])  # fmt: skip
    model, _ = checkpoint.load_model(tmp_path / "pruned")
    assert isinstance(model, Transducer) and isinstance(model.encoder, IcefallEncoder) == own_modules
    repair = ["--repair", "20", "--lang-dir", data_options(data_dir)[1],
              "--train-cuts", str(inputs(data_dir).train[0])]  # fmt: skip
    extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "extracted"),
                  *(repair if technique == "structured" else [])])  # fmt: skip
    small, header = checkpoint.load_model(tmp_path / "extracted")
    assert isinstance(small, Transducer) and header["exactness"] < 1e-4
    assert kept(small, teacher) < 1.01 - target


@pytest.mark.parametrize("recipe", [STATELESS, PRUNED, REWORKED])
@torch.no_grad()
def test_imported_without_and_with_a_checkout(recipe: str, data_dir: Path, tmp_path: Path) -> None:
    source = experiment(tmp_path, networks.STAND_IN, recipe)
    outputs = []
    for name, others in (("plain", []), ("checked", ["--icefall-dir", str(networks.STAND_IN)])):
        arguments = ["--source", str(source), "--epoch", "1", "--use-averaged-model", "false", *others,
                     "--lang-dir", data_options(data_dir)[1], "--exp-dir", str(tmp_path / name)]  # fmt: skip
        import_icefall.main(arguments)
        import_icefall.main(arguments)  # repeating it does nothing
        model, header = checkpoint.load_model(tmp_path / name)
        assert list(header[icefall_teacher.ORIGIN])[0] == "epoch-1.pt"
        assert (tmp_path / name / ".done").is_file()
        outputs.append(model(torch.ones(1, 60, 80), torch.tensor([60])).output)
    assert torch.allclose(*outputs, atol=1e-4)
    found = torch.load(source / "epoch-1.pt", **TRUSTING)
    found["model"]["joiner.output_linear.bias"] += 1.0
    torch.save(found, source / "epoch-1.pt")
    with pytest.raises(UserError, match="contains another network"):
        import_icefall.main(arguments)


def test_a_checkout_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    for recipe in (STATELESS, REWORKED):
        source = experiment(tmp_path, networks.STAND_IN, recipe)
        other = tmp_path / f"checkout_{recipe}"
        for path in [*networks.STAND_IN.glob("icefall/*.py"), *networks.STAND_IN.glob(f"egs/*/*/{recipe}/*.py")]:
            place = other / path.relative_to(networks.STAND_IN)
            place.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text()
            place.write_text(text.replace("x = x + self.conv_module", "x = x - self.conv_module"))
        with pytest.raises(UserError, match="of the checkout differ from ours by"):
            icefall_teacher.load(source, Choice(1, use_averaged_model=False), icefall_teacher.Checkout(other))


def test_a_checkout_whose_forward_has_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for recipe in (STATELESS, REWORKED):
        source = experiment(tmp_path, networks.STAND_IN, recipe)
        conformer = icefall_encoder.conformer_class(networks.modules(networks.STAND_IN, recipe))
        for forward in (lambda self, x, x_lens, chunk: (x, x_lens), lambda self, x, x_lens: x.mean(),
                        lambda self, x, x_lens: ([x], x_lens)):  # fmt: skip
            changed = type("Conformer", (conformer,), {"forward": forward})
            monkeypatch.setattr(icefall_encoder, "conformer_class", lambda _, found=changed: found)
            with pytest.raises(UserError, match="does not encode as expected"):
                icefall_teacher.load(source / "epoch-1.pt", Choice(), icefall_teacher.Checkout(networks.STAND_IN))
            monkeypatch.undo()


def test_weights_alone_are_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Tensors do not show whether a Conformer is causal; only the settings of train.py do."""
    source = experiment(tmp_path, networks.STAND_IN, PRUNED)
    icefall_teacher.load(source / "epoch-1.pt", Choice())
    assert "causal" not in caplog.text
    torch.save({"model": torch.load(source / "epoch-1.pt", **TRUSTING)["model"]}, source / "pretrained.pt")
    icefall_teacher.load(source / "pretrained.pt", Choice())
    assert "pretrained.pt does not contain its training settings: assuming convolutions that are not" in caplog.text


def test_the_recipe_of_an_experiment_behind_a_link(tmp_path: Path) -> None:
    source = experiment(tmp_path, networks.STAND_IN, PRUNED)
    (tmp_path / "disk").mkdir()
    source.rename(tmp_path / "disk" / "runs")
    source.symlink_to(tmp_path / "disk" / "runs")
    for place in (source, source / "epoch-1.pt"):
        found = icefall_teacher.Checkout(networks.STAND_IN).modules(place, STATELESS)
        assert found.recipe == f"{networks.RECIPES}/{PRUNED}"


@pytest.mark.parametrize(("word", "meant"), [("True", True), ("1", True), ("False", False), ("no", False)])
def test_the_words_of_icefalls_options(word: str, meant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options can be copied from a ``decode.py`` command."""
    asked: list[Choice] = []
    monkeypatch.setattr(icefall_teacher, "import_experiment", lambda source, choice, *_: asked.append(choice))
    import_icefall.main(["--source", "x", "--lang-dir", "x", "--exp-dir", "x", "--epoch", "9", "--iter", "0",
                         "--avg", "2", "--use-averaged-model", word])  # fmt: skip
    assert asked == [Choice(epoch=9, avg=2, use_averaged_model=meant)]


def test_another_bpe_model_and_a_weight_for_ctc_are_refused(data_dir: Path, tmp_path: Path) -> None:
    source = experiment(tmp_path, networks.STAND_IN, STATELESS)
    (tmp_path / "prune.yaml").write_text(CONFIG)
    state = torch.load(source / "epoch-1.pt", **TRUSTING)
    arguments = ["--config", str(tmp_path / "prune.yaml"), "--exp-dir", str(tmp_path / "pruned"), *choose(source),
                 *data_options(data_dir)]  # fmt: skip
    with pytest.raises(UserError, match="the network has no CTC head"):
        prune.main([*arguments, "loss.ctc_weight=0.1"])
    for name in ("decoder.embedding.weight", "joiner.output_linear.weight", "joiner.output_linear.bias"):
        state["model"][name] = state["model"][name][:-3]
    torch.save(state, source / "epoch-1.pt")
    with pytest.raises(UserError, match="has 30 tokens but .* has 27"):
        prune.main([*arguments[:3], str(tmp_path / "other"), *arguments[4:]])


@pytest.mark.parametrize("narrow", NARROW)
def test_a_narrow_one_is_of_ours(narrow: str, tmp_path: Path) -> None:
    """The uniform network of the same size keeps the variant of the layers but not the checkout's modules."""
    source = experiment(tmp_path, networks.STAND_IN, REWORKED)
    checkout = icefall_teacher.Checkout(networks.STAND_IN)
    model, _ = icefall_teacher.load(source, Choice(1, use_averaged_model=False), checkout)
    budget = (0.9 if narrow == "depth" else 0.5) * cost_model(model, 10.0).dense["size"]
    config = narrowed_config(model, narrow, "size", budget)
    assert config.icefall is None and config.encoder.variant == model.config.encoder.variant
    assert cost_model(Transducer(config), 10.0).dense["size"] <= budget


def test_a_teacher_must_be_said_once(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "prune.yaml").write_text(CONFIG)
    arguments = ["--config", str(tmp_path / "prune.yaml"), "--exp-dir", str(tmp_path), *data_options(data_dir)]
    for given in ([], ["--teacher", "x", "--teacher-icefall", "y"]):
        with pytest.raises(UserError, match="no teacher given, or two"):
            prune.main([*arguments, *given])
