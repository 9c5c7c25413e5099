"""Estimate what the training runs of a recipe will cost, from a few timed steps, before any run is started.

State and activations are per device, in float32 (bf16 halves most activations). The size of the corpus is read from the
cuts if they exist, otherwise taken from LibriSpeech's published sizes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from pruning.bin import arguments, command, finetune, prune, train
from pruning.core.names import COSTS
from pruning.errors import UserError
from pruning.limits import COUNT, NON_NEGATIVE, Range
from pruning.provenance import processor_name
from pruning.speech.corpora.sizes import librispeech_size

if TYPE_CHECKING:
    from pruning.kinds.kind import Kind
    from pruning.kinds.transducer import RunConfig
    from pruning.measure.plan import Corpus, RunPlan
    from pruning.models.transducer import Transducer


class _Run(NamedTuple):
    """A run of a recipe.

    Attributes:
        option: beginning of its options here.
        settings: function of its command that returns kind and configuration.
        example: example of its options and settings.
        needs: options that its command cannot do without, and that do not matter here.
    """

    option: str
    settings: Callable[[Sequence[str]], tuple[type[Kind[Any]], Any]]
    example: str
    needs: tuple[str, ...] = ()


TEACHER, PRUNING, FINE_TUNING, UNIFORM, FURTHER = "teacher", "pruning", "fine-tuning", "uniform", "uniform-further"
RUNS = (TEACHER, PRUNING, FINE_TUNING, UNIFORM, FURTHER)
_OF_RUN = {
    TEACHER: _Run("teacher", train.settings, "trainer.num_epochs=30"),
    PRUNING: _Run("prune", prune.settings, "--method taylor constraint.size=0.7"),
    FINE_TUNING: _Run("finetune", finetune.settings, "trainer.accumulate=8", ("--init", ".")),
    UNIFORM: _Run("uniform", train.settings, "trainer.accumulate=8"),
}
_FROM = {FURTHER: UNIFORM}  # a uniform network with as many steps as pruning and fine-tuning have together
_NO_DATA = ("--exp-dir", ".", "--lang-dir", ".", "--train-cuts", ".", "--dev-cuts", ".")


def _corpus(paths: Optional[Sequence[str]], parts: Optional[Sequence[str]], copies: int) -> tuple[Corpus, str]:
    """Return the size of the training data and its source in words."""
    from pruning.measure.plan import Corpus
    from pruning.speech.data import contents

    if paths and all(Path(path).exists() for path in paths):
        found = [contents.describe(path) for path in paths]
        count = sum(part.cuts for part in found)
        if not count:
            raise UserError(f"{', '.join(map(str, paths))} contain no cuts", "run the feature stage")
        return Corpus(contents.total_hours(found), count), "cuts"
    if not parts:
        missing = [path for path in paths or [] if not Path(path).exists()] or ["the training cuts"]
        raise UserError(f"{' '.join(missing)} do not exist", "run the feature stage, or give --parts")
    hours, count = librispeech_size(parts)
    return Corpus(hours * copies, count * copies), "published sizes" + (f", {copies} speeds" if copies > 1 else "")


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    options = _options(argv)

    from pruning.reports import document

    corpus, source = _corpus(options.train_cuts, options.parts, options.copies)
    about = [
        f"training data: {corpus.hours:.1f} h, {corpus.utterances} utterances ({source})",
        f"timed on {_device()}, {options.processes} process(es); hours assume that all devices are like it",
    ]
    configs = _configs(options)
    dense = _dense(options, configs)
    print("\n".join(about), flush=True)
    plans = _plans(options, dense, configs, corpus)
    total = f"total {sum(plan.hours for plan in plans):.1f} hours; pruned networks count as uniform ones of target size"
    print(_tabulated(plans, "simple"), total, sep="\n")
    if options.output is not None:
        body = "\n\n".join([".\n".join(about) + ".", _tabulated(plans, "pipe"), total.capitalize() + "."])
        document.write_section(options.output, options.title, body, "pruning.bin.plan", argv)


def _options(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = arguments.parser(__doc__ or "")
    for name, run in _OF_RUN.items():
        parser.add_argument(f"--{run.option}-config", help=f"configuration of the run {name}")
        parser.add_argument(f"--{run.option}-args", default="", metavar="WORDS",
                            help=f"options and settings of the run {name}, in one word: "
                            f"--{run.option}-args=\"{run.example}\"")  # fmt: skip
    parser.add_argument(
        "--teacher", help="checkpoint or experiment directory of a dense network, which is pruned instead of a teacher "
        "that is trained with --teacher-config"
    )  # fmt: skip
    parser.add_argument("--runs", nargs="+", choices=RUNS, metavar="RUN",
                        help=f"runs to plan, of {', '.join(RUNS)}; default: those with a configuration")  # fmt: skip
    parser.add_argument("--train-cuts", nargs="+", help="cut manifests for training")
    parser.add_argument("--parts", nargs="+", help="LibriSpeech parts, used if the cuts do not exist yet")
    parser.add_argument(
        "--copies", type=COUNT.parse, default=1, help="with --parts: number of speeds of speed perturbation"
    )
    parser.add_argument(
        "--lang-dir", help="lang dir, which gives the vocabulary size; without it, --vocab-size is used"
    )
    parser.add_argument(
        "--vocab-size",
        type=Range(int, least=2).parse,
        default=500,
        help="number of word pieces, used if --lang-dir does not exist yet",
    )
    parser.add_argument(
        "--processes", type=COUNT.parse, default=1, help="number of training processes, each with one device"
    )
    help_text = "seconds of audio in a timed batch; times are scaled to data.max_duration"
    parser.add_argument("--timed-seconds", type=NON_NEGATIVE.parse, default=30.0, help=help_text)
    parser.add_argument("--output", help="also write the plan to this Markdown file")
    parser.add_argument("--title", default="Plan", help="heading of that file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the teacher, as --teacher-args")
    options = arguments.parse_run(parser, argv)
    if (options.teacher_config is None) == (options.teacher is None):
        raise UserError("no dense network given, or two", "give exactly one of --teacher-config and --teacher")
    options.teacher_args = " ".join([options.teacher_args, *options.overrides])
    wanted = _needed(options.runs or ())
    for name, run in _OF_RUN.items():
        if getattr(options, f"{run.option}_config") is not None:
            continue
        if name in wanted:
            raise UserError(f"the run {name} has no configuration", f"give --{run.option}-config")
        if getattr(options, f"{run.option}_args").strip():
            raise UserError(f"--{run.option}-args has no effect without --{run.option}-config", "give both or none")
    return options


def _needed(runs: Collection[str]) -> set[str]:
    """Return the runs whose configurations some runs need."""
    needed = {_FROM.get(name, name) for name in runs}
    return needed | ({PRUNING, FINE_TUNING} if FURTHER in runs else set())


def _configs(options: argparse.Namespace) -> dict[str, RunConfig]:
    """Return the configurations of the wanted runs, and those that tell the sizes of networks."""
    wanted = _needed(options.runs or _OF_RUN) | {TEACHER, PRUNING}
    given = [name for name, run in _OF_RUN.items() if getattr(options, f"{run.option}_config") is not None]
    return {name: _config(options, name) for name in given if name in wanted}


def _config(options: argparse.Namespace, name: str) -> RunConfig:
    """Return the configuration of a run, with its settings, as its command reads it."""
    from pruning.kinds.transducer import TransducerKind

    run = _OF_RUN[name]
    path, words = (getattr(options, f"{run.option}_{part}") for part in ("config", "args"))
    kind, config = run.settings(["--config", path, *_NO_DATA, *run.needs, *words.split()])
    if kind is not TransducerKind:
        raise UserError(f"{path} is for {kind.called}", "give the configuration of a transducer")
    planned: RunConfig = config
    return planned


def _dense(options: argparse.Namespace, configs: Mapping[str, RunConfig]) -> Transducer:
    """Return the dense network: the one that is given, or a new one in the dimensions of the teacher."""
    from pruning.kinds.transducer import TransducerKind
    from pruning.models.transducer import Transducer
    from pruning.speech.text.bpe import Tokenizer

    if options.teacher is not None:
        return TransducerKind.load_network(options.teacher)[0]
    model = configs[TEACHER].model
    if model is None:
        raise UserError(f"{options.teacher_config} has no key 'model'", "give the dimensions of the network there")
    vocab = options.vocab_size
    if options.lang_dir and Path(options.lang_dir).exists():
        vocab = Tokenizer(options.lang_dir).vocab_size
    return Transducer(replace(model, vocab_size=vocab))


def _tabulated(plans: Sequence[RunPlan], style: str) -> str:
    from tabulate import tabulate

    from pruning.measure.plan import table

    headers, rows = table(plans)
    alignment = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, style, colalign=alignment, disable_numparse=True)


def _plans(
    options: argparse.Namespace, dense: Transducer, configs: Mapping[str, RunConfig], corpus: Corpus
) -> list[RunPlan]:
    """Make one plan for each run."""
    from pruning.measure.plan import plan_run, steps_of

    small: Optional[Transducer] = None
    plans: list[RunPlan] = []
    for name in options.runs or [name for name in RUNS if name in configs]:
        config = configs[_FROM.get(name, name)]
        if name == FURTHER:
            further = [steps_of(one, configs[one], corpus, options.processes) for one in (PRUNING, FINE_TUNING)]
            config = replace(config, trainer=replace(config.trainer, max_steps=sum(further)))
        network, teacher = dense, None
        if name not in (TEACHER, PRUNING):
            network = small = small or _cut(dense, configs.get(PRUNING))
            teacher = dense
        print(f"{datetime.now():%F %T} timing some steps of {name}", file=sys.stderr, flush=True)
        plans.append(plan_run(name, network, config, teacher=teacher, corpus=corpus, processes=options.processes,
                              timed_seconds=options.timed_seconds))  # fmt: skip
    return plans


def _cut(dense: Transducer, pruning: Optional[RunConfig]) -> Transducer:
    """Return a uniform network of the size that pruning aims at, or of half the size if it has no such target."""
    from pruning.core.uniform import uniform_structure
    from pruning.kinds.transducer import PruneConfig
    from pruning.models.facts import cost_model

    targets = pruning.constraint.goals() if isinstance(pruning, PruneConfig) else {}
    cost, target = next(((cost, goal) for cost, goal in targets.items() if cost in COSTS), ("size", 0.5))
    costs = cost_model(dense, 10.0)
    return dense.shrink(uniform_structure(dense.unit_groups(), costs, cost, (1 - target) * costs.dense[cost]))


def _device() -> str:
    """Describe the device that steps are timed on."""
    import torch

    if torch.cuda.is_available():
        return processor_name("cuda")
    return f"{processor_name()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    command.run(main)
