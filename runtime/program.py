"""Programs and their file format, `.srp`.

A `.srp` file is a zip archive: `program.json` (format 2: everything but arrays), one
`constants/N.npy` for each constant it carries, and one `tables/N.npy` for input N if the client
looks it up. Weights can be left out; the parties need only
shares of them. Whatever is read is checked before it is used: the archive, the version, every
field, every instruction's type, and the rules in srcompile.runtime.check.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np

from srcompile.runtime.arrays import ARCHIVE_ERRORS, ArrayError, checked_members, read_array
from srcompile.runtime.check import PHASES, CheckError, check
from srcompile.runtime.errors import ProgramError
from srcompile.runtime.isa import KINDS, Attr, RingType
from srcompile.runtime.kernels import ring_dtype
from srcompile.runtime.source import Array, Source, array_of

FORMAT = 2
TARGETS = ("2pc", "plain")
MAX_FRAC = 256
_INTERFACE = frozenset({"input", "output"})
MAX_JSON_BYTES = 1 << 26
"""The most bytes of `program.json`, some 400,000 instructions; read, it may take 30 times that."""
MAX_FILE_BYTES = 1 << 30
"""The most bytes of a program that a role takes from the model owner, without weights."""
NPY_HEADER = 128
"""About how long the header of a .npy file is, in bytes."""


@dataclass(frozen=True)
class Instruction:
    """One instruction. `layer` indexes Program.layers; `buffer` is where its result may be put."""

    op: str
    out: str
    inputs: tuple[str, ...]
    attrs: Mapping[str, Attr]
    type: RingType | None
    layer: int = 0
    buffer: int = -1


@dataclass(frozen=True)
class Layer:
    """Where instructions come from: the user's module path, the op, and the source line."""

    name: str
    op: str
    source: str


@dataclass(frozen=True)
class Encoding:
    """How the client makes an input of what it is given.

    plain    real numbers
    bits     0 and 1
    lookup   the rows of `table` at token ids, which are given under the name `ids`
    one_hot  for each of these ids `rows` values, 1 at the id and 0 elsewhere
    high     the same for the first digit of the id, id = high * base + low; of so many digits as
             the input has columns, and base = ceil(rows / digits)
    low      the same for the last digit; base is the number of columns

    The table holds integers with the input's fraction bits. Parties do not get it.
    """

    kind: str = "plain"
    ids: str = ""
    rows: int = 0
    table: Array | None = field(default=None, compare=False)


ENCODINGS = ("plain", "bits", "lookup", "one_hot", "high", "low")
ONE_HOT = frozenset({"one_hot", "high", "low"})


