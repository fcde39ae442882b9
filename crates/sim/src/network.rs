//! The simulated network under the links: turmoil's streams, each write noted.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use polity_cluster::links::carrier::{Acceptor, BoxStream, Carrier};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use crate::trace::{Trace, Who};

/// The port at which nodes listen.
pub const PORT: u16 = 7000;

/// The network as one node sees it.
pub struct SimulatedNetwork {
    /// The node
    pub node: u64,
    /// Where messages are noted
    pub trace: Trace,
}

/// Where a node is, by its number.
pub fn host(node: u64) -> String {
    format!("node-{node}")
}

#[async_trait]
impl Carrier for SimulatedNetwork {
    async fn listen(&self, at: SocketAddr) -> io::Result<Box<dyn Acceptor>> {
        let listener = TcpListener::bind(at).await?;
        Ok(Box::new(Listener { listener, node: self.node, trace: self.trace.clone() }))
    }

    async fn connect(&self, address: &str) -> io::Result<BoxStream> {
        let stream = TcpStream::connect(address).await?;
        let to = stream.peer_addr()?;
        Ok(Box::new(Noted { stream, node: self.node, other: to, trace: self.trace.clone() }))
    }
}

struct Listener {
    listener: TcpListener,
    node: u64,
    trace: Trace,
}

#[async_trait]
impl Acceptor for Listener {
    fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    async fn accept(&self) -> io::Result<(BoxStream, SocketAddr)> {
        let (stream, from) = self.listener.accept().await?;
        Ok((Box::new(Noted { stream, node: self.node, other: from, trace: self.trace.clone() }), from))
    }
}

/// A stream whose writes are noted.
struct Noted {
    stream: TcpStream,
    node: u64,
    other: SocketAddr,
    trace: Trace,
}

impl AsyncRead for Noted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            let sum = checksum(&bytes[..*count]);
            self.trace.note(Who::Node(self.node), format_args!("{count} bytes to {} ({sum:08x})", self.other));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// FNV-1a (Fowler, Noll & Vo): enough to tell two messages apart in a trace.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
