//! Asking a node of a cluster from outside of it, or before belonging to it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use polity_base::NodeId;
use polity_base::seams::ClockSource;
use polity_cluster::certificates::Credentials;
use polity_cluster::links::Visitor;
use polity_cluster::links::carrier::Transport;

use super::protocol::{Answer, Request};
use crate::certificates;
use crate::clock::SystemClock;
use crate::error::Error;
use crate::wire::{decode, encode};

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a question is handed on to whoever leads.
const MOST_HOPS: usize = 3;

/// Asks nodes, as whoever its certificate names.
#[derive(Clone)]
pub struct Client {
    visitor: Visitor,
}

impl Client {
    /// A client by the name of `name`, whose certificates are in `folder`: `ca.pem`,
    /// `client-NAME.pem`, `client-NAME.key`.
    pub fn open(folder: &Path, name: &str) -> Result<Client, Error> {
        let files = certificates::files(folder, &format!("client-{name}"));
        let clock = Arc::new(SystemClock::new(Duration::ZERO));
        let credentials = Credentials::load_any(&files, clock.read().midpoint())?;
        Ok(Client { visitor: Visitor::new(Arc::new(credentials), clock) })
    }

    /// The node itself, before others know it.
    pub fn of_node(credentials: Arc<Credentials>, clock: Arc<dyn ClockSource>, transport: Transport) -> Client {
        Client { visitor: Visitor::new(credentials, clock).over(transport) }
    }

    /// Asks the node at `address` (host and port), and whoever it names as the one
    /// to ask.
    pub async fn ask(&self, address: &str, request: &Request) -> Result<Answer, String> {
        let mut address = address.to_owned();
        for _ in 0..MOST_HOPS {
            match self.ask_one(&address, request).await?.1 {
                Answer::Elsewhere(leader) => address = leader,
                answer => return Ok(answer),
            }
        }
        Ok(Answer::Later("the nodes do not agree on who leads".to_owned()))
    }

    /// Asks the node at `address` alone; gives who it is, too.
    pub async fn ask_one(&self, address: &str, request: &Request) -> Result<(NodeId, Answer), String> {
        let asked = self.visitor.ask(address, encode(request)?);
        let answered = tokio::time::timeout(PATIENCE, asked).await;
        let (node, bytes) = answered.map_err(|_| format!("no answer in {} s", PATIENCE.as_secs()))??;
        Ok((node, decode(&bytes).map_err(|what| format!("the answer {what}"))?))
    }
}
