//! Clusters of real processes on bad days: leaders behind a cut or a slow link,
//! disks that are full, files that are damaged. After each, everything that was
//! acknowledged is there once, on every node.

mod common;

use std::os::unix::fs::FileExt;
use std::time::Duration;

use common::answer;
use common::cluster::{Cluster, can_have_small_disks};
use common::load::Load;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_five_a_leader_may_be_cut_off_and_two_be_lost() {
    let mut cluster = Cluster::start(&["asia", "asia", "europe", "europe", "america"]);
    let load = Load::start(cluster.urls(), 6).await;
    load.more(100).await;
    let leader = cluster.leader();
    load.watch();
    cluster.admin(&["fault", "isolate", &(leader + 1).to_string()]).unwrap();
    load.more(100).await;
    println!("no write for {:?} after the leader was cut off", load.gap());
    cluster.admin(&["fault", "heal"]).unwrap();
    load.more(100).await;

    let leader = cluster.leader();
    load.watch();
    cluster.kill(leader);
    cluster.kill((leader + 1) % 5);
    load.more(100).await;
    println!("no write for {:?} after the leader and another node were killed", load.gap());
    cluster.restart(leader);
    cluster.restart((leader + 1) % 5);
    load.more(100).await;
    load.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_leader_slows_and_breaks_nothing() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let load = Load::start(cluster.urls(), 6).await;
    load.more(100).await;
    let leader = cluster.leader();
    let region = ["a", "b", "c"][leader];
    load.watch();
    for other in ["a", "b", "c"].iter().filter(|other| **other != region) {
        cluster.admin(&["fault", "slow", region, other, "150ms"]).unwrap();
        cluster.admin(&["fault", "loss", other, region, "2%"]).unwrap();
    }
    load.more(100).await;
    println!("with links of 150 ms that lose 2 %: {}, longest gap {:?}", load.latencies(), load.gap());
    cluster.admin(&["fault", "heal"]).unwrap();
    load.more(300).await;
    load.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_its_node_and_no_other() {
    if !can_have_small_disks() {
        println!("skipped: this machine lets no process have a file system of its own (unshare)");
        return;
    }
    let mut cluster = Cluster::start_with(&["a", "b", "c"], Some((2, 100)));
    let load = Load::start(vec![cluster.node(0).url.clone(), cluster.node(2).url.clone()], 4).await;
    load.more(100).await;
    let filler = cluster.node(0).connect().await;
    assert_eq!(answer(&filler, "CREATE TABLE filler (id bigint PRIMARY KEY, filling text)").await, "ok 0");
    // Whoever leads, its disk fills; the others have room.
    load.watch();
    let begun = Instant::now();
    for id in 0.. {
        let sql = format!("INSERT INTO filler VALUES ({id}, repeat('x{id}', 200000))");
        let said = answer(&filler, &sql).await;
        assert!(["ok 1", "40003", "PL001"].contains(&said.as_str()), "{said}");
        if !cluster.nodes[1].as_mut().expect("not taken").is_up() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "the disk does not fill");
    }
    cluster.nodes[1].take();
    load.more(300).await;
    println!("no write for {:?} while a disk was filled and its node ended", load.gap());
    // A node with room takes its place.
    cluster.admin(&["node", "remove", "2"]).unwrap();
    cluster.add(1, 4);
    cluster.wait_for(|nodes| nodes.len() == 3 && nodes.iter().all(|n| n["role"] != "learner"));
    load.more(100).await;
    load.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_keeps_its_node_from_starting_and_the_others_go_on() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let load = Load::start(cluster.urls(), 4).await;
    load.more(300).await;
    let damaged = cluster.leader();
    let number = damaged as u64 + 1;
    load.watch();
    cluster.kill(damaged);
    // A bit in the middle of the log, far from the end that a crash may have torn.
    let mut segments: Vec<_> = std::fs::read_dir(cluster.data(number))
        .expect("the data folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log-")))
        .collect();
    segments.sort();
    let path = segments.first().expect("a segment");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("the segment opens");
    // Preallocated files end in zeros.
    let bytes = std::fs::read(path).expect("the segment");
    let middle = bytes.iter().rposition(|byte| *byte != 0).expect("something is written") as u64 / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).expect("it is read");
    file.write_all_at(&[byte[0] ^ 0x10], middle).expect("it is written");

    let said = cluster.refusal(damaged);
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(said.contains(name), "{said}");
    load.more(100).await;
    println!("no write for {:?} after the leader was killed and its log damaged", load.gap());
    cluster.admin(&["node", "remove", &number.to_string()]).unwrap();
    cluster.add(damaged, 4);
    cluster.wait_for(|nodes| nodes.len() == 3 && nodes.iter().all(|n| n["role"] != "learner"));
    load.more(100).await;
    load.check(&cluster).await;
}
