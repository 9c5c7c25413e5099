"""Import of a language model of Hugging Face as an experiment, which can be pruned and serves as the teacher."""

from __future__ import annotations

from typing import Optional

from pruning.files import PathLike
from pruning.importers import hf_source, llama_tokens
from pruning.importers.hf_directory import directory_of
from pruning.importers.imported_experiment import write_experiment
from pruning.importers.llama import load_llama
from pruning.speech.text.network_tokens import TOKENIZER, check_exists


def import_language_model(source: PathLike, exp_dir: PathLike, lang_dir: PathLike, start: Optional[str] = None) -> None:
    """Write a network as a finished experiment, with its tokens; an existing import of the same files is kept.

    Args:
        source: directory of a Hugging Face checkpoint, or a name on the hub.
        exp_dir: experiment directory, see `write_experiment`.
        lang_dir: directory for the network's tokens, and for the small files that an export needs.
        start: token before a text, see `llama_tokens.write_lang_dir`.

    Raises:
        UserError: as for `load_llama`, `llama_tokens.write_lang_dir` and `write_experiment`.
    """
    files = directory_of(source, {*llama_tokens.FILES, *hf_source.KEPT})
    check_exists(files / TOKENIZER)
    model = load_llama(files)
    tokens = llama_tokens.write_lang_dir(files, model.config, lang_dir, start)
    write_experiment(model, tokens, source, files, exp_dir, llama_tokens.FILES, {})
