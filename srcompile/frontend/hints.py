"""What would do instead of a torch call that is not supported."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

_SORT = "Nothing is sorted under MPC; torch.amax and torch.argmax give the largest along an axis."
_BRANCH = (
    "Nobody sees the values, so Python cannot act on them. Compute both results and weight them, "
    "or let the router of a Pool choose."
)
_COMPARE = (
    "Write a choice with relu, clamp, torch.maximum or sigmoid. Masks and conditions may be "
    "constants, or made from an input that holds 0 and 1 only."
)
_LOOKUP = (
    "Elements cannot be looked up by a secret index. Use slices for fixed ones; let the client "
    "look embeddings up, and take them as the input."
)
_WHOLE = "Values are real numbers in fixed point and are not rounded or counted. Leave this out."
_RANDOM = "Nothing is random in a compiled model; F.dropout needs training=self.training."
_NORM = "Use batch norm, which costs nothing, or write it with mean, square and rsqrt."
_RECURRENT = "Unroll it over a fixed number of steps with linear, sigmoid and tanh."
_CURVE = "Use relu, leaky_relu, gelu, silu, sigmoid or tanh."
_CONV = "Use conv2d; a 1-D convolution is one of height 1."
_POOL = "Use max_pool2d, avg_pool2d or adaptive_avg_pool2d."

_SQUARE = "Write torch.mean(torch.square(x - x.mean(dim, keepdim=True)), dim)"
_BUILD = "Build the tensor with torch.cat instead of writing into it."
_AFTER = "Return the values before it; the client can apply it."

_TABLE: tuple[tuple[str, str], ...] = (
    ("topk sort argsort kthvalue median msort mode", _SORT),
    ("max", "Use torch.amax for the value, torch.argmax for its index."),
    ("min amin", "Write -torch.amax(-x, dim)."),
    ("minimum", "Write -torch.maximum(-x, -y)."),
    ("argmin", "Write torch.argmax(-x, dim)."),
    ("item _local_scalar_dense nonzero tolist numpy cond while_loop", _BRANCH),
    ("where masked_fill masked_select gt lt ge le eq ne any all sign heaviside", _COMPARE),
    ("logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not", _COMPARE),
    ("and_ or_ invert isnan isinf tril triu", _COMPARE),
    ("embedding embedding_bag one_hot index index_select gather take take_along_dim", _LOOKUP),
    ("scatter index_put index_add searchsorted", _LOOKUP),
    ("floor ceil round trunc frac remainder fmod floor_divide floordiv mod", _WHOLE),
    ("bincount histc", _WHOLE),
    ("bernoulli rand randn rand_like randn_like randint multinomial normal", _RANDOM),
    ("native_dropout gumbel_softmax", _RANDOM),
    ("layer_norm group_norm instance_norm rms_norm local_response_norm", _NORM),
    ("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell", _RECURRENT),
    ("elu selu celu softplus mish hardswish hardsigmoid softsign logsigmoid prelu", _CURVE),
    ("threshold softshrink hardshrink tanhshrink sin cos tan atan sinh cosh", _CURVE),
    ("conv1d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution", _CONV),
    ("max_pool1d max_pool3d avg_pool1d avg_pool3d adaptive_avg_pool1d lp_pool2d", _POOL),
    ("adaptive_max_pool2d max_pool2d_with_indices", _POOL),
    ("abs", "Write relu(x) + relu(-x)."),
    ("log log2 log10 log1p log_softmax logsumexp", _AFTER),
    ("einsum", "Write it with permute and torch.matmul."),
    ("repeat repeat_interleave tile", "Use expand and reshape, or torch.cat."),
    ("flip roll", "Use slices and torch.cat."),
    ("cumsum", "Positions that depend on the tokens can be an input, such as position_ids."),
    ("var", f"{_SQUARE}."),
    ("std", f"{_SQUARE} and its torch.sqrt."),
    ("norm linalg_vector_norm", "Use the norm of order 2."),
    ("setitem copy fill slice_scatter select_scatter", _BUILD),
    ("pow", "A power is of a tensor, with a number as its exponent."),
    ("div", "Divide by a number, without rounding."),
)

HINTS: Mapping[str, str] = MappingProxyType(
    {name: hint for names, hint in _TABLE for name in names.split()}
)

CONTROL_FLOW = (
    "The model branches on a tensor's value, which nobody sees under MPC. Compute both results and "
    "weight them, or let the router of a Pool choose."
)


def base_name(torch_name: str) -> str:
    """Return `topk` for `aten.topk.default`, `torch.topk` and `method.topk`."""
    parts = torch_name.split(".")
    name = parts[1] if parts[0] == "aten" and len(parts) > 1 else parts[-1]
    return name if name in HINTS else name.strip("_")


def is_random(torch_name: str) -> bool:
    """Return whether a call draws random numbers."""
    return HINTS.get(base_name(torch_name)) == _RANDOM


def hint_for(torch_name: str, supported: Iterable[str]) -> str:
    """Return what to do about a call that is not supported."""
    name = base_name(torch_name)
    if name in HINTS:
        return HINTS[name]
    others = {base_name(s) for s in supported} - {name}
    near = difflib.get_close_matches(name, sorted(others), 3, 0.75)
    if near:
        return f"Near alternatives: {', '.join(near)}."
    return "Write it with supported calls, or leave it to the client before or after the model."
