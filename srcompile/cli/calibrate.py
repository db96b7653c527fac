"""`srrun calibrate`: measure this machine, for projected times."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from srcompile.cli.common import reports_errors
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.measure import Watch, measure
from srcompile.runtime.profiles import stored_path, write_profile

BRIEF = Watch(1e-4, 1e-3, cold_bytes=1 << 23, inferences=3, round_bytes=(4, 65536), waits=(0.0005,))


@click.command()
@click.option("--out", metavar="FILE", help="Where the profile goes. Default: the config folder.")
@click.option("--shared", is_flag=True, help="Measure two processes at once, as where both parties "
              "share this machine.")  # fmt: skip
@click.option("--brief", is_flag=True, help="Rough figures, in some seconds.")
@reports_errors
def calibrate(out: str | None, shared: bool, brief: bool) -> None:
    """Measure how fast this machine computes, with one thread, and store a profile of it.

    srcompile projects times with it. Leave the machine alone for the minute that it takes.
    """
    path = Path(out) if out else stored_path()
    console = Console(stderr=True)
    with console.status("measuring") as status:
        profile = measure(
            load_kernels(),
            BRIEF if brief else Watch(),
            beside=shared,
            tell=lambda family: status.update(f"measuring {family}"),
        )
    write_profile(profile, path)
    click.echo(f"{profile.name}, {profile.kernels}: profile in {path}")
