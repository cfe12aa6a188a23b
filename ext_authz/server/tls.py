"""TLS credentials of the server that follow their files: an SVID is renewed every half hour."""

import logging
from pathlib import Path

import grpc

from ext_authz.errors import SettingsError
from ext_authz.settings import Settings

_LOG = logging.getLogger(__name__)


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Return credentials for the configured files, or None without TLS. Raises SettingsError."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    files = _TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    try:
        configuration = files.read()
    except OSError as error:
        raise SettingsError([f"tls: cannot read `{error.filename}`: {error.strerror}"]) from None
    return grpc.dynamic_ssl_server_credentials(
        configuration, files.read_if_changed, require_client_authentication=settings.tls_client_ca is not None
    )


class _TlsFiles:
    """Certificate, key and client CA; read again when any of them changes."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._seen = self._state()

    def read(self) -> grpc.ServerCertificateConfiguration:
        pair = (self._key.read_bytes(), self._certificate.read_bytes())
        roots = self._client_ca.read_bytes() if self._client_ca else None
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)

    def read_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new configuration, or None to keep the one in use. gRPC calls this for each handshake."""
        state = self._state()
        if state == self._seen:
            return None
        try:
            configuration = self.read()
        except OSError as error:
            _LOG.error("tls files cannot be read, the old ones stay in use: %s", error.strerror)
            return None
        self._seen = state
        return configuration

    def _state(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_stamp(path) for path in (self._certificate, self._key, self._client_ca) if path is not None)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
