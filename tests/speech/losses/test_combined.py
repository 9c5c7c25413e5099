"""Transducer, CTC and distillation losses, compared with enumeration, the plain loss and k2."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruning.models.transducer import Joiner, StatelessDecoder
from pruning.speech.losses import combined
from pruning.speech.losses.ctc import ctc_loss
from pruning.speech.losses.lattice import lattice_score, symbol_windows
from pruning.speech.losses.pruned_range import (
    decoder_output,
    joiner_logits,
    pad_tokens,
    pruned_range_loss,
    symbol_ranges,
    transducer_loss,
)

BACKENDS = ["torch", pytest.param("k2", marks=pytest.mark.k2)]
SCALES = [(0.0, 0.0), (0.0, 0.25), (0.1, 0.0), (0.1, 0.2)]


class Network(torch.nn.Module):
    """A transducer without its encoder."""

    def __init__(self, vocab_size: int = 7, dim: int = 8) -> None:
        super().__init__()
        self.decoder = StatelessDecoder(vocab_size, dim, context_size=2)
        self.joiner = Joiner(dim, dim, dim, vocab_size)
        self.simple_am = torch.nn.Linear(dim, vocab_size)
        self.simple_lm = torch.nn.Linear(dim, vocab_size)
        self.ctc_head = torch.nn.Linear(dim, vocab_size)

    def ctc(self, encoder_out: Tensor) -> Tensor:
        return self.ctc_head(encoder_out).log_softmax(dim=-1)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(1)
    return Network()


def random_batch(
    lengths: list[int], target_lengths: list[int], vocab_size: int = 7, dim: int = 8, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return encoder output, lengths, targets, target lengths."""
    generator = torch.Generator().manual_seed(seed)
    tokens = [torch.randint(1, vocab_size, (n,), generator=generator).tolist() for n in target_lengths]
    encoder_out = torch.randn(len(lengths), max(lengths), dim, generator=generator)
    return encoder_out, torch.tensor(lengths), *pad_tokens(tokens, "cpu")


def alignments(frames: int, symbols: int) -> Iterator[list[bool]]:
    """Yield every order of blanks (False) and symbols (True) that reads all frames; the last is the closing blank."""
    for places in itertools.combinations(range(frames - 1 + symbols), symbols):
        yield [i in places for i in range(frames - 1 + symbols)] + [False]


def enumerated_loss(logits: Tensor, targets: list[int]) -> Tensor:
    """Return the loss of one utterance (T, U + 1, V) as the sum over all alignments."""
    log_probs, scores = logits.log_softmax(dim=-1), []
    for path in alignments(logits.size(0), len(targets)):
        t = u = 0
        score = logits.new_zeros(())
        for emits in path:
            score = score + log_probs[t, u, targets[u] if emits else 0]
            t, u = (t, u + 1) if emits else (t + 1, u)
        scores.append(score)
    return -torch.stack(scores).logsumexp(dim=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 1000))
