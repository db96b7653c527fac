"""Settings: one schema for file, environment and flags, and errors that name place and remedy."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from srcompile.runtime.errors import ConfigError
from srcompile.runtime.services.settings import Endpoint, Settings, read_settings

EXAMPLES: dict[str, tuple[str, object]] = {
    "party0": ('"a.example:1"', Endpoint("a.example", 1)),
    "party1": ('"[::1]:2"', Endpoint("::1", 2)),
    "dealer": ('"127.0.0.1:65535"', Endpoint("127.0.0.1", 65535)),
    "listen": ('"0.0.0.0"', "0.0.0.0"),
    "certs": ('"c"', Path("c")),
    "state": ('"s"', Path("s")),
    "insecure": ("false", False),
    "sessions": ("3", 3),
    "client_sessions": ("2", 2),
    "session_memory": ("512", 512),
    "batch": ("4", 4),
    "batches": ("2", 2),
    "batch_wait": ("0.5", 0.5),
    "queue": ("16", 16),
    "deployments": ("4", 4),
    "memory": ("64", 64),
    "stock_low": ("2", 2),
    "stock_high": ("5", 5),
    "stock_mib": ("100", 100),
    "timeout": ("2.5", 2.5),
    "idle": ("60", 60.0),
    "keep_links": ("0", 0.0),
    "link_age": ("600", 600.0),
    "drain": ("0", 0.0),
    "kernels": ('"numpy"', "numpy"),
    "health_port": ("9000", 9000),
    "log_level": ('"debug"', "debug"),
    "log_format": ('"json"', "json"),
    "trace": ('"/t/traces.jsonl"', "/t/traces.jsonl"),
}
"""For each setting a text as it stands in a file, and its value."""


def test_there_is_an_example_of_each_setting() -> None:
    assert list(EXAMPLES) == [f.name for f in fields(Settings)]


def test_nothing_given_is_the_default() -> None:
    assert read_settings(None, {}, {}) == Settings()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_setting_has_one_name_in_file_environment_and_flags(name: str, tmp_path: Path) -> None:
    text, value = EXAMPLES[name]
    file = tmp_path / "cluster.toml"
    file.write_text(f"{name} = {text}\n")
    in_file = tmp_path / value if isinstance(value, Path) else value
    assert getattr(read_settings(file, {}, {}), name) == in_file
    plain = text.strip('"')
    assert getattr(read_settings(None, {}, {f"SRCOMPILE_{name.upper()}": plain}), name) == value
    assert getattr(read_settings(None, {name: plain}, {}), name) == value


def test_a_flag_counts_more_than_the_environment_and_that_more_than_the_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text("sessions = 1\ntimeout = 1\nidle = 1\n")
    found = read_settings(
        file, {"sessions": "3", "idle": None}, {"SRCOMPILE_SESSIONS": "2", "SRCOMPILE_TIMEOUT": "2"}
    )
    assert (found.sessions, found.timeout, found.idle) == (3, 2.0, 1.0)


WRONG = {
    "party0": ('"a.example"', "'a.example'", "HOST:PORT, such as 10.0.0.5:7700"),
    "party1": ('"a:70000"', "'a:70000'", "HOST:PORT"),
    "dealer": ("7", "7", "HOST:PORT"),
    "certs": ('""', "''", "the path of a folder"),
    "insecure": ('"maybe"', "'maybe'", "true or false"),
    "sessions": ("0", "0", "a whole number from 1 to 1000"),
    "deployments": ("1.5", "1.5", "a whole number from 1 to 10000"),
    "timeout": ('"soon"', "'soon'", "a number of seconds from 0.1 to 3600"),
    "idle": ("nan", "nan", "a number of seconds"),
    "drain": ("true", "True", "a number of seconds"),
    "log_level": ('"loud"', "'loud'", "one of debug, info, warning, error"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_cannot_be_used_is_named_with_its_place_and_what_would_do(
    name: str, tmp_path: Path
) -> None:
    text, found, advice = WRONG[name]
    file = tmp_path / "cluster.toml"
    file.write_text(f"{name} = {text}\n")
    with pytest.raises(ConfigError) as caught:
        read_settings(file, {}, {})
    message = f"{file}: the setting '{name}' is {found}; it must be {advice}"
    assert str(caught.value).startswith(message)


def test_variables_and_flags_are_named_too() -> None:
    with pytest.raises(
        ConfigError, match=r"^the environment variable SRCOMPILE_SESSIONS is 'x'; it"
    ):
        read_settings(None, {}, {"SRCOMPILE_SESSIONS": "x"})
    with pytest.raises(ConfigError, match=r"^the flag --log-level is 'x'; it must be one of debug"):
        read_settings(None, {"log_level": "x"}, {})


def test_a_variable_that_names_no_setting_is_an_error() -> None:
    message = "^the environment variable SRCOMPILE_SESIONS is none; the settings are party0, "
    with pytest.raises(ConfigError, match=message):
        read_settings(None, {}, {"SRCOMPILE_SESIONS": "4", "HOME": "/root"})


def test_a_setting_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text("party_0 = 'a:1'\n")
    with pytest.raises(ConfigError, match="there is no setting 'party_0'; the settings are party0"):
        read_settings(file, {}, {})


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    with pytest.raises(ConfigError, match=r"cluster\.toml: No such file"):
        read_settings(file, {}, {})
    file.write_text("a = \n")
    with pytest.raises(ConfigError, match=r"cluster\.toml is no TOML file: Invalid value"):
        read_settings(file, {}, {})
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"cluster\.toml is no TOML file"):
        read_settings(file, {}, {})


def test_two_roles_cannot_listen_on_one_place() -> None:
    with pytest.raises(ConfigError, match="need different places to listen on"):
        read_settings(None, {"party0": "a:1", "party1": "a:1"}, {})


@pytest.mark.parametrize("wrong", [{"dealer": "10.0.0.5:7702"}, {"listen": "0.0.0.0"}])
def test_without_tls_everything_is_on_loopback(wrong: dict[str, str]) -> None:
    assert read_settings(None, {"insecure": "true"}, {}).insecure
    with pytest.raises(ConfigError, match="with insecure = true"):
        read_settings(None, {"insecure": "true", **wrong}, {})


def test_a_stock_is_not_filled_up_to_less_than_its_low_water() -> None:
    assert read_settings(None, {"stock_low": "9", "stock_high": "9"}, {}).stock_high == 9
    assert read_settings(None, {"stock_low": "9"}, {}).stock_high == 0
    with pytest.raises(
        ConfigError, match=r"stock_low is 9 and stock_high is 8: stock_low must not"
    ):
        read_settings(None, {"stock_low": "9", "stock_high": "8"}, {})
