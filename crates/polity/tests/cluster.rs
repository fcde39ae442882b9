//! Clusters of real processes: leaders that are killed, cut off or paused, nodes
//! that come back, lose their folder or are replaced. After each, everything that
//! was acknowledged is there once, on every node.

mod common;

use std::time::Duration;

use common::answer;
use common::cluster::Cluster;
use common::load::Load;
use tokio::time::Instant;

/// How long writes may stand still when a leader is lost: far more than they do
/// on a quiet machine, which the benchmark measures.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_when_the_leader_is_killed_and_nothing_is_lost() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let load = Load::start(cluster.urls(), 6).await;
    load.more(100).await;
    for round in 0..3 {
        let leader = cluster.leader();
        load.watch();
        cluster.kill(leader);
        load.more(100).await;
        println!("round {round}: no write for {:?} after the leader, node {}, was killed", load.gap(), leader + 1);
        assert!(load.gap() < PATIENCE);
        cluster.restart(leader);
        load.more(100).await;
    }
    load.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_cut_off_refuses_and_says_why_and_goes_on_after_healing() {
    let cluster = Cluster::start(&["europe", "europe", "asia"]);
    let load = Load::start(cluster.urls()[..2].to_vec(), 4).await;
    load.more(50).await;
    let asia = cluster.node(2).connect().await;
    assert_eq!(answer(&asia, "INSERT INTO entries VALUES (-1, -1) RETURNING id").await, "(-1)");
    assert_eq!(answer(&asia, "DELETE FROM entries WHERE id = -1").await, "ok 1");

    load.watch();
    cluster.admin(&["fault", "cut", "asia", "europe"]).unwrap();
    let begun = Instant::now();
    let refused = asia.batch_execute("INSERT INTO entries VALUES (-2, -2)").await.unwrap_err();
    let took = begun.elapsed();
    let error = refused.as_db_error().expect("an answer");
    assert_eq!(error.code().code(), "PL001", "{error:?}");
    assert!(error.message().contains("entries"), "{error:?}");
    assert!(
        error.detail().is_some_and(|d| (d.contains("Node 1 ") || d.contains("Nodes 1 and 2")) && d.contains("since")),
        "{error:?}"
    );
    assert!(error.hint().is_some(), "{error:?}");
    assert!(took < Duration::from_secs(10), "it took {took:?} to refuse");
    println!("refused after {took:?}: {} / {:?} / {:?}", error.message(), error.detail(), error.hint());
    // The others do not notice for longer than it takes to elect a leader.
    load.more(200).await;
    println!("no write for {:?} on the other side", load.gap());
    // What was known before the cut can be read by name.
    let stale = "SELECT count(*) >= 50 FROM entries AS OF SYSTEM TIME follower_read_timestamp()";
    assert_eq!(answer(&asia, stale).await, "(t)");

    cluster.admin(&["fault", "heal"]).unwrap();
    let begun = Instant::now();
    loop {
        match answer(&asia, "INSERT INTO entries VALUES (-3, -3)").await.as_str() {
            "ok 1" => break,
            "PL001" => assert!(begun.elapsed() < Duration::from_secs(30), "asia does not come back"),
            other => panic!("{other}"),
        }
    }
    println!("asia writes again {:?} after healing", begun.elapsed());
    // The refused row is not there, the others are there once.
    assert_eq!(answer(&asia, "SELECT id FROM entries WHERE id < 0").await, "(-3)");
    assert_eq!(answer(&asia, "DELETE FROM entries WHERE id < 0").await, "ok 1");
    load.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_is_replaced_and_does_no_harm_when_it_goes_on() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let load = Load::start(cluster.urls(), 6).await;
    load.more(100).await;
    let leader = cluster.leader();
    load.watch();
    cluster.admin(&["fault", "pause", &(leader + 1).to_string(), "6s"]).unwrap();
    load.more(300).await;
    println!("no write for {:?} after the leader stood still", load.gap());
    // It goes on by itself, believing that it leads.
    cluster.wait_for(|nodes| nodes.iter().all(|n| n["reachable"] == true));
    load.more(300).await;
    load.check(&cluster).await;
}

