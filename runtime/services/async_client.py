"""A client's session for asyncio: it runs on a thread of its own, so that the loop never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from srcompile.runtime.client import Array
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.program import Program
from srcompile.runtime.progress import Watch
from srcompile.runtime.result import ClusterResult
from srcompile.runtime.services.client import CLOSED, Client
from srcompile.runtime.services.settings import Settings

T = TypeVar("T")


class AsyncClient:
    """A session with both parties, for inferences one after the other. Use it with `async with`.

    It does what `Client` does and raises the same. Tasks may share one: their inferences run in the
    order in which they come. For inferences at the same time, open several. `watch` is called on
    the session's thread.

    If a task is cancelled while its inference runs, or while the session opens, the session ends,
    because the parties are in the middle of it; a task that was still waiting for its turn may be
    cancelled without harm.
    """

    def __init__(self, program: Program, settings: Settings, watch: Watch | None = None) -> None:
        self._client = Client(program, settings, watch)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="srcompile client")
        self._turn = asyncio.Lock()

    @property
    def session(self) -> str:
        """The session's identifier."""
        return self._client.session

    async def __aenter__(self) -> Self:
        """Open the session."""
        try:
            await self._on_thread(self._client.__enter__)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the session."""
        try:
            await self._on_thread(self._client.__exit__)
        finally:
            self._thread.shutdown(wait=False)

    async def infer(self, inputs: Mapping[str, Array]) -> ClusterResult:
        """Run one inference on floats by name, as `Client.infer` does."""
        async with self._turn:
            return await self._on_thread(lambda: self._client.infer(inputs))

    async def _on_thread(self, work: Callable[[], T]) -> T:
        """Return what work on the session's thread returns; if cancelled, end the session first.

        Raises ProtocolError if the session is closed.
        """
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(self._thread, work)
        except RuntimeError:  # its thread takes nothing more
            raise ProtocolError(CLOSED) from None
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._client.interrupt()
            await asyncio.wait([future])
            raise