def test_plain_loss_is_the_sum_over_alignments(frames: int, symbols: int, seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(1, frames, symbols + 1, 5, dtype=torch.float64)
    targets = torch.randint(1, 5, (1, symbols))
    loss = transducer_loss(logits, targets, torch.tensor([frames]), torch.tensor([symbols]))
    torch.testing.assert_close(loss, enumerated_loss(logits[0], targets[0].tolist()))


def arcs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of the next symbol (N, T, U) and of blank (N, T, U + 1) at each node."""
    log_probs = logits.log_softmax(dim=-1)
    index = targets[:, None, :, None].expand(-1, logits.size(1), -1, -1)
    return log_probs[:, :, :-1].gather(3, index).squeeze(3), log_probs[..., 0]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), min_size=1, max_size=4), st.integers(0, 1000))
def test_lattice_score_and_gradient_equal_the_plain_loss(sizes: list[tuple[int, int]], seed: int) -> None:
    lengths, target_lengths = (list(x) for x in zip(*sizes))
    _, frames, targets, symbols = random_batch(lengths, target_lengths, seed=seed)
    torch.manual_seed(seed)
    logits = torch.randn(len(sizes), max(lengths), targets.size(1) + 1, 7, dtype=torch.float64, requires_grad=True)
    score, emitted, blanked = lattice_score(*arcs(logits, targets), frames, symbols)
    plain = transducer_loss(logits, targets, frames, symbols)
    torch.testing.assert_close(-score.sum(), plain)
    torch.testing.assert_close(
        torch.autograd.grad(-score.sum(), logits)[0], torch.autograd.grad(plain, logits)[0], rtol=1e-6, atol=1e-7
    )
    # A path takes one blank per frame and each symbol once.
    t, u = torch.arange(max(lengths)), torch.arange(targets.size(1))
    torch.testing.assert_close(blanked.sum(dim=2), (t < frames.unsqueeze(1)).double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(emitted.sum(dim=1), (u < symbols.unsqueeze(1)).double(), rtol=1e-6, atol=1e-6)


def test_closed_arcs_leave_only_the_open_paths() -> None:
    emit = torch.full((1, 3, 2), -1.0, dtype=torch.float64)
    blank = torch.full((1, 3, 3), -0.5, dtype=torch.float64)
    emit[0, 0] = float("-inf")  # no symbol on the first frame
    blank[0, 1, 0] = float("-inf")  # the first symbol on frame 1 at the latest
    open_paths = 2  # both on frame 1, or one on frame 1 and one on frame 2
    score, _, _ = lattice_score(emit, blank, torch.tensor([3]), torch.tensor([2]))
    assert score.item() == pytest.approx(torch.log(torch.tensor(open_paths)).item() - 2 * 1.0 - 3 * 0.5)
    emit[0, 1] = float("-inf")
    score, _, _ = lattice_score(emit, blank, torch.tensor([3]), torch.tensor([2]))
    assert score.item() < -1e5


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=3),
    st.integers(2, 6),
    st.integers(0, 1000),
)
def test_windows_let_paths_through(sizes: list[tuple[int, int]], prune_range: int, seed: int) -> None:
    sizes = [(max(frames, symbols), symbols) for frames, symbols in sizes]
    frames, symbols = (torch.tensor(x) for x in zip(*sizes))
    torch.manual_seed(seed)
    width = max(1, int(symbols.max()))
    occupations = torch.rand(len(sizes), int(frames.max()), width), torch.rand(len(sizes), int(frames.max()), width + 1)
    ranges = symbol_windows(*occupations, frames, symbols, prune_range)
    size = min(prune_range, width + 1)
    assert ranges.shape == (len(sizes), int(frames.max()), size)
    assert (ranges.diff(dim=2) == 1).all()
    for n, (length, target_length) in enumerate(sizes):
        start = ranges[n, :length, 0]
        assert start[0] == 0
        assert ((start.diff() >= 0) & (start.diff() < size)).all()
        assert start[-1] <= target_length <= ranges[n, length - 1, -1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_range_over_all_symbols_gives_the_plain_loss(network: Network, backend: str) -> None:
    encoder_out, lengths, targets, target_lengths = random_batch([9, 7, 5], [4, 2, 0])
    encoder_out.requires_grad_()
    loss = pruned_range_loss(network, encoder_out, lengths, targets, target_lengths, prune_range=9, backend=backend)
    logits = network.joiner(encoder_out.unsqueeze(2), decoder_output(network, targets).unsqueeze(1))
    plain = transducer_loss(logits, targets, lengths, target_lengths)
    torch.testing.assert_close(loss.pruned, plain)
    parameters = [encoder_out, *network.joiner.parameters(), *network.decoder.parameters()]
    for mine, right in zip(torch.autograd.grad(loss.pruned, parameters), torch.autograd.grad(plain, parameters)):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-5)
    assert loss.logits.shape == (3, 9, 5, 7) and loss.ranges.shape == (3, 9, 5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_simple_loss_is_the_plain_loss_of_added_scores(network: Network, backend: str) -> None:
    encoder_out, lengths, targets, target_lengths = random_batch([6, 4], [3, 2])
    loss = pruned_range_loss(network, encoder_out, lengths, targets, target_lengths, backend=backend)
    lm = network.simple_lm(decoder_output(network, targets))
    added = network.simple_am(encoder_out).unsqueeze(2) + lm.unsqueeze(1)
    torch.testing.assert_close(loss.simple, transducer_loss(added, targets, lengths, target_lengths))


@pytest.mark.k2
@pytest.mark.parametrize("am_scale, lm_scale", SCALES)
@pytest.mark.parametrize("size", [([20, 13, 9], [12, 13, 1]), ([300, 150], [60, 40])])
def test_torch_and_k2_agree(
    network: Network, am_scale: float, lm_scale: float, size: tuple[list[int], list[int]]
) -> None:
    encoder_out, lengths, targets, target_lengths = random_batch(*size)
    encoder_out = (4 * encoder_out).requires_grad_()  # a peaked lattice has no ties in its windows
    found = {}
    for backend in ("torch", "k2"):
        loss = pruned_range_loss(
            network, encoder_out, lengths, targets, target_lengths, 4, am_scale, lm_scale, backend=backend
        )
        found[backend] = loss, torch.autograd.grad(loss.simple + loss.pruned, [encoder_out, *network.parameters()],
                                                   allow_unused=True)  # fmt: skip
    (mine, my_gradients), (theirs, their_gradients) = found["torch"], found["k2"]
    assert torch.equal(mine.ranges, theirs.ranges)
    torch.testing.assert_close(mine.simple, theirs.simple, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(mine.pruned, theirs.pruned, rtol=1e-5, atol=1e-3)
    for a, b in zip(my_gradients, their_gradients):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_utterance_with_more_symbols_than_frames_is_left_out(network: Network, backend: str) -> None:
    encoder_out, lengths, targets, target_lengths = random_batch([6, 2, 5], [3, 4, 2])
    encoder_out.requires_grad_()
    kept = torch.tensor([0, 2])
    loss = pruned_range_loss(network, encoder_out, lengths, targets, target_lengths, backend=backend)
    alone = pruned_range_loss(
        network, encoder_out[kept], lengths[kept], targets[kept], target_lengths[kept], backend=backend
    )
    assert loss.counted.tolist() == [True, False, True]
    torch.testing.assert_close(loss.pruned, alone.pruned)
    torch.testing.assert_close(loss.simple, alone.simple)
    (gradient,) = torch.autograd.grad(loss.simple + loss.pruned, encoder_out)
    assert (gradient[1] == 0).all() and (gradient[0] != 0).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_transcripts_cost_their_blanks(network: Network, backend: str) -> None:
    encoder_out, lengths, targets, target_lengths = random_batch([4, 3], [0, 0])
    loss = pruned_range_loss(network, encoder_out, lengths, targets, target_lengths, backend=backend)
    blank = network.joiner(encoder_out, decoder_output(network, targets)[:, :1]).log_softmax(dim=-1)[..., 0]
    torch.testing.assert_close(loss.pruned, -(blank[0, :4].sum() + blank[1, :3].sum()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_losses_are_float32_under_autocast(network: Network, backend: str) -> None:
    encoder_out, lengths, targets, target_lengths = random_batch([9, 7], [4, 2])
    exact = pruned_range_loss(network, encoder_out, lengths, targets, target_lengths, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = pruned_range_loss(network, encoder_out, lengths, targets, target_lengths, backend=backend)
    assert coarse.logits.dtype == torch.bfloat16
    assert coarse.pruned.dtype == coarse.simple.dtype == torch.float32
    torch.testing.assert_close(coarse.pruned, exact.pruned, rtol=0.02, atol=0.1)


def test_joiner_logits_are_those_of_the_full_lattice(network: Network) -> None:
    encoder_out, _, targets, _ = random_batch([5, 5], [4, 4])
    decoder_out = decoder_output(network, targets)
    full = network.joiner(encoder_out.unsqueeze(2), decoder_out.unsqueeze(1))  # (N, T, U + 1, V)
    ranges = torch.randint(0, 5, (2, 5, 3))
    expected = full.gather(2, ranges.unsqueeze(3).expand(-1, -1, -1, full.size(3)))
    torch.testing.assert_close(joiner_logits(network, encoder_out, decoder_out, ranges), expected)


@pytest.mark.parametrize("wrong", [{"backend": "cuda"}, {"prune_range": 1}])
def test_wrong_arguments_are_refused(network: Network, wrong: dict) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        pruned_range_loss(network, *random_batch([4], [2]), **wrong)


def test_loss_scales_follow_the_warmup() -> None:
    config = combined.LossConfig(simple_loss_scale=0.5, warmup_steps=100)
    assert config.scales(0) == (1.0, 0.1)
    assert config.scales(50) == pytest.approx((0.75, 0.55))
    assert config.scales(100) == config.scales(9999) == (0.5, 1.0)
    assert combined.LossConfig().scales(0) == (0.5, 1.0)


def test_recognition_loss_is_the_weighted_sum(network: Network) -> None:
    encoder_out, lengths, _, _ = random_batch([9, 2, 7], [4, 4, 2])
    tokens = [[1, 2, 3, 4], [1, 2, 3, 4], [5, 6]]
    config = combined.LossConfig(ctc_weight=0.3, backend="torch")
    loss = combined.recognition_loss(network, encoder_out, lengths, tokens, config, step=0)
    torch.testing.assert_close(loss.total, 0.5 * loss.simple + loss.pruned + 0.3 * loss.ctc)
    assert loss.counted.tolist() == [True, False, True] and loss.frames.item() == 16
    assert loss.target_lengths.tolist() == [4, 0, 2]
    without = combined.recognition_loss(
        network, encoder_out, lengths, tokens, combined.LossConfig(ctc_weight=0.0), step=0
    )
    assert without.ctc_log_probs is None and without.ctc.item() == 0.0


def test_ctc_loss_is_the_sum_over_alignments() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(1, 4, 3).log_softmax(dim=-1)
    paths = [p for p in itertools.product(range(3), repeat=4) if [k for k, _ in itertools.groupby(p) if k] == [1, 2]]
    expected = -torch.stack([sum(log_probs[0, t, k] for t, k in enumerate(p)) for p in paths]).logsumexp(dim=0)
    loss = ctc_loss(log_probs, torch.tensor([4]), torch.tensor([[1, 2]]), torch.tensor([2]))
    torch.testing.assert_close(loss, expected)
    assert ctc_loss(log_probs, torch.tensor([1]), torch.tensor([[1, 2]]), torch.tensor([2])).item() == 0.0


def test_a_batch_without_counted_utterances_has_a_differentiable_loss_of_0(network: Network) -> None:
    encoder_out, lengths, _, _ = random_batch([2, 3], [4, 4])
    tokens, config = [[1, 2, 3, 4]] * 2, combined.LossConfig(ctc_weight=0.3, backend="torch")
    loss = combined.recognition_loss(network, encoder_out, lengths, tokens, config, step=0)
    loss.total.backward()
    assert loss.ctc.item() == loss.total.item() == loss.frames.item() == 0
    assert network.ctc_head.weight.grad is not None and not network.ctc_head.weight.grad.any()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("full", [False, True])
def test_transducer_distillation_equals_the_sum_over_nodes(full: bool, temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 2, 5), torch.randn(2, 4, 2, 5)
    ranges = torch.tensor([[[0, 1], [0, 1], [1, 2], [2, 3]], [[0, 1], [0, 1], [0, 1], [0, 1]]])
    targets, lengths, target_lengths = torch.tensor([[1, 2, 4], [3, 0, 0]]), torch.tensor([4, 2]), torch.tensor([3, 1])
    expected = 0.0
    for n, t, r in itertools.product(range(2), range(4), range(2)):
        u = int(ranges[n, t, r])
        if t >= lengths[n] or u > target_lengths[n]:
            continue
        ps, pt = (logits[n, t, r].div(temperature).softmax(0) for logits in (student, teacher))
        classes = [0] if u == target_lengths[n] else [0, int(targets[n, u])]
        collapsed = [torch.stack([*(p[k] for k in classes), 1 - sum(p[k] for k in classes)]) for p in (pt, ps)]
        goal, ours = (pt, ps) if full else collapsed
        expected += temperature**2 * float((goal * (goal / ours).log()).sum())

    def loss(theirs: Tensor) -> float:
        sizes = ranges, targets, lengths, target_lengths
        return combined.transducer_distillation_loss(student, theirs, *sizes, full, temperature).item()

    assert loss(teacher) == pytest.approx(expected, rel=1e-5)
    assert loss(student) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_symbol_ranges_are_those_of_the_loss(network: Network, backend: str) -> None:
    encoder_out, lengths, targets, target_lengths = random_batch([20, 13, 9], [12, 13, 1])
    settings = 4, 0.1, 0.2, backend
    loss = pruned_range_loss(network, 4 * encoder_out, lengths, targets, target_lengths, *settings)
    decoder_out = decoder_output(network, targets)
    ranges = symbol_ranges(network, 4 * encoder_out, decoder_out, lengths, targets, target_lengths, *settings)
    assert torch.equal(ranges, loss.ranges)
