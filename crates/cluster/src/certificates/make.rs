//! Making certificates.
//!
//! Keys are ECDSA on P-256. A certificate is valid from a day before it is made,
//! since clocks differ. Nothing that exists is ever overwritten: a lost key cannot
//! be had again.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use polity_base::{NodeId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::Error;
use crate::name::{Holder, Name, Particulars, is_client};

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";
const DAY_SECONDS: u64 = 24 * 60 * 60;
/// The last day that certificates can name is in 9999.
const MOST_DAYS: u32 = 365 * 1000;

/// The authority of a cluster: its certificate `ca.pem` and key `ca.key` in one
/// folder.
pub struct Authority {
    cluster: u128,
    certificate: PathBuf,
    /// Until when it is valid, in seconds since 1970
    not_after: u64,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both PEM.
pub struct Made {
    /// The certificate
    pub certificate: String,
    /// Its private key
    pub private_key: String,
}

impl Authority {
    /// Makes the authority of `cluster` in `folder`, valid for `days`.
    pub fn create(folder: &Path, cluster: u128, days: u32, now: Timestamp) -> Result<Authority, Error> {
        let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
        for file in [&certificate, &key] {
            if file.exists() {
                return Err(Error::file(file, "exists already, and is not overwritten"));
            }
        }
        let mut params = authority(cluster)?;
        let not_after = validity(&mut params, now, days, u64::MAX)?;
        let pair = KeyPair::generate().map_err(failed)?;
        let made =
            Made { certificate: params.self_signed(&pair).map_err(failed)?.pem(), private_key: pair.serialize_pem() };
        made.write(&certificate, &key)?;
        Ok(Authority { cluster, certificate, not_after, issuer: Issuer::new(params, pair) })
    }

    /// The authority that `folder` holds.
    pub fn open(folder: &Path) -> Result<Authority, Error> {
        let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
        let der = CertificateDer::from_pem_file(&certificate).map_err(|e| Error::file(&certificate, e))?;
        let particulars = Particulars::read(&der).map_err(|e| Error::file(&certificate, e))?;
        let cluster = match particulars.name {
            Ok(Name { cluster, holder: Holder::Authority }) => cluster,
            _ => return Err(Error::file(&certificate, "is not the certificate of a cluster's authority")),
        };
        let text = fs::read_to_string(&key).map_err(|e| Error::file(&key, e))?;
        let pair = KeyPair::from_pem(&text).map_err(|e| Error::file(&key, e))?;
        let not_after = u64::try_from(particulars.not_after).unwrap_or(0);
        Ok(Authority { cluster, certificate, not_after, issuer: Issuer::new(authority(cluster)?, pair) })
    }

    /// The authority that `folder` holds, or a new one for `cluster`.
    pub fn open_or_create(folder: &Path, cluster: u128, days: u32, now: Timestamp) -> Result<Authority, Error> {
        if folder.join(CERTIFICATE).exists() {
            return Authority::open(folder);
        }
        Authority::create(folder, cluster, days, now)
    }

    /// The same authority, signing for another cluster.
    #[cfg(test)]
    pub(crate) fn astray(folder: &Path, cluster: u128) -> Authority {
        Authority { cluster, ..Authority::open(folder).unwrap() }
    }

    /// The cluster it signs for.
    pub fn cluster(&self) -> u128 {
        self.cluster
    }

    /// The file that holds its certificate: what others need to trust it.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Makes a certificate for `node`, valid for `days` (as far as the authority is),
    /// under which it serves clients that reach it by one of `names` (DNS names and
    /// addresses), and talks to other nodes.
    pub fn node(&self, node: NodeId, names: &[String], days: u32, now: Timestamp) -> Result<Made, Error> {
        let uses = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(Holder::Node(node), format!("Polity node {}", node.0), names, uses, days, now)
    }

    /// Makes a certificate for the client `name`, valid for `days` (as far as the
    /// authority is).
    pub fn client(&self, name: &str, days: u32, now: Timestamp) -> Result<Made, Error> {
        if !is_client(name) {
            return Err(Error::Make(format!("a client is named by 1 to 63 of a-z A-Z 0-9 . _ -, not {name:?}")));
        }
        let uses = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(Holder::Client(name.to_owned()), name.to_owned(), &[], uses, days, now)
    }

