//! What a node proves itself with: to its clients, and over links to other nodes.
//!
//! In production everything is given. Development mode makes what is missing in a
//! folder that the nodes of one cluster share: an authority, a certificate for each
//! node, and one for the administrator. The authority's key lies next to them:
//! whoever can read the folder can pose as any node, which is what "development"
//! means. Clients that want to verify a node trust `ca.pem` there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use polity_base::{NodeId, Timestamp};
use polity_cluster::certificates::{Authority, Files, Made};
use polity_cluster::name::{Holder, Name, Particulars};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{NodeConfig, Security};
use crate::error::Error;
use crate::identity::{Claim, Identity};

/// The folder in the data folder that development mode writes to, unless told
/// another one.
const FOLDER: &str = "certificates";
/// The client that development mode makes a certificate for.
pub const ADMINISTRATOR: &str = "admin";
/// Names under which nodes in development are reached.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// For how many days what development mode makes is valid: longer than anyone tries
/// a thing out.
const DAYS: u32 = 20 * 365;

/// The files in a folder of certificates, by whose they are.
pub fn files(folder: &Path, stem: &str) -> Files {
    Files {
        authority: folder.join("ca.pem"),
        certificate: folder.join(format!("{stem}.pem")),
        private_key: folder.join(format!("{stem}.key")),
    }
}

/// What a node has before it knows who it is.
pub(crate) enum Papers {
    /// Development: the folder, and the authority if it holds one
    Made { folder: PathBuf, authority: Option<Authority> },
    /// Production: the files, and whom they name if the node has links
    Given { files: Files, name: Option<Name> },
}

impl Papers {
    /// Looks at what there is, and makes nothing.
    pub fn find(config: &NodeConfig) -> Result<Papers, Error> {
        match &config.security {
            Security::Development { certificates } => {
                let folder = certificates.clone().unwrap_or_else(|| config.data.join(FOLDER));
                let authority = files(&folder, ADMINISTRATOR).authority.exists().then(|| Authority::open(&folder));
                if authority.is_none() && config.link.as_ref().is_some_and(|l| !l.join.is_empty()) {
                    return Err(Error::Config(format!(
                        "{} holds no authority: a node that joins in development shares the folder of the node that \
                         founded the cluster (--certs)",
                        folder.display()
                    )));
                }
                Ok(Papers::Made { folder, authority: authority.transpose()? })
            }
            Security::Production { certificate, private_key, authority, .. } => {
                let mut name = None;
                if config.link.is_some() {
                    if authority.is_none() {
                        return Err(Error::Config("links need the cluster's authority".to_owned()));
                    }
                    let chain = chain(certificate)?;
                    let read = Particulars::read(&chain[0]).and_then(|read| read.name);
                    let read = read.map_err(|e| Error::file(certificate.display(), e))?;
                    if !matches!(read.holder, Holder::Node(_)) {
                        let what = format!("is that of {read}; links need a node's (polity cert node)");
                        return Err(Error::file(certificate.display(), what));
                    }
                    name = Some(read);
                }
                let files = Files {
                    authority: authority.clone().unwrap_or_default(),
                    certificate: certificate.clone(),
                    private_key: private_key.clone(),
                };
                Ok(Papers::Given { files, name })
            }
        }
    }

    /// Who the node is, as far as the papers and the configuration say.
    pub fn claim(&self, config: &NodeConfig) -> Result<Claim, Error> {
        let joins = config.link.as_ref().is_some_and(|link| !link.join.is_empty());
        let mut claim = Claim { cluster: None, node: config.node, joins };
        match self {
            Papers::Made { authority, .. } => claim.cluster = authority.as_ref().map(Authority::cluster),
            Papers::Given { name: Some(Name { cluster, holder: Holder::Node(node) }), files } => {
                if config.node.is_some_and(|asked| asked != *node) {
                    let what = format!("is that of node {}, not of {}", node.0, config.node.unwrap_or_default());
                    return Err(Error::file(files.certificate.display(), what));
                }
                claim.cluster = Some(*cluster);
                claim.node = Some(*node);
            }
            Papers::Given { .. } => {}
        }
        Ok(claim)
    }

