"""Errors of the runtime: what was found, who is concerned, what would do."""

from __future__ import annotations

import os

OUT_OF_MEMORY = "is out of memory; give it more, or let less run at the same time"
"""What a role says of itself."""


def error_text(error: OSError) -> str:
    """Return the system's words for an error, without numbers and without what was tried."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if error.errno is None or error.errno < 0:  # a name that is not known has one below 0
        return error.strerror or str(error)
    return os.strerror(error.errno)


class RunError(Exception):
    """Base of all errors that the runtime raises on purpose; command lines exit with code 2."""


class ProgramError(RunError):
    """A program file that is damaged, of another version, or breaks a rule."""


class InputError(RunError):
    """An input that is missing, of another shape or type, not finite, or out of range."""


class RangeError(RunError):
    """A value left the range that a guarded program checks: there is no output."""

    def __init__(self, which: str = "") -> None:
        super().__init__(
            f"{which}a value left the range that the program was calibrated for, so there is no "
            "output; calibrate it with inputs like this one, or compile it with a wider margin"
        )


class ProtocolError(RunError):
    """A peer that is gone or does not keep to the protocol; names peer, round and instruction."""


class KernelError(RunError, ValueError):
    """Kernels that do not exist, or that this machine cannot run."""


class ProfileError(RunError):
    """A machine profile that is missing, damaged, or cannot be written."""


class ConfigError(RunError):
    """A setting, a certificate or a stored file that is missing, damaged or of no use."""


class SpoolError(RunError):
    """A disk that is full or fails, or a file on it that is not as it was written."""
