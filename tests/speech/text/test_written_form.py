"""How texts are written for language models."""

from __future__ import annotations

import pytest

from pruning.speech.text.written_form import WRITTEN


@pytest.mark.parametrize(("form", "text", "written"), [
    ("as-is", "I'M HERE", "I'M HERE"),
    ("lower", "I'M HERE", "i'm here"),
    ("sentence", "WHEN I'M HERE AND I SAY IT", "When I'm here and I say it."),
    ("sentence", "'TIS ÉTÉ", "'Tis été."),
    ("sentence", "Is it?", "Is it?"),
    ("sentence", "2ND FLOOR", "2nd floor."),
    ("sentence", "", ""),
    ("words", "\u201cIt\u2019s Mr. Hyde,\u201d he said \u2014 twice!", "IT'S MR HYDE HE SAID TWICE"),
])  # fmt: skip
def test_a_text_in_its_form(form: str, text: str, written: str) -> None:
    assert WRITTEN[form](text) == written
