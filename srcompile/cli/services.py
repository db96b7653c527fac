"""`srrun certs`, `dealer`, `party`, `client`, `deploy`, `undeploy`, `doctor`: roles as services."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from srcompile.cli.common import print_json, read_inputs, reports_errors
from srcompile.cli.progress import RunProgress
from srcompile.cli.signals import stop_signals
from srcompile.runtime.client import split_batch
from srcompile.runtime.errors import ConfigError
from srcompile.runtime.program import load
from srcompile.runtime.roles import NAMES, ROLES
from srcompile.runtime.services.settings import Settings, read_settings
from srcompile.runtime.shares import read_shares

if TYPE_CHECKING:
    from srcompile.runtime.services.service import Service


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --config and a flag for each setting, and call it with the settings."""
    names = [f.name for f in fields(Settings)]

    @reports_errors
    @wraps(command)
    def wrapped(*, config: str | None, **given: Any) -> None:
        flags = {name: given.pop(name) for name in names}
        command(settings=read_settings(config, flags), **given)

    called: Callable[..., None] = wrapped
    for f in reversed(fields(Settings)):
        flag = "--" + f.name.replace("_", "-")
        about = f.metadata["about"].replace("`", "")
        if f.type == "bool":
            option = click.option(f"{flag}/--no-{f.name}", f.name, default=None, help=about)
        else:
            option = click.option(flag, f.name, default=None, metavar="VALUE", help=about)
        called = option(called)
    return click.option("--config", metavar="FILE.toml", help="The settings of the cluster.")(
        called
    )


# -- certificates ---------------------------------------------------------------------------------


@click.group()
def certs() -> None:
    """Make certificates for the roles of a cluster."""


def _certificate_command(name: str, about: str, make: str) -> None:
    @certs.command(name, help=about)
    @click.option("--out", required=True, metavar="DIR", help="The folder of the certificates.")
    @click.option("--hosts", multiple=True, metavar="ROLE=HOST[,HOST]",
                  help="Where a role is reached; loopback if not given.")  # fmt: skip
    @click.option("--days", default=397, show_default=True, type=click.IntRange(1, 825),
                  help="How long certificates of roles are valid.")  # fmt: skip
    @reports_errors
    def command(out: str, hosts: tuple[str, ...], days: int) -> None:
        from srcompile.runtime import certificates

        files = getattr(certificates, make)(Path(out), _hosts(hosts), days)
        for file in files:
            click.echo(file)


_certificate_command(
    "init", "Make an authority and a certificate for each role.", "make_certificates"
)
_certificate_command(
    "renew", "Replace the certificates of all roles under the same authority.", "renew_certificates"
)


@certs.command("client")
@click.option("--out", required=True, metavar="DIR", help="The folder of the certificates.")
@click.option("--name", required=True, metavar="NAME", help="The client's name.")
@click.option("--days", default=397, show_default=True, type=click.IntRange(1, 825),
              help="How long the certificate is valid.")  # fmt: skip
@reports_errors
def certs_client(out: str, name: str, days: int) -> None:
    """Make a certificate for one of several clients, with a name of its own."""
    from srcompile.runtime.certificates import make_client_certificate

    for file in make_client_certificate(Path(out), name, days):
        click.echo(file)


def _hosts(given: tuple[str, ...]) -> dict[str, list[str]]:
    hosts: dict[str, list[str]] = {}
    for text in given:
        role, equals, names = text.partition("=")
        if role not in ROLES or not equals or not all(names.split(",")):
            raise ConfigError(
                f"--hosts takes ROLE=HOST[,HOST], such as party0=p0.example.org, not '{text}'; "
                f"the roles are {', '.join(ROLES)}"
            )
        hosts.setdefault(role, []).extend(names.split(","))
    return hosts


# -- services -------------------------------------------------------------------------------------


@click.command()
@takes_settings
def dealer(settings: Settings) -> None:
    """Run the dealer until SIGTERM."""
    from srcompile.runtime.services.dealer import DealerService

    _serve(DealerService(settings))


