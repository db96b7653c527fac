"""Visits to roles: how many there may be, what they may say, and what happens without room."""

from __future__ import annotations

import json
import os
import resource
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.services.dealer import DealerService
from srcompile.runtime.services.links import Links
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.settings import Settings
from tests.runtime.test_kept_links import wait_until
from tests.support.services import Processes, free_ports, settings_in


def status(settings: Settings, who: str = "owner") -> None:
    """Ask the dealer for its state."""
    channel, answer = Links(who, settings).dial("dealer", "status")
    channel.close()
    assert answer["role"] == "dealer"


# -- no room in the system ------------------------------------------------------------------------


def test_a_role_without_free_descriptors_goes_on_when_there_are_some(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    processes = Processes(tmp_path, settings)
    try:
        processes.start("dealer")
        # given a dealer that may open few files more, and more connections than that
        pid = processes.processes["dealer"].pid
        few = len(os.listdir(f"/proc/{pid}/fd")) + 5
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, before[1]))
        place = (settings.dealer.host, settings.dealer.port)
        connections = [socket.create_connection(place) for _ in range(20)]
        wait_until(lambda: "cannot take visits now" in processes.log("dealer"))
        # when they are gone, then it serves whoever comes
        for connection in connections:
            connection.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        status(settings)
        # and has said once what the matter was
        (said,) = [line for line in processes.log("dealer").splitlines() if "cannot take" in line]
        assert "Too many open files" in said
    finally:
        processes.stop()
    assert "Traceback" not in processes.log("dealer")


def test_a_role_that_can_start_no_thread_goes_on_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path, insecure=True, timeout=5.0)
    start, full = threading.Thread.start, [True]
    with DealerService(settings, Log("dealer", "error")) as dealer:

        def refused(thread: threading.Thread) -> None:
            if full[0] and getattr(thread, "_target", None) == dealer._visit:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refused)
        # given a visit for which there is no thread, which ends
        with pytest.raises(ProtocolError, match=r"the connection|closed"):
            status(settings)
        assert (dealer.counts.refused_visits, len(dealer._visits)) == (1, 0)
        # when there is one again, then the next visit is served
        full[0] = False
        status(settings)


def test_a_role_that_takes_no_visits_any_more_says_so_in_its_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    settings = settings_in(tmp_path, insecure=True, health_port=port)
    # given a role whose thread for visits has ended
    monkeypatch.setattr(DealerService, "_accept", lambda self: None)
    with DealerService(settings, Log("dealer", "error")) as dealer:
        dealer._acceptor.join()
        # when its health is asked for, then it is not well
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
        with caught.value as answer:
            assert (answer.status, json.load(answer)["listening"]) == (503, False)
