"""AES-128 from `cryptography`: for the NumPy kernels, and streams where AES has no instructions."""

from __future__ import annotations

import numpy as np

from srcompile.runtime.kernels.interface import Bytes


def encrypt_blocks(key: bytes, blocks: Bytes) -> Bytes:
    """Return AES-128 of every 16-byte block of a contiguous array, in an array of its shape."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    out = np.frombuffer(encryptor.update(blocks.tobytes()), dtype=np.uint8)
    return out.reshape(blocks.shape)


def counter_block(block: int, slot: int) -> bytes:
    """Return the first counter of a slot: block (8 bytes, big-endian) || slot (4) || 0 (4)."""
    return block.to_bytes(8, "big") + slot.to_bytes(4, "big") + bytes(4)


def counter_stream(key: bytes, initial: bytes, n_bytes: int) -> Bytes:
    """Return n_bytes of AES-128-CTR from a 16-byte initial counter. Writable."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    encryptor = Cipher(algorithms.AES(key), modes.CTR(initial)).encryptor()
    out = np.zeros(n_bytes, dtype=np.uint8)
    step = 1 << 30  # bytes; one call takes less than 2^31
    for at in range(0, n_bytes, step):
        part = out[at : at + step]
        part[:] = np.frombuffer(encryptor.update(part.tobytes()), dtype=np.uint8)
    return out
