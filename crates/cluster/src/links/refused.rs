//! Connections that were refused, counted by reason.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection was refused, or ended for what the peer did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Its certificate is not to be believed: none, run out, of an authority that is
    /// not this cluster's
    Certificate,
    /// Its certificate is good and names the wrong one: another cluster, no node,
    /// this very node, another node than the one that was called
    Name,
    /// It does not speak the protocol
    Protocol,
    /// It did not say in time who it is
    Late,
    /// Too many connections were being made
    Crowded,
    /// It was let in and then sent what it must not
    Offence,
}

impl Reason {
    /// All there are.
    pub const ALL: [Reason; 6] =
        [Reason::Certificate, Reason::Name, Reason::Protocol, Reason::Late, Reason::Crowded, Reason::Offence];

    /// The reason of a handshake that failed.
    pub(crate) fn of_handshake(error: &std::io::Error) -> Reason {
        use rustls::Error as Tls;
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(Tls::InvalidCertificate(_) | Tls::NoCertificatesPresented) => Reason::Certificate,
            _ => Reason::Protocol,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Certificate => "certificate",
            Reason::Name => "name",
            Reason::Protocol => "protocol",
            Reason::Late => "late",
            Reason::Crowded => "crowded",
            Reason::Offence => "offence",
        })
    }
}

/// How many connections were refused since the links were started, in either
/// direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refused([u64; Reason::ALL.len()]);

impl Refused {
    /// For one reason.
    pub fn of(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// For any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// The counters.
#[derive(Default)]
pub(crate) struct Tally([AtomicU64; Reason::ALL.len()]);

impl Tally {
    pub fn count(&self, reason: Reason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn figures(&self) -> Refused {
        Refused(self.0.each_ref().map(|count| count.load(Ordering::Relaxed)))
    }
}
