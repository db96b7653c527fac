"""Sessions for asyncio: inferences at once, in turns, cancelled, and closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import numpy as np
import pytest

from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime import AsyncClient
from srcompile.runtime.errors import InputError, ProtocolError
from srcompile.runtime.services.session import Session
from tests.support.services import POOL, PROGRAM, Running, running, settings_in

WANT = [evaluate(POOL.module, sample, registry())[0]["y"] for sample in POOL.samples]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return running services with the pool deployed."""
    with running(settings_in(tmp_path_factory.mktemp("cluster"))) as found:
        yield found


def session(cluster: Running) -> AsyncClient:
    return AsyncClient(PROGRAM.without_weights(), cluster.settings)


async def check(client: AsyncClient, number: int) -> None:
    """Run an inference; its result is the model's."""
    result = await client.infer(POOL.samples[number])
    np.testing.assert_allclose(result.outputs["y"], WANT[number], atol=0.01)


def wait_for_no_session(cluster: Running) -> None:
    """Wait until all roles have ended their sessions."""
    end = time.monotonic() + 30
    while any(role.state()["sessions"] for role in cluster.roles):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_sessions_run_at_once_and_tasks_take_turns_in_one(cluster: Running) -> None:
    async def main() -> None:
        async with session(cluster) as one, session(cluster) as other:
            assert one.session != other.session
            await asyncio.gather(*(check(c, k) for k in range(4) for c in (one, other)))

    asyncio.run(main())
    wait_for_no_session(cluster)


def test_the_loop_goes_on_while_an_inference_runs(
    cluster: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given parties that do not begin an inference before the loop has said so
    said = asyncio.Event()
    begin = Session._infer

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def held(self: Session) -> None:
            asyncio.run_coroutine_threadsafe(said.wait(), loop).result()
            begin(self)

        monkeypatch.setattr(Session, "_infer", held)
        async with session(cluster) as client:
            task = asyncio.create_task(check(client, 0))
            await asyncio.sleep(0.01)
            said.set()
            await task

    asyncio.run(main())


def test_a_cancelled_inference_ends_its_session_at_all_roles(
    cluster: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an inference that does not begin, because the parties wait
    begun: list[Session] = []
    begin = Session._infer

    def held(self: Session) -> None:
        begun.append(self)
        while not self.client._poll.poll(10):  # until the client says something, or is gone
            pass
        begin(self)

    monkeypatch.setattr(Session, "_infer", held)

    async def main() -> None:
        async with session(cluster) as client:
            waiting = asyncio.create_task(client.infer(POOL.samples[0]))
            behind = asyncio.create_task(client.infer(POOL.samples[1]))
            while len(begun) < 2:
                await asyncio.sleep(0.01)
            # when one that waits for its turn is cancelled, and then the one that runs
            behind.cancel()
            waiting.cancel()
            for task in (behind, waiting):
                with pytest.raises(asyncio.CancelledError):
                    await task
            # then the session is closed
            with pytest.raises(ProtocolError):
                await client.infer(POOL.samples[0])

    asyncio.run(main())
    wait_for_no_session(cluster)
    monkeypatch.undo()

    async def again() -> None:
        async with session(cluster) as client:
            await check(client, 0)

    asyncio.run(again())


def test_a_cancelled_wait_for_its_turn_leaves_the_session_open(cluster: Running) -> None:
    async def main() -> None:
        async with session(cluster) as client:
            first = asyncio.create_task(check(client, 0))
            await asyncio.sleep(0)  # it has its turn
            second = asyncio.create_task(check(client, 1))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            await first
            await check(client, 2)

    asyncio.run(main())


def test_an_input_that_does_not_fit_leaves_the_session_open(cluster: Running) -> None:
    async def main() -> None:
        async with session(cluster) as client:
            with pytest.raises(InputError, match="the program takes"):
                await client.infer({"another": np.zeros(1)})
            await check(client, 0)

    asyncio.run(main())


def test_a_session_that_cannot_open_says_why(cluster: Running) -> None:
    nobody = settings_in(cluster.settings.state)

    async def main() -> None:
        async with AsyncClient(PROGRAM.without_weights(), nobody):
            pass

    with pytest.raises(ProtocolError, match="cannot be reached"):
        asyncio.run(main())


def test_a_session_that_is_closed_says_so_to_whoever_asks_or_waits(cluster: Running) -> None:
    async def main() -> None:
        # given a session that is closed while tasks wait for their turn
        async with session(cluster) as client:
            tasks = [asyncio.create_task(check(client, k)) for k in range(3)]
            await asyncio.sleep(0)
        # when they get it, then they have their result, or are told that the session is closed
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(error) for error in ended} <= {type(None), ProtocolError}
        assert str(ended[-1]) == "this session is closed; open another one"
        # and so are those who come later
        with pytest.raises(ProtocolError, match="this session is closed; open another one"):
            await client.infer(POOL.samples[0])
        with pytest.raises(ProtocolError, match="this session is closed; open another one"):
            await client.__aenter__()

    asyncio.run(main())
    wait_for_no_session(cluster)
