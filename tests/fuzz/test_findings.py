"""What fuzzing found, each as a test: these inputs raised something else, or took much memory."""

from __future__ import annotations

import base64
import io
import json
import random
import socket
import ssl
import struct
import threading
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srcompile.cli.common import read_inputs
from srcompile.errors import TextError
from srcompile.ir.parser import parse_module
from srcompile.ops import registry
from srcompile.ops.verifier import verify_text
from srcompile.runtime.arrays import ArrayError, read_archive, read_array
from srcompile.runtime.certificates import describe, make_certificates, renew_certificates
from srcompile.runtime.channels.tcp import HEADER, TcpChannel, admit
from srcompile.runtime.client import share_weights
from srcompile.runtime.errors import (
    ConfigError,
    InputError,
    ProfileError,
    ProgramError,
    ProtocolError,
)
from srcompile.runtime.isa import Attr, IsaError, RingType, result_type
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.plain import PlainRunner
from srcompile.runtime.profiles import BUILT_IN, GRIDS, read_profile
from srcompile.runtime.program import Constant, Program, dumps, load, loads
from srcompile.runtime.roles import LISTENING
from srcompile.runtime.services.batches import Batches, Limits, Member
from srcompile.runtime.services.doctor import examine
from srcompile.runtime.services.health import Health
from srcompile.runtime.services.links import Links
from srcompile.runtime.services.settings import read_settings
from srcompile.runtime.services.state import Store, stored_opened
from srcompile.runtime.shares import read_shares, write_shares
from tests.fuzz.lies import at_once, linked
from tests.fuzz.mutations import bomb, npy
from tests.fuzz.wire import FakeRoles, framed, insecure
from tests.support.builds import BUILDS, compiled
from tests.support.services import free_ports, settings_in

MLP = compiled(BUILDS["mlp"]).program
LONG = "9" * 5000  # Python converts no more than 4300 digits


# -- arrays ---------------------------------------------------------------------------------------

HEADS = {
    "an expression without an end": b"{'descr': '<u4', 'shape': (" + b"(" * 200,
    "objects": b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "large elements": b"{'descr': '<U100000000', 'fortran_order': False, 'shape': (1000000000,), }",
    "a shape without a limit": b"{'descr': '<u4', 'fortran_order': False, 'shape': (9%s,), }"
    % (b"9" * 99),
    "a negative shape": b"{'descr': '<u4', 'fortran_order': False, 'shape': (-1,), }",
    "a shape of truth values": b"{'descr': '<u4', 'fortran_order': False, 'shape': (True,), }",
    "fields": b"{'descr': [('a', '<u4')], 'fortran_order': False, 'shape': (1000000000,), }",
    "more than there is": b"{'descr': '<u4', 'fortran_order': False, 'shape': (1000000000,), }",
    "no axis but many elements": b"{'descr': '<u8', 'fortran_order': False, 'shape': (0, %s), }"
    % (b"9" * 18),
}


@pytest.mark.parametrize("what", HEADS)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_header_that_numpy_would_not_write_is_no_array(what: str, version: int) -> None:
    data = npy(HEADS[what], b"abcd", version)
    with pytest.raises(ArrayError):
        read_array(io.BytesIO(data), len(data))


@pytest.mark.parametrize("what", HEADS)
def test_files_with_such_arrays_are_errors_that_name_the_file(what: str, tmp_path: Path) -> None:
    # given inputs, weight shares and opened weights with this array in them
    file = tmp_path / "opened.npz"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("header", "x", *map(str, range(9))):
            archive.writestr(f"{name}.npy", npy(HEADS[what], b"abcd", 1))
    # when they are read, then it is the reader's error, or the weights are opened again
    with pytest.raises(InputError, match=r"opened.npz is no .npz file of plain arrays"):
        read_inputs(str(file), MLP)
    with pytest.raises(ProgramError, match=r"opened.npz is no file of weight shares"):
        read_shares(file, MLP, 0)
    assert stored_opened(tmp_path, MLP) is None


