"""Estimate the cost of a run from a few timed steps: parameters, MACs, memory, steps and hours."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor

from pruning import clock, compat
from pruning.errors import UserError
from pruning.kinds.transducer import PruneConfig, RunConfig, TransducerKind
from pruning.methods.choice import new_pruner
from pruning.models.facts import frames_of, network_facts
from pruning.models.transducer import Transducer
from pruning.speech.data.augment import SpecAugment
from pruning.speech.data.batches import Batch
from pruning.tasks.transducer import Guidance, TransducerTask
from pruning.training import distributed
from pruning.training.optimiser import Optimiser
from pruning.training.task import StepInfo
from pruning.training.threads import set_threads

TOKENS_PER_SECOND = 3.5  # English read speech with some 500 word pieces; affects the loss's share of a step


@dataclass(frozen=True)
class Corpus:
    """Amount of training audio, speed-perturbed copies included."""

    hours: float
    utterances: int

    @property
    def mean_seconds(self) -> float:
        """Mean length of an utterance."""
        return 3600 * self.hours / self.utterances


@dataclass(frozen=True)
class RunPlan:
    """Estimate for one run.

    Attributes:
        name: name of the run.
        facts: parameters and MACs of the trained network (see `pruning.models.facts`).
        steps: number of optimiser steps.
        epochs: number of passes over the corpus in these steps.
        step_seconds: seconds per step, measured and scaled to a full batch.
        state_bytes: weights, gradients, optimiser moments, running average, and the teacher's weights.
        activation_bytes: what autograd keeps for the backward pass of a full batch, in float32; measured and scaled.
    """

    name: str
    facts: dict[str, Any]
    steps: int
    epochs: float
    step_seconds: float
    state_bytes: int
    activation_bytes: int

    @property
    def hours(self) -> float:
        """Estimated hours of the run."""
        return self.steps * self.step_seconds / 3600


def synthetic_batch(
    seconds: float, mean_seconds: float, vocab_size: int, feature_dim: int = 80, seed: int = 0
) -> Batch:
    """Return noise in the shape of speech: utterances of mean length, about ``seconds`` of audio in total."""
    generator = torch.Generator().manual_seed(seed)
    count = max(1, round(seconds / mean_seconds))
    frames = frames_of(mean_seconds)
    symbols = max(1, int(mean_seconds * TOKENS_PER_SECOND))
    tokens = torch.randint(1, vocab_size, (count, symbols), generator=generator)
    return Batch(
        features=torch.randn(count, frames, feature_dim, generator=generator),
        lengths=torch.full((count,), frames, dtype=torch.int64),
        tokens=tokens.tolist(),
        ids=[str(index) for index in range(count)],
        texts=[""] * count,
        seconds=count * mean_seconds,
    )


def saved_bytes(task: TransducerTask, batch: Batch, info: StepInfo) -> int:
    """Return the bytes that autograd saves in one forward pass, without parameters."""
    own = {compat.storage_id(tensor) for tensor in [*task.parameters(), *task.buffers()]}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if compat.storage_id(tensor) not in own:
            seen[compat.storage_id(tensor)] = compat.storage_bytes(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = task(batch, info)
    del loss
    return sum(seen.values())


def make_task(model: Transducer, config: RunConfig) -> TransducerTask:
    """Return the task of a run, with a randomly initialised teacher if one is needed (weights do not affect cost)."""
    guidance = Guidance(Transducer(model.config), config.distillation) if config.distillation.wanted else None
    augment = SpecAugment(config.data.spec_augment)
    if not isinstance(config, PruneConfig):
        return TransducerTask(model, config.loss, augment, guidance, chunks=config.chunks)
    TransducerKind.capabilities(model).check_technique(config.technique, TransducerKind.called)
    # low rank prunes a factored copy; the metric of the factorisation does not affect times or sizes
    pruner = new_pruner(model, config, config.trainer.seed)
    return TransducerTask(TransducerKind.own(pruner.network), config.loss, augment, guidance, pruner,
                          config.chunks)  # fmt: skip


def plan_run(
    name: str,
    model: Transducer,
    config: RunConfig,
    corpus: Corpus,
    processes: int = 1,
    timed_seconds: float = 30.0,
    timed_steps: int = 3,
    teacher: Optional[Transducer] = None,
) -> RunPlan:
    """Estimate a run by timing real steps on synthetic batches, of copies of the networks, which move and learn.

    Args:
        name: name of the run.
        model: the network to train.
        config: configuration of the run.
        corpus: amount of audio.
        processes: number of training processes, one device each.
        timed_seconds: seconds of audio in a timed batch; time and activations are scaled to ``data.max_duration``.
        timed_steps: number of timed steps, after one warm-up step; the median counts.
        teacher: teacher, if its dimensions differ from those of ``model``.

    Raises:
        UserError: the configuration sets neither a number of steps nor of epochs.
    """
    seconds = config.data.max_duration
    steps = steps_of(name, config, corpus, processes)
    task = make_task(copy.deepcopy(model), config)
    model = TransducerKind.own(task.model)  # low rank: the factored copy
    if teacher is not None and task.teacher is not None:
        task.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
    vocab_size, feature_dim = model.config.vocab_size, model.encoder.bins
    batch = synthetic_batch(min(timed_seconds, seconds), corpus.mean_seconds, vocab_size, feature_dim)
    scale = seconds / batch.seconds
    info = StepInfo(1, 0, steps, steps)
    activation = saved_bytes(task, batch, info)
    trained = sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in task.parameters() if not parameter.requires_grad)
    average = sum(parameter.numel() for parameter in model.parameters()) if config.trainer.average_period else 0
    return RunPlan(
        name=name,
        facts=network_facts(model),
        steps=steps,
        epochs=steps / _steps_per_epoch(config, corpus, processes),
        step_seconds=_time_steps(task, config, batch, info, timed_steps) * scale * config.trainer.accumulate,
        state_bytes=4 * (4 * trained + frozen + average),
        activation_bytes=int(activation * scale),
    )


def _steps_per_epoch(config: RunConfig, corpus: Corpus, processes: int) -> int:
    batches = math.ceil(3600 * corpus.hours / config.data.max_duration / processes)
    return math.ceil(batches / config.trainer.accumulate)


def steps_of(name: str, config: RunConfig, corpus: Corpus, processes: int) -> int:
    """Return the number of steps of a run; for the arguments, see `plan_run`.

    Raises:
        UserError: the configuration sets neither a number of steps nor of epochs.
    """
    ends = []
    if config.trainer.max_steps is not None:
        ends.append(config.trainer.max_steps)
    if config.trainer.num_epochs is not None:
        ends.append(config.trainer.num_epochs * _steps_per_epoch(config, corpus, processes))
    if not ends:
        raise UserError(f"the {name} run has no end", "set trainer.max_steps or trainer.num_epochs")
    return min(ends)


def _time_steps(task: TransducerTask, config: RunConfig, batch: Batch, info: StepInfo, count: int) -> float:
    """Return the median seconds of a whole step: forward, backward, update."""
    device = distributed.initialise(config.trainer.device).device
    set_threads(config.trainer.num_threads)
    task = task.to(device).train()
    batch = batch.to(device)
    optimiser = Optimiser(config.trainer.optimiser, config.trainer.schedule, task.parameter_groups(), task)
    enabled = config.trainer.amp != "none" and device.type == "cuda"  # on a CPU the timing uses float32
    dtype = torch.float16 if config.trainer.amp == "fp16" else torch.bfloat16
    times = []
    for _ in range(count + 1):
        began = clock.now(device)
        with torch.autocast(device.type, dtype=dtype, enabled=enabled):
            loss, _ = task(batch, info)
        loss.backward()
        optimiser.clip_gradients()
        optimiser.step()
        optimiser.zero_grad()
        times.append(clock.now(device) - began)
    return statistics.median(times[1:])


def table(plans: Sequence[RunPlan]) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows of the table of plans."""
    sizes = ["encoder", "model", "MACs at 10 s"]
    headers = ["run", *sizes, "steps", "epochs", "state", "activations", "s / step", "hours"]
    rows = [
        [
            plan.name,
            f"{plan.facts['encoder_parameters'] / 1e6:.2f} M",
            f"{plan.facts['parameters'] / 1e6:.2f} M",
            f"{plan.facts['macs_10s'] / 1e9:.2f} G",
            f"{plan.steps}",
            f"{plan.epochs:.1f}",
            f"{plan.state_bytes / 2**30:.2f} GiB",
            f"{plan.activation_bytes / 2**30:.1f} GiB",
            f"{plan.step_seconds:.2f}",
            f"{plan.hours:.1f}",
        ]
        for plan in plans
    ]
    return headers, rows
