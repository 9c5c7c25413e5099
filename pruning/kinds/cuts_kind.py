"""Kinds of networks that hear cuts, by their features or their recordings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Optional

from pruning.experiments import checkpoint
from pruning.files import PathLike
from pruning.kinds.heard import source_of
from pruning.kinds.kind import Inputs, Kind, N
from pruning.models.encoder import Encoder
from pruning.registry import CUTS
from pruning.speech.data import checks, manifests
from pruning.speech.data.batches import Batch, count_batches, evaluation_batches, training_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.data.sources import Source
from pruning.training import distributed
from pruning.training.run_data import RunData


class CutsKind(Kind[N]):
    """A kind of network whose encoder hears cuts.

    Args:
        config: configuration of the run, of which ``data`` and ``trainer`` are used here.
        inputs: data of the run.
    """

    data_form = CUTS

    def __init__(self, config: Any, inputs: Inputs) -> None:
        super().__init__(config, inputs)
        self._source: Optional[Source] = None

    @classmethod
    @abstractmethod
    def encoder(cls, network: N) -> Encoder:
        """Return the part of a network that hears."""

    @classmethod
    def check_files(cls, network: N, files: Sequence[PathLike], trained: Optional[checks.TrainedOn] = None) -> None:
        """Refuse cuts whose features or recordings do not fit the encoder, or of other features than in training."""
        encoder, paths = cls.encoder(network), manifests.check_exists(list(files))
        source = source_of(encoder)
        if source.recorded:
            checks.check_recordings(paths, [], source, DataConfig().max_cut_duration)
        else:
            checks.check_first_features(paths, encoder.bins, trained)

    def check(self, network: N) -> None:
        """Refuse cuts that do not fit the encoder: features or recordings, and durations and transcripts of dev."""
        encoder = self.encoder(network)
        self._source = source_of(encoder)
        train, dev = (manifests.check_exists(list(paths)) for paths in (self.inputs.train, self.inputs.dev))
        if self._source.recorded:
            checks.check_recordings(train, dev, self._source, self.config.data.max_cut_duration)
        else:
            self.check_files(network, [*train, *dev])
        checks.check_dev(dev, self._source, self.config.data.longest_evaluated, self.output_table)

    def load(self, source: PathLike) -> tuple[N, checkpoint.Header]:
        """Load a network of this kind with the output table of the run, dense or extracted.

        Raises:
            UserError: see `load_network`; or the network was trained on features of another form than the run's.
        """
        network, header = super().load(source)
        trained = checks.TrainedOn.of(str(source), header)
        if trained is not None:
            self.check_files(network, self.inputs.train, trained)
        return network, header

    def heard(self) -> dict[str, Any]:
        """Return the form of the features; nothing for encoders that hear recordings, which are checked themselves."""
        if self.hears.recorded:
            return {}
        return {checks.FEATURES: checks.form_of_features(manifests.check_exists(list(self.inputs.train)))}

    def first_batches(self) -> Iterable[Batch]:
        """Return the batches of the first epoch as in a single process."""
        return training_batches(self.config.data, self.inputs.train, self.output_table, seed=self.seed, epoch=1,
                                source=self.hears)  # fmt: skip

    def data(self, world: distributed.World) -> RunData:
        """Return the share of the cuts that this process reads."""
        config, inputs, table, source = self.config, self.inputs, self.output_table, self.hears
        files = {f"{part}_cuts": manifests.check_exists(getattr(inputs, part)) for part in ("train", "dev")}
        if config.data.musan_cuts is not None:
            files["musan_cuts"] = manifests.check_exists([config.data.musan_cuts])

        def train_batches(epoch: int, skip: int) -> Iterable[Batch]:
            return training_batches(config.data, inputs.train, table, self.seed, epoch, skip, world.rank, world.size,
                                    source)  # fmt: skip

        dev_batches = partial(evaluation_batches, config.data, inputs.dev, table, for_loss=True, rank=world.rank,
                              world_size=world.size, source=source)  # fmt: skip
        counted = None
        # batches are counted only if both ends are set: the first one to come is where schedule and ramp end
        if config.trainer.num_epochs is not None and config.trainer.max_steps is not None:
            counted = count_batches(config.data, inputs.train, table, self.seed, world.size, source)
        return RunData(train_batches, dev_batches, files, counted)

    @property
    def hears(self) -> Source:
        """What the network of the run takes as input, which `check` finds."""
        if self._source is None:
            raise RuntimeError("the data are read before the network is checked")
        return self._source