@click.command()
@click.option("--index", required=True, type=click.IntRange(0, 1), help="Which party: 0 or 1.")
@takes_settings
def party(settings: Settings, index: int) -> None:
    """Run party 0 or party 1 until SIGTERM."""
    from srcompile.runtime.services.party import PartyService

    _serve(PartyService(index, settings))


def _serve(service: Service) -> None:
    with stop_signals() as wait, service:
        wait()
        service.log.info("stops", reason="a signal")


# -- clients --------------------------------------------------------------------------------------


@click.group()
def client() -> None:
    """Ask the parties for inferences."""


@client.command()
@click.argument("program_file", metavar="FILE.srp")
@click.option("--input", "input_file", required=True, metavar="INPUT.npz",
              help="One array per input.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@takes_settings
def infer(settings: Settings, program_file: str, input_file: str, as_json: bool) -> None:
    """Run inferences of FILE.srp with the parties, in one session."""
    from srcompile.cli.run import run_all, show_run
    from srcompile.runtime.services.client import Client

    program = load(program_file)
    batch = split_batch(program, read_inputs(input_file, program))
    with (
        RunProgress(Console(stderr=True), len(batch), quiet=as_json) as progress,
        Client(program, settings, progress.watch) as session,
    ):
        ran = run_all(session.infer, batch, progress)
    setup = {"bytes": list(session.setup_bytes), "seconds": session.setup_s}
    show_run(program, ran, setup, as_json)


@click.command()
@click.argument("program_file", metavar="FILE.srp")
@click.option(
    "--weights", nargs=2, metavar="P0 P1", help="Both parties' weight shares, if left out."
)
@takes_settings
def deploy(settings: Settings, program_file: str, weights: tuple[str, str] | None) -> None:
    """Split the weights of FILE.srp and send each party its shares."""
    from srcompile.runtime.services.client import deploy as deploy_program

    program = load(program_file)
    shares = (
        (read_shares(weights[0], program, 0), read_shares(weights[1], program, 1))
        if weights
        else None
    )
    deployment = deploy_program(program, settings, shares)
    click.echo(f"deployed {program_file} as {deployment}")


@click.command()
@click.argument("program", metavar="FILE.srp|DIGEST")
@takes_settings
def undeploy(settings: Settings, program: str) -> None:
    """Take a deployed program away from all roles; its digest is enough, as srrun doctor shows it.

    Sessions that use it end with an error.
    """
    from srcompile.runtime.services.client import undeploy as undeploy_program
    from srcompile.runtime.services.state import is_digest

    digest = program if is_digest(program) else load(program).digest()
    had = undeploy_program(digest, settings)
    if not had:
        raise ConfigError(f"no role has a deployment of {program}")
    click.echo(f"took {program} away from {', '.join(NAMES[role] for role in had)}")


# -- doctor ---------------------------------------------------------------------------------------


@click.command()
@click.option("--role", required=True, metavar="|".join(ROLES), help="The role of this machine.")
@click.option("--program", "program_file", metavar="FILE.srp", help="A program to look for.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@takes_settings
def doctor(settings: Settings, role: str, program_file: str | None, as_json: bool) -> None:
    """Say what is wrong with this machine's role and its peers. Exit code 1 if anything is."""
    from srcompile.runtime.services.doctor import examine

    if role not in ROLES:
        raise ConfigError(f"there is no role '{role}': choose {', '.join(ROLES)}")
    digest = load(program_file).digest() if program_file else None
    findings = examine(role, settings, digest)
    if as_json:
        print_json(
            {
                "role": role,
                "findings": [
                    {"what": f.what, "good": f.good, "found": f.found, "advice": f.advice}
                    for f in findings
                ],
            }
        )
    else:
        click.echo(f"{NAMES[role]} on this machine")
        for f in findings:
            click.echo(f"{'ok ' if f.good else 'BAD'} {f.what}: {f.found}")
            if f.advice:
                click.echo(f"    {f.advice}")
    sys.exit(0 if all(f.good for f in findings) else 1)


COMMANDS = (certs, dealer, party, client, deploy, undeploy, doctor)
