//! `polity demo`, as a newcomer would try it.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{answer, connect};
use serde_json::Value;
use tokio::time::Instant;

/// A demo that is asked to stop, if nobody did it.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        self.signal("TERM");
        let _ = self.0.wait();
    }
}

impl Demo {
    /// Bytes of memory of all its nodes.
    fn memory(&self) -> u64 {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        let resident = |pid: &str| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
            line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
        };
        children.split_whitespace().filter_map(resident).sum::<u64>() << 10
    }

    fn signal(&self, name: &str) {
        let _ = Command::new("kill").arg(format!("-{name}")).arg(self.0.id().to_string()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_shows_a_partition_and_leaves_nothing_behind() {
    let program = env!("CARGO_BIN_EXE_polity");
    let demo = Command::new(program).args(["demo", "--json"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut demo = Demo(demo);
    let mut line = String::new();
    BufReader::new(demo.0.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let ready: Value = serde_json::from_str(&line).expect("one line of JSON");
    let nodes = ready["nodes"].as_array().expect("nodes");
    let in_region = |region: &str| nodes.iter().filter(|node| node["region"] == region).count();
    assert_eq!((in_region("europe"), in_region("asia"), in_region("america")), (2, 2, 1), "{ready}");
    let of = |region: &str, field: &str| {
        let node = nodes.iter().find(|node| node["region"] == region).expect("a node there");
        node[field].as_str().expect("a text").to_owned()
    };
    let admin: Vec<&str> = ready["admin"].as_array().expect("arguments").iter().filter_map(Value::as_str).collect();
    let fault = |arguments: &[&str]| {
        let output = Command::new(program).arg("fault").args(&admin).args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };

    let europe = connect(&of("europe", "sql")).await.expect("europe answers");
    let asia = connect(&of("asia", "sql")).await.expect("asia answers");
    let some = "SELECT count(*) > 100 FROM order_lines JOIN products ON products.id = order_lines.product";
    for client in [&europe, &asia] {
        assert_eq!(answer(client, some).await, "(t)");
    }

    println!("{} MiB of memory in all nodes", demo.memory() >> 20);
    fault(&["isolate", "asia"]);
    let add = "INSERT INTO orders (customer, region) VALUES (1, 'europe')";
    let begun = Instant::now();
    loop {
        // The leader may have been in asia.
        match answer(&europe, add).await.as_str() {
            "PL001" | "40003" => assert!(begun.elapsed() < Duration::from_secs(30), "europe does not go on"),
            said => break assert_eq!(said, "ok 1"),
        }
    }
    assert_eq!(answer(&asia, add).await, "PL001");
    let stale = "SELECT count(*) > 100 FROM order_lines AS OF SYSTEM TIME follower_read_timestamp()";
    assert_eq!(answer(&asia, stale).await, "(t)");
    // Both go on selling what they hold of the ten, and one customer shops in both.
    let buy = "UPDATE products SET stock = stock - 1 WHERE id = 100";
    let mut sold = 0;
    for client in [&asia, &europe] {
        let mut here = 0;
        loop {
            match answer(client, buy).await.as_str() {
                "ok 1" => here += 1,
                said => break assert_eq!(said, "PL002"),
            }
        }
        assert!((1..10).contains(&here), "{here}");
        sold += here;
    }
    assert_eq!(sold, 10);
    let cart = |to, wish| {
        format!("UPDATE carts SET deliver_to = '{to}', wishes = array_append(wishes, '{wish}') WHERE customer = 7")
    };
    assert_eq!(answer(&asia, &cart("Osaka", "gift wrap")).await, "ok 1");
    assert_eq!(answer(&europe, &cart("Lyon", "ring twice")).await, "ok 1");
    fault(&["heal"]);
    let begun = Instant::now();
    while answer(&asia, some).await != "(t)" {
        assert!(begun.elapsed() < Duration::from_secs(30), "asia does not go on");
    }
    let merged = "SELECT stock, (SELECT wishes FROM carts WHERE customer = 7), \
                  (SELECT count(*) FROM polity.conflicts) FROM products WHERE id = 100";
    for client in [&europe, &asia] {
        while answer(client, merged).await != "(0,{\"gift wrap\",\"ring twice\"},1)" {
            assert!(begun.elapsed() < Duration::from_secs(30), "carts and stock do not meet");
        }
    }
    let compared = Command::new(program).args(["node", "compare"]).args(&admin).output().expect("it runs");
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stderr));

    // Somebody lies to the others, and is named.
    fault(&["lie", "5", "--how", "equivocator"]);
    let begun = Instant::now();
    while answer(&asia, "SELECT DISTINCT node FROM polity.evidence").await != "(5)" {
        let said = answer(&europe, "UPDATE settlements SET cents = cents + 1 WHERE party = 'bank'").await;
        assert!(begun.elapsed() < Duration::from_secs(60), "{said}: the liar is not named");
    }
    fault(&["lie", "5", "--stop"]);

    let data = of("europe", "data");
    let folder = std::path::Path::new(&data).parent().expect("the demo's folder");
    assert!(folder.exists());
    demo.signal("INT");
    assert!(demo.0.wait().expect("it ends").success());
    assert!(!folder.exists(), "{} is left behind", folder.display());
}
