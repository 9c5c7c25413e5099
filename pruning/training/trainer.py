"""The training loop of every task: teacher training, pruning and fine-tuning differ only in their :class:`Task`.

A run that is stopped at any time, even by SIGKILL, and started again with the same command ends with the weights of an
uninterrupted run, bit for bit on a CPU with the same number of threads. This holds because positions are counted
instead of kept in generators, all randomness of a batch is seeded from (seed, epoch, batch, rank), and states are
written by rename.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Optional

import torch

from pruning import compat, processor
from pruning.configuration import to_dict
from pruning.errors import UserError
from pruning.experiments import checkpoint, directory
from pruning.experiments.average import RunningAverage
from pruning.experiments.state import TrainingState, load_state, save_state
from pruning.files import PathLike, write_json
from pruning.training import distributed
from pruning.training.interruption import StopRequest
from pruning.training.optimiser import Optimiser
from pruning.training.progress import Reporter, TermAverage
from pruning.training.seeding import seed_everything
from pruning.training.task import StepInfo, Task
from pruning.training.threads import set_threads
from pruning.training.trainer_config import TrainerConfig

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a task, and resumes an interrupted run automatically.

    Args:
        config: settings of the training loop.
        task: task to train, on the CPU; its initial weights must be the same in each run and process (seed before
            building it).
        train_batches: ``train_batches(epoch, skip)`` returns the batches of an epoch (from 1) after the first ``skip``;
            they must be the same for the same arguments, and equally many in each process. A batch may have
            ``to(device)`` and ``seconds`` (of audio).
        dev_batches: ``dev_batches()`` returns this process's share of the dev set; None: no validation.
        exp_dir: experiment directory for checkpoints, state and logs; the run is resumed if it contains a state.
        header: header entries for the checkpoints; ``header["model"]`` describes the network.
        configuration: configuration of the whole command as a plain dictionary, stored as ``config.yaml`` and compared
            on resume; default: ``config`` alone.
        defaults: default values of ``configuration``, for keys that did not exist when the run was started.
        inputs: other inputs that the weights depend on, by name, compared on resume.
        steps_per_epoch: number of batches of an epoch per process, from which the schedule gets its end; None if
            unknown.
        world: result of :func:`distributed.initialise`; by default it is called here.
        at_end: called by the main process after the last step, before the experiment is marked as done.

    Raises:
        UserError: the configuration cannot be used, or differs from that of the interrupted run.
    """

    def __init__(
        self,
        config: TrainerConfig,
        *,
        task: Task,
        train_batches: Callable[[int, int], Iterable[Any]],
        dev_batches: Optional[Callable[[], Iterable[Any]]] = None,
        exp_dir: PathLike,
        header: Mapping[str, Any],
        configuration: Optional[Mapping[str, Any]] = None,
        defaults: Optional[Mapping[str, Any]] = None,
        inputs: Optional[Mapping[str, Any]] = None,
        steps_per_epoch: Optional[int] = None,
        world: Optional[distributed.World] = None,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        self.world = world or distributed.initialise(config.device)
        config.check(self.world.device)
        set_threads(config.num_threads)
        self.exp_dir = Path(exp_dir)
        self.at_end = at_end
        self.header = dict(header)
        self.train_batches = train_batches
        self.dev_batches = dev_batches
        self.total_steps = config.total_steps(steps_per_epoch)
        config.schedule.check(self.total_steps)
        self._configuration = dict(configuration) if configuration is not None else to_dict(config)
        self._began_with = {"processes": self.world.size, "inputs": dict(inputs or {})}
        if self.world.device.type == "cpu":
            self._began_with.update(processor.to_share())
        directory.check_unchanged(self.exp_dir, self._configuration, self._began_with, defaults)

        self.task = task.to(self.world.device)
        self.optimiser = Optimiser(config.optimiser, config.schedule, task.parameter_groups(), task)
        self.task.attach_moments(self.optimiser.state)
        self.average = RunningAverage(task.model) if config.average_period else None
        self.scaler = compat.grad_scaler(self.world.device.type, enabled=config.amp == "fp16")
        self.terms = TermAverage()
        self.epoch, self.batch, self.step = 1, 0, 0
        self.best: Optional[float] = None
        self.skipped, self.skipped_in_a_row = 0, 0
        self._initial_averaging_key = task.averaging_key(self._info())
        self._metrics_size = 0
        self.gradient_norm = 0.0
        self._audio_seconds = 0.0
        self._logged_at = self._state_saved_at = time.monotonic()
        self._validated_at: Optional[int] = None  # step
        self._seconds_before, self._began = 0.0, time.monotonic()  # of earlier, interrupted parts of the run

    @property
    def finished(self) -> bool:
        """Whether all epochs or steps are done, and the end of the last epoch, complete or not, was processed."""
        past_epochs = self.config.num_epochs is not None and self.epoch > self.config.num_epochs
        return past_epochs or (self._out_of_steps and self.batch == 0)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, validation included; steps that an interruption lost do not count."""
        return self._seconds_before + time.monotonic() - self._began

    @property
    def _out_of_steps(self) -> bool:
        return self.config.max_steps is not None and self.step >= self.config.max_steps

    def run(self) -> None:
        """Train to the end, from the saved state if there is one; do nothing if the experiment is done.

        Raises:
            UserError: the gradient was not finite for too many steps in a row, there is no training data, or the task
                needs a best checkpoint and none was eligible.
            SystemExit: with status 75 after SIGTERM, once the state is saved.
        """
        if directory.is_done(self.exp_dir):
            logger.info("%s is already done", self.exp_dir)
            return
        with directory.locked(self.exp_dir) if self.world.is_main else nullcontext():
            self._run()
        self.world.barrier()

    def _run(self) -> None:
        """Train from the state, if there is one, to the end, and mark the experiment as done."""
        resumed = self._resume()
        if self.world.is_main:
            directory.prepare(self.exp_dir, self._configuration, self._began_with)
        self.world.barrier()
        module = self.world.wrap(self.task, self.config.find_unused_parameters)
        self.reporter = Reporter(
            self.exp_dir, self.step, self.total_steps, self._metrics_size, self.config.tensorboard, self.world.is_main
        )
        if self.world.is_main and processor.KEY in self._began_with and (explanation := processor.explanation()):
            logger.info("%s", explanation)
        logger.info(
            "%s %s: epoch %d, batch %d, step %d",
            "resuming" if resumed else "starting",
            self.exp_dir,
            self.epoch,
            self.batch,
            self.step,
        )
        self._logged_at = self._state_saved_at = self._began = time.monotonic()
        try:
            with StopRequest() as stop:
                while not self.finished:
                    self._run_epoch(module, stop)
        finally:
            self.reporter.close()
        self._check_selected()
        if self.world.is_main:
            self.at_end()
            ended = {"epoch": self.epoch - 1, "step": self.step, "seconds": round(self.seconds, 1)}
            write_json(self.exp_dir / directory.DONE, ended)

    def _check_selected(self) -> None:
        """Check for a best checkpoint before the run is marked as done, so that every restart reports its absence."""
        if self.dev_batches is None or self.best is not None:
            return
        wrong = self.task.unselected(self._info(training=False))
        if wrong is not None:
            raise UserError(f"{self.exp_dir} has no best checkpoint: {wrong.what}", wrong.remedy)
        if self.world.is_main:
            logger.warning("%s has no best checkpoint: no validation gave an eligible one", self.exp_dir)

    def _run_epoch(self, module: torch.nn.Module, stop: StopRequest) -> None:
        """Train the rest of the current epoch, then process its end: validation, checkpoints, state."""
        self.task.train()
        steps_before, nothing_yet = self.step, self.batch == 0
        batches = iter(self.train_batches(self.epoch, self.batch))
        while not self._out_of_steps:
            group = list(itertools.islice(batches, self.config.accumulate))
            if not group:
                break
            self._train_step(module, group)
            self._after_step()
            self._save_if_due(stop)
        if nothing_yet and self.step == steps_before:
            raise UserError(f"epoch {self.epoch} has no training batches", "check the training cuts and their filters")
        self._end_epoch()
        if not self.finished:
            self._leave_if_asked(stop)

    def _leave_if_asked(self, stop: StopRequest) -> None:
        """Save the state and exit if any process was asked to stop."""
        if self.world.any(stop.signal is not None):
            self._leave(stop)

    def _save_if_due(self, stop: StopRequest) -> None:
        """Save the state after a step if due by steps or by the main process's clock; also exit if asked to stop."""
        config = self.config
        waited = self.world.is_main and time.monotonic() - self._state_saved_at >= config.state_interval_seconds > 0
        asked, timed = self.world.sum([float(stop.signal is not None), float(waited)])  # all processes save together
        if asked:
            self._leave(stop)
        if timed or (config.state_interval and self.step % config.state_interval == 0):
            self._save_state()

    def _leave(self, stop: StopRequest) -> None:
        self._save_state()
        self.world.barrier()  # a launcher kills the others soon after the first one has exited
        logger.info(
            "asked to stop: the state after step %d is saved; run the same command again to continue", self.step
        )
        stop.leave()

    def _train_step(self, module: torch.nn.Module, group: list[Any]) -> None:
        """Make one optimiser step over a group of batches; if its gradient is not finite, leave no trace of it."""
        info = self._info()
        self.optimiser.set_learning_rates(self.step, self.epoch, self.total_steps)
        self.task.before_step(info)
        buffers = self._trained_buffers()
        before = [buffer.clone() for buffer in buffers]
        gathered = []
        for index, batch in enumerate(group):
            info = self._info()
            seed_everything(self.config.seed, self.epoch, self.batch, self.world.rank)
            last = index + 1 == len(group)
            with nullcontext() if last or self.world.size == 1 else module.no_sync():  # type: ignore[operator]
                loss, terms = self._forward(module, batch, info)
                self.scaler.scale(loss / len(group)).backward()
            gathered.append({"loss": loss.detach(), **terms})
            self._audio_seconds += float(getattr(batch, "seconds", 0.0))
            self.batch += 1
        self.optimiser.unscale(self.scaler)
        self.gradient_norm, finite = self.optimiser.clip_gradients()
        if finite:
            self.task.after_backward(info, self.optimiser.learning_rates())
            self.optimiser.step(self.scaler)
            for terms in gathered:
                self.terms.add(terms)
        else:
            with torch.no_grad():
                for buffer, value in zip(buffers, before):  # undo updates of running statistics
                    buffer.copy_(value)
        self.scaler.update()
        self.optimiser.zero_grad()
        self.step += 1
        self._count_skipped(finite)
        self._keep_snapshot(info)
        self.task.after_step(info)

    def _trained_buffers(self) -> list[torch.Tensor]:
        """Return the buffers of the task that a forward pass may change: all but those of frozen modules."""
        frozen = tuple(f"{name}." for name in self.task.frozen_modules)
        return [buffer for name, buffer in self.task.named_buffers() if not name.startswith(frozen)]

    def _keep_snapshot(self, info: StepInfo) -> None:
        """Write a checkpoint if the task asks for one."""
        name = self.task.snapshot_due(info)
        if name is not None and self.world.is_main:
            checkpoint.save_model(checkpoint.snapshot_path(self.exp_dir, name), self.task.model, self._header())

    def _forward(self, module: torch.nn.Module, batch: Any, info: StepInfo) -> Any:
        batch = self.world.take(batch)
        dtype = torch.float16 if self.config.amp == "fp16" else torch.bfloat16
        with torch.autocast(self.world.device.type, dtype=dtype, enabled=self.config.amp != "none"):
            return module(batch, info)

    def _count_skipped(self, finite: bool) -> None:
        if finite:
            self.skipped_in_a_row = 0
            return
        self.skipped += 1
        self.skipped_in_a_row += 1
        logger.warning("epoch %d, batch %d: gradient not finite, step skipped", self.epoch, self.batch - 1)
        if self.skipped_in_a_row >= self.config.max_skipped_steps:
            raise UserError(
                f"{self.exp_dir}: the gradient was not finite for {self.skipped_in_a_row} steps in a row, the last in "
                f"epoch {self.epoch}, batch {self.batch - 1}",
                "lower the learning rate, lengthen the warm-up or use amp=none, and start again in a new --exp-dir",
            )

    def _after_step(self) -> None:
        """Do what is due after a step: average, log, validation, checkpoint (a state saved later includes them)."""
        config = self.config
        if self.average is not None and self.step % config.average_period == 0:
            self.average.update(self.task.model)
        self.reporter.advance()
        if self.step % config.log_interval == 0:
            self._log()
        if config.valid_interval and self.step % config.valid_interval == 0:
            self._validate()
        if config.save_interval and self.step % config.save_interval == 0 and self.world.is_main:
            checkpoint.save_model(checkpoint.batch_path(self.exp_dir, self.step), self.task.model, self._header())
            directory.rotate_batch_checkpoints(self.exp_dir, config.keep_last_k)

    def _log(self) -> None:
        values = self.terms.means(self.world)
        now = time.monotonic()
        (audio,) = self.world.sum([self._audio_seconds])
        rate = audio / max(now - self._logged_at, 1e-9)
        self._audio_seconds, self._logged_at = 0.0, now
        for name, rate_of_group in self.optimiser.learning_rates().items():
            values[f"lr/{name}"] = rate_of_group
        values.update({"gradient_norm": self.gradient_norm, "skipped": float(self.skipped)})
        values.update(self.task.log_values(self._info(training=False)))
        if audio:
            values["audio_seconds_per_second"] = rate
        if self.scaler.is_enabled():
            values["loss_scale"] = self.scaler.get_scale()
        self.reporter.report("train", self._position(), values)

    @torch.no_grad()
    def _validate(self) -> None:
        """Compute the terms on the dev set, and write the best checkpoint if they are the best so far."""
        if self.dev_batches is None:
            return
        began = time.monotonic()
        self.world.broadcast_buffers(self.task)
        self.task.eval()
        terms = TermAverage()
        info = self._info(training=False)
        seed_everything(self.config.seed, self.epoch, self.batch, self.world.rank)
        batches = 0
        for batch in self.dev_batches():
            batches += 1
            loss, of_batch = self._forward(self.task, batch, info)
            terms.add({"loss": loss, **of_batch})
        self.task.train()
        means = terms.means(self.world)
        (total,) = self.world.sum([float(batches)])
        if not total:
            raise UserError("the dev set has no batches", "check the dev data and their filters")
        if not means:
            what = f"{self.exp_dir}: no utterance of the dev set has a finite loss at step {self.step}"
            raise UserError(
                what,
                "check the dev cuts; if the training losses are not finite either, lower the learning rate "
                "or use amp=none, and start again in a new --exp-dir",
            )
        if self.task.selection_term not in means:
            raise ValueError(f"the task selects by {self.task.selection_term!r} but returns {sorted(means)}")
        self.reporter.report("dev", self._position(), {**means, **self.task.log_values(self._info(training=False))})
        value = means[self.task.selection_term]
        if math.isfinite(value) and (self.best is None or value < self.best) and self.task.may_select(info):
            self.best = value
            if self.world.is_main:
                header = {**self._header(), "dev": means}
                checkpoint.save_model(checkpoint.best_path(self.exp_dir), self.task.model, header)
        self._validated_at = self.step
        self._logged_at += time.monotonic() - began  # do not count validation as training time

    def _end_epoch(self) -> None:
        if self._validated_at != self.step:
            self._validate()
        if self.world.is_main:
            header = self._header()
            checkpoint.save_model(checkpoint.epoch_path(self.exp_dir, self.epoch), self.task.model, header)
            if self.average is not None and self.average.updates:
                path = checkpoint.epoch_average_path(self.exp_dir, self.epoch)
                checkpoint.save_weights(path, self.average.tensors, header)
        if self.total_steps is None and self.config.num_epochs is not None:
            self.reporter.expect(self.step * self.config.num_epochs // self.epoch)
        self.epoch, self.batch = self.epoch + 1, 0
        self._save_state()

    def _info(self, training: bool = True) -> StepInfo:
        return StepInfo(self.epoch, self.batch, self.step, self.total_steps, training)

    def _position(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch, "step": self.step}

    def _header(self) -> dict[str, Any]:
        return {
            **self.header,
            **self._position(),
            "average_updates": self.average.updates if self.average is not None else 0,
            "averaging_key": self.task.averaging_key(self._info()),
            "initial_averaging_key": self._initial_averaging_key,
            **self.task.extra_metadata(),
        }

    def _save_state(self) -> None:
        self._state_saved_at = time.monotonic()
        terms = self.world.gather(self.terms.state())
        if not self.world.is_main:
            return
        self.reporter.flush()
        tensors = {f"task.{name}": tensor for name, tensor in self.task.trained_state().items()}
        tensors.update({f"optimiser.{name}": tensor for name, tensor in self.optimiser.tensors().items()})
        numbers: dict[str, Any] = {
            "step": self.step,
            "best": self.best,
            "validated_at": self._validated_at,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "terms": terms,
            "metrics_size": self.reporter.metrics_size,
            "seconds": round(self.seconds, 1),
            "scaler": self.scaler.state_dict(),
            "task": self.task.python_state(),
        }
        if self.average is not None:
            tensors.update({f"average.{name}": tensor for name, tensor in self.average.tensors.items()})
            numbers["average_updates"] = self.average.updates
        save_state(directory.state_dir(self.exp_dir), TrainingState(self.epoch, self.batch, tensors, numbers))

    def _resume(self) -> bool:
        path = directory.resumable_state(self.exp_dir)
        if path is None:
            return False
        state = load_state(path)
        numbers = state.numbers
        checkpoint.load_weights(self.task, {**self.task.state_dict(), **state.part("task")}, path)
        self.optimiser.load_tensors(state.part("optimiser"))
        if self.average is not None:
            self.average.load(state.part("average"), numbers["average_updates"])
        self.epoch, self.batch, self.step = state.epoch, state.batch, numbers["step"]
        self.best, self._metrics_size = numbers["best"], numbers["metrics_size"]
        self._seconds_before = numbers.get("seconds", 0.0)  # missing in states of older versions
        self._validated_at = numbers.get("validated_at")  # missing in states of older versions
        self.skipped, self.skipped_in_a_row = numbers["skipped"], numbers["skipped_in_a_row"]
        # older versions: only rank 0's
        terms = numbers["terms"] if isinstance(numbers["terms"], list) else [numbers["terms"]]
        self.terms.load_state(terms[self.world.rank] if self.world.rank < len(terms) else {})
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(numbers["scaler"])
        self.task.load_python_state(numbers["task"])
        return True
