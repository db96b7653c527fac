"""The keystream is AES-128-CTR, at the counters that the interface promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srcompile.runtime.kernels import Kernels

from .implementations import AVAILABLE

FIPS_197_KEY = bytes(range(16))
FIPS_197_PLAIN = bytes.fromhex("00112233445566778899aabbccddeeff")
FIPS_197_CIPHER = bytes.fromhex("69c4e0d86a7b0430d8cdb78070b4c55a")

SP_800_38A_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
SP_800_38A_COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
SP_800_38A_KEYSTREAM_1 = bytes.fromhex("ec8cdf7398607cb0f2d21675ea9ea1e4")


def test_fips_197_example_through_the_definition() -> None:
    from srcompile.runtime.kernels.aes import encrypt_blocks

    plain = np.frombuffer(FIPS_197_PLAIN, dtype=np.uint8)
    assert encrypt_blocks(FIPS_197_KEY, plain).tobytes() == FIPS_197_CIPHER


def test_sp_800_38a_counter_stream_through_the_definition() -> None:
    from srcompile.runtime.kernels.aes import counter_stream

    stream = counter_stream(SP_800_38A_KEY, SP_800_38A_COUNTER, 16)
    assert stream.tobytes() == SP_800_38A_KEYSTREAM_1


def test_stream_blocks_are_encrypted_counters(kernels: Kernels) -> None:
    from srcompile.runtime.kernels.aes import encrypt_blocks

    block, slot = 0x0123456789ABCDEF, 0xFEDCBA98
    head = block.to_bytes(8, "big") + slot.to_bytes(4, "big")
    counters = b"".join(head + i.to_bytes(4, "big") for i in range(70))
    want = encrypt_blocks(SP_800_38A_KEY, np.frombuffer(counters, dtype=np.uint8))
    assert kernels.prg(SP_800_38A_KEY, block, slot, 70 * 16).tobytes() == want.tobytes()


@pytest.mark.parametrize(
    ("key", "counter", "cipher"),
    [
        # zeros, and those of NIST's AESAVS (variable key and variable text) whose plaintext is a
        # counter block that a slot begins with
        ("00" * 16, "00" * 16, "66e94bd4ef8a2c3b884cfa59ca342b2e"),
        ("80" + "00" * 15, "00" * 16, "0edd33d3c621e546455bd8ba1418bec8"),
        ("ff" * 16, "00" * 16, "a1f6258c877d5fcd8964484538bfc92c"),
        ("00" * 16, "80" + "00" * 15, "3ad78e726c1ec02b7ebfe92b23d9ec34"),
    ],
)
def test_known_blocks_through_every_path(
    kernels: Kernels, key: str, counter: str, cipher: str
) -> None:
    block, slot = int(counter[:16], 16), int(counter[16:24], 16)
    stream = kernels.prg(bytes.fromhex(key), block, slot, 16)
    assert stream.tobytes().hex() == cipher


@settings(max_examples=30, deadline=None)
@given(
    key=st.binary(min_size=16, max_size=16),
    block=st.integers(0, 2**64 - 1),
    slot=st.integers(0, 2**32 - 1),
    n_bytes=st.integers(0, 2500),
)
def test_every_implementation_gives_the_same_stream(
    key: bytes, block: int, slot: int, n_bytes: int
) -> None:
    streams = {name: k.prg(key, block, slot, n_bytes) for name, k in AVAILABLE.items()}
    for stream in streams.values():
        assert stream.dtype == np.uint8
        assert stream.shape == (n_bytes,)
        assert stream.tobytes() == streams["numpy"].tobytes()


@pytest.mark.parametrize(
    ("key", "block", "slot", "n_bytes"),
    [
        (bytes(15), 0, 0, 1),
        (bytes(16), 1 << 64, 0, 1),
        (bytes(16), -1, 0, 1),
        (bytes(16), 0, 1 << 32, 1),
        (bytes(16), 0, 0, -1),
        (bytes(16), 0, 0, (1 << 36) + 1),
    ],
)
def test_arguments_out_of_range_are_refused(
    kernels: Kernels, key: bytes, block: int, slot: int, n_bytes: int
) -> None:
    with pytest.raises(ValueError, match="PRG"):
        kernels.prg(key, block, slot, n_bytes)
