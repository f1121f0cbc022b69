"""Certificates of a private, untrusted authority, made on the spot, and servers that use TLS with them."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from socket import socket

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM
_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


class Authority:
    """A private authority; `file` is its own certificate, as an operator gets it."""

    def __init__(self, folder: Path, *, has_usage: bool = True) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A private authority")])
        usage = dict.fromkeys(_USES, False) | {"key_cert_sign": True, "crl_sign": True}
        # Python 3.13 requires that an authority declares the use of its key.
        extensions = [
            x509.BasicConstraints(ca=True, path_length=None),
            *([x509.KeyUsage(**usage)] if has_usage else []),
        ]
        own = self._signed(self._name, self._key.public_key(), *extensions)
        self.file = folder / "authority.pem"
        self.file.write_bytes(own.public_bytes(PEM))

    def serves(
        self,
        host: str = "127.0.0.1",
        *,
        days_left: int = 1,
        has_ciphers: bool = True,
        wants_certificate: bool = False,
    ) -> Callable[[socket], socket]:
        """Return a function that wraps a server's socket in TLS, with a certificate for this address."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._signed(subject, key.public_key(), names, days_left=days_left)
        file = self._folder / "server.pem"
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file.write_bytes(certificate.public_bytes(PEM) + private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        if not has_ciphers:  # only ciphers of another kind of key than this certificate's
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
        if wants_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.file)
        return lambda raw: context.wrap_socket(raw, server_side=True)

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType, days_left: int = 1
    ) -> x509.Certificate:
        ends = datetime.now(UTC) + timedelta(days=days_left)
        until_option = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(ends - timedelta(days=30)).not_valid_after(ends)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        builder = builder.add_extension(until_option, critical=False)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        return builder.sign(self._key, hashes.SHA256())
