"""A web service that embeds a client: handwritten digits come in over HTTP, and go on as shares.

    python examples/service/service.py out/digits.srp --config cluster.toml --port 8000

The process has the client's role and its certificate. It sees the images and the answers; the
parties and the dealer see neither. `POST /predict` takes an image of 8 x 8 pixels from 0 to 1, as
rows or as a list of 64 numbers, and gives the digit and what the inference sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import click
import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from srcompile.runtime import (
    AsyncClient,
    ClusterResult,
    InputError,
    Program,
    ProtocolError,
    RangeError,
    RunError,
    Settings,
    load_program,
    read_settings,
)

SHAPE = (1, 1, 8, 8)


class Image(BaseModel):
    """What is asked: the pixels of one image."""

    pixels: list[float] | list[list[float]]


class Answer(BaseModel):
    """What is answered: the digit, the model that the router chose, and what was sent."""

    digit: int
    route: int | None
    online_bytes: int
    rounds: int


class Session:
    """A client's session, opened when it is needed; its inferences run one after the other."""

    def __init__(self, program: Program, settings: Settings) -> None:
        self._program, self._settings = program, settings
        self._client: AsyncClient | None = None
        self._turn = asyncio.Lock()

    async def infer(self, image: np.ndarray[Any, Any]) -> ClusterResult:
        """Run an inference. Raises RunError; after a ProtocolError the next one opens a session."""
        async with self._turn:
            if self._client is not None:
                with contextlib.suppress(ProtocolError):  # the parties end a session that is idle
                    return await self._client.infer({"image": image})
                await self._close()
            self._client = await AsyncClient(self._program, self._settings).__aenter__()
            return await self._client.infer({"image": image})

    async def close(self) -> None:
        """End the session."""
        async with self._turn:
            await self._close()

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__()


def create_app(program: Program, settings: Settings) -> FastAPI:
    """Return the service of a program that takes `image` and gives `output`, as digits.srp does."""
    session = Session(program.without_weights(), settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await session.close()

    app = FastAPI(title="digits, classified secretly", lifespan=lifespan)

    @app.post("/predict")
    async def predict(image: Image) -> Answer:
        """Classify an image."""
        try:
            pixels = np.array(image.pixels, np.float32).reshape(SHAPE)
        except ValueError:
            raise HTTPException(422, "an image has 8 rows of 8 pixels") from None
        try:
            result = await session.infer(pixels)
        except (InputError, RangeError) as error:
            raise HTTPException(422, str(error)) from None
        except RunError as error:
            raise HTTPException(503, str(error)) from None
        return Answer(
            digit=int(result.outputs["output"].argmax()),
            route=result.route,
            online_bytes=result.online_bytes[0],
            rounds=result.rounds,
        )

    return app


@click.command()
@click.argument("program", type=click.Path(exists=True))
@click.option("--config", type=click.Path(exists=True), help="Settings of the cluster.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
def main(program: str, config: str | None, host: str, port: int) -> None:
    """Serve PROGRAM, which is deployed at the parties, until it is stopped."""
    try:
        app = create_app(load_program(program), read_settings(config))
    except RunError as error:
        raise click.ClickException(str(error)) from None
    uvicorn.run(app, host=host, port=port, log_level="warning")


if __name__ == "__main__":
    main()
