"""Published sizes of corpora, for planning before a download."""

from __future__ import annotations

from collections.abc import Sequence

from pruning.errors import UserError

# hours and number of utterances; hours from Panayotov et al. 2015, table 1, utterances as counted by lhotse
LIBRISPEECH = {
    "train-clean-5": (5.3, 1519),
    "train-clean-100": (100.6, 28539),
    "train-clean-360": (363.6, 104014),
    "train-other-500": (496.7, 148688),
}


def librispeech_size(parts: Sequence[str]) -> tuple[float, int]:
    """Return hours and number of utterances of LibriSpeech's training ``parts`` together.

    Raises:
        UserError: the size of a part is not listed here.
    """
    for part in parts:
        if part not in LIBRISPEECH:
            known = ", ".join(LIBRISPEECH)
            raise UserError(f"the size of {part} is unknown", f"prepare its cuts or choose from {known}")
    return sum(LIBRISPEECH[part][0] for part in parts), sum(LIBRISPEECH[part][1] for part in parts)