@pytest.mark.parametrize("dtype", ["u1", "<u4", "u8", "i8", "f4", "f8", "?", ">f2"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (3, 0, 2), (2, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numbers_are_read_as_they_were_written(
    dtype: str, shape: tuple[int, ...], order: str
) -> None:
    array = np.zeros(shape, dtype, "F" if order == "F" else "C")
    array[...] = np.arange(array.size).reshape(shape)
    out = io.BytesIO()
    np.save(out, array)
    found = read_array(io.BytesIO(out.getvalue()), len(out.getvalue()))
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_inputs_may_be_compressed(save: object, tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    sample = BUILDS["mlp"].samples[0]
    save(file, **sample)  # type: ignore[operator]
    found = read_inputs(str(file), MLP)
    np.testing.assert_array_equal(found["x"], sample["x"])


def test_a_compressed_member_that_says_too_much_is_refused(tmp_path: Path) -> None:
    # given an archive whose directory claims 4 GB for 100 bytes
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(100))
        archive.infolist()[0].file_size = 1 << 32
    with pytest.raises(ArrayError, match="larger than the file allows"):
        read_archive(io.BytesIO(out.getvalue()), compressed=True)


def test_members_that_share_their_bytes_are_refused() -> None:
    # given an archive in which a thousand members are one and the same 100 kB
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("0.npy", bytes(100_000))
        first = archive.infolist()[0]
        for number in range(1, 1000):
            again = zipfile.ZipInfo(f"{number}.npy")
            again.CRC, again.header_offset = first.CRC, first.header_offset
            again.file_size = again.compress_size = first.file_size
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
    with pytest.raises(ArrayError, match="larger than the file allows"):
        read_archive(io.BytesIO(out.getvalue()))


# -- programs -------------------------------------------------------------------------------------


def test_a_small_file_cannot_be_a_large_program() -> None:
    content = bomb(50_000_000)
    assert len(content) < 100_000
    with pytest.raises(ProgramError, match="it is compressed"):
        loads(content)


def with_fields(change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return the MLP's file with other fields in its `program.json`."""
    with zipfile.ZipFile(io.BytesIO(dumps(MLP))) as source:
        members = {name: source.read(name) for name in source.namelist()}
    fields = json.loads(members["program.json"])
    change(fields)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in {**members, "program.json": json.dumps(fields).encode()}.items():
            archive.writestr(name, data)
    return out.getvalue()


def test_fraction_bits_that_no_float_holds_are_refused() -> None:
    with pytest.raises(ProgramError, match="2000 fraction bits are too many"):
        loads(with_fields(lambda fields: fields["outputs"][0].__setitem__(2, 2000)))


@pytest.mark.parametrize(
    ("target", "said"),
    [("plain", "a program for the target plain has no"), ("x", "the target is 'x'; there are")],
)
def test_a_target_that_the_instructions_do_not_have_is_refused(target: str, said: str) -> None:
    with pytest.raises(ProgramError, match=said):
        loads(with_fields(lambda fields: fields.update(target=target)))


def test_a_constant_that_is_no_array_is_named() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(dumps(MLP))) as source, zipfile.ZipFile(out, "w") as archive:
        for name in source.namelist():
            data = source.read(name)
            wrong = npy(HEADS["objects"], b"abcd", 1)
            archive.writestr(name, wrong if name == "constants/0.npy" else data)
    with pytest.raises(ProgramError, match=r"constants/0.npy: it is no array of numbers"):
        loads(out.getvalue())


def test_a_slot_that_is_none_is_told_with_its_place() -> None:
    def change(fields: dict[str, Any]) -> None:
        for body in fields["functions"]["prepare"]:
            for instruction in body:
                if "slot" in instruction[3]:
                    instruction[3]["slot"] = -1

    with pytest.raises(ProgramError, match=r"^prepare function, segment 0, instruction \d+: "):
        loads(with_fields(change))


# -- settings, state, IR --------------------------------------------------------------------------

TOML = {
    "an integer without an end": f"sessions = {LONG}",
    "a text that is one": f'sessions = "{LONG}"',
    "a port without an end": f'dealer = "host:{LONG}"',
    "seconds that no float holds": f"timeout = 1{'0' * 400}",
    "nesting without an end": "sessions = " + "[" * 5000,
}


@pytest.mark.parametrize("what", TOML)
def test_settings_that_python_cannot_read_are_an_error_that_names_the_file(
    what: str, tmp_path: Path
) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(TOML[what])
    with pytest.raises(ConfigError, match=r"cluster.toml"):
        read_settings(file, {}, {})


def test_a_deployment_whose_name_is_no_text_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "party0", 4)
    (tmp_path / "party0" / "current" / MLP.digest()).write_bytes(b"\xff" * 32)
    assert store.current(MLP.digest()) is None
    assert store.deployed() == {}
    store.close()


@pytest.mark.parametrize("text", [f"ir {LONG} graph", "ir 1 graph\n"])
def test_ir_with_a_long_number_or_without_a_function_is_shown_its_place(text: str) -> None:
    header = compiled_text().splitlines()[0]
    given = header.replace(header.split()[1], LONG) if LONG in text else header + "\n"
    with pytest.raises(TextError):
        verify_text(parse_module(given), given, registry())


def compiled_text() -> str:
    from srcompile.ir.printer import print_module

    return print_module(compiled(BUILDS["mlp"]).graph)


# -- peers ----------------------------------------------------------------------------------------

STRANGE = {
    "a proof of other letters": [{"role": "client", "nonce": "x"}, {"proof": "ü" * 64}],
    "half a letter": [{"role": "client", "nonce": "\ud800"}, {"proof": "\ud800"}],
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_stranger_with_strange_letters_is_turned_away(what: str) -> None:
    # given a visitor that says this in the handshake
    ours, theirs = pair()
    with ours, theirs:
        for number, said in enumerate(STRANGE[what]):
            data = json.dumps(said).encode()
            theirs.sendall(HEADER.pack(number, len(data)) + data)
        # when it is asked in, then it is refused like any other
        with pytest.raises(ProtocolError, match="another token or another program"):
            admit(ours, {"client": "the client"}, b"t" * 32, "00" * 32)


def test_a_visitor_that_says_something_and_resets_the_connection_is_turned_away(
    tmp_path: Path,
) -> None:
    # given one who is gone before TLS begins, with something left to be read
    links = Links("party0", settings_in(tmp_path))
    ours, theirs = pair()
    theirs.sendall(b"hello")
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    # when it is asked in, then it is refused like any other, and its connection is closed
    with pytest.raises(ProtocolError, match="TLS"):
        links.welcome(ours)
    assert ours.fileno() == -1


def test_a_control_message_that_is_nested_without_an_end_is_refused() -> None:
    ours, theirs = pair()
    with ours, theirs:
        data = b"[" * 4_000
        theirs.sendall(HEADER.pack(0, len(data)) + data)
        with pytest.raises(ProtocolError, match="no control message"):
            TcpChannel(ours, "party 1").receive_json()


def test_a_session_that_party_0_names_in_two_batches_ends_with_an_error() -> None:
    # given a session at party 1 that says it is ready
    batches = Batches(1, lambda blocks: None, 1.0, Limits(2, 1, 0.0, 10))
    with linked(random.Random(1), ("party 0", "party 1")) as link:
        first, second = link.ends
        for end in link.ends:
            end.wait_at_most(30.0)
        nothing: Any = None
        follower = Member("b", "a client", nothing, second, nothing, ())

        def lead() -> None:
            assert first.receive_json() == {"ready": True}
            # when another batch has it, which fails, and party 0 lets it lead one as well
            batches._ready.pop("b").fail(ProtocolError("it failed"))
            first.send_json({"lead": ["b", "c"]})

        # then it ends with an error, and nothing is left of it
        found, none = at_once([lambda: unused(batches.run(follower, unused)), lead])[:2]
    assert none is None
    assert str(found) == "party 0 says that this session is in two batches"
    assert batches._ready == {}


def unused(_: object) -> None:
    """Take something that nobody wants."""


DEPLOYED: dict[str, dict[str, Any]] = {
    "a deployment that is no text": {"deployed": {"ab" * 32: {"a": [1]}}},
    "a program that is none": {"deployed": {"\033[2J": "cd" * 16}},
    "deployments that are a list": {"deployed": ["ab" * 32]},
    "a clock that no float holds": {"time": 10**400},
    "a version for the terminal": {"version": "\033[2J\n"},
}


@pytest.mark.parametrize("what", DEPLOYED)
def test_a_doctor_is_not_hurt_by_what_a_role_says_of_itself(what: str, tmp_path: Path) -> None:
    # given roles of which one says this
    settings = insecure(tmp_path, timeout=5.0)
    state = {"version": "1", "time": 0.0, "deployed": {}} | DEPLOYED[what]
    with ExitStack() as stack:
        roles = FakeRoles(settings, stack, LISTENING)
        roles.streams = {role: framed([json.dumps(state).encode()]) for role in LISTENING}
        # when the client's machine is examined, then there is something to show of each
        found = examine("client", settings)
    names = {finding.what for finding in found}
    assert {"party 0's clock", "party 1's clock", "the dealer's clock"} <= names
    assert all(f.what.isprintable() and f.found.isprintable() for f in found)


def test_a_monitor_that_does_not_wait_for_its_answer_leaves_no_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # given a health page that is long, and is being made
    (port,) = free_ports(1)
    asked, gone = threading.Event(), threading.Event()

    def state() -> dict[str, Any]:
        asked.set()
        gone.wait(10)
        return {"stopping": False, "listening": True, "text": "x" * 5_000_000}

    health = Health(port, state, lambda: "")
    # when who asks for it is gone before it comes
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert asked.wait(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.set()
    for thread in threading.enumerate():
        if "process_request" in thread.name:
            thread.join(10)
    health.close()
    # then nothing is printed
    assert capsys.readouterr().err == ""


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        return listening.accept()[0], theirs


def test_shares_and_programs_are_read_as_they_were_written(tmp_path: Path) -> None:
    shares = share_weights(MLP)[1]
    write_shares(tmp_path / "p1", MLP, 1, shares)
    found = read_shares(tmp_path / "p1", MLP, 1)
    assert all(np.array_equal(found[name], shares[name]) for name in MLP.weights())
    (tmp_path / "x.srp").write_bytes(dumps(MLP))
    assert load(tmp_path / "x.srp").digest() == MLP.digest()


# -- programs that passed the checks ---------------------------------------------------------------


def changed_program(
    constants: dict[str, RingType] | None = None, inputs: dict[str, tuple[str, ...]] | None = None
) -> bytes:
    """Return the MLP with constants of another type, and other operands for ops of `online`."""
    online = tuple(
        tuple(replace(i, inputs=(inputs or {}).get(i.op, i.inputs)) for i in body)
        for body in MLP.functions["online"]
    )
    known = {
        name: replace(const, type=(constants or {}).get(name, const.type))
        for name, const in MLP.constants.items()
    }
    functions = {**MLP.functions, "online": online}
    return dumps(replace(MLP, constants=known, functions=functions))


@pytest.mark.parametrize("kind", ["mask", "masked", "clear", "key"])
def test_a_constant_that_stands_for_a_mask_is_refused(kind: str) -> None:
    # its data would be known to both parties, and whatever was opened under it
    name = MLP.weights()[0]
    changed = {name: replace(MLP.constants[name].type, kind=kind)}
    with pytest.raises(ProgramError, match="a constant is public, or a share of a weight"):
        loads(changed_program(changed))


def test_a_weight_is_read_by_the_instructions_that_load_it_alone() -> None:
    with pytest.raises(ProgramError, match=rf"'output' reads the weight {MLP.weights()[-1]}"):
        loads(changed_program(inputs={"output": (MLP.weights()[-1],)}))


def test_an_instruction_that_loads_a_weight_takes_no_other_value() -> None:
    share = next(i.out for _, i in MLP.instructions("online") if i.type and i.type.kind == "share")
    with pytest.raises(ProgramError, match=r"'weight_share' reads no weight but %|is not defined"):
        loads(changed_program(inputs={"weight_share": (share,)}))


@pytest.mark.parametrize("layer", [-1, len(MLP.layers), 1 << 70])
def test_an_instruction_is_of_a_layer_that_there_is(layer: int) -> None:
    first, *others = MLP.functions["online"][0]
    online = ((replace(first, layer=layer), *others), *MLP.functions["online"][1:])
    changed = replace(MLP, functions={**MLP.functions, "online": online})
    with pytest.raises(ProgramError, match=f"online function, segment 0, .*no layer {layer}"):
        loads(dumps(changed))


def test_a_plain_program_that_chooses_no_route_says_so() -> None:
    # given a plain pool that adds to the route what makes it none
    program = compiled(BUILDS["pool"], "plain").program
    (chosen,) = (i.inputs[0] for _, i in program.instructions("online") if i.op == "plain_route")
    first = program.functions["online"][0]
    name = f"{chosen}.far"
    body = tuple(replace(i, inputs=(name,)) if i.op == "plain_route" else i for i in first)
    at = next(k for k, i in enumerate(body) if i.op == "plain_route")
    made = next(i for i in first if i.out == chosen)
    far = replace(made, op="offset", out=name, inputs=(chosen,), attrs={"by": 77})
    online = ((*body[:at], far, *body[at:]), *program.functions["online"][1:])
    changed = replace(program, functions={**program.functions, "online": online})
    # when it runs, then it says so
    with pytest.raises(ProgramError, match=r"the program chose route -?\d+, which does not exist"):
        PlainRunner(loads(dumps(changed)), load_kernels()).infer(BUILDS["pool"].samples[0])


CONVOLUTION = compiled(BUILDS["convolution"]).program


def with_attrs(program: Program, op: str, **changed: Attr) -> Program:
    """Return a program with other attributes in all instructions of an op."""
    functions = {
        phase: tuple(
            tuple(replace(i, attrs={**i.attrs, **changed}) if i.op == op else i for i in body)
            for body in bodies
        )
        for phase, bodies in program.functions.items()
    }
    return replace(program, functions=functions)


@pytest.mark.parametrize("bits", [15, 40, 61])
def test_a_convolution_of_a_few_windows_far_apart_on_a_large_padding_is_refused(bits: int) -> None:
    # given a padding, and a stride with which the result keeps its shape: kernels wrote behind the
    # end of the padded image, or ended the process
    height, width = CONVOLUTION.inputs[0].shape[2:]
    padding = 1 << bits
    strides = tuple((size + 2 * padding - 3) // (size - 1) for size in (height, width))
    changed = with_attrs(CONVOLUTION, "conv2d", padding=(padding, padding), stride=strides)
    # when it is read, then it is an error that says where
    with pytest.raises(ProgramError, match=r"instruction \d+: 'conv2d': (the input|stride) .* "):
        loads(dumps(changed))


SHAPES = {
    "no elements, but an axis that no array has": (0, 1 << 62, 4),
    "more axes than an array has": (1,) * 70,
    "more elements than fit": (1 << 31, 2),
}


@pytest.mark.parametrize("what", SHAPES)
def test_a_shape_that_no_array_has_is_refused(what: str) -> None:
    weight = {MLP.weights()[0]: Constant(RingType("share", 32, SHAPES[what]))}
    changed = replace(MLP, constants={**MLP.constants, **weight})
    with pytest.raises(ProgramError, match=r"the constant @.* is too large"):
        loads(dumps(changed, weights=False))
    with pytest.raises(IsaError, match="too large"):
        result_type("public_input", [], {"name": "x", "width": 8, "shape": SHAPES[what]}, None,
                    "online")  # fmt: skip


def test_a_step_that_no_array_has_is_refused() -> None:
    whole = RingType("share", 8, (4,))
    with pytest.raises(IsaError, match="is outside 4"):
        result_type("slice", [whole], {"starts": (0,), "stops": (4,), "steps": (1 << 70,)}, None,
                    "online")  # fmt: skip


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        (bytes.fromhex("a003020102"), bytes.fromhex("a00302016a")),  # the version
        (bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce740201")),  # kind of key
        (bytes.fromhex("03420004"), bytes.fromhex("03420005")),  # the key
    ],
)
def test_a_damaged_authority_is_refused(part: bytes, changed: bytes, tmp_path: Path) -> None:
    make_certificates(tmp_path, {})
    file = tmp_path / "ca.pem"
    content = ssl.PEM_cert_to_DER_cert(file.read_text())
    assert part in content
    file.write_text(ssl.DER_cert_to_PEM_cert(content.replace(part, changed, 1)))
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        describe(file)


def test_an_authority_with_a_key_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    make_certificates(tmp_path, {})
    file = tmp_path / "ca.key"
    head, *lines, end = file.read_text().splitlines()
    content = base64.b64decode("".join(lines))
    other = content.replace(
        bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce740201")
    )
    assert other != content
    file.write_text("\n".join((head, base64.b64encode(other).decode(), end, "")))
    with pytest.raises(ConfigError, match=r"ca\.key is damaged"):
        renew_certificates(tmp_path, {})


def test_a_time_that_no_float_holds_is_none_of_a_profile(tmp_path: Path) -> None:
    fields = json.loads(BUILT_IN.read_text())
    fields["grids"][next(iter(GRIDS))]["seconds"][0] = 10**400
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(fields))
    with pytest.raises(ProfileError, match="is damaged in the grid"):
        read_profile(file)
