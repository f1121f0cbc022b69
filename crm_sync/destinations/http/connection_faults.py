"""Finds the wrong setting when a connection to a CRM fails: the certificate, TLS itself, or a proxy that refuses."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator

from crm_sync.destinations.meanings import meaning_of

# https://docs.openssl.org/master/man1/openssl-verification-options/
_UNTRUSTED = {
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed",
    19: "its authority is not known to this machine",
    20: "its authority is not known to this machine",
    21: "its authority is not known to this machine",
    62: "it is for another host",
    64: "it is for another host",
}
# OpenSSL's names, in several versions, for a handshake that fails in the same way each time.
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
_NO_AGREEMENT = {
    *("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "SSLV3_ALERT_HANDSHAKE_FAILURE"),
    *("TLSV1_UNRECOGNIZED_NAME", "TLSV1_ALERT_UNRECOGNIZED_NAME", "TLSV1_ALERT_INSUFFICIENT_SECURITY"),
}
_WANTS_OURS = {"TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_BAD_CERTIFICATE"}
# http.client reports the proxy's reply only as text.
_REFUSED_BY_PROXY = re.compile(r"Tunnel connection failed: (\d{3})\b")


def at_fault(error: BaseException) -> str | None:
    """The wrong setting that made a connection fail, for a person to fix; None if the fault may be temporary."""
    return next((text for cause in causes_of(error) if (text := _told(cause))), None)


def _told(cause: BaseException) -> str | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = _UNTRUSTED.get(cause.verify_code, f"OpenSSL says: {cause.verify_message}")
        return (
            f"The CRM's certificate is not trusted: {why}. Correct WINBACK_CRM_URL, or name the file of the authorities to "
            "trust: WINBACK_CRM_CA_FILE"
        )
    if isinstance(cause, ssl.SSLError):
        return _told_of_tls(cause.reason or "")
    if isinstance(cause, OSError) and (refused := _REFUSED_BY_PROXY.search(str(cause))):
        if meaning_of(int(refused[1])) == "later":
            return None
        return (
            f"The proxy answered HTTP {refused[1]} and does not connect to the CRM. Check WINBACK_CRM_PROXY, its user "
            "and password, and which hosts the proxy allows."
        )
    return None


def _told_of_tls(reason: str) -> str | None:
    if reason in _NO_TLS:
        return "The server at WINBACK_CRM_URL does not use TLS. Correct its host and port."
    if reason in _NO_AGREEMENT:
        return (
            f"The CRM's host and this machine have no TLS version or cipher in common: OpenSSL says {reason}. Correct "
            "WINBACK_CRM_URL, or update the older of the two."
        )
    if reason in _WANTS_OURS:
        return "The CRM's host requires a client certificate, which winback does not have. Correct WINBACK_CRM_URL."
    return None


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes. urllib3 and requests keep them in `reason`, in the arguments, or as context."""
    seen: list[BaseException] = []
    todo: list[object] = [error]
    while todo:
        cause = todo.pop()
        if isinstance(cause, BaseException) and not any(cause is each for each in seen):
            seen.append(cause)
            todo += [getattr(cause, "reason", None), cause.__cause__, cause.__context__, *cause.args]
            yield cause
