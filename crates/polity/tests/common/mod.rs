//! Real node processes for tests, and clients for them.

#![allow(dead_code)] // each test program uses a part

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub mod apart;
pub mod cluster;
pub mod load;

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// A node in a process of its own; killed when dropped.
pub struct Node {
    child: Child,
    /// Its number
    pub id: u64,
    /// postgresql://…
    pub url: String,
    /// http://…
    pub http: String,
    /// Host and port of its link listener, if it has one
    pub link: String,
}

impl Node {
    /// Starts a node on free ports over the folder `data`, and waits until it is
    /// ready.
    pub fn start(data: &Path) -> Node {
        Node::try_start(data).unwrap_or_else(|why| panic!("the node did not start: {why}"))
    }

    /// The same, giving what it said if it did not start.
    pub fn try_start(data: &Path) -> Result<Node, String> {
        Node::start_with(data, ["--sql", "127.0.0.1:0", "--http", "127.0.0.1:0"])
    }

    /// Starts a node with these arguments beside the usual ones.
    pub fn start_with<A: AsRef<OsStr>>(data: &Path, arguments: impl IntoIterator<Item = A>) -> Result<Node, String> {
        Node::start_by(Command::new(env!("CARGO_BIN_EXE_polity")), data, arguments)
    }

    /// The same with a command that becomes the program.
    pub fn start_by<A: AsRef<OsStr>>(
        mut command: Command,
        data: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Node, String> {
        let mut child = command
            .args(["start", "--dev", "--json", "--until-input-ends"])
            .arg("--data")
            .arg(data)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).map_err(|e| e.to_string())?;
        let Ok(ready) = serde_json::from_str::<serde_json::Value>(&line) else {
            let output = child.wait_with_output().map_err(|e| e.to_string())?;
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        };
        // Nobody reads its log: let it go where ours goes.
        let mut stderr = child.stderr.take().expect("stderr is piped");
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::stderr()));
        let node = &ready["nodes"][0];
        let text = |field: &str| node[field].as_str().unwrap_or_default().to_owned();
        let id = node["id"].as_u64().expect("a number");
        Ok(Node { child, id, url: text("sql"), http: text("http"), link: text("link") })
    }

    /// Kills the process at once: kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process ends");
    }

    /// Asks the process to stop in order, and waits until it has.
    pub fn stop(&mut self) {
        // The end of its input is its signal.
        drop(self.child.stdin.take());
        self.child.wait().expect("the process ends");
    }

    /// Whether the process still runs.
    pub fn is_up(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Host and port of the SQL door.
    pub fn address(&self) -> String {
        let rest = self.url.split('@').nth(1).expect("a user in the URL");
        rest.split('/').next().expect("a database in the URL").to_owned()
    }

    /// Host and port of the http door.
    pub fn http_address(&self) -> String {
        self.http.trim_start_matches("http://").to_owned()
    }

    /// A client.
    pub async fn connect(&self) -> Client {
        connect(&self.url).await.expect("the node accepts connections")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of the server at `url`.
pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// What a simple query answered, in one line: rows as `(1,a) (2,b)`, no rows as
/// `none`, a command's count as `ok 3`, an error as its SQLSTATE.
pub async fn answer(client: &Client, sql: &str) -> String {
    let messages = match client.simple_query(sql).await {
        Ok(messages) => messages,
        Err(error) => return error.code().map_or_else(|| error.to_string(), |c| c.code().to_owned()),
    };
    let mut rows: Option<Vec<String>> = None;
    let mut count = 0;
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(_) => rows = Some(Vec::new()),
            SimpleQueryMessage::Row(row) => {
                let cells: Vec<&str> = (0..row.len()).map(|i| row.get(i).unwrap_or("null")).collect();
                rows.get_or_insert_default().push(format!("({})", cells.join(",")));
            }
            SimpleQueryMessage::CommandComplete(n) => count = n,
            _ => {}
        }
    }
    match rows {
        Some(rows) if rows.is_empty() => "none".to_owned(),
        Some(rows) => rows.join(" "),
        None => format!("ok {count}"),
    }
}
