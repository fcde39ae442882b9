//! Certificates: read where they are given, made where development mode asks.
//!
//! Development mode keeps an authority of its own in the data folder and signs a
//! fresh server certificate with it at each start. Clients that want to verify
//! the node trust `dev/ca.pem`. The authority's key lies next to it: whoever can
//! read the folder can pose as the node, which is what "development" means.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use polity_base::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::Error;

/// The folder in the data folder that development mode writes to.
pub const FOLDER: &str = "dev";
const AUTHORITY: &str = "ca.pem";
const AUTHORITY_KEY: &str = "ca.key";

/// Reads a certificate chain and its key, both PEM.
pub fn given(certificate: &Path, private_key: &Path) -> Result<Arc<ServerConfig>, Error> {
    let bad = |file: &Path, what: &dyn std::fmt::Display| Error::file(file.display(), what);
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).map_err(|e| bad(certificate, &e))?.collect();
    let chain = chain.map_err(|e| bad(certificate, &e))?;
    if chain.is_empty() {
        return Err(bad(certificate, &"holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(private_key).map_err(|e| bad(private_key, &e))?;
    server(chain, key)
}

/// Makes a certificate for a node in development, listening at `address`, signed
/// by the authority in `folder`, which is made if there is none.
pub fn development(folder: &Path, address: SocketAddr, now: Timestamp) -> Result<Arc<ServerConfig>, Error> {
    let failed = |e: rcgen::Error| Error::Tls(e.to_string());
    let issuer = authority(folder, now)?;
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !address.ip().is_unspecified() && !names.contains(&address.ip().to_string()) {
        names.push(address.ip().to_string());
    }
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, "Polity node in development");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, now, 1);
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    let private_key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| Error::Tls(e.to_string()))?;
    server(vec![certificate.der().clone()], private_key)
}

fn server(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Arc<ServerConfig>, Error> {
    let failed = |e: rustls::Error| Error::Tls(e.to_string());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(failed)?;
    Ok(Arc::new(config))
}

/// The authority of a folder. Only its key must be kept: everything else about it
/// is the same each time.
fn authority(folder: &Path, now: Timestamp) -> Result<Issuer<'static, KeyPair>, Error> {
    let failed = |e: rcgen::Error| Error::Tls(e.to_string());
    let (certificate_file, key_file) = (folder.join(AUTHORITY), folder.join(AUTHORITY_KEY));
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Polity development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, now, 20);
    if certificate_file.exists() && key_file.exists() {
        let text = fs::read_to_string(&key_file).map_err(|e| Error::file(key_file.display(), e))?;
        let key = KeyPair::from_pem(&text).map_err(|e| Error::file(key_file.display(), e))?;
        return Ok(Issuer::new(params, key));
    }
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    fs::create_dir_all(folder).map_err(|e| Error::file(folder.display(), e))?;
    // The key first: a certificate without its key is made again.
    write(&key_file, &key.serialize_pem(), 0o600).map_err(|e| Error::file(key_file.display(), e))?;
    write(&certificate_file, &certificate.pem(), 0o644).map_err(|e| Error::file(certificate_file.display(), e))?;
    Ok(Issuer::new(params, key))
}

fn write(file: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Makes a certificate valid from the year before `now` (clocks differ) and for
/// some `years` after it.
fn validity(params: &mut CertificateParams, now: Timestamp, years: i32) {
    const YEAR_SECONDS: i64 = 31_556_952;
    let year = 1970 + (now.unix_micros() / 1_000_000 / YEAR_SECONDS) as i32;
    params.not_before = date_time_ymd(year - 1, 1, 1);
    params.not_after = date_time_ymd(year + 1 + years, 1, 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

    fn now() -> Timestamp {
        use polity_base::seams::ClockSource;
        crate::clock::SystemClock::new(std::time::Duration::ZERO).read().midpoint()
    }

    fn address() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn the_authority_stays_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let dev = folder.path().join(FOLDER);
        development(&dev, address(), NOW).unwrap();
        let first = fs::read(dev.join(AUTHORITY)).unwrap();
        development(&dev, address(), NOW).unwrap();
        assert_eq!(fs::read(dev.join(AUTHORITY)).unwrap(), first);
    }

    #[test]
    fn a_made_certificate_verifies_against_its_authority() {
        let folder = tempfile::tempdir().unwrap();
        let dev = folder.path().join(FOLDER);
        // The second start signs with an authority that was read back.
        development(&dev, address(), NOW).unwrap();
        let server = development(&dev, address(), now()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(dev.join(AUTHORITY)).unwrap()).unwrap();
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
        let error = given(&missing, &missing).unwrap_err().to_string();
        assert!(error.contains("none.pem"), "{error}");
        let empty = folder.path().join("empty.pem");
        fs::write(&empty, "").unwrap();
        let error = given(&empty, &empty).unwrap_err().to_string();
        assert!(error.contains("no certificate"), "{error}");
    }
}
