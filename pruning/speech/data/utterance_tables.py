"""Durations and speakers of utterances, from Kaldi's tables or from cuts."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from pruning.errors import UserError
from pruning.speech.data.kaldi_dir import read_table
from pruning.speech.data.manifests import check_exists, iterate_cuts


class UtteranceTables(NamedTuple):
    """What is known of utterances by their names.

    Attributes:
        seconds: durations; None: unknown.
        speakers: an empty name is unknown; None: all are.
    """

    seconds: Optional[dict[str, float]]
    speakers: Optional[dict[str, str]]

    @classmethod
    def read(
        cls, names: Collection[str], utt2dur: Sequence[Path] = (), utt2spk: Sequence[Path] = (),
        cuts: Sequence[Path] = (),
    ) -> UtteranceTables:  # fmt: skip
        """Read the tables of utterances.

        Args:
            names: the utterances.
            utt2dur, utt2spk: files of lines UTTERANCE SECONDS and UTTERANCE SPEAKER.
            cuts: manifests, whose durations and speakers those files replace.

        Raises:
            UserError: a file is missing or broken, lacks an utterance, or has a duration that is not above 0.
        """
        every = [cut for path in (check_exists(cuts) if cuts else []) for cut in iterate_cuts(path)]
        durations = joined(utt2dur)
        speakers = joined(utt2spk)
        if every:
            durations = {**{cut.id: str(cut.duration) for cut in every}, **(durations or {})}
            speakers = {**{cut.id: str(cut.supervisions[0].speaker or "") for cut in every}, **(speakers or {})}
        for table, what in ((durations, "duration"), (speakers, "speaker")):
            missing = [name for name in names if table is not None and name not in table]
            if missing:
                raise UserError(f"the {what} of {missing[0]} is unknown", "give tables of the same utterances")
        seconds = None if durations is None else {name: _seconds(name, durations[name]) for name in names}
        return cls(seconds, None if speakers is None else {name: speakers[name] for name in names})


def joined(paths: Sequence[Path]) -> Optional[dict[str, str]]:
    """Read several of Kaldi's tables as one; None if there is none.

    Raises:
        UserError: see `pruning.speech.data.kaldi_dir.read_table`.
    """
    return {name: value for path in paths for name, value in read_table(path).items()} if paths else None


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"the duration of {name} is {text!r}", "give seconds above 0")
    return value
