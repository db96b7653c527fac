"""The client's side of a session, and the model owner's deployment of a program."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from srcompile.runtime.channels.link import EndedError, LinkChannel
from srcompile.runtime.client import (
    Array,
    Shares,
    check_shares,
    one_inference,
    receive_outputs,
    report_bytes,
    send_inputs,
    share_weights,
)
from srcompile.runtime.errors import ProgramError, ProtocolError, RangeError
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.program import Program, dumps
from srcompile.runtime.progress import PHASES, Progress, Watch
from srcompile.runtime.result import ClusterResult
from srcompile.runtime.roles import LISTENING, PARTIES
from srcompile.runtime.services.limits import silence_limit
from srcompile.runtime.services.links import Links, Visiting
from srcompile.runtime.services.settings import Settings
from srcompile.runtime.services.state import new_id
from srcompile.runtime.services.trace import SessionTrace, trace_file
from srcompile.runtime.usage import peak_memory

REASON_S = 3.0
CLOSED = "this session is closed; open another one"
INTERRUPTED = "the client was interrupted"


class Client:
    """A session with both parties, for inferences one after the other. Use it as context manager.

    `watch` is told how far offline and online phases are.
    Raises ProtocolError, saying who ended the session and why, if it cannot go on; it is closed
    then, and a new one may be tried.
    """

    def __init__(self, program: Program, settings: Settings, watch: Watch | None = None) -> None:
        _check_target(program)
        self.program, self.settings = program, settings
        self.kernels = load_kernels(settings.kernels or None)
        self._watch: Watch = watch or (lambda progress: None)
        self.session = ""
        self.setup_bytes = (0, 0)
        self.setup_s = 0.0
        self._links = Links("client", settings)
        self._digest, self._report_bytes = program.digest(), report_bytes(program)
        self._channels: list[LinkChannel] = []
        self._traces = trace_file(settings.trace, "client")
        self._trace = SessionTrace(None, "", client=True)
        self._interrupted = False

    def __enter__(self) -> Self:
        """Open the session. Raises ConfigError if certificates were renewed and cannot be used."""
        began = time.perf_counter()
        self._links.renew()
        self.session = new_id()
        self._trace = SessionTrace(self._traces, self.session, client=True)
        self._trace.begin("session", program=self._digest)
        limit = silence_limit(self.program, self.settings.timeout)
        with self._closing_on_error():
            for channel in self._admitted():
                channel.wait_at_most(limit)
            ready = [self._answer(channel) for channel in self._channels]
            self.setup_bytes = (_size(ready[0]), _size(ready[1]))
            self.setup_s = time.perf_counter() - began
        return self

    def _admitted(self) -> list[LinkChannel]:
        """Come to both parties at once, and return the channels when both have admitted this."""
        visits = [
            Visiting(self._links, party, "infer", session=self.session, digest=self._digest)
            for party in PARTIES
        ]
        try:
            for visit in visits:
                self._channels.append(visit.answer(self._look)[0])
            self._look()
        except BaseException as error:
            said = str(error) if isinstance(error, ProtocolError) else INTERRUPTED
            for visit in visits[len(self._channels) :]:
                visit.fail(said)
            raise
        return self._channels

    def _look(self) -> None:
        if self._interrupted:
            raise ProtocolError(INTERRUPTED)

    def __exit__(self, *_: object) -> None:
        """Close the session."""
        with contextlib.suppress(ProtocolError):
            for channel in self._channels:
                channel.send_json({"command": "stop"})
        self._close()

    def interrupt(self) -> None:
        """End the session whatever it waits for; the only method for another thread to call."""
        self._interrupted = True
        for channel in list(self._channels):
            channel.interrupt()

    def infer(self, inputs: Mapping[str, Array]) -> ClusterResult:
        """Run one inference on floats by name.

        Raises InputError, before anything is sent, if they do not fit, and RangeError if a guarded
        program finds a value out of its range. The session goes on after either.
        """
        inputs = one_inference(self.program, inputs)
        if not self._channels:
            raise ProtocolError(CLOSED)
        with self._closing_on_error(), self._trace.span("inference"):
            return self._infer(inputs)

    def _infer(self, inputs: Mapping[str, Array]) -> ClusterResult:
        began = time.perf_counter()
        with self._trace.span("offline"):
            for channel in self._channels:
                channel.send_json({"command": "infer"})
            self._begun([self._answer(channel) for channel in self._channels])
        ready = time.perf_counter()
        with self._trace.span("online"):
            send_inputs(self.program, inputs, self._channels, self.kernels)
            reports = [self._answer(channel) for channel in self._channels]
            outputs = receive_outputs(self.program, self._channels, self.kernels)
        done = time.perf_counter()
        try:
            result = _result(outputs, reports, done - ready, ready - began)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ProtocolError("a party's report is not what it should be") from None
        self._trace.set(rounds=result.rounds, online_bytes=sum(result.online_bytes))
        return result

    def _answer(self, channel: LinkChannel) -> dict[str, Any]:
        """Return the next control message that is not about progress."""
        while True:
            fields = channel.receive_json(self._report_bytes)
            if "progress" not in fields:
                return fields
            try:
                phase, done, total = fields["progress"]
                progress = Progress(str(phase), int(done), int(total))
            except (TypeError, ValueError, OverflowError):
                raise ProtocolError("a party's report is not what it should be") from None
            if progress.phase in PHASES:
                self._watch(progress)

    def _begun(self, offers: Sequence[Mapping[str, Any]]) -> None:
        """Check that both parties use the same block."""
        blocks = [offer.get("block") for offer in offers]
        if blocks[0] != blocks[1]:
            raise ProtocolError("the parties use different blocks of material")

    @contextlib.contextmanager
    def _closing_on_error(self) -> Any:
        try:
            yield
        except RangeError:
            raise  # the parties have ended the inference in order
        except ProtocolError as error:
            said = self._reason(error)
            self._close(said or str(error))
            if said is not None:
                raise ProtocolError(said) from None
            raise
        except BaseException:
            self._close(INTERRUPTED)
            raise

    def _reason(self, error: ProtocolError) -> str | None:
        """Return why a party ended the session, if one of them says so."""
        if isinstance(error, EndedError):
            return None
        end = time.monotonic() + REASON_S
        for channel in self._channels:
            said = channel.reason(max(0.1, end - time.monotonic()))
            if said is not None:
                return said
        return None

    def _close(self, reason: str | None = None) -> None:
        self._trace.close(None if reason is None else "ProtocolError")
        channels, self._channels = self._channels, []
        for channel in channels:
            if reason is None:
                channel.close()
            else:
                channel.fail(reason)


def _result(
    outputs: dict[str, Array],
    reports: Sequence[Mapping[str, Any]],
    online_s: float,
    offline_s: float,
) -> ClusterResult:
    offline = [sum(int(size) for _, size in report["offline"]) for report in reports]
    counted = [{(int(s), int(i)): int(n) for s, i, n in r["online"]} for r in reports]
    route, dealer = reports[0]["route"], reports[0]["dealer"]
    return ClusterResult(
        outputs,
        None if route is None else int(route),
        (sum(counted[0].values()), sum(counted[1].values())),
        int(reports[0]["rounds"]),
        online_s,
        (offline[0], offline[1]),
        offline_s,
        (counted[0], counted[1]),
        float(dealer["seconds"]),
        {
            "dealer": int(dealer["memory"]),
            "party0": int(reports[0]["memory"]),
            "party1": int(reports[1]["memory"]),
            "client": peak_memory(),
        },
    )


def _size(ready: Mapping[str, Any]) -> int:
    size = ready.get("setup_bytes")
    if not isinstance(size, int):
        raise ProtocolError("a party's report is not what it should be")
    return size


def _check_target(program: Program) -> None:
    if program.target != "2pc":
        raise ProgramError("the program is compiled for the target plain: it has no parties")


# -- the model owner ------------------------------------------------------------------------------


def deploy(program: Program, settings: Settings, shares: Shares | None = None) -> str:
    """Deploy a program: split its weights and send each party its shares; return the identifier.

    Give `shares` if the program carries no weights. The dealer and the parties get the program
    without weights. It replaces an earlier deployment of the program only after all three have
    stored it and none has given up. Raises ProtocolError, naming who and what, if one of them does
    not.
    """
    _check_target(program)
    shares = shares or share_weights(program)
    checked = [check_shares(program, part) for part in shares]
    kernels, links = load_kernels(settings.kernels or None), Links("owner", settings)
    deployment, public = new_id(), program.for_parties()
    content, digest = dumps(public, weights=False), public.digest()
    channels: list[LinkChannel] = []
    limit = silence_limit(program, settings.timeout)

    def come(role: str) -> None:
        channel, _ = links.dial(
            role, "deploy", deployment=deployment, digest=digest, size=len(content)
        )
        channel.wait_at_most(limit)
        channels.append(channel)
        channel.send(content)

    try:
        for role in PARTIES:
            come(role)
        for channel in channels:
            channel.receive_json()  # the program is accepted
        for name in program.weights():  # in turns, so that neither party waits for the other
            width = program.constants[name].type.width
            for channel, part in zip(channels, checked, strict=True):
                channel.send(kernels.pack(part[name], width).data)
        come("dealer")  # now, since it would not wait as long as weights may take
        for channel in channels:
            channel.receive_json()  # it is stored
        for channel in channels:
            if channel.has_something():
                channel.receive_json()  # why it has given up
                raise ProtocolError("a role said something while it should have waited")
        for channel in channels:
            channel.send_json({"command": "activate"})
        for channel in channels:
            channel.receive_json()
    except ProtocolError as error:
        for channel in channels:
            channel.fail(str(error))
        raise
    for channel in channels:
        channel.close()
    return deployment


def undeploy(digest: str, settings: Settings) -> list[str]:
    """Take the deployment of a program away from all roles; return those that had one.

    Sessions that use it end with an error. Raises ProtocolError if a role cannot be reached, or
    says no; roles that come before it have taken theirs away then, and it may be tried again.
    """
    links, had = Links("owner", settings), []
    for role in LISTENING:
        channel, answer = links.dial(role, "undeploy", digest=digest)
        channel.close()
        if answer.get("had") is True:
            had.append(role)
    return had
