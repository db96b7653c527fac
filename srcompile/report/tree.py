"""The module tree of a part of a program, folded to a readable size.

Sibling modules that are numbered and alike, such as the layers of an encoder, become one branch
with their sums. A module with nothing but one submodule is joined with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from srcompile.report.figures import Figures, Layer, Part
from srcompile.report.places import summed

ROWS = 36
"""Rows that a folded tree has at most, unless its outermost modules are more."""


@dataclass(frozen=True)
class Ops:
    """What one op of a module costs. `sources` are the lines it stands at."""

    op: str
    sources: tuple[str, ...]
    figures: Figures


@dataclass(frozen=True)
class Branch:
    """A module: its own ops, and its submodules. `count` modules alike are one branch."""

    label: str
    ops: tuple[Ops, ...]
    children: tuple[Branch, ...]
    figures: Figures
    count: int = 1


@dataclass(frozen=True)
class Row:
    """A line of a printed tree.

    share: of the projected time of the part.
    op: an op, or several joined by commas.
    folded: whether there is more below it.
    inner: whether the rows below it, which are deeper, add up to it.
    """

    depth: int
    label: str
    op: str
    source: str
    figures: Figures
    share: float
    folded: bool = False
    inner: bool = False


@dataclass
class _Module:
    children: dict[str, _Module] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)


def tree(part: Part, *, alike: bool = True) -> Branch:
    """Return the tree of a part; with `alike`, numbered siblings that are alike are one branch."""
    root = _Module()
    for layer in part.layers:
        at = root
        name = layer.name if layer.name != part.name else ""
        for word in name.removeprefix(f"{part.name}.").split("."):
            at = at.children.setdefault(word, _Module()) if word else at
        at.layers.append(layer)
    return _branch("", root, alike)


def rows(part: Part, depth: int | None = None, *, everything: bool = False) -> tuple[Row, ...]:
    """Return the rows of a part's tree.

    depth: how many modules deep; by default alike modules are one, and the tree is as deep as fits
        into ROWS rows. everything: every op of every module, also those that send nothing.
    """
    seconds = part.total.seconds
    if everything:
        return tuple(_rows(tree(part, alike=False), 0, 1 << 30, seconds, hide=False))
    if depth is not None:
        return tuple(_rows(tree(part, alike=False), 0, depth, seconds))
    whole = tree(part)
    found: tuple[Row, ...] = ()
    for deep in range(1, _depth(whole) + 2):
        more = tuple(_rows(whole, 0, deep, seconds))
        if found and len(more) > ROWS:
            break
        found = more
    return found


def _depth(branch: Branch) -> int:
    return 1 + max((_depth(child) for child in branch.children), default=0)


def _branch(label: str, module: _Module, alike: bool) -> Branch:
    children = [_branch(name, child, alike) for name, child in module.children.items()]
    if all(child.label.isdigit() for child in children):
        children.sort(key=lambda child: int(child.label))
    if alike:
        children = _merged_alike(children)
        by_op: dict[str, list[Layer]] = {}
        for layer in module.layers:
            by_op.setdefault(layer.op, []).append(layer)
        ops = tuple(_ops(op, layers) for op, layers in by_op.items())
    else:
        ops = tuple(_ops(layer.op, [layer]) for layer in module.layers)
    figures = summed([o.figures for o in ops] + [c.figures for c in children])
    return Branch(label, ops, tuple(_joined(child) for child in children), figures)


def _ops(op: str, layers: Sequence[Layer]) -> Ops:
    sources = tuple(dict.fromkeys(x.source for x in layers if x.source))
    return Ops(op, sources, summed([x.figures for x in layers]))


def _joined(branch: Branch) -> Branch:
    """Join a module with its only submodule, if it has no ops that send anything."""
    if len(branch.children) != 1 or any(not o.figures.idle for o in branch.ops):
        return branch
    (child,) = branch.children
    if branch.count != 1 or (branch.label and child.count != 1 and not child.children):
        return branch
    label = f"{branch.label}.{child.label}" if branch.label else child.label
    ops = branch.ops + child.ops
    return replace(child, label=label, ops=ops, figures=branch.figures)


def _shape(branch: Branch) -> object:
    """What two branches must have in common to be alike."""
    ops = frozenset(o.op for o in branch.ops if not o.figures.idle)
    return (ops, tuple((c.label, c.count, _shape(c)) for c in branch.children))


def _merged_alike(children: Sequence[Branch]) -> list[Branch]:
    groups: dict[object, list[Branch]] = {}
    for number, child in enumerate(children):
        numbered = child.label.isdigit() and child.children
        groups.setdefault(_shape(child) if numbered else number, []).append(child)
    return [
        group[0] if len(group) == 1
        else _summed(group, _numbers([int(b.label) for b in group]), len(group))
        for group in groups.values()
    ]  # fmt: skip


def _summed(group: Sequence[Branch], label: str, count: int) -> Branch:
    """Return one branch for several of one shape."""
    ops: dict[str, list[Ops]] = {}
    for branch in group:
        for o in branch.ops:
            ops.setdefault(o.op, []).append(o)
    own = []
    for op, found in ops.items():
        sources = tuple(dict.fromkeys(source for o in found for source in o.sources))
        own.append(Ops(op, sources, summed([o.figures for o in found])))
    children = tuple(
        _summed([b.children[k] for b in group], c.label, c.count)
        for k, c in enumerate(group[0].children)
    )
    return Branch(label, tuple(own), children, summed([b.figures for b in group]), count)


def _numbers(numbers: Sequence[int]) -> str:
    """Return 0-11 for all numbers between two, else 0,2,5."""
    low, high = min(numbers), max(numbers)
    if sorted(numbers) == list(range(low, high + 1)):
        return f"{low}-{high}"
    return ",".join(map(str, numbers))


def _rows(
    branch: Branch, depth: int, most: int, seconds: float, *, hide: bool = True
) -> Iterator[Row]:
    """Yield the rows below the root `branch`: its own ops, then its submodules."""
    own = [o for o in branch.ops if not (hide and o.figures.idle)]
    for o in own:
        yield _row(depth, "", o, seconds)
    for child in branch.children:
        yield from _module_rows(child, depth, most, seconds, hide)


def _module_rows(
    branch: Branch, depth: int, most: int, seconds: float, hide: bool
) -> Iterator[Row]:
    label = branch.label + (f" (all {branch.count})" if branch.count > 1 else "")
    own = [o for o in branch.ops if not (hide and o.figures.idle)]
    share = branch.figures.seconds / seconds if seconds else 0.0
    if branch.figures.idle and hide:
        return
    if not branch.children and len(own) == 1:
        source = _source(own[0].sources)
        yield Row(depth, label, own[0].op, source, branch.figures, share)
    elif depth + 1 >= most:
        names = ", ".join(o.op for o in own)
        yield Row(depth, label, names, "", branch.figures, share, folded=bool(branch.children))
    else:
        yield Row(depth, label, "", "", branch.figures, share, inner=True)
        yield from _rows(branch, depth + 1, most, seconds, hide=hide)


def _row(depth: int, label: str, o: Ops, seconds: float) -> Row:
    share = o.figures.seconds / seconds if seconds else 0.0
    return Row(depth, label, o.op, _source(o.sources), o.figures, share)


def _source(sources: Sequence[str]) -> str:
    """Return the first line of source, and how many more there are."""
    if not sources:
        return ""
    return sources[0] + (f" +{len(sources) - 1}" if len(sources) > 1 else "")
