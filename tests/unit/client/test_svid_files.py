"""SVIDs from files: fresh after a rotation, steady in the middle of one."""

import os
from pathlib import Path

import pytest
from support.delegations import NOW, PLANNER, RETRIEVER, Authority, world

from ext_authz.client import MintingError, SvidFiles
from ext_authz.local.svid import KeyedCertificate

CERTIFICATE, PRIVATE_KEY = "svid.pem", "svid_key.pem"


def issued(not_after: float = NOW + 600) -> KeyedCertificate:
    certificate, key = Authority.of(world().ca).svid([PLANNER.uri], not_after=not_after)
    return KeyedCertificate(certificate=certificate, private_key=key)


@pytest.fixture
def now() -> list[float]:
    """Return a clock that a test can set."""
    return [NOW]


@pytest.fixture
def files(tmp_path: Path, now: list[float]) -> SvidFiles:
    issued().write_to(tmp_path)
    return SvidFiles(tmp_path, clock=lambda: now[0])


def test_signer_of_the_files(files: SvidFiles) -> None:
    """The signer is the workload that the certificate names; unchanged files are not read again."""
    assert PLANNER == files.signer().issuer
    assert files.signer() is files.signer()


def test_rotation(files: SvidFiles, tmp_path: Path) -> None:
    """After a rotation the new key signs."""
    before = files.signer()
    issued(NOW + 1200).write_to(tmp_path)
    assert before.not_after != files.signer().not_after
    assert NOW + 1200 == files.signer().not_after


def test_file_that_is_written_in_place(files: SvidFiles, tmp_path: Path) -> None:
    """A helper that writes into the same file is noticed by the time of the file."""
    before = files.signer()
    os.utime(tmp_path / CERTIFICATE, ns=(1, 1))
    assert before == files.signer()
    assert before is not files.signer()


def test_middle_of_a_rotation(files: SvidFiles, tmp_path: Path, now: list[float]) -> None:
    """While key and certificate do not fit, the last pair that did is used until it expires."""
    before = files.signer()
    renewed = issued(NOW + 1200)
    (tmp_path / PRIVATE_KEY).write_bytes(renewed.private_key_pem)
    assert before is files.signer()
    (tmp_path / CERTIFICATE).unlink()
    assert before is files.signer()
    (tmp_path / CERTIFICATE).write_bytes(renewed.chain_pem)
    assert NOW + 1200 == files.signer().not_after
    (tmp_path / PRIVATE_KEY).write_bytes(b"")
    now[0] = NOW + 1200
    with pytest.raises(MintingError, match="not an unencrypted private key"):
        files.signer()


def test_no_files(tmp_path: Path) -> None:
    """The error names the files that are missed, and holds no key."""
    with pytest.raises(MintingError) as caught:
        SvidFiles(tmp_path).signer()
    assert f"{tmp_path / CERTIFICATE} and {tmp_path / PRIVATE_KEY}: No such file or directory" == str(caught.value)


def test_key_of_another_certificate(tmp_path: Path) -> None:
    """A pair that never fitted is an error."""
    issued().write_to(tmp_path)
    (tmp_path / PRIVATE_KEY).write_bytes(issued().private_key_pem)
    with pytest.raises(MintingError, match="does not belong to the certificate"):
        SvidFiles(tmp_path).signer()


def test_other_names(tmp_path: Path) -> None:
    """SPIFFE helpers can be told to use other names."""
    pair = issued()
    (tmp_path / "tls.crt").write_bytes(pair.chain_pem)
    (tmp_path / "tls.key").write_bytes(pair.private_key_pem)
    signer = SvidFiles(str(tmp_path), certificate="tls.crt", private_key="tls.key").signer()
    assert (PLANNER, RETRIEVER) == (signer.issuer, RETRIEVER)
