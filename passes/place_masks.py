"""Pass `place_masks`: decide whether the parties learn which tokens count.

With `secret` nobody does. With `public` the client gives attention masks to both parties as they
are, which tells them the length of the input: a mask is an input of 0 and 1 that a softmax has as
its second operand, or what such an operand is made from. Shapes stay what they are.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from srcompile.errors import UserError
from srcompile.ir.graph import Module, Node, Segment
from srcompile.passes.choices import MASKS


def place_masks(module: Module, mask: str = "secret") -> Module:
    """Return `module` with its attention masks public, if the user wants that.

    Raises UserError for an unknown choice, and if there is no mask that could be public.
    """
    if mask not in MASKS:
        raise UserError(f"there is no mask '{mask}': choose {', '.join(MASKS)}")
    if mask == "secret":
        return module
    wanted = _behind_masks(module)
    found = [n.out for n in module.main.nodes() if _is_mask(n) and n.out in wanted]
    if not found:
        raise UserError(
            "there is no mask that could be public: no input of 0 and 1 tells an attention which "
            "tokens count; leave out mask=public, or give the model an attention mask as an input"
        )

    def placed(node: Node) -> Node:
        if node.out not in found:
            return node
        return replace(node, attrs=MappingProxyType({**node.attrs, "public": True}))

    segments = module.main.segments
    return module.with_main(
        tuple(Segment(s.name, tuple(map(placed, s.nodes)), s.route) for s in segments)
    )


def _is_mask(node: Node) -> bool:
    """Whether an input holds 0 and 1, and is no one-hot encoding, which tells the tokens."""
    one_hot = "ids" in node.attrs and not node.inputs
    return node.op == "input" and bool(node.attrs.get("bits")) and not one_hot


def _behind_masks(module: Module) -> set[str]:
    """Return what the second operands of softmax depend on."""
    needed: set[str] = set()
    for node in reversed(list(module.main.nodes())):
        if node.op == "softmax":
            needed.update(node.inputs[1:])
        if node.out in needed:
            needed.update(node.inputs)
    return needed