/// Its locks travel with its batch, so it meets whoever is in the way only there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_statement_waits_for_who_locked_its_row() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let leader = cluster.leader();
    let [keeper, holder, writer] = [leader, (leader + 1) % 3, (leader + 2) % 3].map(|at| cluster.node(at));
    let (keeper, holder, writer) = (keeper.connect().await, holder.connect().await, writer.connect().await);
    holder.batch_execute("CREATE TABLE hot (id int PRIMARY KEY, n int); INSERT INTO hot VALUES (1, 0)").await.unwrap();
    for isolation in ["serializable", "read committed"] {
        holder.batch_execute("UPDATE hot SET n = 0").await.unwrap();
        writer.batch_execute(&format!("SET default_transaction_isolation = '{isolation}'")).await.unwrap();
        holder.batch_execute("BEGIN; SELECT n FROM hot WHERE id = 1 FOR UPDATE").await.unwrap();
        let waiting = async {
            writer.batch_execute("UPDATE hot SET n = n * 10 WHERE id = 1").await.unwrap();
        };
        let holding = async {
            let begun = Instant::now();
            while answer(&keeper, "SELECT count(*) FROM pg_locks WHERE NOT granted").await != "(1)" {
                assert!(begun.elapsed() < PATIENCE, "nobody waits");
            }
            holder.batch_execute("UPDATE hot SET n = n + 1 WHERE id = 1; COMMIT").await.unwrap();
        };
        tokio::join!(waiting, holding);
        assert_eq!(answer(&keeper, "SELECT n FROM hot").await, "(10)", "{isolation}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let load = Load::start(cluster.urls(), 6).await;
    load.more(100).await;
    for at in 0..3 {
        load.watch();
        cluster.nodes[at].take().expect("it is up").stop();
        load.more(50).await;
        cluster.restart(at);
        load.more(50).await;
        println!(
            "node {}: longest time without a write {:?}; {}; {} failures in a row at most",
            at + 1,
            load.gap(),
            load.latencies(),
            load.most_failures()
        );
    }
    load.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_folder_is_replaced_by_a_new_one() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let load = Load::start(cluster.urls(), 4).await;
    load.more(200).await;
    let lost = (cluster.leader() + 1) % 3;
    load.watch();
    cluster.kill(lost);
    std::fs::remove_dir_all(cluster.data(lost as u64 + 1)).unwrap();
    load.more(100).await;
    println!("no write for {:?} after a follower was lost with its folder", load.gap());
    // Gossip gives it up, and knows of the others how many clients they have.
    cluster.wait_for(|nodes| nodes.iter().all(|n| (n["gossip"] == "down") == (n["id"] == lost as u64 + 1)));
    cluster.wait_for(|nodes| nodes.iter().filter(|n| n["sessions"].as_u64() > Some(0)).count() >= 2);

    let number = (lost + 1).to_string();
    cluster.admin(&["node", "remove", &number]).unwrap();
    cluster.add(lost, 4);
    let list = cluster
        .wait_for(|nodes| nodes.len() == 3 && nodes.iter().all(|n| n["role"] != "learner" && n["reachable"] == true));
    assert!(list.iter().any(|n| n["id"] == 4));
    load.more(100).await;
    load.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_hands_leadership_and_vote_on() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let load = Load::start(cluster.urls(), 4).await;
    load.more(100).await;
    let leader = cluster.leader();
    let said = cluster.admin(&["node", "drain", &(leader + 1).to_string()]).unwrap();
    // Of three, none can take its vote.
    assert!(said.contains("keeps its vote"), "{said}");
    assert_ne!(cluster.leader(), leader);
    load.more(100).await;
    load.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_to_preferred_regions_and_comes_back_to_them() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let load = Load::start(cluster.urls(), 4).await;
    load.more(100).await;
    let wrong = cluster.admin(&["node", "prefer", "nowhere"]).unwrap_err();
    assert!(wrong.contains("no node stands in region nowhere"), "{wrong}");
    let wanted = (cluster.leader() + 1) % 3;
    let region = ["a", "b", "c"][wanted];
    cluster.admin(&["node", "prefer", region]).unwrap();
    let said = cluster.admin(&["node", "prefer"]).unwrap();
    assert!(said.contains(&format!("leaders are to stand in {region}")), "{said}");
    let leads = |nodes: &[serde_json::Value]| nodes.iter().any(|n| n["role"] == "leader" && n["region"] == region);
    cluster.wait_for(leads);
    load.more(100).await;
    // Another leads while it is gone; when it is back and has what it missed, it leads again.
    cluster.kill(wanted);
    load.more(100).await;
    cluster.restart(wanted);
    cluster.wait_for(leads);
    load.more(100).await;
    cluster.admin(&["node", "prefer", "--any"]).unwrap();
    load.check(&cluster).await;
}
