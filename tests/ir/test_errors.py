"""Golden errors: wrong text, and the message with line, column and caret it is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from srcompile.errors import TextError
from srcompile.ir.parser import parse_module
from srcompile.ops import registry
from srcompile.ops.verifier import verify_text
from tests.support import golden

FOLDER = Path(__file__).parent / "golden"


@pytest.mark.parametrize("path", golden.files(FOLDER / "parser"), ids=lambda p: p.stem)
def test_text_that_is_not_ir_is_shown_its_place(path: Path) -> None:
    text = golden.given(path)
    with pytest.raises(TextError) as caught:
        parse_module(text)
    golden.check(path, str(caught.value))


@pytest.mark.parametrize("path", golden.files(FOLDER / "verifier"), ids=lambda p: p.stem)
def test_a_module_that_breaks_a_rule_is_shown_its_place(path: Path) -> None:
    text = golden.given(path)
    module = parse_module(text)
    with pytest.raises(TextError) as caught:
        verify_text(module, text, registry())
    golden.check(path, str(caught.value))
