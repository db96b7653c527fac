"""What all tests have: derandomised, quick hypothesis runs, and the fastest kernels there are."""

from __future__ import annotations

import os

import hypothesis
import pytest

from srcompile.runtime.kernels import Kernels, load

# a failing example prints its seed (@reproduce_failure); --hypothesis-profile=search looks for more
hypothesis.settings.register_profile(
    "fast", max_examples=50, deadline=None, derandomize=True, print_blob=True
)
hypothesis.settings.register_profile("search", max_examples=2000, deadline=None, print_blob=True)
hypothesis.settings.load_profile("fast")


@pytest.fixture(scope="session", autouse=True)
def no_profile_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Project times with the built-in profile, whatever the user has stored."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def fast_kernels() -> Kernels:
    """Return the fastest kernels of this machine."""
    return load()
