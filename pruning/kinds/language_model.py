"""Language models on text: Transformers over word pieces, or over the own tokens of an imported network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from pruning.errors import UserError
from pruning.files import PathLike
from pruning.importers import hf_source
from pruning.importers.hf_directory import CONFIG
from pruning.kinds.capabilities import Capabilities
from pruning.kinds.exports import Exports, HuggingFaceForm
from pruning.kinds.forms import ONNX_FORMS
from pruning.kinds.kind import Inputs, Kind
from pruning.kinds.language_model_export import language_model_exports
from pruning.kinds.llama_hf import as_hugging_face, needs_head_dim
from pruning.kinds.measured_text import perplexity
from pruning.kinds.measuring import Measuring
from pruning.methods.base import Pruner
from pruning.methods.config import PruningConfig
from pruning.methods.names import TECHNIQUES
from pruning.models import facts
from pruning.models.transformer_lm import TransformerLM
from pruning.models.transformer_lm_config import LanguageModelConfig
from pruning.registry import TEXT
from pruning.speech.text.lm_tokens import read_tokens
from pruning.speech.text.sentences import SentenceBatch, Sentences, TextConfig
from pruning.speech.text.table import TextTable
from pruning.speech.text.text_files import check_texts
from pruning.tasks.formula import LossFormula
from pruning.tasks.language_model import LmDistillationConfig, LmTask
from pruning.training import distributed
from pruning.training.run_data import RunData
from pruning.training.trainer_config import TrainerConfig

NAME = "transformer_lm"
LM_TOKENS = 32
"""Length of sentences, in tokens, for which the MACs of language models are counted."""


@dataclass(frozen=True)
class RunConfig:
    """Training configuration for language models, from scratch or from a checkpoint.

    Attributes:
        model: dimensions of the network; leave out when training starts from a checkpoint.
        data: batches of text.
        distillation: distillation settings, used if a teacher is given.
        trainer: settings of the training loop.
        kind: name of the kind of network.
    """

    model: Optional[LanguageModelConfig] = None
    data: TextConfig = field(default_factory=TextConfig)
    distillation: LmDistillationConfig = field(default_factory=LmDistillationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    kind: str = NAME


@dataclass(frozen=True)
class PruneConfig(PruningConfig, RunConfig):
    """Configuration of a pruning run; MACs are counted for sentences of `LM_TOKENS` tokens."""

    def __post_init__(self) -> None:
        self.check(self.trainer)


class LanguageModelKind(Kind[TransformerLM]):
    """Language models on text.

    Args:
        config: configuration of the run.
        inputs: text files, one sentence per line; the training text as token ids is stored as ``text`` in ``lang_dir``.
    """

    name = NAME
    network = TransformerLM
    wanted, called = "a language model's checkpoint", "a language model"
    data_form = TEXT
    training, pruning = RunConfig, PruneConfig

    def __init__(self, config: RunConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs)
        self._train_text: Optional[Sentences] = None

    @classmethod
    def build(cls, config: Mapping[str, Any]) -> TransformerLM:
        """Build a language model from plain values."""
        return TransformerLM(LanguageModelConfig.from_dict(config))

    @classmethod
    def input_length(cls, network: TransformerLM, seconds: float) -> int:
        """Return a number of tokens, for any number of seconds."""
        return LM_TOKENS

    @classmethod
    def reference(cls, network: TransformerLM) -> tuple[int, str]:
        """Return the length of a sentence."""
        return LM_TOKENS, f"{LM_TOKENS} tokens"

    @classmethod
    def facts(cls, network: TransformerLM) -> dict[str, Any]:
        """Return the costs of the blocks."""
        return facts.of_blocks(network, LM_TOKENS)

    @classmethod
    def capabilities(cls, network: TransformerLM) -> Capabilities:
        """Return all pruning techniques, repair and export to ONNX."""
        return Capabilities(TECHNIQUES, repair=True, exports=ONNX_FORMS)

    @classmethod
    def parts(cls) -> dict[str, tuple[str, ...]]:
        """Return the blocks and the embedding."""
        return {"blocks": ("layers.",), "embedding": ("embedding.",)}

    @classmethod
    def table(cls, config: Any, lang_dir: PathLike) -> TextTable:
        """Return the tokens."""
        return read_tokens(lang_dir)

    @classmethod
    def forward(cls, network: TransformerLM, batch: SentenceBatch) -> object:
        """Compute the logits."""
        return network(batch.inputs)

    @classmethod
    def calibration(
        cls, network: TransformerLM, table: TextTable, files: Sequence[PathLike], max_duration: float
    ) -> Iterable[SentenceBatch]:
        """Return batches of sentences."""
        return _calibration(table, files, TextConfig())

    @classmethod
    def calibration_of_run(
        cls, config: RunConfig, network: TransformerLM, table: TextTable, files: Sequence[PathLike], max_duration: float
    ) -> Iterable[SentenceBatch]:
        """Return batches of sentences or blocks, written and packed as in the run."""
        return _calibration(table, files, config.data)

    @classmethod
    def loss_formula(cls, config: RunConfig) -> LossFormula:
        """Return the cross-entropy of the next token, and distillation."""
        weight = config.distillation.weight
        return LossFormula("nats per token", added={"distil": weight} if weight else {})

    @classmethod
    def measuring(cls, config: RunConfig) -> Measuring:
        """Return how to measure perplexity."""
        return perplexity(config.data)

    @classmethod
    def exports(cls, network: TransformerLM, lang_dir: Optional[PathLike]) -> Exports:
        """Return the export of two forms: whole sentences, and steps of one token for each of several histories."""
        return language_model_exports(network, None if lang_dir is None else read_tokens(lang_dir))

    @classmethod
    def hugging_face(cls, network: TransformerLM, lang_dir: PathLike) -> HuggingFaceForm:
        """Return a network of the Llama family with the settings of the directory that it was imported from."""
        return as_hugging_face(network, *(hf_source.kept_values(lang_dir, name)
                                          for name in (CONFIG, hf_source.GENERATION)))  # fmt: skip

    @classmethod
    def export_notes(cls, network: TransformerLM) -> tuple[str, ...]:
        """Say which transformers the shapes need."""
        if not needs_head_dim(network.config):
            return ()
        return ("The heads do not fill the width: transformers must read `head_dim` from config.json, as it does for "
                "Llama since 4.46 and for Qwen2 since 4.48.",)  # fmt: skip

    @property
    def train_text(self) -> Sentences:
        """Sentences of the training text, read once."""
        if self._train_text is None:
            self._train_text = Sentences(self.inputs.train, self.output_table, self.config.data, keep=True)
        return self._train_text

    @classmethod
    def new(cls, config: Any, vocab_size: int) -> TransformerLM:
        """Make a language model with the configuration's dimensions."""
        return TransformerLM(replace(config.model, vocab_size=vocab_size))

    def check(self, network: TransformerLM) -> None:
        """Refuse texts that are longer than those on which the network was trained."""
        most, longest = network.config.positions, self.config.data.longest
        if 0 < most < longest:
            key = "block" if self.config.data.block else "max_length"
            raise UserError(f"data.{key} makes texts of up to {longest} tokens, but the network was trained on up to "
                            f"{most}", f"lower data.{key}")  # fmt: skip

    def wants_teacher(self) -> bool:
        """Return whether to distil the distribution of the next token."""
        return bool(self.config.distillation.weight)

    def task(self, network: TransformerLM, teacher: Optional[TransformerLM], pruner: Optional[Pruner] = None) -> LmTask:
        """Return the task: cross-entropy and distillation."""
        return LmTask(network, self.config.distillation, teacher, pruner)

    def first_batches(self) -> Iterable[SentenceBatch]:
        """Return the batches of the first epoch as in a single process."""
        return self.train_text.training_batches(self.seed, 1)

    def data(self, world: distributed.World) -> RunData:
        """Return the share of the sentences that this process reads."""
        train_text, seed = self.train_text, self.seed
        dev_text = Sentences(self.inputs.dev, self.output_table, self.config.data)
        return RunData(
            lambda epoch, skip: train_text.training_batches(seed, epoch, skip, world.rank, world.size),
            lambda: dev_text.evaluation_batches(world.rank, world.size),
            {"train_text": check_texts(self.inputs.train), "dev_text": check_texts(self.inputs.dev)},
            train_text.count_batches(seed, world.size),
        )


def _calibration(table: TextTable, files: Sequence[PathLike], config: TextConfig) -> Iterable[SentenceBatch]:
    sentences = Sentences(check_texts(files), table, replace(config, on_empty="skip"), keep=True)
    return sentences.training_batches(seed=0, epoch=1)


KIND = LanguageModelKind
