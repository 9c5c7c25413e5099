"""Export of a language model to ONNX.

`lm.onnx` takes ``tokens (N, U)`` int64, which start with the token before a text, and returns ``log_probs
(N, U, V)`` of the token after each prefix. `lm_step.onnx` reads one more token of each of N histories: it takes
``tokens (N,)``, ``lengths (N,)`` int64 of the histories read before and, for every layer with attention,
``keys_LAYER`` and ``values_LAYER (N, H, T, D)``, where T is at least the longest history (0 at the start). It returns
``log_probs (N, V)``, ``new_keys_LAYER`` and ``new_values_LAYER``, in which T is greater by 1 if the longest history
needs it. Both files have the metadata ``vocab_size``, ``sos_id``, ``eos_id``, ``layers``, ``heads`` (of keys
and values in each layer, 0 for none) and ``head_dim``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, Protocol

import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.kinds.exports import AUTHOR, Agreement, Calls, Difference, Exports, Part
from pruning.models.transformer_lm import LmState, TransformerLM
from pruning.speech.text.bpe import TABLE
from pruning.speech.text.network_tokens import FORM, TOKENIZER
from pruning.speech.text.sentences import Sentences, TextConfig
from pruning.speech.text.table import TextTable

WHOLE, STEP = "lm", "lm_step"
"""Names of the files: for whole sentences, and for one more token of each history."""
_PREFIX, _CONTINUED = 8, 16  # tokens before and in the compared continuations


class ReadsSteps(Protocol):
    """A language model that reads token by token."""

    def start(self, histories: int) -> Any:
        """Return the state of ``histories`` empty histories."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one more token ``(N,)`` per history; return log-probabilities ``(N, V)`` of the next, and the state."""


def language_model_exports(model: TransformerLM, tokenizer: Optional[TextTable]) -> Exports:
    """Describe the export of a language model; without a tokenizer, texts begin with 0 and text is not compared."""
    start, end = (0, 0) if tokenizer is None else tokenizer.boundaries

    def agree(calls: Calls, text: Optional[Path], max_batches: int) -> Agreement:
        batches: Iterable[Tensor] = random_tokens(model.config.vocab_size, start)
        if text is not None and tokenizer is not None:
            sentences = Sentences([text], tokenizer, TextConfig(on_empty="skip"))
            batches = (batch.inputs for batch in itertools.islice(sentences.evaluation_batches(), max_batches))
        same = agreement(model, ExportedLM(calls, "the export"), batches)
        return Agreement(max(same.whole, same.steps), (
            f"largest relative difference of log-probabilities {same.whole:.1e}, step by step {same.steps:.1e}; "
            f"{len(same.differing)} of {same.sentences} greedy continuations differ"
        ))  # fmt: skip

    own = tokenizer is not None and tokenizer.form is not None
    return Exports(parts(model.eval(), start, end), "", (TOKENIZER, FORM) if own else (TABLE,), agree)


