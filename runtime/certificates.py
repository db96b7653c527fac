"""Certificates of a cluster: an authority of its own, and one certificate for each role.

A certificate names its role as a URI, `srcompile:role:party0`, and the hosts where that role is
reached. `srcompile.runtime.channels.tls` checks both. The files of a folder are `ca.pem`, `ca.key`
and, for each role, `ROLE.pem` and `ROLE.key`; keys are readable by their owner only (0600). A
machine needs `ca.pem` and the two files of its own role; `ca.key` is needed to issue certificates
and belongs on no machine that runs a role.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from srcompile.runtime.errors import ConfigError
from srcompile.runtime.roles import NAMES, ROLES, is_name, name_uri, role_uri

AUTHORITY_DAYS = 1825
ROLE_DAYS = 397
DAMAGED = (ValueError, UnsupportedAlgorithm, x509.InvalidVersion)
"""What reading a certificate or a key raises that is none, at once or when a field is asked for."""
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
_EARLIER = datetime.timedelta(minutes=10)  # clocks that go a little slow still accept it
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def make_certificates(
    out: Path, hosts: Mapping[str, Sequence[str]], days: int = ROLE_DAYS
) -> tuple[Path, ...]:
    """Write an authority and a certificate for each role to the folder `out`; return the files.

    `hosts` gives the names and addresses of a role; a role without any is reached on loopback only.
    Certificates of roles are valid for `days`, the authority for five years, and none is valid for
    longer than its authority. Raises ConfigError if
    a host is none, or if the folder holds an authority already.
    """
    names = {role: _names(hosts.get(role) or LOOPBACK_HOSTS) for role in ROLES}
    _make_folder(out)
    if any(os.path.exists(out / name) for name in ("ca.key", "ca.pem")):
        raise ConfigError(f"{out} holds an authority already; name another folder, or remove it")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "srcompile authority")])
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    authority = (
        _builder(subject, subject, public, _end(AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    written = [*_write(out, "ca", authority, key)]
    for role in ROLES:
        written += _issue(out, role, names[role], days, authority, key)
    return tuple(written)


def renew_certificates(
    out: Path, hosts: Mapping[str, Sequence[str]], days: int = ROLE_DAYS
) -> tuple[Path, ...]:
    """Replace the certificates and keys of all roles, under the authority in `out`.

    A role whose hosts are not given keeps those of its certificate. Raises ConfigError if a host is
    none, if the authority or a role's certificate is missing or damaged, or the authority expired.
    """
    authority, key = _authority(out)
    names = {role: _names(hosts.get(role) or hosts_of(out / f"{role}.pem")) for role in ROLES}
    return tuple(
        file for role in ROLES for file in _issue(out, role, names[role], days, authority, key)
    )


def make_client_certificate(out: Path, name: str, days: int = ROLE_DAYS) -> tuple[Path, ...]:
    """Write a certificate for one of several clients, under the authority in `out`.

    It has the client's name, and goes to `out/clients/NAME` with its key and the authority's
    certificate, which is all that this client needs. Raises ConfigError if the name cannot be used,
    or if the authority is missing, damaged or expired.
    """
    if not is_name(name):
        raise ConfigError(
            f"'{name}' is no name for a client: use up to 63 letters, digits, '.', '_' and '-'"
        )
    authority, key = _authority(out)
    folder = out / "clients" / name
    _make_folder(folder)
    public = authority.public_bytes(serialization.Encoding.PEM)
    known = folder / "ca.pem"
    _write_file(known, public, 0o644)
    names = [x509.UniformResourceIdentifier(name_uri(name)), *_names(LOOPBACK_HOSTS)]
    return known, *_issue(folder, "client", names, days, authority, key)


def _authority(out: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return the authority in a folder. Raises ConfigError if it is missing, damaged or old."""
    try:
        authority = x509.load_pem_x509_certificate((out / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((out / "ca.key").read_bytes(), None)
        _, last = authority.subject, authority.not_valid_after_utc  # here, since it may be damaged
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; it is needed to issue") from None
    except DAMAGED:
        raise ConfigError(f"{out}/ca.pem or {out}/ca.key is damaged; make new ones") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{out}/ca.key is of another kind; make new ones")
    if last < datetime.datetime.now(datetime.UTC):
        raise ConfigError(
            f"{out}/ca.pem expired on {last:%Y-%m-%d}; make a new authority: `srrun certs init` in "
            "another folder, for all roles"
        )
    return authority, key


def _issue(
    out: Path,
    role: str,
    names: Sequence[x509.GeneralName],
    days: int,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"srcompile {role}")])
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    public, signer = key.public_key(), authority_key.public_key()
    known = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer)
    alternatives = [x509.UniformResourceIdentifier(role_uri(role)), *names]
    certificate = (
        _builder(subject, authority.subject, public, min(_end(days), authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(known, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return _write(out, role, certificate, key)


def _end(days: int) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, last: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_end(0) - _EARLIER)
        .not_valid_after(last)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Return hosts as they stand in a certificate. Raises ConfigError for what is no host."""
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not _HOST.fullmatch(host):
                raise ConfigError(f"'{host}' is no host name and no IP address") from None
            names.append(x509.DNSName(host))
    return names


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}") from None


def _write(
    out: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> tuple[Path, Path]:
    """Write a certificate (0644) and its key (0600)."""
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    files = out / f"{name}.pem", out / f"{name}.key"
    public = certificate.public_bytes(serialization.Encoding.PEM)
    for file, content, mode in zip(files, (public, secret), (0o644, 0o600), strict=True):
        _write_file(file, content, mode)
    return files


def _write_file(file: Path, content: bytes, mode: int) -> None:
    try:
        part = file.with_name(file.name + ".part")
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
        part.replace(file)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from None


def describe(file: Path) -> tuple[datetime.datetime, datetime.datetime, bytes]:
    """Return a certificate's first and last moment and its key, DER. Raises ConfigError."""
    certificate = _read(file)
    try:
        key = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc, key
    except DAMAGED:
        raise ConfigError(f"{file} is damaged; copy it again") from None


def hosts_of(file: Path) -> tuple[str, ...]:
    """Return the hosts that a certificate is for. Raises ConfigError."""
    found = _alternatives(file)
    addresses = map(str, found.get_values_for_type(x509.IPAddress))
    return *found.get_values_for_type(x509.DNSName), *addresses


def check_own(folder: Path, role: str, host: str | None = None) -> None:
    """Raise ConfigError unless a role's certificate in `folder` is its own, and for `host`."""
    file, authority = folder / f"{role}.pem", folder / "ca.pem"
    uris = _alternatives(file).get_values_for_type(x509.UniformResourceIdentifier)
    if role_uri(role) not in uris:
        raise ConfigError(f"{file} is not the certificate of {NAMES[role]}; copy that")
    try:
        _read(file).verify_directly_issued_by(_read(authority))
    except (*DAMAGED, TypeError, InvalidSignature):
        raise ConfigError(
            f"{file} is of another authority than {authority}; all roles need certificates that "
            "one `srrun certs init` made"
        ) from None
    hosts = hosts_of(file)
    if host is not None and host.lower() not in map(str.lower, hosts):
        raise ConfigError(
            f"{file} is for {', '.join(hosts)} and not for {host}, where {NAMES[role]} is reached; "
            f"`srrun certs renew --hosts {role}={host}` makes one that is"
        )


def _alternatives(file: Path) -> x509.SubjectAlternativeName:
    try:
        return _read(file).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (*DAMAGED, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise ConfigError(f"{file} names no role; make it with `srrun certs init`") from None


def _read(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except DAMAGED:
        raise ConfigError(f"{file} is no certificate") from None
