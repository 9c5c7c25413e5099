"""Batched greedy search for transducers with a stateless decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.speech.interfaces import SearchedNetwork, first_contexts


@torch.no_grad()
def greedy_search(model: SearchedNetwork, encoder_out: Tensor, lengths: Tensor) -> list[list[int]]:
    """Emit the best symbol of each frame given the symbols before it, at most one per frame.

    Args:
        model: network with decoder and joiner.
        encoder_out: (N, T, D).
        lengths: number of frames of each utterance, (N,).

    Returns:
        Token ids of each utterance, without blank.
    """
    blank, decoder, joiner = model.decoder.blank_id, model.decoder, model.joiner
    am = joiner.encoder_proj(encoder_out)
    context = first_contexts(decoder, am.size(0), device=am.device)
    lm = joiner.decoder_proj(decoder(context, pad=False)).squeeze(1)  # (N, J)
    best = torch.full(am.shape[:2], blank, dtype=torch.int64, device=am.device)
    for t in range(am.size(1)):
        symbol = joiner(am[:, t], lm, project=False).argmax(dim=1)
        emits = ((symbol != blank) & (t < lengths)).nonzero().squeeze(1)  # utterances whose context changes
        if emits.numel() == 0:
            continue
        symbol = symbol[emits]
        best[emits, t] = symbol
        context[emits] = torch.cat((context[emits, 1:], symbol.unsqueeze(1)), dim=1)
        lm[emits] = joiner.decoder_proj(decoder(context[emits], pad=False)).squeeze(1)
    return [row[row != blank].tolist() for row in best.cpu()]
