//! BFT-SMaRt (Bessani, Sousa & Alchieri, "State Machine Replication for the Masses with
//! BFT-SMaRt", DSN 2014), as a peer of byzantine tables: four replicas in Java, each of
//! which writes what was ordered to a file and syncs it before it answers.
//!
//! Our driver is in bench/bft-smart, which also tells how to get BFT-SMaRt itself.
//! Its sources are compiled here, against libraries that Debian has.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::servers::output;
use super::systems::{Figures, System, free_port, parse};

/// The environment variable that names a folder with BFT-SMaRt's sources.
pub const PLACE: &str = "POLITY_BFT_SMART";
const REPLICAS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);
/// Its JIT compilers may work for so long before anything is counted.
const WARM_UP_SECONDS: u32 = 6;
const JARS: [&str; 12] = [
    "bcpkix",
    "bcprov",
    "commons-codec",
    "logback-classic",
    "logback-core",
    "netty-buffer",
    "netty-codec",
    "netty-common",
    "netty-handler",
    "netty-resolver",
    "netty-transport",
    "slf4j-api",
];

/// Where its sources are, if they are anywhere.
pub fn place() -> Option<PathBuf> {
    std::env::var_os(PLACE).map(PathBuf::from)
}

/// Four replicas.
pub struct Peer {
    replicas: System,
    folder: PathBuf,
    classes: String,
}

impl Peer {
    /// Compiles and starts it below `folder`, with clients that sign their requests or do
    /// not.
    pub fn start(root: &Path, place: &Path, folder: &Path, signed: bool) -> Result<Peer, String> {
        let built = folder.join("classes");
        std::fs::create_dir_all(&built).map_err(|e| format!("{}: {e}", built.display()))?;
        let jars = JARS.map(|jar| format!("/usr/share/java/{jar}.jar")).join(":");
        let classes = format!("{}:{}/lib/*:{jars}", built.display(), place.display());
        compile(&built, &classes, &[place.join("src/main/java"), root.join("bench/bft-smart")])?;
        configure(place, folder, signed)?;
        let mut peer = Peer { replicas: System::new("BFT-SMaRt", "bft-smart"), folder: folder.to_owned(), classes };
        for number in 0..REPLICAS {
            let mut replica = peer.java("Replica");
            replica.args([number.to_string(), format!("ordered-{number}")]).stdout(Stdio::null()).stderr(Stdio::null());
            let child = replica.spawn().map_err(|e| format!("java: {e} (Debian: openjdk-17-jdk-headless)"))?;
            peer.replicas.processes.push(child);
        }
        peer.answers()?;
        Ok(peer)
    }

    fn java(&self, class: &str) -> Command {
        let mut java = Command::new("java");
        java.current_dir(&self.folder).args(["-Djava.security.properties=config/java.security", "-cp", &self.classes]);
        java.args(["-Dlogback.configurationFile=config/logback.xml", class]);
        java
    }

    /// Waits until a request is answered: clients take seconds to connect, and tell of
    /// nothing that was answered while they warmed up.
    fn answers(&self) -> Result<(), String> {
        let begun = Instant::now();
        while !self.clients(1, 1, 1, WARM_UP_SECONDS).is_ok_and(|(figures, _)| figures.rate > 0.0) {
            if begun.elapsed() > PATIENCE {
                return Err("BFT-SMaRt: the replicas do not answer".to_owned());
            }
        }
        Ok(())
    }

    /// Loads it with so many requests in flight, of so many bytes.
    pub fn load(&self, in_flight: u32, seconds: u32, bytes: usize) -> Result<Figures, String> {
        let (mut figures, cpu) = self.clients(in_flight, seconds, bytes.max(8), WARM_UP_SECONDS)?;
        figures.cpu = cpu * 1e6 / (figures.rate * f64::from(seconds));
        Ok(figures)
    }

    /// What the clients say, and the CPU seconds of the replicas while they counted.
    fn clients(&self, in_flight: u32, seconds: u32, bytes: usize, warm_up: u32) -> Result<(Figures, f64), String> {
        let arguments = [in_flight.to_string(), seconds.to_string(), bytes.max(8).to_string(), warm_up.to_string()];
        let mut command = self.java("Clients");
        let child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.map_err(|e| format!("java: {e}"))?;
        let (text, cpu) = self.listen(&mut child)?;
        child.wait().map_err(|e| format!("java: {e}"))?;
        Ok((parse(&text)?, cpu))
    }

    fn listen(&self, child: &mut Child) -> Result<(String, f64), String> {
        use std::io::{BufRead, BufReader};
        let lines = BufReader::new(child.stdout.take().ok_or("java: no output")?).lines();
        let mut before = 0.0;
        for line in lines {
            let line = line.map_err(|e| format!("java: {e}"))?;
            if line == "begins" {
                before = self.replicas.cpu_seconds();
            } else if line.starts_with("operations=") {
                return Ok((line, self.replicas.cpu_seconds() - before));
            }
        }
        Err("BFT-SMaRt: the clients said nothing".to_owned())
    }
}

fn compile(built: &Path, classes: &str, sources: &[PathBuf]) -> Result<(), String> {
    let mut find = Command::new("find");
    let files = output(find.args(sources).args(["-name", "*.java"]), "find")?;
    if !files.contains("bftsmart") {
        return Err(format!("{PLACE}: no sources of BFT-SMaRt in {}", sources[0].display()));
    }
    let mut javac = Command::new("javac");
    javac.args(["-nowarn", "-encoding", "UTF-8", "-cp", classes, "-d"]).arg(built).args(files.lines());
    output(&mut javac, "javac (Debian packages: see bench/bft-smart)").map(drop)
}

/// Its own configuration, but for free ports, signatures and quiet logs.
fn configure(place: &Path, folder: &Path, signed: bool) -> Result<(), String> {
    output(Command::new("cp").arg("-r").arg(place.join("config")).arg(folder), "cp")?;
    let edit = |name: &str, change: &dyn Fn(String) -> String| {
        let file = folder.join("config").join(name);
        let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        std::fs::write(&file, change(text)).map_err(|e| format!("{}: {e}", file.display()))
    };
    let mut hosts = String::new();
    for number in 0..REPLICAS {
        hosts.push_str(&format!("{number} 127.0.0.1 {} {}\n", free_port()?, free_port()?));
    }
    edit("hosts.config", &|_| hosts.clone())?;
    let signatures = format!("system.communication.useSignatures = {}", u8::from(signed));
    edit("system.config", &|text| text.replace("system.communication.useSignatures = 0", &signatures))?;
    edit("logback.xml", &|text| text.replace("level=\"INFO\"", "level=\"ERROR\""))
}