def random_tokens(vocab_size: int, boundary: int, lengths: Sequence[int] = (20, 1, 9)) -> list[Tensor]:
    """Make batches ``(4, U)`` of random tokens that begin like sentences, for comparison without text."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randint(vocab_size, (4, length), generator=generator) for length in lengths]
    for tokens in batches:
        tokens[:, 0] = boundary
    return batches


class ExportedWhole(nn.Module):
    """A language model that returns log-probabilities."""

    def __init__(self, model: TransformerLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """``(N, U)`` -> ``(N, U, V)``."""
        return self.model.log_probs(tokens)


class ExportedStep(nn.Module):
    """One step of a language model, with its state as tensors."""

    def __init__(self, model: TransformerLM) -> None:
        super().__init__()
        self.model = model
        self.attentive = [index for index, heads in enumerate(model.config.kv_heads) if heads]

    def forward(self, tokens: Tensor, lengths: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """``(N,)``, ``(N,)`` and keys and values ``(N, H, T, D)`` in turn -> ``(N, V)`` and the new keys and values.

        The caches are extended here, because the network does it in a branch, and a trace keeps only one branch.
        """
        with_room = [_with_room(cache, lengths) for cache in caches]
        keys, values = (dict(zip(self.attentive, with_room[part::2])) for part in (0, 1))
        log_probs, state = self.model.step(tokens, LmState(keys, values, lengths))
        return (log_probs, *(part[index] for index in self.attentive for part in (state.keys, state.values)))


def _with_room(cache: Tensor, lengths: Tensor) -> Tensor:
    """``(N, H, T, D) -> (N, H, max(T, longest + 1), D)``."""
    places = torch.ones_like(cache[0, 0, :, 0], dtype=torch.int64).sum()  # cache.shape would be a constant in the trace
    longer = torch.cat([cache, cache.new_zeros(cache.shape[0], cache.shape[1], 1, cache.shape[3])], dim=2)
    return longer[:, :, : torch.maximum(places, lengths.max() + 1)]


def parts(model: TransformerLM, start: int = 0, end: int = 0) -> dict[str, Part]:
    """Describe both files; ``start`` and ``end`` are the tokens before and behind a text."""
    config = model.config
    facts = {
        **AUTHOR, "comment": "pruned Transformer language model", "model_type": "transformer_lm",
        "vocab_size": str(config.vocab_size), "sos_id": str(start), "eos_id": str(end),
        "layers": str(config.num_layers), "heads": ",".join(map(str, config.kv_heads)),
        "head_dim": str(config.head_dim),
    }  # fmt: skip
    step, cached = ExportedStep(model), {0: "N", 2: "T"}
    names = [f"{kind}_{index}" for index in step.attentive for kind in ("keys", "values")]
    caches = [torch.zeros(2, config.kv_heads[index], 5, config.head_dim) for index in step.attentive for _ in range(2)]
    n, n_u = {0: "N"}, {0: "N", 1: "U"}
    tokens = torch.ones(2, 7, dtype=torch.int64)
    return {
        WHOLE: Part(ExportedWhole(model), (tokens,), {"tokens": n_u}, {"log_probs": n_u}, facts),
        STEP: Part(
            step, (tokens[:, 0], torch.tensor([5, 3]), *caches),
            {"tokens": n, "lengths": n, **dict.fromkeys(names, cached)},
            {"log_probs": n, **{f"new_{name}": {0: "N", 2: "new T"} for name in names}}, facts,
        ),
    }  # fmt: skip


class ExportedState(NamedTuple):
    """State of an exported language model for N histories, which may have different lengths.

    Attributes:
        caches: keys and values ``(N, H, T, D)`` of every layer with attention, in turn; entries beyond a history's
            length are undefined.
        lengths: length of each history ``(N,)`` int64, at most T.
    """

    caches: tuple[Tensor, ...]
    lengths: Tensor

    def select(self, index: Tensor) -> ExportedState:
        """Return the histories ``index (K,)``, in that order."""
        return ExportedState(tuple(cache[index] for cache in self.caches), self.lengths[index])


class ExportedLM:
    """A language model from exported files, with the interface that scoring and searches use.

    Args:
        calls: exported files, by name.
        source: where the files come from, for messages.

    Attributes:
        vocab_size: number of tokens.
        boundary: token that begins and ends sentences.

    Raises:
        UserError: a file lacks metadata.
    """

    def __init__(self, calls: Calls, source: PathLike) -> None:
        self._whole, self._step = calls[WHOLE], calls[STEP]
        facts = self._step.metadata
        try:
            self.vocab_size, self.boundary = int(facts["vocab_size"]), int(facts["sos_id"])
            self._head_dim = int(facts["head_dim"])
            self._heads = [int(count) for count in facts["heads"].split(",") if int(count)]
        except (KeyError, ValueError) as error:
            raise UserError(f"{source} lacks metadata ({error})", "export it again") from None

    def log_probs(self, tokens: Tensor) -> Tensor:
        """Return log-probabilities ``(N, U, V)`` of the token after each prefix of ``tokens (N, U)``."""
        return self._whole(tokens)[0]

    def start(self, histories: int) -> ExportedState:
        """Return the state of ``histories`` empty histories."""
        empty = (torch.zeros(histories, heads, 0, self._head_dim) for heads in self._heads for _ in range(2))
        return ExportedState(tuple(empty), torch.zeros(histories, dtype=torch.int64))

    def step(self, tokens: Tensor, state: ExportedState) -> tuple[Tensor, ExportedState]:
        """Read one more token ``(N,)`` per history; return log-probabilities ``(N, V)`` of the next, and the state."""
        log_probs, *caches = self._step(tokens, state.lengths, *state.caches)
        return log_probs, ExportedState(tuple(caches), state.lengths + 1)


class LanguageModelAgreement(NamedTuple):
    """How an exported language model compares with PyTorch's on the same sentences.

    Attributes:
        whole: largest difference of log-probabilities, relative to the largest log-probability.
        steps: the same for the step-wise form, compared with PyTorch on whole sentences.
        sentences: number of sentences that were compared.
        differing: indices, in order of comparison, of sentences whose greedy continuations differ.
    """

    whole: float
    steps: float
    sentences: int
    differing: list[int]


@torch.no_grad()
def agreement(model: TransformerLM, exported: ExportedLM, batches: Iterable[Tensor]) -> LanguageModelAgreement:
    """Compare log-probabilities and greedy continuations of tokens ``(N, U)``, batch by batch."""
    whole, steps, differing, count = Difference(), Difference(), list[int](), 0
    for tokens in batches:
        wanted = model.eval().log_probs(tokens)
        whole.add(exported.log_probs(tokens), wanted)
        steps.add(by_steps(exported, tokens)[0], wanted)
        ours, theirs = (continued(network, tokens[:, :_PREFIX], _CONTINUED) for network in (model, exported))
        differing += [count + row for row in range(len(tokens)) if not torch.equal(ours[row], theirs[row])]
        count += len(tokens)
    return LanguageModelAgreement(whole.relative, steps.relative, count, differing)


@torch.no_grad()
def by_steps(network: ReadsSteps, tokens: Tensor) -> tuple[Tensor, Any]:
    """Read tokens one by one; return log-probabilities ``(N, U, V)`` and the state after them.

    Args:
        network: network with ``start`` and ``step``: a `TransformerLM` or an `ExportedLM`.
        tokens: tokens ``(N, U)``, U at least 1.
    """
    state, found = network.start(len(tokens)), []
    for place in range(tokens.shape[1]):
        log_probs, state = network.step(tokens[:, place], state)
        found.append(log_probs)
    return torch.stack(found, dim=1), state


@torch.no_grad()
def continued(network: ReadsSteps, tokens: Tensor, length: int) -> Tensor:
    """Continue ``tokens (N, U)`` greedily by ``length`` tokens; return these ``(N, length)``."""
    log_probs, state = by_steps(network, tokens)
    found = [log_probs[:, -1].argmax(dim=1)]
    while len(found) < length:
        log_probs, state = network.step(found[-1], state)
        found.append(log_probs.argmax(dim=1))
    return torch.stack(found, dim=1)
