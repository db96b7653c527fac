"""Fixtures that run a test once with each implementation of the kernels."""

from __future__ import annotations

import pytest

from srcompile.runtime.kernels import Kernels

from .implementations import AVAILABLE, DEFINITION


@pytest.fixture(params=sorted(set(AVAILABLE) - {"native"}), ids=str, scope="session")
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """Return each implementation in turn."""
    return AVAILABLE[request.param]


@pytest.fixture(params=sorted(set(AVAILABLE) - {"numpy", "native"}), ids=str, scope="session")
def native(request: pytest.FixtureRequest) -> Kernels:
    """Return each path of the native implementation in turn."""
    return AVAILABLE[request.param]


@pytest.fixture(scope="session")
def definition() -> Kernels:
    """Return the NumPy implementation."""
    return DEFINITION
