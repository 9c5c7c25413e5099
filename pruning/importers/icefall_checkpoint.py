"""Loading and averaging of icefall checkpoints by ``--epoch``, ``--iter``, ``--avg`` and ``--use-averaged-model``.

Files are read without executing code in them (`pruning.experiments.unpickle`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Optional

from torch import Tensor

from pruning.errors import UserError
from pruning.experiments import average, unpickle
from pruning.files import PathLike
from pruning.limits import Count, Natural, check_fields

_STATES = ("model", "model_avg", "optimizer", "scheduler", "grad_scaler", "sampler")


@dataclass(frozen=True)
class Choice:
    """Choice of the checkpoints of an experiment, by the options of icefall's ``decode.py``.

    Attributes:
        epoch: last epoch to average, from 1 (from 0 if there is an ``epoch-0.pt``).
        iteration: instead of ``epoch``: the last checkpoint is ``checkpoint-N.pt`` with the largest N up to this.
        avg: number of epochs, or checkpoints, to average.
        use_averaged_model: whether to average over all updates of the running averages, not only over the checkpoints.
    """

    epoch: Optional[Natural] = None
    iteration: Optional[Count] = None
    avg: Count = 1
    use_averaged_model: bool = True

    def __post_init__(self) -> None:
        check_fields(self)

    def described(self) -> dict[str, Any]:
        """Return the choice as icefall's options."""
        last = {"epoch": self.epoch} if self.iteration is None else {"iter": self.iteration}
        return {**last, "avg": self.avg, "use-averaged-model": self.use_averaged_model}


class Found(NamedTuple):
    """Weights from icefall, and the settings stored with them.

    Attributes:
        state: state dict of the network, with icefall's names.
        settings: parameters and counts of the training, from the last file.
        files: files that were read.
    """

    state: dict[str, Tensor]
    settings: dict[str, Any]
    files: list[Path]


def load(source: PathLike, choice: Choice) -> Found:
    """Load the chosen weights of an experiment, or those of one file, such as ``pretrained.pt``.

    Args:
        source: an experiment directory, or a file, whose ``model`` is used.
        choice: choice of checkpoints in a directory.

    Raises:
        UserError: a file is missing or damaged or lacks the requested weights, or the choice does not name a checkpoint
            of a directory.
    """
    source = Path(source)
    if not source.exists():
        raise UserError(f"{source} does not exist", "give an icefall experiment directory or checkpoint file")
    if not source.is_dir():
        if choice.epoch is not None or choice.iteration is not None or choice.avg != 1:
            raise UserError(
                f"{source} is not an experiment directory",
                "give an experiment directory, or leave out --epoch, --iter and --avg",
            )
        return _ends([source])
    files = _files(source, choice)
    return _running_mean(files[0], files[-1]) if choice.use_averaged_model else _ends(files)


def _files(directory: Path, choice: Choice) -> list[Path]:
    """Return the files from the first to the last; for running averages, the one before the first, and the last."""
    if (choice.epoch is None) == (choice.iteration is None):
        raise UserError(f"cannot tell which checkpoint of {directory} to use", "give exactly one of --epoch and --iter")
    wanted = choice.avg + choice.use_averaged_model
    if choice.iteration is not None:
        numbered = sorted((int(found.group(1)), path) for path in directory.glob("checkpoint-*.pt")
                          for found in [re.fullmatch(r"checkpoint-(\d+)\.pt", path.name)] if found)  # fmt: skip
        files = [path for number, path in numbered if number <= choice.iteration][-wanted:]
        if len(files) < wanted:
            raise UserError(f"{directory} has {len(files)} files checkpoint-N.pt up to {choice.iteration}, "
                            f"but {wanted} are needed", "choose another --iter or --avg")  # fmt: skip
        return files
    assert choice.epoch is not None
    first = choice.epoch + 1 - wanted
    if first < (0 if (directory / "epoch-0.pt").is_file() else 1):  # some recipes count epochs from 0
        needs = "the running average before them" if choice.use_averaged_model else "earlier epochs, which do not exist"
        raise UserError(
            f"an average over {choice.avg} epochs up to {choice.epoch} needs {needs}",
            "choose a smaller --avg" + (", or --use-averaged-model false" * choice.use_averaged_model),
        )
    numbers = [first, choice.epoch] if choice.use_averaged_model else range(first, choice.epoch + 1)
    return _existing([directory / f"epoch-{number}.pt" for number in numbers], choice)


def _existing(files: list[Path], choice: Choice) -> list[Path]:
    """Return the files after checking that all exist."""
    for path in reversed(files):  # report a wrong --epoch before a wrong --avg
        if not path.is_file():
            there = len(list(path.parent.glob("epoch-*.pt")))
            raise UserError(f"{path}, which --epoch {choice.epoch} --avg {choice.avg} needs, does not exist; "
                            f"there are {there} files epoch-N.pt", "choose another --epoch or --avg")  # fmt: skip
    return files


def _read(path: Path) -> dict[str, Any]:
    found = unpickle.load(path)
    if not isinstance(found, Mapping) or not isinstance(found.get("model"), Mapping):
        raise UserError(f"{path} has no 'model'", "give a checkpoint that icefall's train.py or export.py wrote")
    return dict(found)


def _state(found: Mapping[str, Any], key: str, path: Path) -> dict[str, Tensor]:
    state = found.get(key)
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        remedy = "give --use-averaged-model false" if key == "model_avg" else "give another checkpoint"
        raise UserError(f"{path} has no tensors in '{key}'", remedy)
    return {name[len("module.") :] if name.startswith("module.") else name: value for name, value in state.items()}


def _settings(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in _STATES}


def _ends(files: list[Path]) -> Found:
    states, settings = [], {}
    for path in files:  # one at a time: each also contains the optimiser's state
        found = _read(path)
        states.append(_state(found, "model", path))
        settings = _settings(found)
    try:
        return Found(states[0] if len(states) == 1 else average.mean(states), settings, files)
    except ValueError as error:
        raise _unlike(files, error) from None


def _running_mean(start: Path, end: Path) -> Found:
    """Average like icefall's ``average_checkpoints_with_averaged_model``."""
    first, last = _read(start), _read(end)
    averages = [_state(found, "model_avg", path) for found, path in ((first, start), (last, end))]
    counts = []
    for found, path in ((first, start), (last, end)):
        try:
            counts.append(int(found["batch_idx_train"]) // int(first["average_period"]))
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            raise UserError(f"{path} does not say over how many batches its running average is",
                            "give --use-averaged-model false") from None  # fmt: skip
    try:
        state = average.mean_between(averages[0], counts[0], averages[1], counts[1])
    except ValueError as error:
        raise _unlike([start, end], error) from None
    return Found(state, _settings(last), [start, end])


def _unlike(files: list[Path], error: ValueError) -> UserError:
    return UserError(
        f"{files[0]} and {files[-1]} cannot be averaged ({error})", "choose other checkpoints, or a smaller --avg"
    )


def check_blank(settings: Mapping[str, Any], source: str) -> None:
    """Check the number of blank in the settings of a checkpoint.

    Raises:
        UserError: it is not 0.
    """
    if settings.get("blank_id", 0) != 0:
        what = f"{source} was trained with token {settings['blank_id']} as blank, but blank must be token 0"
        raise UserError(what, "train it with a lang dir whose token 0 is <blk>, as icefall's recipes do")
