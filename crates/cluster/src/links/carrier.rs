//! The seam under the links: what carries their bytes.
//!
//! A node's links go over TCP under mutual TLS ([`Transport::Tls`]), and no
//! configuration says otherwise. A simulation brings its own network
//! ([`Transport::Plain`]): there each side begins with a [`Greeting`] that says who
//! it is, in plain text, and is believed. Both ends need the same transport: one
//! that speaks TLS takes a greeting for a broken handshake, and the other way round.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use polity_base::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::name::{Holder, Name};

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// Bytes both ways, however they are carried.
pub type BoxStream = Box<dyn Stream>;

/// A network that is not the machine's.
#[async_trait]
pub trait Carrier: Send + Sync + 'static {
    /// Listens at an address.
    async fn listen(&self, at: SocketAddr) -> io::Result<Box<dyn Acceptor>>;
    /// Connects to host and port.
    async fn connect(&self, address: &str) -> io::Result<BoxStream>;
}

/// Takes in connections.
#[async_trait]
pub trait Acceptor: Send + Sync + 'static {
    /// Where it listens.
    fn local_address(&self) -> io::Result<SocketAddr>;
    /// The next connection, and where it comes from.
    async fn accept(&self) -> io::Result<(BoxStream, SocketAddr)>;
}

/// How links reach other nodes.
#[derive(Clone, Default)]
pub enum Transport {
    /// TCP, and TLS on both sides
    #[default]
    Tls,
    /// A simulated network, where everybody is who it says it is
    Plain(Arc<dyn Carrier>),
}

/// What a connection is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A link
    Link = 1,
    /// A visit
    Visit = 2,
}

/// Who somebody on a plain connection is, and what it wants.
///
/// ```text
/// greeting    "polity-plain/1 ", purpose: u8, cluster: u128, node: u64; little endian
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Greeting {
    pub purpose: Purpose,
    pub cluster: u128,
    pub node: NodeId,
}

const MAGIC: &[u8; 15] = b"polity-plain/1 ";
const BYTES: usize = MAGIC.len() + 1 + 16 + 8;

impl Greeting {
    /// Sends this one, and gives the other side's.
    pub async fn exchange<S: Stream>(self, stream: &mut S) -> Result<Greeting, String> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.push(self.purpose as u8);
        bytes.extend_from_slice(&self.cluster.to_le_bytes());
        bytes.extend_from_slice(&self.node.0.to_le_bytes());
        stream.write_all(&bytes).await.map_err(|e| e.to_string())?;
        stream.flush().await.map_err(|e| e.to_string())?;
        let mut bytes = [0; BYTES];
        stream.read_exact(&mut bytes).await.map_err(|e| e.to_string())?;
        Greeting::read(&bytes).ok_or_else(|| "it does not greet in plain text".to_owned())
    }

    fn read(bytes: &[u8]) -> Option<Greeting> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (purpose, rest) = rest.split_first()?;
        let (cluster, node) = rest.split_at_checked(16)?;
        let purpose = match purpose {
            1 => Purpose::Link,
            2 => Purpose::Visit,
            _ => return None,
        };
        let cluster = u128::from_le_bytes(cluster.try_into().ok()?);
        Some(Greeting { purpose, cluster, node: NodeId(u64::from_le_bytes(node.try_into().ok()?)) })
    }

    /// The name that a certificate would have.
    pub fn name(&self) -> Name {
        Name { cluster: self.cluster, holder: Holder::Node(self.node) }
    }
}
