"""TLS between sidecars: who we are, whom we accept, and how the channel is made.

1. TLS 1.3 only, with the hybrid post-quantum key exchange first.
2. Bundles are used by trust domain (the SPIFFE validator): in one merged list, a partner's CA could sign SVIDs of ours.
3. Nothing is resumed: each connection proves its SVID anew.
"""

from collections.abc import Sequence
from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import (
    ApiConfigSource,
    ApiConfigSourceApiType,
    ApiVersion,
    ConfigSource,
    DataSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    TransportSocket,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    CommonTlsContextCombinedCertificateValidationContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    SpiffeCertValidatorConfig,
    SpiffeCertValidatorConfigTrustDomain,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsCertificate,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.render.certificates import Certificates, FileCertificates
from ext_authz.render.extension import extension, tls_socket
from ext_authz.render.sidecar import InboundSidecar, OutboundSidecar, Upstream

SDS_CLUSTER = "sds_server"

# The SDS name under which a SPIRE agent serves the bundles of its own and of all federated trust domains.
ALL_BUNDLES = "ALL"

# X25519 remains for peers whose TLS library has no ML-KEM yet, such as OpenSSL 3.0.
ECDH_CURVES = ("X25519MLKEM768", "X25519")
SIGNATURE_ALGORITHMS = ("ecdsa_secp256r1_sha256", "ecdsa_secp384r1_sha384", "rsa_pss_rsae_sha256")


def inbound_tls(sidecar: InboundSidecar) -> TransportSocket:
    """Accept callers of our own and the federated trust domains; whether one may call is for ext_authz to say."""
    # A prefix, not a pattern: RE2 refuses [a-z0-9-]{1,63} as too large, which shows only when Envoy runs.
    callers = [StringMatcher(prefix=f"spiffe://{name}/") for name in sidecar.trust_domains]
    return tls_socket(
        DownstreamTlsContext(
            common_tls_context=_common_context(sidecar.spiffe_id, sidecar.certificates, callers, ("h2", "http/1.1")),
            require_client_certificate=True,
            disable_stateless_session_resumption=True,
            disable_stateful_session_resumption=True,
        )
    )


def outbound_tls(sidecar: OutboundSidecar, upstream: Upstream) -> TransportSocket:
    """Accept exactly the callee that was named."""
    callee = StringMatcher(exact=upstream.spiffe_id.uri)
    return tls_socket(
        UpstreamTlsContext(
            common_tls_context=_common_context(sidecar.spiffe_id, sidecar.certificates, [callee], ("h2",)),
            sni=upstream.name,
            max_session_keys=0,
        )
    )


def _common_context(
    own: SpiffeId, certificates: Certificates, peers: Sequence[StringMatcher], alpn_protocols: Sequence[str]
) -> CommonTlsContext:
    context = CommonTlsContext(
        tls_params=TlsParameters(
            tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
            tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
            ecdh_curves=list(ECDH_CURVES),
            signature_algorithms=list(SIGNATURE_ALGORITHMS),
        ),
        alpn_protocols=list(alpn_protocols),
    )
    validation = CertificateValidationContext(
        match_typed_subject_alt_names=[
            SubjectAltNameMatcher(san_type=SubjectAltNameMatcherSanType.URI, matcher=peer) for peer in peers
        ]
    )
    if isinstance(certificates, FileCertificates):
        validation.custom_validator_config = extension("envoy.tls.cert_validator.spiffe", _bundles(certificates))
        context.tls_certificates = [_certificate(certificates)]
        context.validation_context = validation
    else:
        context.tls_certificate_sds_secret_configs = [_secret(own.uri)]
        context.combined_validation_context = CommonTlsContextCombinedCertificateValidationContext(
            default_validation_context=validation, validation_context_sds_secret_config=_secret(ALL_BUNDLES)
        )
    return context


def _secret(name: str) -> SdsSecretConfig:
    return SdsSecretConfig(
        name=name,
        sds_config=ConfigSource(
            resource_api_version=ApiVersion.V3,
            # Wait for the SVID for ever: after the default of 15 s Envoy would call itself ready without one.
            initial_fetch_timeout=timedelta(0),
            api_config_source=ApiConfigSource(
                api_type=ApiConfigSourceApiType.GRPC,
                transport_api_version=ApiVersion.V3,
                set_node_on_first_message_only=True,
                grpc_services=[GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=SDS_CLUSTER))],
            ),
        ),
    )


def _certificate(files: FileCertificates) -> TlsCertificate:
    return TlsCertificate(
        certificate_chain=DataSource(filename=str(files.certificate)),
        private_key=DataSource(filename=str(files.private_key)),
    )


def _bundles(files: FileCertificates) -> SpiffeCertValidatorConfig:
    return SpiffeCertValidatorConfig(
        trust_domains=[
            SpiffeCertValidatorConfigTrustDomain(name=name, trust_bundle=DataSource(filename=str(path)))
            for name, path in files.trust_bundles.items()
        ]
    )
