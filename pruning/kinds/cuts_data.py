"""Data of a run on cuts, for networks that take features as well as those that take samples."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from pruning.kinds.kind import Inputs
from pruning.speech.data import manifests
from pruning.speech.data.batches import Batch, count_batches, evaluation_batches, training_batches
from pruning.speech.data.sources import Source
from pruning.speech.text.table import CutTable
from pruning.training import distributed
from pruning.training.run_data import RunData


def cuts_data(config: Any, inputs: Inputs, table: CutTable, world: distributed.World, source: Source) -> RunData:
    """Return the share of the cuts that this process reads.

    Args:
        config: configuration of the run, of which ``data`` and ``trainer`` are used.
        inputs: cut manifests of the run.
        table: output table: tokens or intents.
        world: processes of the training.
        source: what the network takes as input: features or samples.
    """
    seed = int(config.trainer.seed)
    files = {f"{part}_cuts": manifests.check_exists(getattr(inputs, part)) for part in ("train", "dev")}
    if config.data.musan_cuts is not None:
        files["musan_cuts"] = manifests.check_exists([config.data.musan_cuts])

    def train_batches(epoch: int, skip: int) -> Iterable[Batch]:
        return training_batches(config.data, inputs.train, table, seed, epoch, skip, world.rank, world.size, source)

    dev_batches = partial(evaluation_batches, config.data, inputs.dev, table, for_loss=True, rank=world.rank,
                          world_size=world.size, source=source)  # fmt: skip
    counted = None
    # batches are counted only if both ends are set: the first one to come is where schedule and ramp end
    if config.trainer.num_epochs is not None and config.trainer.max_steps is not None:
        counted = count_batches(config.data, inputs.train, table, seed, world.size, source)
    return RunData(train_batches, dev_batches, files, counted)
