"""An exported language model as scoring and searches take it: onnxruntime in the place of PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pruning.deploy.exported import FORMS, ExportedPart
from pruning.errors import UserError
from pruning.files import PathLike

LM_FORMS = {form: ending for form, ending in FORMS.items() if ending.endswith(".onnx")}
"""Endings of the files of each form of a language model's export."""
WHOLE, STEP = "lm", "lm_step"
"""Names of the files: whole sentences, and one more token of each history."""


class ExportedState(NamedTuple):
    """What an exported language model remembers of N histories, which may be of different lengths.

    ``caches`` are keys and values ``(N, H, T, D)`` of every layer with attention, one after the other; entries from a
    history's length on are without meaning. ``lengths (N,)`` int64, none above T.
    """

    caches: tuple[Tensor, ...]
    lengths: Tensor

    def select(self, index: Tensor) -> ExportedState:
        """The histories ``index (K,)``, in that order."""
        return ExportedState(tuple(cache[index] for cache in self.caches), self.lengths[index])


class ExportedLM:
    """A language model from the files of an export.

    Args:
        directory: holds ``lm.onnx`` and ``lm_step.onnx``.
        form: one of `LM_FORMS`.
        threads: of onnxruntime.

    Attributes:
        vocab_size: tokens.
        boundary: the token that begins and ends sentences.
        files: the two files.

    Raises:
        UserError: a file is missing or broken, or an unknown form.
    """

    def __init__(self, directory: PathLike, form: str = "float32", threads: int = 1) -> None:
        if form not in LM_FORMS:
            raise UserError(f"there is no form {form!r} of a language model's export",
                            f"choose from {', '.join(LM_FORMS)}")  # fmt: skip
        self.files = [Path(directory) / f"{name}{LM_FORMS[form]}" for name in (WHOLE, STEP)]
        self._whole, self._step = (ExportedPart(path, threads) for path in self.files)
        facts = self._step.metadata
        try:
            self.vocab_size, self.boundary = int(facts["vocab_size"]), int(facts["sos_id"])
            self._head_dim = int(facts["head_dim"])
            self._heads = [int(count) for count in facts["heads"].split(",") if int(count)]
        except (KeyError, ValueError) as error:
            raise UserError(f"{directory} lacks metadata ({error})", "export it again") from None

    def __call__(self, tokens: Tensor) -> Tensor:
        """Log-probabilities ``(N, U, V)`` of what follows each prefix of ``tokens (N, U)``."""
        return self._whole(tokens)[0]

    def start(self, histories: int) -> ExportedState:
        """The state of ``histories`` empty ones."""
        empty = (torch.zeros(histories, heads, 0, self._head_dim) for heads in self._heads for _ in range(2))
        return ExportedState(tuple(empty), torch.zeros(histories, dtype=torch.int64))

    def step(self, tokens: Tensor, state: ExportedState) -> tuple[Tensor, ExportedState]:
        """Read one more token ``(N,)`` of each history: log-probabilities ``(N, V)`` of what follows, the new state."""
        log_probs, *caches = self._step(tokens, state.lengths, *state.caches)
        return log_probs, ExportedState(tuple(caches), state.lengths + 1)