def hot_column(kind: str, ids: Array, rows: int, columns: int) -> Array:
    """Return the column that is 1 for each of `ids`, of a table of so many rows."""
    if kind == "high":
        return np.asarray(ids // -(-rows // columns))
    return np.asarray(ids % columns if kind == "low" else ids)


@dataclass(frozen=True)
class Tensor:
    """An input or output: name, shape, fraction bits, ring width, and the values it may take.

    Outputs of a guarded program have limits, and a ring that is wider than these need.
    """

    name: str
    shape: tuple[int, ...]
    frac: int
    width: int
    low: float = float("-inf")
    high: float = float("inf")
    encoding: Encoding = field(default=Encoding())

    @property
    def given(self) -> str:
        """The name under which the client is given this input."""
        return self.encoding.ids or self.name

    @property
    def given_shape(self) -> tuple[int, ...]:
        """The shape of what the client is given."""
        return self.shape[:-1] if self.encoding.ids else self.shape


@dataclass(frozen=True)
class SegmentInfo:
    """A segment's name, and the route that selects it (None: it always runs)."""

    name: str
    route: int | None


@dataclass(frozen=True)
class Constant:
    """A constant's type, and its data unless it is left out; a weight's type has kind share.

    Weights that were just compiled are made whenever `data` is read (runtime/source.py).
    """

    type: RingType
    source: Source = field(default=None, compare=False)

    @property
    def data(self) -> Array | None:
        """Its elements, None if they are left out."""
        return array_of(self.source)

    @property
    def secret(self) -> bool:
        """Whether the parties may only have shares of it."""
        return self.type.kind == "share"


@dataclass(frozen=True)
class Program:
    """A compiled program: what dealer, parties and client run."""

    target: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    segments: tuple[SegmentInfo, ...]
    functions: Mapping[str, tuple[tuple[Instruction, ...], ...]]
    constants: Mapping[str, Constant]
    layers: tuple[Layer, ...]

    def instructions(self, phase: str) -> Iterator[tuple[int, Instruction]]:
        """Yield (segment, instruction) of a function, in order."""
        for segment, body in enumerate(self.functions[phase]):
            for instruction in body:
                yield segment, instruction

    def types(self, phase: str) -> dict[str, RingType]:
        """Return the type of every value that a function sees, and of every constant."""
        phases = ("prepare", "online") if phase == "online" else (phase,)
        known = {name: const.type for name, const in self.constants.items()}
        for p in phases:
            known |= {i.out: i.type for _, i in self.instructions(p) if i.type is not None}
        return known

    @property
    def guarded(self) -> bool:
        """Whether the program reveals if every value stayed in its range, before its outputs."""
        return any(i.op in ("guard", "plain_guard") for _, i in self.instructions("online"))

    def weights(self) -> tuple[str, ...]:
        """Return the names of the secret constants, in the order in which shares are sent."""
        return tuple(name for name, const in self.constants.items() if const.secret)

    def opened_weights(self) -> tuple[str, ...]:
        """Return the weights whose F = W - B the parties open, in the order of `weights`."""
        needed = {i.inputs[0] for _, i in self.instructions("prepare") if i.op == "weight_opened"}
        return tuple(name for name in self.weights() if name in needed)

    def without_weights(self) -> Program:
        """Return this program with no data of secret constants: what a party may see."""
        public = {
            name: replace(const, source=None) if const.secret else const
            for name, const in self.constants.items()
        }
        return replace(self, constants=MappingProxyType(public))

    def for_parties(self) -> Program:
        """Return this program without weights and without the tables that only the client holds."""
        inputs = tuple(replace(t, encoding=replace(t.encoding, table=None)) for t in self.inputs)
        return replace(self.without_weights(), inputs=inputs)

    def digest(self) -> str:
        """Return the SHA-256 of all that the parties must agree on; weights are not part of it."""
        state = hashlib.sha256(_json_text(self).encode())
        for const in self.constants.values():
            if not const.secret and (data := const.data) is not None:
                state.update(np.ascontiguousarray(data).tobytes())
        return state.hexdigest()

    def check(self) -> None:
        """Check every rule. Raises ProgramError, naming function, segment and instruction."""
        declared = {
            (phase, i.out): i.type for phase in PHASES for _, i in self.instructions(phase) if i.out
        }
        consts = {name: const.type for name, const in self.constants.items()}
        try:
            check(self.functions, declared, consts, [s.route for s in self.segments])
        except CheckError as error:
            where = f"{error.phase} function, segment {error.segment}, instruction {error.index}"
            raise ProgramError(f"{where}: {error}") from None
        self._check_layers()
        self._check_interface()

    def _check_layers(self) -> None:
        for phase in PHASES:
            for segment, i in self.instructions(phase):
                if not 0 <= i.layer < len(self.layers):
                    raise ProgramError(
                        f"{phase} function, segment {segment}, {i.op}: there is no layer {i.layer}"
                    )

    def _check_interface(self) -> None:
        """On every route the instructions read and write what `inputs` and `outputs` declare.

        They do it as the target has it.
        """
        if self.target not in TARGETS:
            raise ProgramError(f"the target is '{self.target}'; there are {', '.join(TARGETS)}")
        said = {i.op for _, i in self.instructions("online") if _message(i.op) in _INTERFACE}
        if any(op.startswith("plain_") != (self.target == "plain") for op in said):
            raise ProgramError(f"a program for the target {self.target} has no {sorted(said)}")
        types = self.types("online")
        routes = {s.route for s in self.segments[1:]} or {None}
        for what, tensors in (("input", self.inputs), ("output", self.outputs)):
            declared = sorted((t.name, t.width, t.shape) for t in tensors)
            for route in routes:
                found = []
                for segment, i in self.instructions("online"):
                    taken = self.segments[segment].route in (None, route)
                    if taken and _message(i.op) == what:
                        type_ = types[i.out or i.inputs[0]]
                        found.append((str(i.attrs["name"]), type_.width, type_.shape))
                if sorted(found) != declared:
                    raise ProgramError(
                        f"the program declares the {what}s {declared}, but has {sorted(found)}"
                    )


def _message(op: str) -> str:
    return op.removeprefix("plain_").removeprefix("public_")


# -- writing --------------------------------------------------------------------------------------


def _type_json(type_: RingType | None) -> list[Any] | None:
    return None if type_ is None else [type_.kind, type_.width, list(type_.shape)]


def _instruction_json(i: Instruction) -> list[Any]:
    attrs = {k: list(v) if isinstance(v, tuple) else v for k, v in i.attrs.items()}
    return [i.op, i.out, list(i.inputs), attrs, _type_json(i.type), i.layer, i.buffer]


def _tensor_json(t: Tensor) -> list[Any]:
    encoding = [t.encoding.kind, t.encoding.ids, t.encoding.rows]
    return [t.name, list(t.shape), t.frac, t.width, t.low, t.high, encoding]


def _json_text(program: Program) -> str:
    fields = {
        "format": FORMAT,
        "target": program.target,
        "inputs": [_tensor_json(t) for t in program.inputs],
        "outputs": [_tensor_json(t) for t in program.outputs],
        "segments": [[s.name, s.route] for s in program.segments],
        "layers": [[layer.name, layer.op, layer.source] for layer in program.layers],
        "constants": [[name, _type_json(c.type)] for name, c in program.constants.items()],
        "functions": {
            phase: [[_instruction_json(i) for i in body] for body in program.functions[phase]]
            for phase in PHASES
        },
    }
    return json.dumps(fields, separators=(",", ":"))


def dumps(program: Program, *, weights: bool = True) -> bytes:
    """Return the bytes of a `.srp` file, the same for the same program."""
    out = io.BytesIO()
    _write_archive(out, program if weights else program.without_weights())
    return out.getvalue()


def _write_archive(out: IO[bytes], program: Program) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("program.json"), _json_text(program))
        for number, const in enumerate(program.constants.values()):
            if (data := const.data) is not None:
                _write(archive, f"constants/{number}.npy", data)
        for number, tensor in enumerate(program.inputs):
            if tensor.encoding.table is not None:
                _write(archive, f"tables/{number}.npy", narrowed(tensor.encoding.table))


