"""Training and pruning of any kind of network."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, TypeVar

import torch
from torch import nn

from pruning import configuration, registry
from pruning.core.low_rank import Metric, linear_names
from pruning.core.names import COSTS, LOOK_INSIDE
from pruning.core.prunable import plain
from pruning.core.single_weights import hold_zeros, is_of_single_weights
from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.experiments import checkpoint, directory
from pruning.experiments.structure_files import STRUCTURE, found_structure
from pruning.files import PathLike, write_json
from pruning.kinds.kind import HasVocabulary, Kind
from pruning.methods.base import Pruner
from pruning.methods.calibration import score_batches
from pruning.methods.choice import new_pruner
from pruning.methods.config import PruningConfig
from pruning.methods.low_rank import calibrate
from pruning.models.facts import cost_model, describe, network_facts, write_facts
from pruning.provenance import file_fingerprint
from pruning.speech.text.table import OutputTable
from pruning.tasks.pruned import PrunedTask
from pruning.training import distributed
from pruning.training.trainer import Trainer

logger = logging.getLogger(__name__)

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Ended:
    """A run that has ended.

    Attributes:
        world: processes of the training.
        files: files that the run read.
    """

    world: distributed.World
    files: tuple[Path, ...]


def vocabulary(config: Optional[HasVocabulary], table: OutputTable) -> int:
    """Return the vocabulary size of a new network.

    Raises:
        UserError: no dimensions are given, or their vocabulary size is not that of the output table.
    """
    if config is None:
        raise UserError("the configuration has no 'model'", "give its dimensions, or --init CHECKPOINT")
    if config.vocab_size not in (0, table.vocab_size):
        raise UserError(
            f"model.vocab_size is {config.vocab_size} but {table.path} has {table.vocab_size}",
            "leave it out, or use the matching --lang-dir",
        )
    return table.vocab_size


def fresh(kind: Kind[N]) -> N:
    """Make a network with fresh weights for the output table of the run.

    Raises:
        UserError: dimensions are missing or do not fit together, or the vocabulary size does not match.
    """
    size = vocabulary(kind.config.model, kind.output_table)
    torch.manual_seed(kind.seed)
    network = with_dimensions(type(kind), kind.config, size)
    kind.check(network)
    kind.begin(network)
    return network


def with_dimensions(kind: type[Kind[N]], config: Any, vocab_size: int) -> N:
    """Make a network with the dimensions of the configuration of a run.

    Raises:
        UserError: dimensions are missing or do not fit together.
    """
    try:
        return kind.new(config, vocab_size)
    except (ValueError, RuntimeError) as error:  # dimensions that do not fit together
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"no network can be made with the dimensions under 'model' ({reason})",
                        "correct them in the configuration") from None  # fmt: skip


@torch.no_grad()
def inherit(kind: Kind[N], network: N, source: PathLike) -> None:
    """Copy the tensors of the modules around the encoder that have the same shape in another network.

    Args:
        kind: kind of both networks.
        network: network with fresh weights, which is changed.
        source: checkpoint or experiment of the other network, with the same output table.

    Raises:
        UserError: networks of this kind have no such modules, or no tensor has the same shape.
    """
    prefixes = tuple(f"{name}." for name in kind.around_encoder)
    if not prefixes:
        raise UserError(f"{kind.called} has no modules around an encoder", "leave out --inherit")
    found = kind.load(source)[0].state_dict()
    outer = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(prefixes)}
    equal = [name for name, tensor in outer.items() if name in found and found[name].shape == tensor.shape]
    if not equal:
        raise UserError(f"no tensor around the encoder has the same shape as in {source}",
                        "give a network with the same decoder and joiner")  # fmt: skip
    for name in equal:
        outer[name].copy_(found[name])
    fresh_ones = sorted(set(outer) - set(equal))
    logger.info("inherited %d tensors of %s; fresh: the encoder%s", len(equal), source,
                "".join(f", {name}" for name in fresh_ones))  # fmt: skip


def continued(model: nn.Module, header: checkpoint.Header) -> dict[str, Any]:
    """Prepare a network for further training: single weights that were pruned stay zero.

    Returns:
        The entries of ``header`` that its new checkpoints keep.
    """
    if _is_sparse(header):
        hold_zeros(model)
    return {key: header[key] for key in ("structure", "dense", checkpoint.PRETRAINED) if key in header}


def _is_sparse(header: checkpoint.Header) -> bool:
    """Return whether single weights of a network were pruned."""
    return "structure" in header and is_of_single_weights(Structure.from_dict(header["structure"]))


def train(
    kind: Kind[N],
    exp_dir: PathLike,
    init: Optional[PathLike] = None,
    teacher: Optional[PathLike] = None,
    inherited: Optional[PathLike] = None,
) -> Ended:
    """Train a network with a fixed structure, from scratch or from a checkpoint, with or without a teacher.

    Args:
        kind: kind of network, with the configuration and the data of the run.
        exp_dir: experiment directory; the run is resumed if it contains a training state.
        init: checkpoint or experiment to start from (fine-tuning); None: start with fresh weights.
        teacher: checkpoint or experiment to distil from.
        inherited: checkpoint or experiment of which a fresh network takes over the modules around the encoder.

    Raises:
        UserError: the configuration, the data or the checkpoints are not usable.
    """
    header: dict[str, Any] = {}
    if init is not None:
        if inherited is not None:
            raise UserError("--inherit is for fresh weights, and --init gives a network", "leave one of them out")
        if kind.config.model is not None:
            raise UserError("the configuration has a 'model', and --init gives a network", "leave one of them out")
        network, found = kind.load(init)
        kind.check(network)
        header = continued(network, found)
    else:
        network = fresh(kind)
        header = kind.origin()
        if inherited is not None:
            inherit(kind, network, inherited)
    if teacher is not None and not kind.wants_teacher():
        logger.warning("--teacher %s has no effect: all distillation weights are 0", teacher)
    task = kind.task(kind.own(network.train()), kind.teacher(teacher))
    if "structure" in header:
        task.inherit(Structure.from_dict(header["structure"]))
    networks = _files_of({"init": init, "teacher": teacher, "inherit": inherited})
    return _fit(kind, task, exp_dir, {**networks, **kind.stands_on()}, header, header.get("dense"))


def prune(kind: Kind[N], exp_dir: PathLike, teacher: PathLike, init: Optional[PathLike] = None) -> Ended:
    """Train and prune a copy of the teacher, or a network cut from it before, until it meets the constraint.

    Args:
        kind: kind of network, with the configuration and the data of the run.
        exp_dir: experiment directory; its checkpoints contain dense weights and the structure that was found.
        teacher: checkpoint or experiment of the dense network, which targets refer to and which is distilled from.
        init: checkpoint or experiment of an extracted network to prune further; None: prune the teacher.

    Raises:
        UserError: as for `train`; also if this kind of network does not support the technique, if single weights of it
            were pruned before, or if the enabled unit kinds cannot reach the target.
    """
    config: PruningConfig = kind.config
    if kind.config.model is not None:
        raise UserError("the configuration has a 'model'", "leave it out: pruning starts from a copy of the teacher")
    network, found = kind.load(teacher if init is None else init)
    if _is_sparse(found):
        raise UserError(f"{init or teacher} has pruned single weights, which would not stay 0",
                        "prune the dense network, or fine-tune this one with pruning.bin.finetune")  # fmt: skip
    kind.capabilities(network).check_technique(config.technique, f"{init or teacher}, {kind.called},")
    kind.check(network)
    if config.technique != "structured" or config.method in LOOK_INSIDE:
        network = kind.own(plain(network))
    guide = kind.teacher(teacher)
    dense = network if init is None else kind.load(teacher)[0]
    facts = network_facts(dense)
    left: dict[str, float] = {}
    if init is not None:
        if config.technique != "structured":
            raise UserError(f"--init prunes units further, not by technique {config.technique}", "leave it out")
        left = _left(network, dense, config.constraint.seconds)
        config = config.after_cut(left)
        logger.info("targets of the network of %s: %s", init, config.constraint.targets())
    metrics: dict[str, Metric] = {}
    if config.technique == "low_rank":
        world = distributed.initialise(kind.config.trainer.device)
        batches = map(world.take, itertools.islice(kind.first_batches(), config.low_rank.calibration_batches))
        task = kind.task(network, None).to(world.device)
        metrics = calibrate(task, linear_names(network), batches, config.method)
        network.cpu()
    pruner = new_pruner(network, config, kind.seed, metrics, left)
    _start(kind, pruner)
    task = kind.task(kind.own(pruner.network.train()), guide, pruner)
    networks = _files_of({"init": init, "teacher": teacher, "counts_from": config.counts_from,
                          "latency_table": config.constraint.latency_table})  # fmt: skip
    kept = {key: found[key] for key in (checkpoint.PRETRAINED,) if key in found}
    if init is not None and "structure" in found:
        kept[checkpoint.BEFORE] = found["structure"]
        task.inherit(Structure.from_dict(found["structure"]))
    return _fit(kind, task, exp_dir, networks, {"dense": facts, **kept}, facts)


def _left(network: nn.Module, dense: nn.Module, seconds: float) -> dict[str, float]:
    """Return cost -> share of the dense network's cost that a network cut from it has."""
    now, before = (cost_model(one, seconds).dense for one in (network, dense))
    return {cost: now[cost] / before[cost] for cost in COSTS}


