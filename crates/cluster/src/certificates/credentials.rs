//! What a node proves itself with, and whom it believes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use polity_base::{NodeId, Timestamp};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use crate::error::Error;
use crate::links::provider;
use crate::name::{Holder, Name, Particulars};

/// The three files a node needs, all PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// The certificates of the authorities it believes; several while one takes
    /// over from another
    pub authority: PathBuf,
    /// Its certificate, followed by those between it and the authority, if any
    pub certificate: PathBuf,
    /// The certificate's private key
    pub private_key: PathBuf,
}

/// What a node proves itself with, and whom it believes: read, and found to fit
/// together.
pub struct Credentials {
    /// Whom it believes
    pub(crate) roots: Arc<RootCertStore>,
    /// Verifies those who connect here
    pub(crate) clients: Arc<dyn ClientCertVerifier>,
    /// Its chain and key
    pub(crate) own: Arc<CertifiedKey>,
    /// Who it is
    pub name: Name,
    /// Until when its certificate is valid, in seconds since 1970
    pub not_after: i64,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the files of `node` in `cluster`, and checks that others will believe
    /// them at the time `now`.
    pub fn load(files: &Files, cluster: u128, node: NodeId, now: Timestamp) -> Result<Credentials, Error> {
        let credentials = Credentials::load_any(files, now)?;
        let (name, wrong) = (&credentials.name, |what: String| Error::file(&files.certificate, what));
        if name.cluster != cluster {
            return Err(wrong(format!("is of cluster {:032x}, this node is of {cluster:032x}", name.cluster)));
        }
        if name.holder != Holder::Node(node) {
            return Err(wrong(format!("is that of {name}, this is node {}", node.0)));
        }
        Ok(credentials)
    }

    /// Reads the files of a node or a client, whoever it is, and checks that others
    /// will believe them at the time `now`.
    pub fn load_any(files: &Files, now: Timestamp) -> Result<Credentials, Error> {
        let provider = provider();
        let wrong = |what: String| Error::file(&files.certificate, what);
        let mut roots = RootCertStore::empty();
        for root in certificates(&files.authority)? {
            roots.add(root).map_err(|e| Error::file(&files.authority, e))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&files.certificate)?;
        let particulars = Particulars::read(&chain[0]).map_err(wrong)?;
        let name = particulars.name.map_err(|what| wrong(format!("{what}; the links need a node's certificate")))?;
        let key = PrivateKeyDer::from_pem_file(&files.private_key).map_err(|e| Error::file(&files.private_key, e))?;
        let own = CertifiedKey::from_der(chain, key, &provider).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => {
                Error::file(&files.private_key, format!("is not the key of {}", files.certificate.display()))
            }
            other => Error::file(&files.private_key, other),
        })?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|e| Error::file(&files.authority, e))?;
        let serves = matches!(name.holder, Holder::Node(_));
        check(&own.cert, &roots, &*clients, &provider, serves, now).map_err(|e| {
            wrong(format!("would not be believed by nodes that trust {}: {e}", files.authority.display()))
        })?;
        Ok(Credentials { roots, clients, own: Arc::new(own), name, not_after: particulars.not_after })
    }
}

/// Checks a chain as those would to whom it is shown: by one who connects to them
/// and, if the holder `serves`, by one they connect to.
fn check(
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
    clients: &dyn ClientCertVerifier,
    provider: &CryptoProvider,
    serves: bool,
    now: Timestamp,
) -> Result<(), rustls::Error> {
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_nanos(now.0));
    let leaf = ParsedCertificate::try_from(&chain[0])?;
    let algorithms = provider.signature_verification_algorithms.all;
    if serves {
        verify_server_cert_signed_by_trust_anchor(&leaf, roots, &chain[1..], now, algorithms)?;
    }
    clients.verify_client_cert(&chain[0], &chain[1..], now).map(|_| ())
}

/// The certificates of a file: at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = || CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    let chain = read().map_err(|e| Error::file(file, e))?;
    if chain.is_empty() {
        return Err(Error::file(file, "holds no certificate"));
    }
    Ok(chain)
}
