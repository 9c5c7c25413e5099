"""Export of a transducer: to ONNX for the offline transducer of sherpa-onnx, and to TorchScript.

`encoder.onnx` takes ``x (N, T, C)`` and ``x_lens (N,)`` and returns ``encoder_out (N, T', J)``, already projected by
the joiner, and ``encoder_out_lens``; `decoder.onnx` takes ``y (N, context)`` and returns ``decoder_out (N, J)``;
`joiner.onnx` takes ``encoder_out (N, J)`` and ``decoder_out (N, J)`` and returns ``logit (N, V)``. Names and metadata
are those of icefall's ``export-onnx.py``.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from pruning.core.distillation import frame_mask
from pruning.errors import UserError
from pruning.files import PathLike
from pruning.kinds.exports import AUTHOR, Agreement, Calls, Difference, ExportedCall, Exports, Part, padded
from pruning.kinds.zipformer_streaming_export import streaming_transducer
from pruning.models.chunk import Chunk
from pruning.models.facts import frames_of
from pruning.models.transducer import Transducer
from pruning.speech.data import manifests
from pruning.speech.data.batches import Batch, evaluation_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.decoding.greedy import greedy_search

PARTS = ("encoder", "decoder", "joiner")
_TRACED_SECONDS = 5.0


def transducer_exports(model: Transducer) -> Exports:
    """Describe the export of a transducer with a plain encoder (see `pruning.core.prunable.plain`)."""

    def agree(calls: Calls, cuts: Optional[Path], max_batches: int) -> Agreement:
        batches = batches_of(model.encoder.bins, cuts, max_batches)
        same = agreement(model, ExportedTransducer(calls, "the export"), batches)
        return Agreement(same.difference, f"largest relative difference of outputs {same.difference:.1e}; "
                                          f"{len(same.differing)} of {same.utterances} greedy hypotheses "
                                          "differ")  # fmt: skip

    return Exports(parts(model.eval()), "encoder", ("tokens.txt",), agree)


def transducer_streams(model: Transducer, chunk: Chunk) -> Exports:
    """Describe the export of a transducer with a causal Zipformer as a stream.

    Raises:
        UserError: the network cannot compute such streams.
    """
    model = model.eval()
    around = {name: part for name, part in parts(model).items() if name != "encoder"}
    batches = partial(batches_of, model.encoder.bins)
    return streaming_transducer(model, chunk, around, batches, lambda calls: ExportedTransducer(calls, "the export"))


def batches_of(bins: int, cuts: Optional[Path], max_batches: int) -> Iterable[Batch]:
    """Return the first batches of cuts to compare on; without cuts, one of noise."""
    if cuts is None:
        return [noise(bins)]
    data = DataConfig(max_duration=100.0, num_workers=0)
    return itertools.islice(evaluation_batches(data, manifests.check_exists([cuts])), max_batches)


def noise(feature_dim: int, seconds: Sequence[float] = (2.0, 7.0, 3.3)) -> Batch:
    """Make a batch of noise utterances of several lengths, for comparison without speech."""
    lengths = torch.tensor([frames_of(value) for value in seconds])
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(seconds), int(lengths.max()), feature_dim, generator=generator)
    names = [f"noise-{index}" for index in range(len(seconds))]
    return Batch(features, lengths, [[] for _ in names], names, ["" for _ in names], sum(seconds))


class ExportedEncoder(nn.Module):
    """The encoder and the joiner's projection of its output."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.encoder, self.projection = model.encoder, model.joiner.encoder_proj
        self.shortest = model.encoder.shortest

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, T, C)``, ``(N,)`` -> ``(N, T', J)``, ``(N,)``."""
        encoded = self.encoder(padded(x, self.shortest), x_lens)
        return self.projection(encoded.output), encoded.lengths


class ExportedDecoder(nn.Module):
    """The decoder and the joiner's projection of its output."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.decoder, self.projection = model.decoder, model.joiner.decoder_proj

    def forward(self, y: Tensor) -> Tensor:
        """Contexts ``(N, context)`` int64 -> ``(N, J)``."""
        return self.projection(self.decoder(y, pad=False)).squeeze(1)


class ExportedJoiner(nn.Module):
    """The joiner without its projections."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.joiner = copy.deepcopy(model.joiner)
        self.joiner.encoder_proj = self.joiner.decoder_proj = nn.Identity()  # part of encoder and decoder

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """``(N, J)``, ``(N, J)`` -> logits ``(N, V)``."""
        return self.joiner(encoder_out, decoder_out, project=False)


def parts(model: Transducer) -> dict[str, Part]:
    """Describe encoder, decoder and joiner, with the metadata that sherpa-onnx reads and a few more."""
    config = model.config
    frames = frames_of(_TRACED_SECONDS)
    features = torch.randn(2, frames, config.dimensions.feature_dim, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([frames, frames * 3 // 4])
    contexts = torch.ones(2, config.context_size, dtype=torch.int64)
    joined = torch.zeros(2, config.joiner_dim)
    n, n_t = {0: "N"}, {0: "N", 1: "T"}
    zipformer = config.zipformer is not None
    model_type = "zipformer2" if zipformer else "conformer"
    common = {**AUTHOR, "comment": f"pruned {'Zipformer' if zipformer else 'Conformer'} transducer"}
    return {
        "encoder": Part(
            ExportedEncoder(model), (features, lengths), {"x": n_t, "x_lens": n},
            {"encoder_out": n_t, "encoder_out_lens": n},
            {"model_type": model_type, "feature_dim": str(config.dimensions.feature_dim), **common},
            per_channel=zipformer,
        ),
        "decoder": Part(
            ExportedDecoder(model), (contexts,), {"y": n}, {"decoder_out": n},
            {"context_size": str(config.context_size), "vocab_size": str(config.vocab_size), **common},
        ),
        "joiner": Part(
            ExportedJoiner(model), (joined, joined), {"encoder_out": n, "decoder_out": n}, {"logit": n},
            {"joiner_dim": str(config.joiner_dim), **common},
        ),
    }  # fmt: skip


class Encoded(NamedTuple):
    """Output of an encoder, projected to the joiner's dimension: ``(N, T', J)`` and ``(N,)``."""

    output: Tensor
    lengths: Tensor


class _Decoder:
    blank_id = 0

    def __init__(self, part: ExportedCall, context_size: int, vocab_size: int) -> None:
        self._part, self.context_size, self.vocab_size = part, context_size, vocab_size

    def __call__(self, tokens: Tensor, pad: bool) -> Tensor:
        """``(N, U) -> (N, U', J)``, already projected."""
        if pad:
            tokens = torch.nn.functional.pad(tokens, (self.context_size - 1, 0), value=-1)
        contexts = tokens.unfold(1, self.context_size, 1)  # (N, U', context)
        (output,) = self._part(contexts.flatten(0, 1).contiguous())
        return output.view(*contexts.shape[:2], -1)


class _Joiner:
    def __init__(self, part: ExportedCall) -> None:
        self._part = part

    @staticmethod
    def encoder_proj(encoder_out: Tensor) -> Tensor:
        """Return the argument: the exported encoder includes the projection."""
        return encoder_out

    @staticmethod
    def decoder_proj(decoder_out: Tensor) -> Tensor:
        """Return the argument: the exported decoder includes the projection."""
        return decoder_out

    def __call__(self, encoder_out: Tensor, decoder_out: Tensor, project: bool = True) -> Tensor:
        encoder_out, decoder_out = torch.broadcast_tensors(encoder_out, decoder_out)
        width = encoder_out.shape[-1]
        (logits,) = self._part(encoder_out.reshape(-1, width), decoder_out.reshape(-1, width))
        return logits.view(*encoder_out.shape[:-1], -1)


class ExportedTransducer:
    """Encoder, decoder and joiner from exported files, with the interface that searches use.

    Args:
        calls: exported files, by name.
        source: where the files come from, for messages.

    Attributes:
        decoder, joiner: see `pruning.speech.interfaces.SearchedNetwork`.
        feature_dim: bins per frame.

    Raises:
        UserError: a file lacks metadata.
    """

    def __init__(self, calls: Calls, source: PathLike) -> None:
        self._encoder = calls["encoder"]
        try:
            self.feature_dim = int(calls["encoder"].metadata["feature_dim"])
            of_decoder = calls["decoder"].metadata
            context_size, vocab_size = (int(of_decoder[key]) for key in ("context_size", "vocab_size"))
        except (KeyError, ValueError) as error:
            raise UserError(f"{source} lacks metadata ({error})", "export it again") from None
        self.decoder, self.joiner = _Decoder(calls["decoder"], context_size, vocab_size), _Joiner(calls["joiner"])

    def encoder(self, features: Tensor, lengths: Tensor) -> Encoded:
        """``(N, T, C)``, ``(N,)`` -> projected output and lengths."""
        output, frames = self._encoder(features, lengths)
        return Encoded(output, frames)


class TransducerAgreement(NamedTuple):
    """How an exported network compares with PyTorch's on the same features.

    Attributes:
        difference: largest difference of projected encoder outputs on valid frames, relative to the largest output.
        utterances: number of utterances that were compared.
        differing: ids of utterances whose greedy hypotheses differ.
    """

    difference: float
    utterances: int
    differing: list[str]


@torch.no_grad()
def agreement(model: Transducer, exported: ExportedTransducer, batches: Iterable[Batch]) -> TransducerAgreement:
    """Compare outputs and greedy hypotheses, batch by batch; the difference is infinite if lengths differ."""
    difference, differing, count = Difference(), list[str](), 0
    for batch in batches:
        encoded = model.eval()(batch.features, batch.lengths)
        wanted = model.joiner.encoder_proj(encoded.output)
        got = exported.encoder(batch.features, batch.lengths)
        count += len(batch.ids)
        if got.output.shape[1] < wanted.shape[1] or not torch.equal(got.lengths, encoded.lengths):
            return TransducerAgreement(math.inf, count, list(batch.ids))
        valid = frame_mask(encoded.lengths, wanted.shape[1])
        difference.add(got.output[:, : wanted.shape[1]][valid], wanted[valid])  # empty if there are fewer than 7 frames
        pairs = zip(
            batch.ids,
            greedy_search(model, encoded.output, encoded.lengths),
            greedy_search(exported, got.output, got.lengths),
        )
        differing += [name for name, ours, theirs in pairs if ours != theirs]
    return TransducerAgreement(difference.relative, count, differing)
