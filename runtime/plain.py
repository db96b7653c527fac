"""Runs programs of the plain target: one party, nothing hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from srcompile.runtime.client import Array, encode, one_inference
from srcompile.runtime.engine import Engine, Env, Handler, Value
from srcompile.runtime.errors import ProgramError
from srcompile.runtime.gates import signed
from srcompile.runtime.isa import RingType
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.program import Instruction, Program


class PlainRunner:
    """Runs a program of the plain target."""

    def __init__(self, program: Program, kernels: Kernels) -> None:
        self._program, self._engine = program, Engine(program, kernels)
        if any(program.constants[name].data is None for name in program.weights()):
            raise ProgramError("the program does not carry its weights")

    def infer(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], int | None]:
        """Return the outputs by name, and the route taken. Raises InputError for unfit inputs."""
        run = _Run(self._program, one_inference(self._program, inputs))
        for number, segment in enumerate(self._program.segments):
            if segment.route is None or segment.route == run.route:
                arena = self._engine.arena("online", number)
                with np.errstate(over="ignore"):
                    for instruction in self._program.functions["online"][number]:
                        self._engine.step("online", instruction, run.env, run.handlers, arena)
        return run.outputs, run.route


class _Run:
    def __init__(self, program: Program, inputs: Mapping[str, Array]) -> None:
        self.env: Env = {}
        self.outputs: dict[str, Array] = {}
        self.route: int | None = None
        tensors = {t.name: t for t in program.inputs}
        results = {t.name: t for t in program.outputs}

        def read(i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
            tensor = tensors[str(i.attrs["name"])]
            return encode(tensor, inputs[tensor.given]).reshape(tensor.shape)

        def write(i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> None:
            tensor = results[str(i.attrs["name"])]
            self.outputs[tensor.name] = signed(args[0], types[0].width) / 2.0**tensor.frac

        def route(i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> None:
            self.route = int(signed(args[0], types[0].width).reshape(()))

        self.handlers: Mapping[str, Handler] = {
            "plain_input": read,
            "plain_output": write,
            "plain_route": route,
            "plain_weight": lambda i, a, t: program.constants[i.inputs[0]].data,
        }
