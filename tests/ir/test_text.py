"""What is printed can be read back, whatever names, places and attributes it has."""

from __future__ import annotations

import math

import pytest
from hypothesis import given

from srcompile.errors import TextError
from srcompile.ir.graph import Attr, Module
from srcompile.ir.parser import parse_module
from srcompile.ir.printer import attr_text, print_module
from srcompile.ops import registry
from srcompile.ops.verifier import verify
from tests.support.strategies import attributes, graph_modules, modules_of_any_text

STATEMENT = 'srcompile 1 level "graph"\nfunc @main {\nsegment "s" {\nf(){a=%s}\n}\n}\n'


@given(graph_modules())
def test_a_random_graph_verifies_and_survives_text(module: Module) -> None:
    text = print_module(module)
    back = parse_module(text)
    assert back == module
    assert print_module(back) == text
    if len(module.main.segments) == 1:
        verify(back, registry())


@given(modules_of_any_text())
def test_text_does_not_depend_on_what_ops_mean(module: Module) -> None:
    assert parse_module(print_module(module)) == module


@given(attributes)
def test_an_attribute_keeps_value_and_type(value: Attr) -> None:
    (node,) = parse_module(STATEMENT % attr_text(value)).main.nodes()
    found = node.attrs["a"]
    assert type(found) is type(value)
    assert found == value
    if isinstance(value, float):
        assert math.copysign(1.0, value) == math.copysign(1.0, found)  # type: ignore[arg-type]


def test_comments_and_blank_lines_say_nothing() -> None:
    text = """srcompile 1 level "graph"  // the level

// a comment
func @main {
segment "s" {   // another

  // and one more
  %x = input() {name="x // no comment", shape=[2]} : f32[2]
  output(%x) {name="y"}
}
}
"""
    (first, second) = parse_module(text).main.nodes()
    assert first.attrs["name"] == "x // no comment"
    assert second.inputs == ("%x",)


def test_windows_line_ends_are_read_alike() -> None:
    text = STATEMENT % "1"
    assert parse_module(text.replace("\n", "\r\n")) == parse_module(text)


@pytest.mark.parametrize("cut", range(1, len(STATEMENT % "1") - 1))
def test_text_cut_anywhere_is_an_error_with_a_place(cut: int) -> None:
    text = STATEMENT % "1"
    if text[:cut].rstrip() in ('srcompile 1 level "graph"', text.rstrip()):
        parse_module(text[:cut])  # only whole items are missing: the header alone is a module
        return
    with pytest.raises(TextError) as caught:
        parse_module(text[:cut])
    assert caught.value.line >= 1
    assert caught.value.column >= 1
