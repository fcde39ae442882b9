//! The two servers: started on free ports, ended when dropped.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// One of the two servers.
pub struct Server {
    /// What the tables call it
    pub name: &'static str,
    /// Where it listens
    pub url: String,
    /// The process whose CPU time counts, together with its descendants'
    pid: u32,
}

impl Server {
    /// CPU seconds used so far by the process and all that descend from it.
    pub fn cpu_seconds(&self) -> Option<f64> {
        cpu_seconds(self.pid)
    }

    /// Runs SQL through psql, giving what it prints.
    pub fn psql(&self, sql: &str) -> Result<String, String> {
        output(Command::new("psql").args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url]), self.name)
    }

    /// How long SQL takes to be answered in a session that is open, in milliseconds: to
    /// start psql and to connect takes longer than many a query.
    pub fn milliseconds(&self, sql: &str) -> Result<f64, String> {
        let timed = ["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", "\\timing on", "-c", sql, &self.url];
        let said = output(Command::new("psql").args(timed), self.name)?;
        let time = said.lines().rev().find_map(|line| line.strip_prefix("Time: ")?.split(' ').next()?.parse().ok());
        time.ok_or_else(|| format!("{}: psql told no time", self.name))
    }
}

/// CPU seconds used so far by the process `root` and all that descend from it.
///
/// A process that lives counts with its own time and with that of the children
/// it has reaped; one that has ended but was not reaped yet still has its line.
/// So nothing is missed and nothing counts twice, whenever this is asked.
pub fn cpu_seconds(root: u32) -> Option<f64> {
    let processes: HashMap<u32, ProcessTime> = std::fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, ProcessTime::of(pid)?)))
        .collect();
    processes.contains_key(&root).then_some(())?;
    let is_ours = |mut pid: u32| {
        while pid != root {
            match processes.get(&pid) {
                Some(process) => pid = process.parent,
                None => return false,
            }
        }
        true
    };
    let ticks: u64 = processes.iter().filter(|(pid, _)| is_ours(**pid)).map(|(_, process)| process.ticks).sum();
    Some(ticks as f64 / TICKS_PER_SECOND)
}

/// What `/proc/PID/stat` says about one process.
struct ProcessTime {
    parent: u32,
    /// User and system time, its own and that of the children it has reaped
    ticks: u64,
}

/// Linux counts the times of processes in hundredths of a second on all its platforms.
const TICKS_PER_SECOND: f64 = 100.0;

impl ProcessTime {
    fn of(pid: u32) -> Option<ProcessTime> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Field 4 (ppid) and fields 14 to 17 (utime, stime, cutime, cstime), counted after the name in parentheses.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11..15)?.iter().filter_map(|f| f.parse::<u64>().ok()).sum();
        Some(ProcessTime { parent: fields.get(1)?.parse().ok()?, ticks })
    }
}

/// Both servers.
pub struct Servers {
    /// Polity first, then PostgreSQL
    pub both: [Server; 2],
    polity: Child,
    oracle: PathBuf,
    folder: PathBuf,
}

impl Servers {
    /// Builds Polity, and starts both over folders below `folder`.
    pub fn start(folder: &Path) -> Result<Servers, String> {
        let root = root()?;
        let mut polity = Command::new(build(&root)?)
            .args(["start", "--dev", "--json", "--sql", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"])
            .arg(folder.join("polity"))
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("polity: {e}"))?;
        let mut line = String::new();
        let stdout = polity.stdout.take().ok_or("polity: no output")?;
        BufReader::new(stdout).read_line(&mut line).map_err(|e| format!("polity: {e}"))?;
        let ready: serde_json::Value = serde_json::from_str(&line).map_err(|e| format!("polity did not start: {e}"))?;
        let polity_url = ready["nodes"][0]["sql"].as_str().ok_or("polity: no address")?.to_owned();

        let oracle = root.join("tests/clients/oracle");
        let postgres_folder = folder.join("postgres");
        let url = output(Command::new(&oracle).arg("start").arg(&postgres_folder), "PostgreSQL")?;
        let pid = std::fs::read_to_string(postgres_folder.join("data/postmaster.pid"))
            .ok()
            .and_then(|text| text.lines().next()?.trim().parse().ok())
            .ok_or("PostgreSQL: no process id")?;
        Ok(Servers {
            both: [
                Server { name: "Polity", url: polity_url, pid: polity.id() },
                Server { name: "PostgreSQL", url: url.trim().to_owned(), pid },
            ],
            polity,
            oracle,
            folder: postgres_folder,
        })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = self.polity.kill();
        let _ = self.polity.wait();
        let _ = Command::new(&self.oracle).arg("stop").arg(&self.folder).output();
    }
}

/// The workspace.
pub fn root() -> Result<PathBuf, String> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no workspace")?.to_owned())
}

/// Where things are built.
pub fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// Builds Polity; gives the program.
pub fn build(root: &Path) -> Result<PathBuf, String> {
    crate::run(
        Command::new("cargo").args(["build", "--release", "--package", "polity"]).current_dir(root),
        "cargo build --release",
    )?;
    Ok(target(root).join("release/polity"))
}

/// A command's output, or what it said when it failed.
pub fn output(command: &mut Command, name: &str) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