def _write(archive: zipfile.ZipFile, name: str, data: Array) -> None:
    """Write an array into its member of the archive, without a copy of it in memory."""
    info = zipfile.ZipInfo(name)
    info.file_size = data.nbytes + NPY_HEADER
    with archive.open(info, "w") as member:
        np.lib.format.write_array(member, np.ascontiguousarray(data), allow_pickle=False)


def narrowed(table: Array) -> Array:
    """Return signed integers, or whole floats, in the smallest integer dtype that holds them."""
    return table.astype(smallest_dtype(int(table.min(initial=0)), int(table.max(initial=0))), "C")


def smallest_dtype(low: int, high: int) -> np.dtype[np.signedinteger]:
    """Return the smallest integer dtype that holds all from `low` to `high`."""
    top = max(high, -1 - low)
    sizes = (np.int8, np.int16, np.int32, np.int64)
    return np.dtype(next(s for s in sizes if top <= np.iinfo(s).max))


def save(program: Program, path: str | Path, *, weights: bool = True) -> None:
    """Write a `.srp` file, readable by its owner only if it carries weights or a client's table."""
    inside = weights or any(t.encoding.table is not None for t in program.inputs)
    mode = 0o600 if inside else 0o644
    target = Path(path)
    part = target.with_name(target.name + ".part")
    part.touch(mode=mode)
    part.chmod(mode)
    with part.open("wb") as file:
        _write_archive(file, program if weights else program.without_weights())
    part.replace(target)


