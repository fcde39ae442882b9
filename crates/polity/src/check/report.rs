//! What was found, for people and for programs.

use std::fmt::Write;

use polity_check::workload::{Isolation, Workload};
use polity_check::{Findings, Level};
use serde_json::{Value, json};

use super::drive::Run;

/// Stories told of each anomaly in text; JSON has a few more.
const TOLD: usize = 2;

/// All that was found.
pub struct Report {
    pub seed: u64,
    pub isolation: Isolation,
    pub level: Level,
    pub nodes: usize,
    pub parts: Vec<Part>,
}

/// What was found with one workload.
pub struct Part {
    pub workload: Workload,
    pub run: Run,
    pub findings: Findings,
}

impl Report {
    /// Whether anything was found that the level forbids.
    pub fn is_broken(&self) -> bool {
        self.parts.iter().any(|part| part.findings.breaks(self.level))
    }

    /// Whether a clean result means anything: every workload got answers, and
    /// could read at the end what it had written.
    pub fn is_conclusive(&self) -> bool {
        self.parts.iter().all(|part| part.run.counts.ok > 1 && part.run.troubles.is_empty())
    }

    fn verdict(&self) -> &'static str {
        match (self.is_broken(), self.is_conclusive()) {
            (true, _) => "broken",
            (false, true) => "clean",
            (false, false) => "inconclusive",
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "seed {}, {} node{}, {}, judged by {}\n",
            self.seed,
            self.nodes,
            if self.nodes == 1 { "" } else { "s" },
            self.isolation.sql(),
            self.level.name(),
        );
        for part in &self.parts {
            part.write(&mut text, self.level);
        }
        // Writing to a String does not fail, here and below.
        let _ = writeln!(
            text,
            "{}",
            match self.verdict() {
                "broken" => format!("BROKEN: {} forbids what was found", self.level.name()),
                "clean" => format!("clean: nothing was found that {} forbids", self.level.name()),
                _ => "inconclusive: nothing forbidden was found, but not everything could be read".to_owned(),
            }
        );
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "verdict": self.verdict(),
            "seed": self.seed,
            "nodes": self.nodes,
            "isolation": self.isolation.sql(),
            "expect": self.level.name(),
            "workloads": self.parts.iter().map(|part| part.json(self.level)).collect::<Vec<_>>(),
        })
    }
}

impl Part {
    fn write(&self, text: &mut String, level: Level) {
        let counts = self.run.counts;
        let _ = writeln!(
            text,
            "{:<8} {} ok, {} failed, {} unknown, {} connections lost",
            self.workload.name(),
            counts.ok,
            counts.failed,
            counts.unknown,
            self.run.lost_connections,
        );
        for (anomaly, count) in self.findings.counts() {
            let verdict = if anomaly.is_forbidden_at(level) { "FORBIDDEN" } else { "allowed" };
            let _ = writeln!(text, "  {anomaly} ×{count}, {verdict}: {}", anomaly.meaning());
            for finding in self.findings.stories().iter().filter(|f| f.anomaly == *anomaly).take(TOLD) {
                for line in &finding.story {
                    let _ = writeln!(text, "      {line}");
                }
                let _ = writeln!(text);
            }
        }
        for line in self.findings.undecided.iter().chain(&self.run.troubles) {
            let _ = writeln!(text, "  {line}");
        }
        if let (0..=1, Some(error)) = (counts.ok, &self.run.last_error) {
            let _ = writeln!(text, "  nothing went well; the last error was: {error}");
        }
    }

    fn json(&self, level: Level) -> Value {
        let anomalies: Vec<Value> = self
            .findings
            .counts()
            .iter()
            .map(|(anomaly, count)| {
                let stories = self.findings.stories().iter().filter(|finding| finding.anomaly == *anomaly);
                json!({
                    "anomaly": anomaly,
                    "meaning": anomaly.meaning(),
                    "forbidden": anomaly.is_forbidden_at(level),
                    "count": count,
                    "stories": stories.map(|finding| &finding.story).collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({
            "workload": self.workload.name(),
            "ok": self.run.counts.ok,
            "failed": self.run.counts.failed,
            "unknown": self.run.counts.unknown,
            "connections_lost": self.run.lost_connections,
            "last_error": self.run.last_error,
            "anomalies": anomalies,
            "undecided": self.findings.undecided,
            "troubles": self.run.troubles,
        })
    }
}