    fn sign(
        &self,
        holder: Holder,
        common_name: String,
        names: &[String],
        uses: Vec<ExtendedKeyUsagePurpose>,
        days: u32,
        now: Timestamp,
    ) -> Result<Made, Error> {
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.subject_alt_names.push(uri(&Name { cluster: self.cluster, holder })?);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = uses;
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, now, days, self.not_after)?;
        let pair = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&pair, &self.issuer).map_err(failed)?;
        Ok(Made { certificate: certificate.pem(), private_key: pair.serialize_pem() })
    }
}

impl Made {
    /// Writes both to files that do not exist yet, the key for its owner alone.
    pub fn write(&self, certificate: &Path, private_key: &Path) -> Result<(), Error> {
        if certificate.exists() {
            return Err(Error::file(certificate, "exists already, and is not overwritten"));
        }
        // The key first: a certificate without its key is of no use.
        write(private_key, &self.private_key, 0o600).map_err(|e| Error::file(private_key, e))?;
        write(certificate, &self.certificate, 0o644).map_err(|e| Error::file(certificate, e))
    }
}

fn write(file: &Path, text: &str, mode: u32) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Everything about an authority but its key and validity, which signing does not
/// need.
fn authority(cluster: u128) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("Polity authority of cluster {cluster:032x}"));
    params.subject_alt_names.push(uri(&Name { cluster, holder: Holder::Authority })?);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn uri(name: &Name) -> Result<SanType, Error> {
    Ok(SanType::URI(name.to_string().try_into().map_err(failed)?))
}

/// Sets from when and until when, the latter in seconds since 1970 and not after
/// `latest`: nobody believes a certificate longer than the one that signed it.
fn validity(params: &mut CertificateParams, now: Timestamp, days: u32, latest: u64) -> Result<u64, Error> {
    if days == 0 || days > MOST_DAYS {
        return Err(Error::Make(format!("a certificate is valid for 1 to {MOST_DAYS} days, not {days}")));
    }
    let now = now.0 / 1_000_000_000;
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(DAY_SECONDS));
    let not_after = (now + u64::from(days) * DAY_SECONDS).min(latest);
    if not_after <= now {
        return Err(Error::Make("the authority that is to sign it has run out".to_owned()));
    }
    params.not_after = epoch + Duration::from_secs(not_after);
    Ok(not_after)
}

fn failed(error: rcgen::Error) -> Error {
    Error::Make(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);
    const DAY: u64 = DAY_SECONDS * 1_000_000_000;

    fn days_left(made: &Made, now: Timestamp) -> i64 {
        let der = CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap();
        (Particulars::read(&der).unwrap().not_after - now.unix_micros() / 1_000_000) / DAY_SECONDS as i64
    }

    #[test]
    fn nothing_outlives_its_authority() {
        let folder = tempfile::tempdir().unwrap();
        Authority::create(folder.path(), 1, 100, NOW).unwrap();
        let authority = Authority::open(folder.path()).unwrap();
        let node = |days, now| authority.node(NodeId(1), &[], days, now);
        assert_eq!(days_left(&node(50, NOW).unwrap(), NOW), 50);
        assert_eq!(days_left(&authority.client("ada", 200, NOW).unwrap(), NOW), 100);
        let later = Timestamp(NOW.0 + 99 * DAY);
        assert_eq!(days_left(&node(365, later).unwrap(), later), 1);
        let error = node(365, Timestamp(NOW.0 + 101 * DAY)).err().unwrap().to_string();
        assert!(error.contains("has run out"), "{error}");
        assert!(node(0, NOW).is_err() && node(MOST_DAYS + 1, NOW).is_err());
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), 1, 100, NOW).unwrap();
        assert!(Authority::create(folder.path(), 2, 100, NOW).is_err());
        assert_eq!(Authority::open_or_create(folder.path(), 2, 100, NOW).unwrap().cluster(), 1);
        let (certificate, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
        let write = || authority.node(NodeId(1), &[], 1, NOW).unwrap().write(&certificate, &key);
        write().unwrap();
        let first = fs::read(&key).unwrap();
        assert!(write().is_err());
        fs::remove_file(&certificate).unwrap();
        assert!(write().is_err(), "the key is there still");
        assert_eq!(fs::read(&key).unwrap(), first);
    }
}