# -- reading --------------------------------------------------------------------------------------


def load(path: str | Path) -> Program:
    """Read and check a `.srp` file. Raises ProgramError, naming the file and what is wrong."""
    try:
        with open(path, "rb") as file:
            return _load(file)
    except OSError as error:
        raise ProgramError(f"{path}: {error.strerror or error}") from None
    except ProgramError as error:
        raise ProgramError(f"{path}: {error}") from None


def loads(content: bytes) -> Program:
    """Read and check the bytes of a `.srp` file. Raises ProgramError."""
    return _load(io.BytesIO(content))


def _load(file: IO[bytes]) -> Program:
    """Read and check a `.srp` file, an array at a time. Raises ProgramError."""
    try:
        with zipfile.ZipFile(file) as archive:
            return _read(archive)
    except ARCHIVE_ERRORS as error:
        raise ProgramError(f"this is not a .srp file, or it is damaged ({error})") from None


_WRONG_JSON = (
    KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError, OverflowError,
)  # fmt: skip


def _read(archive: zipfile.ZipFile) -> Program:
    names = set(checked_members(archive))
    if "program.json" not in names:
        raise ProgramError("this is not a .srp file: it has no program.json")
    if archive.getinfo("program.json").file_size > MAX_JSON_BYTES:
        raise ProgramError("program.json is unreasonably large")
    try:
        fields = json.loads(archive.read("program.json"))
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"program.json is damaged ({error})") from None
    version = fields.get("format") if isinstance(fields, dict) else None
    if version != FORMAT:
        raise ProgramError(
            f"this file has format {version!r}, this runtime reads format {FORMAT}; "
            "compile the model again, or use the srcompile that wrote it"
        )
    try:
        program = _program(fields, archive, names)
    except _WRONG_JSON as error:
        raise ProgramError(f"program.json is damaged ({type(error).__name__}: {error})") from None
    program.check()
    return program


def _program(fields: dict[str, Any], archive: zipfile.ZipFile, names: set[str]) -> Program:
    constants: dict[str, Constant] = {}
    for number, (name, type_json) in enumerate(fields["constants"]):
        type_ = _type(type_json)
        assert type_ is not None
        file = f"constants/{number}.npy"
        data = _array(archive, file, type_) if file in names else None
        if data is None and type_.kind != "share":
            raise ProgramError(f"the public constant {name} is missing")
        constants[_text(name)] = Constant(type_, data)
    functions = {
        phase: tuple(tuple(map(_instruction, body)) for body in fields["functions"][phase])
        for phase in PHASES
    }
    segments = tuple(
        SegmentInfo(_text(n), r if r is None else int(r)) for n, r in fields["segments"]
    )
    layers = tuple(Layer(*map(_text, layer)) for layer in fields["layers"])
    counts = {len(body) for body in functions.values()}
    if counts != {len(segments)}:
        raise ProgramError(f"the functions have {sorted(counts)} segments, not {len(segments)}")
    return Program(
        _text(fields["target"]),
        tuple(_with_table(_tensor(t), k, archive, names) for k, t in enumerate(fields["inputs"])),
        tuple(map(_tensor, fields["outputs"])),
        segments,
        MappingProxyType(functions),
        MappingProxyType(constants),
        layers,
    )


