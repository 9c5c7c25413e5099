"""Training and pruning of any kind of network: what is the same whatever the network and its data are."""

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
from pruning.core.names import LOOK_INSIDE
from pruning.core.prunable import plain
from pruning.core.single_weights import hold_zeros, is_of_single_weights
from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.structure_files import STRUCTURE, found_structure
from pruning.files import PathLike, write_json
from pruning.kinds.kind import HasVocabulary, Kind
from pruning.methods.choice import new_pruner
from pruning.methods.config import PruningConfig
from pruning.methods.low_rank import calibrate
from pruning.models.facts import describe, network_facts, write_facts
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
        world: the processes that it was trained by.
        files: those that it read.
    """

    world: distributed.World
    files: tuple[Path, ...]


def vocabulary(config: Optional[HasVocabulary], table: OutputTable) -> int:
    """The vocabulary of a new network.

    Raises:
        UserError: no dimensions are given, or another vocabulary size than the table's.
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
    """A network of fresh weights, its vocabulary that of the table.

    Raises:
        UserError: no dimensions are given, some that make no network, or another vocabulary size.
    """
    size = vocabulary(kind.config.model, kind.output_table)
    torch.manual_seed(kind.seed)
    try:
        network = kind.new(size)
    except (ValueError, RuntimeError) as error:  # dimensions that do not fit together
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"the network of the configuration's model cannot be made ({reason})",
                        "correct its dimensions") from None  # fmt: skip
    kind.check(network)
    kind.begin(network)
    return network


def continued(model: nn.Module, header: checkpoint.Header) -> dict[str, Any]:
    """Make a network ready to be trained on: what was pruned of single weights stays zero.

    Returns:
        What its new checkpoints keep of its ``header``.
    """
    if "structure" in header and is_of_single_weights(Structure.from_dict(header["structure"])):
        hold_zeros(model)
    return {key: header[key] for key in ("structure", "dense", checkpoint.PRETRAINED) if key in header}


def train(
    kind: Kind[N], exp_dir: PathLike, init: Optional[PathLike] = None, teacher: Optional[PathLike] = None
) -> Ended:
    """Train a network, from scratch or from a checkpoint, with or without a teacher; the structure stays.

    Args:
        kind: with the configuration and the data of the run.
        exp_dir: the experiment's directory; resumed when it holds a state.
        init: checkpoint or experiment to start from (fine-tuning); None starts with fresh weights.
        teacher: checkpoint or experiment to learn from.

    Raises:
        UserError: for anything wrong with the configuration, the data or the checkpoints.
    """
    header: dict[str, Any] = {}
    if init is not None:
        if kind.config.model is not None:
            raise UserError("the configuration has a 'model' but --init brings one", "leave one of them out")
        network, found = kind.load(init)
        kind.check(network)
        header = continued(network, found)
    else:
        network = fresh(kind)
        header = kind.origin()
    if teacher is not None and not kind.wants_teacher():
        logger.warning("--teacher %s has no effect: all weights of distillation are 0", teacher)
    task = kind.task(kind.own(network.train()), kind.teacher(teacher))
    return _fit(
        kind, task, exp_dir, {"init": init, "teacher": teacher, **kind.stands_on()}, header, header.get("dense")
    )


def prune(kind: Kind[N], exp_dir: PathLike, teacher: PathLike) -> Ended:
    """Train a copy of the teacher while it is pruned, until it costs what the constraint says.

    Args:
        kind: with the configuration and the data of the run.
        exp_dir: the experiment's directory; its checkpoints hold dense weights and the structure that was found.
        teacher: checkpoint or experiment of the dense network.

    Raises:
        UserError: as `train`, for what a network of this kind cannot do, and for a target that the enabled kinds of
            units cannot reach.
    """
    config: PruningConfig = kind.config
    if kind.config.model is not None:
        raise UserError("the configuration has a 'model'", "leave it out: what is pruned is a copy of the teacher")
    network, found = kind.load(teacher)
    kind.capabilities(network).check_technique(config.technique, f"{teacher}, {kind.called},")
    kind.check(network)
    if config.technique != "structured" or config.method in LOOK_INSIDE:
        network = kind.own(plain(network))
    guide = kind.teacher(teacher)
    facts = network_facts(network)
    metrics: dict[str, Metric] = {}
    if config.technique == "low_rank":
        world = distributed.initialise(kind.config.trainer.device)
        batches = map(world.take, itertools.islice(kind.first_batches(), config.calibration_batches))
        task = kind.task(network, None).to(world.device)
        metrics = calibrate(task, linear_names(network), batches, config.method)
        network.cpu()
    pruner = new_pruner(network, config, kind.seed, metrics)
    task = kind.task(kind.own(pruner.network.train()), guide, pruner)
    networks = {"teacher": teacher, "counts_from": config.counts_from,
                "latency_table": config.constraint.latency_table}  # fmt: skip
    kept = {key: found[key] for key in (checkpoint.PRETRAINED,) if key in found}
    return _fit(kind, task, exp_dir, networks, {"dense": facts, **kept}, facts)


def _fit(
    kind: Kind[N],
    task: PrunedTask,
    exp_dir: PathLike,
    networks: Mapping[str, Optional[PathLike]],
    header: Mapping[str, Any],
    dense: Optional[dict[str, Any]],
) -> Ended:
    """Run the loop on a task and leave ``model.json`` beside its checkpoints, and ``structure.json`` where it pruned.

    Args:
        kind, task, exp_dir: of the run.
        networks: the checkpoints that it stands on, by the name of their option; None: not used.
        header: for its checkpoints.
        dense: facts of the network it was pruned from, None if it was not.
    """
    config, table = kind.config, kind.output_table
    world = distributed.initialise(config.trainer.device)
    data = kind.data(world)
    files = _files({**data.files, "lang_dir": [table.path]}, networks)
    trainer = Trainer(
        config.trainer,
        task=task,
        train_batches=data.train_batches,
        dev_batches=data.dev_batches,
        exp_dir=exp_dir,
        header={"model": registry.describe(task.model), "tokenizer": table.describe(), **header},
        configuration=configuration.to_dict(config),
        defaults=configuration.defaults(type(config)),
        inputs=_fingerprints(files),
        steps_per_epoch=data.steps_per_epoch,
        world=world,
    )
    if world.is_main:  # not before the trainer has refused what it must: another network's facts may be there
        write_facts(exp_dir, task.model, dense)
        logger.info("%s", describe(network_facts(task.model)))
    trainer.run()
    if world.is_main and task.pruner is not None:
        write_json(Path(exp_dir) / STRUCTURE, found_structure(exp_dir).to_dict())
    return Ended(world, tuple(itertools.chain.from_iterable(files.values())))


def _files(data: Mapping[str, Sequence[Path]], networks: Mapping[str, Optional[PathLike]]) -> dict[str, list[Path]]:
    """What a run reads, by the name of its option."""
    files = {name: list(paths) for name, paths in data.items()}
    for name, path in networks.items():
        if path is not None:
            files[name] = [checkpoint.file_of(path)]
    return files


def _fingerprints(files: Mapping[str, Sequence[Path]]) -> dict[str, list[str]]:
    """Files by content: they may move while a run is interrupted, but not change."""
    return {name: [f"{path.name} {file_fingerprint(path)[:12]}" for path in paths] for name, paths in files.items()}
