"""The environment or an argument chooses the implementation; unknown names are explained."""

from __future__ import annotations

import pytest

from srcompile.runtime.kernels import load

from .implementations import AVAILABLE


def test_numpy_can_always_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load("numpy").name == "numpy"
    monkeypatch.setenv("SRCOMPILE_KERNELS", "numpy")
    assert load().name == "numpy"


def test_the_kernels_that_the_environment_asks_for_are_there() -> None:
    assert load().name in {kernels.name for kernels in AVAILABLE.values()}


def test_an_unknown_name_lists_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'fast'.*numpy, native, .*native-avx2, native-portable"):
        load("fast")
    monkeypatch.setenv("SRCOMPILE_KERNELS", "slow")
    with pytest.raises(ValueError, match="'slow'"):
        load()


def test_names_say_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRCOMPILE_KERNELS", raising=False)
    best = load().name
    assert best == AVAILABLE["native" if "native" in AVAILABLE else "numpy"].name
    if "native-portable" in AVAILABLE:
        assert load("native-portable").name == "native (portable)"