def _start(kind: Kind[N], pruner: Pruner) -> None:
    """Let a pruner begin from scores of the units on the first training batches, if it wants them."""
    scorer = pruner.scorer()
    if scorer is None:
        return
    world = distributed.initialise(kind.config.trainer.device)
    task = kind.task(kind.own(pruner.network), None, scorer).to(world.device)
    batches = map(world.take, itertools.islice(kind.first_batches(), kind.config.l0.start_batches))
    score_batches(task, scorer, batches, kind.seed)
    pruner.start_from(scorer.finite_scores())
    pruner.network.cpu()


def _fit(
    kind: Kind[N],
    task: PrunedTask,
    exp_dir: PathLike,
    networks: Mapping[str, list[Path]],
    header: Mapping[str, Any],
    dense: Optional[dict[str, Any]],
) -> Ended:
    """Run the training loop on a task, and write ``model.json`` and, after pruning, ``structure.json``.

    Args:
        kind: kind of network, with the configuration and the data of the run.
        task: task to train.
        exp_dir: experiment directory.
        networks: files that the run depends on, in addition to its data, by the name of their option.
        header: header entries for its checkpoints.
        dense: facts of the network that was pruned; None if the run does not involve a pruned network.
    """
    config, table = kind.config, kind.output_table
    world = distributed.initialise(config.trainer.device)
    data = kind.data(world)
    files = {**data.files, "lang_dir": [table.path], **networks}
    trainer = Trainer(
        config.trainer,
        task=task,
        train_batches=data.train_batches,
        dev_batches=data.dev_batches,
        exp_dir=exp_dir,
        header={"model": registry.describe(task.model), "tokenizer": table.describe(), **kind.heard(), **header},
        configuration=configuration.to_dict(config),
        defaults=configuration.defaults(type(config)),
        inputs=_fingerprints(files),
        steps_per_epoch=data.steps_per_epoch,
        world=world,
        at_end=lambda: write_facts(exp_dir, task.model, dense),  # the number of nonzero parameters has changed
    )
    # after the trainer's checks, so as not to overwrite the facts of another run
    if world.is_main and not directory.is_done(Path(exp_dir)):
        write_facts(exp_dir, task.model, dense)
        logger.info("%s", describe(network_facts(task.model)))
    trainer.run()
    if world.is_main and task.pruner is not None:
        write_json(Path(exp_dir) / STRUCTURE, found_structure(exp_dir).to_dict())
    return Ended(world, tuple(itertools.chain.from_iterable(files.values())))


def _files_of(networks: Mapping[str, Optional[PathLike]]) -> dict[str, list[Path]]:
    """Return the files of checkpoints or experiments, by the name of their option, without those that are not given."""
    return {name: [checkpoint.file_of(path)] for name, path in networks.items() if path is not None}


def _fingerprints(files: Mapping[str, Sequence[Path]]) -> dict[str, list[str]]:
    """Return fingerprints of file contents: while a run is interrupted, files may move but not change."""
    return {name: [f"{path.name} {file_fingerprint(path)[:12]}" for path in paths] for name, paths in files.items()}
