"""Reading IR text. Every error names line and column, shows the line and puts a caret under it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from lark import Lark, Token, Tree, UnexpectedInput
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedToken

from srcompile.errors import Loc, TextError
from srcompile.ir.graph import Array, Attr, Const, Function, Module, Node, Segment
from srcompile.ir.printer import VERSION
from srcompile.ir.types import FixType, FloatType, Type
from srcompile.runtime.isa import KINDS, RingType

MAX_DIGITS = 100


@cache
def _lark() -> Lark:
    grammar = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", propagate_positions=True, maybe_placeholders=False)


def parse_module(text: str, data: Mapping[str, Array] = MappingProxyType({})) -> Module:
    """Return the module written in `text`; `data` holds the arrays of its constants, by name.

    Raises TextError, with line and column, for text that is not IR.
    """
    try:
        tree = _lark().parse(text if text.endswith("\n") else text + "\n")
    except UnexpectedInput as error:
        raise _syntax_error(error, text) from None
    return _Reader(text, data).module(tree)


def _syntax_error(error: UnexpectedInput, text: str) -> TextError:
    if isinstance(error, UnexpectedEOF):
        line = text.count("\n") + 1
        return TextError("the text ends too early", text, line, 1)
    found = "this character"
    if isinstance(error, UnexpectedToken):
        found = _ENDS.get(error.token.type, f"'{error.token}'")
    expected = set()
    if isinstance(error, (UnexpectedToken, UnexpectedCharacters)):
        expected = error.accepts if isinstance(error, UnexpectedToken) else error.allowed
    names = sorted(_READABLE.get(str(name), str(name).lower()) for name in expected or ())
    line, column = max(error.line, 1), max(error.column, 1)
    return TextError(f"{found} does not fit here; expected {', '.join(names)}", text, line, column)


_ENDS = {"_NL": "the end of the line", "$END": "the end of the text"}
_READABLE = {
    "_NL": "end of line", "LPAR": "'('", "RPAR": "')'", "LBRACE": "'{'", "RBRACE": "'}'",
    "LSQB": "'['", "RSQB": "']'", "COMMA": "','", "COLON": "':'", "EQUAL": "'='", "LESSTHAN": "'<'",
    "MORETHAN": "'>'", "LOCAL": "a %value", "GLOBAL": "an @name", "NAME": "a word",
    "INT": "an integer", "STRING": "a string", "FLOAT": "a number", "BOOL": "true or false",
    "VISIBILITY": "'secret' or 'public'",
}  # fmt: skip


class _Reader:
    def __init__(self, text: str, data: Mapping[str, Array]) -> None:
        self.text, self.data = text, data

    def error(self, at: Tree[Token] | Token, message: str) -> TextError:
        if isinstance(at, Token):
            return TextError(message, self.text, at.line or 1, at.column or 1)
        return TextError(message, self.text, at.meta.line, at.meta.column)

    def module(self, tree: Tree[Token]) -> Module:
        header, *items = _trees(tree)
        version, level = _tokens(header)
        if self.integer(version) != VERSION:
            raise self.error(
                version, f"this is IR version {version}; this srcompile reads {VERSION}"
            )
        consts: dict[str, Const] = {}
        functions: list[Function] = []
        for item in items:
            if item.data == "func":
                functions.append(self.function(item))
                continue
            name, visibility = _tokens(item)
            if str(name) in consts:
                raise self.error(name, f"constant {name} is declared twice")
            type_ = self.type(_trees(item)[0])
            consts[str(name)] = Const(type_, visibility == "secret", self.data.get(str(name)))
        return Module(self.string(level), tuple(functions), MappingProxyType(consts))

    def function(self, tree: Tree[Token]) -> Function:
        name = str(_tokens(tree)[0])[1:]
        extends = "".join(str(_tokens(t)[0])[1:] for t in _trees(tree) if t.data == "extends")
        return Function(name, tuple(map(self.segment, _named(tree, "segment"))), extends)

    def segment(self, tree: Tree[Token]) -> Segment:
        name = self.string(_tokens(tree)[0])
        route = [self.integer(_tokens(t)[0]) for t in _named(tree, "when")]
        return Segment(
            name, tuple(map(self.node, _named(tree, "stmt"))), route[0] if route else None
        )

    def node(self, tree: Tree[Token]) -> Node:
        out = [str(_tokens(t)[0]) for t in _named(tree, "out")]
        type_ = [self.type(_trees(t)[0]) for t in _named(tree, "annotation")]
        attrs = [self.attrs(t) for t in _named(tree, "attrs")]
        locs = [self.loc(t) for t in _named(tree, "loc")]
        operands = _named(_named(tree, "operands")[0], "operand")
        return Node(
            op=str(_tokens(tree)[0]),
            out=out[0] if out else "",
            inputs=tuple(str(_tokens(t)[0]) for t in operands),
            attrs=attrs[0] if attrs else MappingProxyType({}),
            type=type_[0] if type_ else None,
            loc=locs[0] if locs else Loc(),
            pos=(tree.meta.line, tree.meta.column),
        )

    def attrs(self, tree: Tree[Token]) -> Mapping[str, Attr]:
        found: dict[str, Attr] = {}
        for attr in _trees(tree):
            name = _tokens(attr)[0]
            if str(name) in found:
                raise self.error(name, f"attribute '{name}' is given twice")
            found[str(name)] = self.value(_trees(attr)[0])
        return MappingProxyType(found)

    def value(self, tree: Tree[Token]) -> Attr:
        tokens = _tokens(tree)
        if tree.data == "list":
            return tuple(map(self.integer, tokens))
        if tree.data == "number":
            return self.integer(tokens[0]) if tokens[0].type == "INT" else float(tokens[0])
        return tokens[0] == "true" if tree.data == "bool" else self.string(tokens[0])

    def integer(self, token: Token) -> int:
        if len(token) > MAX_DIGITS:
            raise self.error(token, f"an integer has at most {MAX_DIGITS} digits")
        return int(token)

    def string(self, token: Token) -> str:
        try:
            return str(json.loads(token))
        except json.JSONDecodeError as error:
            raise self.error(token, f"this string is not as in JSON: {error.msg}") from None

    def type(self, tree: Tree[Token]) -> Type:
        name, *dims = _tokens(tree)
        shape = tuple(map(self.integer, dims))
        params = [self.integer(t) for p in _named(tree, "params") for t in _tokens(p)]
        ranges = [tuple(float(_tokens(n)[0]) for n in _trees(r)) for r in _named(tree, "range")]
        if any(size < 0 for size in shape):
            raise self.error(tree, "a shape has no negative sizes")
        if name in ("f32", "i64") and not params:
            known = ranges[0] if ranges else ()
            size = known[2] if len(known) > 2 else None
            return FloatType(shape, str(name), (known[0], known[1]) if known else None, size)
        if name == "fix" and len(params) == 2 and not ranges:
            return FixType(shape, *params)
        if name in KINDS and len(params) == 1 and not ranges:
            return RingType(str(name), params[0], shape)
        forms = "f32[..], i64[..], fix<bits,frac>[..] or " + ", ".join(f"{k}<w>[..]" for k in KINDS)
        raise self.error(tree, f"this is not a type; a type is {forms}")

    def loc(self, tree: Tree[Token]) -> Loc:
        file, line = _tokens(tree)
        module = "".join(self.string(_tokens(t)[0]) for t in _named(tree, "inside"))
        op = "".join(str(_tokens(t)[0]) for t in _named(tree, "origin"))
        return Loc(self.string(file), self.integer(line), module, op)


def _trees(tree: Tree[Token]) -> list[Tree[Token]]:
    return [child for child in tree.children if isinstance(child, Tree)]


def _tokens(tree: Tree[Token]) -> list[Token]:
    return [child for child in tree.children if isinstance(child, Token)]


def _named(tree: Tree[Token], name: str) -> list[Tree[Token]]:
    return [t for t in _trees(tree) if t.data == name]
