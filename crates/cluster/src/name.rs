//! Who a certificate's holder is, as a URI among its subject's alternative names:
//!
//! ```text
//! polity://3f0c…/node/3         node 3 of the cluster
//! polity://3f0c…/client/alice   a client of it
//! polity://3f0c…                its authority
//! ```
//! The cluster is its number in 32 hexadecimal digits. An authority may sign for
//! several clusters by mistake; the number keeps them apart nevertheless.

use std::fmt;
use std::str::FromStr;

use polity_base::NodeId;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const SCHEME: &str = "polity://";
/// Longest name of a client, in bytes.
const LONGEST_CLIENT: usize = 63;

/// Who a certificate's holder is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Name {
    /// The cluster, by its number
    pub cluster: u128,
    /// What in it
    pub holder: Holder,
}

/// What a certificate's holder is in its cluster.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Holder {
    /// The authority that signs the others
    Authority,
    /// A node
    Node(NodeId),
    /// A client, by its name: 1 to 63 of `a-z A-Z 0-9 . _ -`
    Client(String),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{:032x}", self.cluster)?;
        match &self.holder {
            Holder::Authority => Ok(()),
            Holder::Node(node) => write!(f, "/node/{}", node.0),
            Holder::Client(name) => write!(f, "/client/{name}"),
        }
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        let wrong = || format!("{text:?} is no name of a node or client of a cluster");
        let rest = text.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let (cluster, holder) = rest.split_once('/').map_or((rest, None), |(cluster, holder)| (cluster, Some(holder)));
        let digits = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if cluster.len() != 32 || !cluster.bytes().all(digits) {
            return Err(wrong());
        }
        let cluster = u128::from_str_radix(cluster, 16).map_err(|_| wrong())?;
        let holder = match holder.map(|holder| holder.split_once('/')) {
            None => Holder::Authority,
            Some(Some(("node", id))) if id.bytes().all(|c| c.is_ascii_digit()) => {
                Holder::Node(NodeId(id.parse().map_err(|_| wrong())?))
            }
            Some(Some(("client", name))) if is_client(name) => Holder::Client(name.to_owned()),
            Some(_) => return Err(wrong()),
        };
        Ok(Name { cluster, holder })
    }
}

/// Whether `name` may be a client's.
pub fn is_client(name: &str) -> bool {
    let fits = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    (1..=LONGEST_CLIENT).contains(&name.len()) && name.bytes().all(fits)
}

/// What a certificate says, beside its key.
#[derive(Clone, Debug)]
pub struct Particulars {
    /// Its subject, in one line
    pub subject: String,
    /// Who its holder is, or why that is not to be known
    pub name: Result<Name, String>,
    /// From when it is valid, in seconds since 1970
    pub not_before: i64,
    /// Until when, in seconds since 1970
    pub not_after: i64,
}

impl Particulars {
    /// Reads a certificate, DER. Says nothing about whether it can be trusted.
    pub fn read(der: &[u8]) -> Result<Particulars, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|e| format!("is no certificate: {e}"))?;
        let names = certificate.subject_alternative_name().map_err(|e| format!("is no certificate: {e}"))?;
        let mut ours = names.into_iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
            _ => None,
        });
        let name = match (ours.next(), ours.next()) {
            (Some(only), None) => only.parse(),
            (None, _) => Err("names no node or client of a cluster".to_owned()),
            (Some(_), Some(_)) => Err("names more than one node or client".to_owned()),
        };
        let validity = certificate.validity();
        Ok(Particulars {
            subject: certificate.subject().to_string(),
            name,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// The holder's name, or at least the subject: for people to read.
    pub fn who(&self) -> String {
        self.name.as_ref().map_or_else(|_| format!("{:?}", self.subject), Name::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        for holder in [Holder::Authority, Holder::Node(NodeId(3)), Holder::Client("al.i_c-e".to_owned())] {
            let name = Name { cluster: 0x3f0c, holder };
            assert_eq!(name.to_string().parse::<Name>().unwrap(), name);
        }
    }

    #[test]
    fn other_texts_are_no_names() {
        let cluster = "0000000000000000000000000000003f";
        for text in [
            "polity://3f/node/1".to_owned(),
            format!("http://{cluster}/node/1"),
            format!("polity://{}/node/1", cluster.to_uppercase()),
            format!("polity://{cluster}/node/"),
            format!("polity://{cluster}/node/+1"),
            format!("polity://{cluster}/node/1/2"),
            format!("polity://{cluster}/node/99999999999999999999"),
            format!("polity://{cluster}/client/"),
            format!("polity://{cluster}/client/a b"),
            format!("polity://{cluster}/"),
            format!("polity://{cluster}/king/1"),
        ] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }
}
