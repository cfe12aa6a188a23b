"""The SVID of this workload, from the files that a SPIFFE helper keeps fresh."""

import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from ext_authz.client.signing import LinkSigner, MintingError, PrivateKey, load_certificates, load_private_key

CERTIFICATE_FILE = "svid.pem"
PRIVATE_KEY_FILE = "svid_key.pem"


class SvidFiles:
    """Certificates and private key of a workload; read again when one of the two files has changed.

    A rotation replaces one file after the other. While they do not fit, the last pair that did is used until it expires.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        certificate: str = CERTIFICATE_FILE,
        private_key: str = PRIVATE_KEY_FILE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._paths = (Path(directory, certificate), Path(directory, private_key))
        self._clock = clock
        self._state: tuple[tuple[int, ...], LinkSigner] | None = None  # what the files looked like, and what they held

    def signer(self) -> LinkSigner:
        """Return what signs with the current SVID. Raises MintingError when there is none that is valid."""
        known = self._state
        try:
            seen = tuple(number for path in self._paths for number in _fingerprint(path))
            if known is not None and seen == known[0]:
                return known[1]
            signer = LinkSigner.with_svid(*self._read())
        except (OSError, MintingError) as error:
            if known is not None and known[1].not_after is not None and self._clock() < known[1].not_after:
                return known[1]
            why = error.strerror if isinstance(error, OSError) else error
            raise MintingError(f"{' and '.join(map(str, self._paths))}: {why}") from None
        self._state = (seen, signer)
        return signer

    def _read(self) -> tuple[list[x509.Certificate], PrivateKey]:
        certificates, private_key = (path.read_bytes() for path in self._paths)
        return load_certificates(certificates), load_private_key(private_key)


def _fingerprint(path: Path) -> tuple[int, ...]:
    """Return what differs once a file was replaced or written."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
