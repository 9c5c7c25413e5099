"""Export of a language model to ONNX.

`lm.onnx` takes ``tokens (N, U)`` int64, beginning with the token that begins sentences, and gives ``log_probs
(N, U, V)`` of what follows each prefix. `lm_step.onnx` reads one more token of each of N histories: it takes ``tokens
(N,)``, ``lengths (N,)`` int64 of what was read before and, for every layer with attention, ``keys_LAYER`` and
``values_LAYER (N, H, T, D)``, T at least the longest history (0 at the start); it gives ``log_probs (N, V)`` and
``new_keys_LAYER`` and ``new_values_LAYER``, in which T is greater by 1 if the longest history needs it. Both have the
metadata ``vocab_size``, ``sos_id``, ``eos_id``, ``layers``, ``heads`` (of each layer, 0 for none) and ``head_dim``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn

from pruning.deploy import onnx_files
from pruning.deploy.exported_lm import STEP, WHOLE, ExportedLM
from pruning.files import PathLike
from pruning.models.transformer_lm import LmState, TransformerLM

_PREFIX, _CONTINUED = 8, 16  # tokens of the compared continuations


class ExportedWhole(nn.Module):
    """A language model that gives log-probabilities."""

    def __init__(self, model: TransformerLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """``(N, U)`` -> ``(N, U, V)``."""
        return self.model(tokens).log_softmax(dim=2)


class ExportedStep(nn.Module):
    """One step of a language model, its state as tensors."""

    def __init__(self, model: TransformerLM) -> None:
        super().__init__()
        self.model = model
        self.attentive = [index for index, heads in enumerate(model.config.num_heads) if heads]

    def forward(self, tokens: Tensor, lengths: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """``(N,)``, ``(N,)`` and keys and values ``(N, H, T, D)`` in turn -> ``(N, V)`` and the new keys and values.

        Room for the new place is made here, since the network's own way of it is a branch, of which a trace has one.
        """
        with_room = [_with_room(cache, lengths) for cache in caches]
        keys, values = (dict(zip(self.attentive, with_room[part::2])) for part in (0, 1))
        log_probs, state = self.model.step(tokens, LmState(keys, values, lengths))
        return (log_probs, *(part[index] for index in self.attentive for part in (state.keys, state.values)))


def _with_room(cache: Tensor, lengths: Tensor) -> Tensor:
    """``(N, H, T, D) -> (N, H, max(T, longest + 1), D)``."""
    places = torch.ones_like(cache[0, 0, :, 0], dtype=torch.int64).sum()  # traced; cache.shape would be a constant
    longer = torch.cat([cache, cache.new_zeros(cache.shape[0], cache.shape[1], 1, cache.shape[3])], dim=2)
    return longer[:, :, : torch.maximum(places, lengths.max() + 1)]


def parts(model: TransformerLM, boundary: int = 0) -> dict[str, onnx_files.Part]:
    """Both files; ``boundary`` is the token that begins and ends sentences."""
    config = model.config
    facts = {
        **onnx_files.AUTHOR, "comment": "pruned Transformer language model", "model_type": "transformer_lm",
        "vocab_size": str(config.vocab_size), "sos_id": str(boundary), "eos_id": str(boundary),
        "layers": str(config.num_layers), "heads": ",".join(map(str, config.num_heads)),
        "head_dim": str(config.head_dim),
    }  # fmt: skip
    step, cached = ExportedStep(model), {0: "N", 2: "T"}
    names = [f"{kind}_{index}" for index in step.attentive for kind in ("keys", "values")]
    caches = [torch.zeros(2, config.num_heads[index], 5, config.head_dim) for index in step.attentive for _ in range(2)]
    n, n_u = {0: "N"}, {0: "N", 1: "U"}
    tokens = torch.ones(2, 7, dtype=torch.int64)
    return {
        WHOLE: onnx_files.Part(ExportedWhole(model), (tokens,), {"tokens": n_u}, {"log_probs": n_u}, facts),
        STEP: onnx_files.Part(
            step, (tokens[:, 0], torch.tensor([5, 3]), *caches),
            {"tokens": n, "lengths": n, **dict.fromkeys(names, cached)},
            {"log_probs": n, **{f"new_{name}": {0: "N", 2: "new T"} for name in names}}, facts,
        ),
    }  # fmt: skip


def export_onnx(
    model: TransformerLM,
    directory: PathLike,
    lang_dir: Optional[PathLike] = None,
    boundary: int = 0,
    int8: bool = True,
) -> list[Path]:
    """Write ``lm.onnx``, ``lm_step.onnx``, their int8 forms, and ``tokens.txt``; see `onnx_files.write`.

    Args:
        model: an extracted or dense network; irregular layers, removed modules and factored layers are as good as any.
        directory, lang_dir, int8: as there.
        boundary: the token that begins and ends sentences.
    """
    return onnx_files.write(parts(model.eval(), boundary), directory, lang_dir, int8)


class Agreement(NamedTuple):
    """How an exported language model compares with PyTorch's on the same sentences.

    Attributes:
        whole: largest difference of log-probabilities, relative to the largest of them.
        steps: the same of the step-wise form, against PyTorch's of whole sentences.
        sentences: compared.
        differing: places, in order of comparison, of those whose greedy continuations differ.
    """

    whole: float
    steps: float
    sentences: int
    differing: list[int]


@torch.no_grad()
def agreement(model: TransformerLM, exported: ExportedLM, batches: Iterable[Tensor]) -> Agreement:
    """Compare log-probabilities and greedy continuations of tokens ``(N, U)``, batch by batch."""
    whole, steps, differing, count = onnx_files.Difference(), onnx_files.Difference(), list[int](), 0
    for tokens in batches:
        wanted = model.eval()(tokens).log_softmax(dim=2)
        whole.add(exported(tokens), wanted)
        steps.add(by_steps(exported, tokens)[0], wanted)
        ours, theirs = (continued(network, tokens[:, :_PREFIX], _CONTINUED) for network in (model, exported))
        differing += [count + row for row in range(len(tokens)) if not torch.equal(ours[row], theirs[row])]
        count += len(tokens)
    return Agreement(whole.relative, steps.relative, count, differing)


@torch.no_grad()
def by_steps(network: Any, tokens: Tensor) -> tuple[Tensor, Any]:
    """Log-probabilities ``(N, U, V)`` of tokens ``(N, U)`` that are read one by one, and the state after them.

    Args:
        network: has ``start`` and ``step``: a `TransformerLM` or an `ExportedLM`.
        tokens: U is at least 1.
    """
    state, found = network.start(len(tokens)), []
    for place in range(tokens.shape[1]):
        log_probs, state = network.step(tokens[:, place], state)
        found.append(log_probs)
    return torch.stack(found, dim=1), state


@torch.no_grad()
def continued(network: Any, tokens: Tensor, length: int) -> Tensor:
    """The ``length`` most probable tokens ``(N, length)``, one after the other, that follow ``tokens (N, U)``."""
    log_probs, state = by_steps(network, tokens)
    found = [log_probs[:, -1].argmax(dim=1)]
    while len(found) < length:
        log_probs, state = network.step(found[-1], state)
        found.append(log_probs.argmax(dim=1))
    return torch.stack(found, dim=1)