def _array(archive: zipfile.ZipFile, file: str, type_: RingType) -> Array:
    """Read an array whose dtype, shape and values fit `type_`; its size is checked first."""
    dtype = ring_dtype(type_.width)
    if archive.getinfo(file).file_size > type_.size * dtype.itemsize + 4096:
        raise ProgramError(f"{file} is larger than {type_}")
    array: Array = _read_array(archive, file)
    if array.dtype != dtype or array.shape != type_.shape:
        raise ProgramError(f"{file} holds {array.dtype}{array.shape}, not {type_}")
    if type_.width < 8 * dtype.itemsize and array.size and int(array.max()) >> type_.width:
        raise ProgramError(f"{file} holds values of more than {type_.width} bits")
    return array


def _read_array(archive: zipfile.ZipFile, file: str) -> Array:
    """Read an array of a size that is checked already, without a second copy of it."""
    try:
        with archive.open(file) as member:
            return read_array(member, archive.getinfo(file).file_size)
    except ArrayError as error:
        raise ProgramError(f"{file}: {error}") from None


def _with_table(tensor: Tensor, number: int, archive: zipfile.ZipFile, names: set[str]) -> Tensor:
    """Return an input with the table that the file has for it, checked; sizes come first."""
    file, encoding = f"tables/{number}.npy", tensor.encoding
    if encoding.ids and (not tensor.shape or not _columns_fit(encoding, tensor.shape[-1])):
        raise ProgramError(f"the input '{tensor.name}' does not fit its encoding")
    if encoding.kind != "lookup" or file not in names:
        return tensor
    shape = (encoding.rows, tensor.shape[-1])
    if archive.getinfo(file).file_size > shape[0] * shape[1] * 8 + 4096:
        raise ProgramError(f"{file} is larger than a table of {shape}")
    table: Array = _read_array(archive, file)
    if table.dtype.kind != "i" or table.shape != shape:
        raise ProgramError(f"{file} holds {table.dtype}{table.shape}, not integers{shape}")
    return replace(tensor, encoding=replace(encoding, table=table))


def _columns_fit(encoding: Encoding, columns: int) -> bool:
    if encoding.kind == "one_hot":
        return encoding.rows == columns
    return encoding.kind not in ONE_HOT or 1 <= columns <= encoding.rows


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not an integer")
    return value


def _shape(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or any(_int(v) < 0 for v in value):
        raise TypeError(f"{value!r} is not a shape")
    return tuple(value)


def _type(value: Any) -> RingType | None:
    if value is None:
        return None
    kind, width, shape = value
    if kind not in KINDS or not 1 <= _int(width) <= 1 << 20:
        raise ValueError(f"{value!r} is not a type")
    return RingType(kind, width, _shape(shape))


def _attr(value: object) -> Attr:
    if isinstance(value, list):
        return tuple(map(_int, value))
    if isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} is not an attribute")


def _instruction(value: Any) -> Instruction:
    op, out, inputs, attrs, type_, layer, buffer = value
    return Instruction(
        _text(op),
        _text(out),
        tuple(map(_text, inputs)),
        MappingProxyType({_text(k): _attr(v) for k, v in attrs.items()}),
        _type(type_),
        _int(layer),
        _int(buffer),
    )


def _tensor(value: Any) -> Tensor:
    name, shape, frac, width, low, high, (kind, ids, rows) = value
    if kind not in ENCODINGS or (kind == "lookup" or kind in ONE_HOT) != bool(ids):
        raise ValueError(f"{kind!r} is no encoding of an input")
    encoding = Encoding(_text(kind), _text(ids), _int(rows))
    if abs(_int(frac)) > MAX_FRAC:
        raise ValueError(f"{frac} fraction bits are too many")
    range_ = float(low), float(high)
    return Tensor(_text(name), _shape(shape), frac, _int(width), *range_, encoding)