    /// The files of this node; development mode makes those that are missing.
    pub fn complete(self, identity: &Identity, now: Timestamp) -> Result<Files, Error> {
        let (folder, authority) = match self {
            Papers::Given { files, .. } => return Ok(files),
            Papers::Made { folder, authority } => (folder, authority),
        };
        let authority = match authority {
            Some(authority) => authority,
            None => Authority::create(&folder, identity.cluster, DAYS, now)?,
        };
        let make = |stem: &str, made: &dyn Fn() -> Result<Made, polity_cluster::Error>| -> Result<Files, Error> {
            let files = files(&folder, stem);
            if !files.certificate.exists() {
                made()?.write(&files.certificate, &files.private_key)?;
            }
            Ok(files)
        };
        // Nodes that are started at the same time share the folder, so only the one
        // that founds the cluster makes what is not its own.
        if identity.founder {
            make(&format!("client-{ADMINISTRATOR}"), &|| authority.client(ADMINISTRATOR, DAYS, now))?;
        }
        make(&stem(identity.node), &|| authority.node(identity.node, &LOOPBACK.map(str::to_owned), DAYS, now))
    }
}

/// The name that the files of `node` begin with.
pub fn stem(node: NodeId) -> String {
    format!("node-{}", node.0)
}

/// How the node proves itself to clients, by a certificate chain and its key, both
/// PEM.
pub fn server(certificate: &Path, private_key: &Path) -> Result<Arc<ServerConfig>, Error> {
    let chain = chain(certificate)?;
    let key = PrivateKeyDer::from_pem_file(private_key).map_err(|e| Error::file(private_key.display(), e))?;
    let failed = |e: rustls::Error| Error::Tls(format!("{}: {e}", certificate.display()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(failed)?;
    Ok(Arc::new(config))
}

fn chain(certificate: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bad = |what: &dyn std::fmt::Display| Error::file(certificate.display(), what);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).map_err(|e| bad(&e))?.collect();
    let chain = chain.map_err(|e| bad(&e))?;
    if chain.is_empty() {
        return Err(bad(&"holds no certificate"));
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use polity_base::seams::ClockSource;

    use super::*;

    fn now() -> Timestamp {
        crate::clock::SystemClock::new(std::time::Duration::ZERO).read().midpoint()
    }

    fn development(data: &Path, folder: &Path) -> NodeConfig {
        NodeConfig::new(data.to_owned(), Security::Development { certificates: Some(folder.to_owned()) })
    }

    fn identity(node: u64, founder: bool) -> Identity {
        Identity { cluster: 7, node: NodeId(node), founder }
    }

    #[test]
    fn what_was_made_stays_the_same_and_is_shared() {
        let folder = tempfile::tempdir().unwrap();
        let certs = folder.path().join("certs");
        let config = development(folder.path(), &certs);
        let first = Papers::find(&config).unwrap();
        assert_eq!(first.claim(&config).unwrap().cluster, None);
        let files = first.complete(&identity(1, true), now()).unwrap();
        let before = std::fs::read(&files.certificate).unwrap();
        let again = Papers::find(&config).unwrap();
        assert_eq!(again.claim(&config).unwrap().cluster, Some(7));
        assert_eq!(again.complete(&identity(1, true), now()).unwrap(), files);
        assert_eq!(std::fs::read(&files.certificate).unwrap(), before);
        let second = Papers::find(&config).unwrap().complete(&identity(2, false), now()).unwrap();
        assert_eq!(second.authority, files.authority);
        assert_ne!(second.certificate, files.certificate);
        assert!(certs.join("client-admin.pem").exists());
    }

    #[test]
    fn a_made_certificate_serves_clients_that_trust_the_authority() {
        let folder = tempfile::tempdir().unwrap();
        let config = development(folder.path(), folder.path());
        let files = Papers::find(&config).unwrap().complete(&identity(1, true), now()).unwrap();
        let server = server(&files.certificate, &files.private_key).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&files.authority).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = rustls::ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
        let mut server = rustls::ServerConnection::new(server).unwrap();
        for _ in 0..4 {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
    }

    #[test]
    fn wrong_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none.pem");
        let error = server(&missing, &missing).unwrap_err().to_string();
        assert!(error.contains("none.pem"), "{error}");
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let error = server(&empty, &empty).unwrap_err().to_string();
        assert!(error.contains("no certificate"), "{error}");
        std::fs::write(folder.path().join("ca.pem"), "").unwrap();
        let error = Papers::find(&development(folder.path(), folder.path())).err().unwrap().to_string();
        assert!(error.contains("ca.pem"), "{error}");
    }
}
