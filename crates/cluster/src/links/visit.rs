//! Visits: questions of those who are not linked to a node.
//!
//! An administrator's program is no node, and a node that wants to join is not
//! known yet. Both prove who they are by certificate, ask, and leave. Faults on
//! purpose do not touch visits: else nobody could end one.
//!
//! ```text
//! question, answer    length: u32, little endian; then the bytes
//! ```
//! An empty answer says that the node has none.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use polity_base::NodeId;
use polity_base::seams::ClockSource;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::carrier::{BoxStream, Carrier, Greeting, Purpose, Transport};
use super::hub::{Hub, named};
use super::listen::tune;
use super::refused::Reason;
use super::tls::{self, Time, Witness};
use crate::certificates::Credentials;
use crate::name::{Holder, Name};

/// Bytes of a question or an answer.
const LIMIT: usize = 1 << 20;
/// How long a visitor may take to ask its next question.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers visitors.
#[async_trait]
pub trait Visited: Send + Sync + 'static {
    /// Answers the question of `from`, which is certain. An error, in words, ends
    /// the visit: the question makes no sense.
    async fn answer(&self, from: &Name, question: Bytes) -> Result<Bytes, String>;
}

/// Asks nodes without being linked to them.
#[derive(Clone)]
pub struct Visitor {
    credentials: Arc<Credentials>,
    time: Time,
    transport: Transport,
}

impl Visitor {
    /// A visitor that proves itself with `credentials`.
    pub fn new(credentials: Arc<Credentials>, clock: Arc<dyn ClockSource>) -> Visitor {
        Visitor { credentials, time: Time(clock), transport: Transport::Tls }
    }

    /// As it is, over another transport.
    pub fn over(self, transport: Transport) -> Visitor {
        Visitor { transport, ..self }
    }

    /// Asks whichever node of the cluster is reached at `address` (host and port);
    /// gives which it is, and its answer. The caller sets the deadline.
    pub async fn ask(&self, address: &str, question: Bytes) -> Result<(NodeId, Bytes), String> {
        let (mut stream, node) = match &self.transport {
            Transport::Tls => self.connect_tls(address).await?,
            Transport::Plain(carrier) => self.connect_plain(&**carrier, address).await?,
        };
        write(&mut stream, &question).await.map_err(|e| e.to_string())?;
        match read(&mut stream).await? {
            Some(answer) if !answer.is_empty() => Ok((node, answer)),
            Some(_) => Err("it has no answer".to_owned()),
            None => Err("it hung up".to_owned()),
        }
    }
}

impl Visitor {
    async fn connect_tls(&self, address: &str) -> Result<(BoxStream, NodeId), String> {
        let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        tune(&stream);
        let witness = Witness::new(self.credentials.clone());
        let config = tls::visitor(&self.credentials, &self.time, witness).map_err(|e| e.to_string())?;
        let host = ServerName::try_from("node.polity.invalid").map_err(|e| e.to_string())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(host, stream).await.map_err(|e| e.to_string())?;
        let (_, session) = stream.get_ref();
        if !tls::visits(session.alpn_protocol()) {
            return Err("it takes no visits".to_owned());
        }
        let node = match named(self.credentials.name.cluster, session.peer_certificates())? {
            (Name { holder: Holder::Node(node), .. }, _) => node,
            (name, _) => return Err(format!("{name} answers there, which is no node")),
        };
        Ok((Box::new(stream), node))
    }

    async fn connect_plain(&self, carrier: &dyn Carrier, address: &str) -> Result<(BoxStream, NodeId), String> {
        let Name { cluster, holder: Holder::Node(own) } = self.credentials.name else {
            return Err("only nodes are known in plain text".to_owned());
        };
        let mut stream = carrier.connect(address).await.map_err(|e| e.to_string())?;
        let own = Greeting { purpose: Purpose::Visit, cluster, node: own };
        let greeting = own.exchange(&mut stream).await?;
        Ok((stream, greeting.node))
    }
}

/// Answers one visitor until it leaves.
pub async fn receive<S: AsyncRead + AsyncWrite + Unpin>(hub: &Hub, name: &Name, mut stream: S) {
    let why = loop {
        let question = match tokio::time::timeout(PATIENCE, read(&mut stream)).await {
            Ok(Ok(Some(question))) => question,
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(why)) => break why,
        };
        let answer = match hub.visited() {
            Some(visited) => visited.answer(name, question).await,
            None => Ok(Bytes::new()),
        };
        match answer {
            Ok(answer) if answer.len() <= LIMIT => {
                if write(&mut stream, &answer).await.is_err() {
                    return;
                }
            }
            Ok(answer) => break format!("the answer has {} bytes", answer.len()),
            Err(why) => break why,
        }
    };
    hub.refused(Reason::Offence, &name.to_string(), &why);
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_le_bytes(), bytes].concat()).await?;
    stream.flush().await
}

/// The next message; none at the end.
async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<Bytes>, String> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.to_string()),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > LIMIT {
        return Err(format!("a message of {length} bytes, where {LIMIT} are allowed"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.map_err(|e| e.to_string())?;
    Ok(Some(bytes.into()))
}
