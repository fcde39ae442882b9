//! TLS as links use it: version 1.3 only, both sides authenticated, a key exchange
//! that stays secret from a quantum computer (X25519MLKEM768) first.
//!
//! What a peer is called by DNS plays no part: who it is, its certificate says in
//! a [`Name`]. Sessions are not resumed, so every connection verifies its peer
//! anew.

use std::sync::Arc;

use parking_lot::Mutex;
use polity_base::seams::ClockSource;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError, PeerIncompatible, ServerConfig,
    SignatureScheme,
};

use crate::certificates::Credentials;
use crate::name::Particulars;

/// The protocol that both sides must name: nobody takes links for something else.
const PROTOCOL: &[u8] = b"polity-links/1";
/// The protocol of those who ask a node something without being linked to it.
const VISITS: &[u8] = b"polity-visits/1";

/// The cryptography of links.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..default_provider()
    })
}

/// The node's clock, for the validity of certificates.
#[derive(Clone)]
pub struct Time(pub Arc<dyn ClockSource>);

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the node's clock")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let now = self.0.read().midpoint().0;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_nanos(now)))
    }
}

/// How one connection is accepted. `witness` remembers whom it refused.
pub fn server(credentials: &Arc<Credentials>, time: &Time, witness: Arc<Witness>) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(time.clone()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(witness)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.own.clone())));
    config.alpn_protocols = vec![PROTOCOL.to_vec(), VISITS.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// How one link is made. `witness` remembers whom it refused.
pub fn client(credentials: &Arc<Credentials>, time: &Time, witness: Arc<Witness>) -> Result<ClientConfig, TlsError> {
    connecting(credentials, time, witness, PROTOCOL)
}

/// How one visit is made.
pub fn visitor(credentials: &Arc<Credentials>, time: &Time, witness: Arc<Witness>) -> Result<ClientConfig, TlsError> {
    connecting(credentials, time, witness, VISITS)
}

fn connecting(
    credentials: &Arc<Credentials>,
    time: &Time,
    witness: Arc<Witness>,
    protocol: &[u8],
) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(time.clone()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(witness)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.own.clone())));
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// Whether the peer named the protocol of links.
pub fn speaks_links(protocol: Option<&[u8]>) -> bool {
    protocol == Some(PROTOCOL)
}

/// Whether the peer is a visitor.
pub fn visits(protocol: Option<&[u8]>) -> bool {
    protocol == Some(VISITS)
}

/// Verifies the peer of one connection, and remembers what its certificate says:
/// so that a refusal can name whom it refused.
#[derive(Debug)]
pub struct Witness {
    credentials: Arc<Credentials>,
    provider: Arc<CryptoProvider>,
    presented: Mutex<Option<Particulars>>,
}

impl Witness {
    pub fn new(credentials: Arc<Credentials>) -> Arc<Witness> {
        Arc::new(Witness { credentials, provider: provider(), presented: Mutex::new(None) })
    }

    /// What the certificate says that the peer showed, believed or not.
    pub fn presented(&self) -> Option<Particulars> {
        self.presented.lock().clone()
    }

    fn note(&self, certificate: &CertificateDer<'_>) {
        *self.presented.lock() = Particulars::read(certificate).ok();
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
}

/// Older versions are not offered, so nobody can ask for their signatures.
fn no_older_version() -> Result<HandshakeSignatureValid, TlsError> {
    Err(TlsError::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig))
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.note(end_entity);
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.credentials.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        no_older_version()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Witness {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.credentials.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.note(end_entity);
        self.credentials.clients.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        no_older_version()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
