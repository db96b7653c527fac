"""Runs programs of the plain target: one party, nothing hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from srcompile.runtime.client import Array, check_outputs, encode, one_inference
from srcompile.runtime.engine import Bind, Engine, Env
from srcompile.runtime.errors import ProgramError, RangeError
from srcompile.runtime.gates import signed
from srcompile.runtime.isa import RingType
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.program import Instruction, Program
from srcompile.runtime.ring import Compute, Ring


class PlainRunner:
    """Runs a program of the plain target."""

    def __init__(self, program: Program, kernels: Kernels) -> None:
        self._program, self._engine = program, Engine(program, kernels)
        if any(program.constants[name].source is None for name in program.weights()):
            raise ProgramError("the program does not carry its weights")
        self._inputs = {t.name: t for t in program.inputs}
        self._outputs = {t.name: t for t in program.outputs}
        own: Mapping[str, Bind] = {
            "plain_input": self._read,
            "plain_output": self._write,
            "plain_route": self._route,
            "plain_guard": self._guard,
            "plain_weight": self._weight,
        }
        self._routes = {s.route for s in program.segments[1:]} or {None}
        bodies = program.functions["online"]
        later = frozenset(n for body in bodies[1:] for i in body for n in i.inputs)
        self._plans = [
            self._engine.plan("online", number, own, frozenset() if number else later)
            for number in range(len(bodies))
        ]

    def infer(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], int | None]:
        """Return the outputs by name, and the route taken.

        Raises InputError for unfit inputs, RangeError if a guarded program finds a value out of its
        range.
        """
        run = _Run(dict(self._engine.public), one_inference(self._program, inputs))
        for plan, segment in zip(self._plans, self._program.segments, strict=True):
            if segment.route is None or segment.route == run.route:
                with np.errstate(over="ignore"):
                    self._engine.run(plan, run)
        taken = self._routes == {None} or run.route in self._routes
        if self._program.guarded and not (taken and run.in_range):
            raise RangeError
        if not taken:
            raise ProgramError(f"the program chose route {run.route}, which does not exist")
        check_outputs(self._program, run.outputs)
        return run.outputs, run.route

    def _read(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        tensor = self._inputs[str(i.attrs["name"])]
        return lambda run: encode(tensor, run.inputs[tensor.given]).reshape(tensor.shape)

    def _weight(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        data = self._program.constants[i.inputs[0]].data
        return lambda run: data

    def _write(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        tensor, width = self._outputs[str(i.attrs["name"])], types[0].width

        def write(run: _Run, x: Ring) -> None:
            run.outputs[tensor.name] = signed(x, width) / 2.0**tensor.frac

        return write

    def _route(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        def route(run: _Run, x: Ring) -> None:
            run.route = int(signed(x, types[0].width).reshape(()))

        return route

    def _guard(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        def guard(run: _Run, x: Ring) -> None:
            run.in_range = bool(signed(x, 1).reshape(()))

        return guard


@dataclass
class _Run:
    env: Env
    inputs: Mapping[str, Array]
    outputs: dict[str, Array] = field(default_factory=dict)
    route: int | None = None
    in_range: bool = True
