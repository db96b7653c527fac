"""The client's side of an inference, and the model owner's: encode, mask, share, decode."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srcompile.runtime.channels import Channel
from srcompile.runtime.channels.tcp import list_json
from srcompile.runtime.errors import InputError, ProgramError, ProtocolError, RangeError
from srcompile.runtime.gates import signed
from srcompile.runtime.isa import VERDICT_BYTES, packed_bytes
from srcompile.runtime.kernels import Kernels, ring_dtype
from srcompile.runtime.program import ONE_HOT, Program, Tensor, hot_column
from srcompile.runtime.ring import Ring

Array = NDArray[Any]
Shares = tuple[dict[str, Ring], dict[str, Ring]]

IN_RANGE, OUT_OF_RANGE = b"\x01", b"\x00"
"""What each party of a guarded program says before the outputs, or instead of them."""


# -- weights --------------------------------------------------------------------------------------


def share_weights(program: Program) -> Shares:
    """Return additive shares of the program's weights, from the operating system's randomness.

    Raises ProgramError if the program carries no weights.
    """
    check_weights(program)
    shares: Shares = ({}, {})
    for name in program.weights():
        type_ = program.constants[name].type
        dtype = ring_dtype(type_.width)
        first = np.frombuffer(secrets.token_bytes(type_.size * dtype.itemsize), dtype)
        shares[0][name], shares[1][name] = share_weight(program, name, first.reshape(type_.shape))
    return shares


def check_weights(program: Program) -> None:
    """Raise ProgramError unless the program carries all its weights."""
    for name in program.weights():
        if program.constants[name].source is None:
            raise ProgramError(f"the program does not carry the weight {name}; give shares of it")


def share_weight(program: Program, name: str, first: Ring) -> tuple[Ring, Ring]:
    """Return additive shares of a weight that the program carries; `first` is uniform, fresh."""
    data = program.constants[name].data
    assert data is not None
    return first, np.asarray(data - first)


def check_shares(program: Program, shares: Mapping[str, Array]) -> dict[str, Ring]:
    """Return weight shares in the program's rings. Raises ProgramError if they do not fit."""
    found = {}
    for name in program.weights():
        type_ = program.constants[name].type
        share = shares.get(name)
        if share is None:
            raise ProgramError(f"there is no share of the weight {name}")
        if share.dtype != ring_dtype(type_.width) or share.shape != type_.shape:
            raise ProgramError(f"the share of {name} is {share.dtype}{share.shape}, not {type_}")
        found[name] = share
    return found


# -- inputs ---------------------------------------------------------------------------------------


