"""The targets: how each protocol lowers the nodes of the fixed level."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from srcompile.passes.lower import LoweringProtocol
from srcompile.passes.protocols.masked2pc import Masked2PC
from srcompile.passes.protocols.plain import Plain

PROTOCOLS: Mapping[str, LoweringProtocol] = MappingProxyType({"2pc": Masked2PC(), "plain": Plain()})