def split_batch(program: Program, arrays: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Return one set of inputs for each inference that `arrays` holds.

    An array has an input's shape, or, if the program's first axis is 1, any number of rows. Token
    ids are given as they are, under their own name. Raises InputError, naming the input, for
    anything else: names, types, shapes, NaN, range.
    """
    wanted = {t.given: t for t in program.inputs}
    if set(arrays) != set(wanted):
        raise InputError(
            f"the inputs are {', '.join(sorted(arrays)) or 'none'}; "
            f"the program takes {', '.join(sorted(wanted))}"
        )
    counts = {_rows(t, check_input(t, arrays[t.given])) for t in program.inputs}
    if len(counts) != 1:
        raise InputError(f"the inputs have different numbers of rows: {sorted(counts)}")
    count = counts.pop()
    if count == 1:
        return [{name: np.reshape(arrays[name], t.given_shape) for name, t in wanted.items()}]
    return [{name: arrays[name][k : k + 1] for name in wanted} for k in range(count)]


def one_inference(program: Program, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the inputs of a single inference, checked. Raises InputError as `split_batch` does."""
    batch = split_batch(program, arrays)
    if len(batch) != 1:
        raise InputError(f"the inputs hold {len(batch)} inferences; give them one at a time")
    return batch[0]


def _rows(tensor: Tensor, array: Array) -> int:
    if array.shape == tensor.given_shape:
        return 1
    assert tensor.shape[0] == 1
    return int(array.shape[0])


def check_input(tensor: Tensor, array: Array) -> Array:
    """Return `array` if it fits the input. Raises InputError if it does not."""
    name, shape, wanted = tensor.given, tuple(array.shape), tensor.given_shape
    if array.dtype.kind not in "fiub":
        raise InputError(f"input '{name}' has the type {array.dtype}; it must hold numbers")
    rows_fit = (
        len(shape) == len(wanted) > 0
        and wanted[0] == 1
        and shape[1:] == wanted[1:]
        and shape[0] > 0
    )
    if shape != wanted and not rows_fit:
        raise InputError(f"input '{name}' has the shape {shape}; the program takes {wanted}")
    if not np.all(np.isfinite(array)):
        raise InputError(f"input '{name}' holds NaN or infinite values")
    if array.size == 0:
        return array
    low, high = float(array.min()), float(array.max())
    if tensor.encoding.kind != "plain":
        _check_whole(tensor, array, low, high)
        return array
    if low < tensor.low or high > tensor.high:
        raise InputError(
            f"input '{name}' has values from {low:g} to {high:g}; the program was calibrated for "
            f"{tensor.low:g} to {tensor.high:g}. Calibrate it with inputs that cover them."
        )
    return array


def _check_whole(tensor: Tensor, array: Array, low: float, high: float) -> None:
    """Raise InputError unless a mask holds 0 and 1, and token ids are rows of the table."""
    top = tensor.encoding.rows - 1 if tensor.encoding.ids else 1
    what = f"token ids from 0 to {top}" if tensor.encoding.ids else "0 and 1 only"
    if tensor.encoding.ids and array.dtype.kind not in "iu":
        raise InputError(f"input '{tensor.given}' has the type {array.dtype}; it holds {what}")
    if low < 0 or high > top or not np.all(array == np.rint(array)):
        raise InputError(
            f"input '{tensor.given}' has values from {low:g} to {high:g}; it holds {what}"
        )


def encode(tensor: Tensor, array: Array) -> Ring:
    """Return the fixed-point integers of an input as elements of its ring, (elements,).

    Raises ProgramError if it takes a table that this program does not have.
    """
    encoding = tensor.encoding
    if encoding.kind == "lookup":
        if encoding.table is None:
            raise ProgramError(f"the program does not carry the table of '{tensor.name}'")
        scaled = encoding.table[array].astype(np.int64)
    elif encoding.kind in ONE_HOT:
        columns = tensor.shape[-1]
        hot = hot_column(encoding.kind, array, encoding.rows, columns)
        scaled = (np.arange(columns) == hot[..., None]).astype(np.int64) << tensor.frac
    else:
        scaled = np.rint(array.astype(np.float64) * 2.0**tensor.frac).astype(np.int64)
    return scaled.view(np.uint64).astype(ring_dtype(tensor.width)).reshape(-1)


def send_inputs(
    program: Program, inputs: Mapping[str, Array], parties: Sequence[Channel], kernels: Kernels
) -> None:
    """Mask every input with what the parties give, x^ = x + [r]_0 + [r]_1, and send it to both.

    A public input is sent as it is.
    """
    tensors = {t.name: t for t in program.inputs}
    taken = [i for i in program.functions["online"][0] if i.op in ("input", "public_input")]
    for i in taken:
        tensor = tensors[str(i.attrs["name"])]
        x = encode(tensor, inputs[tensor.given])
        size = packed_bytes(x.size, tensor.width)
        for party in parties if i.op == "input" else ():
            share = np.frombuffer(party.receive(size), np.uint8)
            x = kernels.unpack_add(share, x, tensor.width)
        message = kernels.pack(x, tensor.width).data
        for party in parties:
            party.send(message)


# -- outputs --------------------------------------------------------------------------------------


def report_bytes(program: Program) -> int:
    """Return what a party's report of an inference may take, with a count for each instruction."""
    return list_json(sum(1 for _ in program.instructions("online")) + len(program.segments))


def receive_outputs(
    program: Program, parties: Sequence[Channel], kernels: Kernels
) -> dict[str, Array]:
    """Return the outputs as float64 by name, from both parties' shares.

    Raises RangeError, when all that the parties send is received, if a value left its range.
    """
    if program.guarded and not _in_range(parties):
        raise RangeError
    outputs = {}
    for tensor in program.outputs:
        total = np.zeros(math.prod(tensor.shape), ring_dtype(tensor.width))
        for party in parties:
            share = np.frombuffer(party.receive(packed_bytes(total.size, tensor.width)), np.uint8)
            total = kernels.unpack_add(share, total, tensor.width)
        values = signed(total, tensor.width) / 2.0**tensor.frac
        outputs[tensor.name] = np.asarray(values).reshape(tensor.shape)
    check_outputs(program, outputs)
    return outputs


def _in_range(parties: Sequence[Channel]) -> bool:
    """Return what both parties say. Raises ProtocolError if they do not say the same."""
    said = {bytes(party.receive(VERDICT_BYTES)) for party in parties}
    if said not in ({IN_RANGE}, {OUT_OF_RANGE}):
        raise ProtocolError("the parties do not agree on whether every value is in its range")
    return said == {IN_RANGE}


def check_outputs(program: Program, outputs: Mapping[str, Array]) -> None:
    """Raise RangeError if an output is outside of what a guarded program supports."""
    for tensor in program.outputs:
        values = outputs[tensor.name]
        if not np.all((values >= tensor.low) & (values <= tensor.high)):
            raise RangeError
