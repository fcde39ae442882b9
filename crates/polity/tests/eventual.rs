//! Eventual tables on clusters of real processes: both sides of a partition read and
//! write, nothing is oversold, nothing acknowledged is lost, and all come together.

mod common;

use std::time::Duration;

use common::answer;
use common::cluster::Cluster;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

/// How long replicas may take to come together: far more than they do on a quiet
/// machine.
const PATIENCE: Duration = Duration::from_secs(60);

const SCHEMA: &str = "
    CREATE TABLE products (id int PRIMARY KEY, name text, stock counter CHECK (stock >= 0), tags set_of(text))
        WITH (guarantee = 'eventual');
    CREATE TABLE carts (customer int, product int, quantity int, PRIMARY KEY (customer, product))
        WITH (guarantee = 'eventual');
    CREATE TABLE orders (id int PRIMARY KEY, product int);";

/// Waits until a statement gives the same on all of these, and gives it.
async fn agree(clients: &[Client], sql: &str) -> String {
    let begun = Instant::now();
    loop {
        let mut answers = Vec::new();
        for client in clients {
            answers.push(answer(client, sql).await);
        }
        if answers.iter().all(|a| *a == answers[0]) {
            println!("{sql}: the same everywhere after {:?}", begun.elapsed());
            return answers.swap_remove(0);
        }
        assert!(begun.elapsed() < PATIENCE, "{sql}: {answers:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a statement gives this.
async fn until(client: &Client, sql: &str, wanted: &str) {
    let begun = Instant::now();
    loop {
        let got = answer(client, sql).await;
        if got == wanted {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{sql}: {got}, not {wanted}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn connect_all(cluster: &Cluster) -> Vec<Client> {
    let mut clients = Vec::new();
    for at in cluster.up() {
        clients.push(cluster.node(at).connect().await);
    }
    clients
}

/// Buys one piece each, one buyer after the other, from one node. Gives how many got it;
/// every other must have been refused for want of stock.
async fn buy(client: &Client, buyers: usize) -> usize {
    let mut bought = 0;
    for _ in 0..buyers {
        match answer(client, "UPDATE products SET stock = stock - 1 WHERE id = 1").await.as_str() {
            "ok 1" => bought += 1,
            "PL002" | "23514" => {}
            other => panic!("{other}"),
        }
    }
    bought
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_of_a_partition_sell_what_there_is_and_no_more() {
    let cluster = Cluster::start(&["asia", "asia", "europe", "europe", "america"]);
    let clients = connect_all(&cluster).await;
    clients[0].batch_execute(SCHEMA).await.unwrap();
    for client in &clients {
        until(client, "SELECT count(*) FROM products", "(0)").await;
    }
    let stock = "INSERT INTO products VALUES (1, 'honey', 10, '{new}'), (2, 'tea', 1000, '{}')";
    assert_eq!(answer(&clients[2], stock).await, "ok 2");
    assert_eq!(answer(&clients[2], "INSERT INTO carts VALUES (7, 1, 1)").await, "ok 1");
    for client in &clients {
        until(client, "SELECT sum(stock), (SELECT count(*) FROM carts) FROM products", "(1010,1)").await;
    }

    cluster.admin(&["fault", "cut", "asia", "europe"]).unwrap();
    cluster.admin(&["fault", "cut", "asia", "america"]).unwrap();
    // Fifty buyers on each side want one of ten pieces.
    let (asia, europe) = tokio::join!(buy(&clients[0], 50), buy(&clients[3], 50));
    println!("asia sold {asia}, europe sold {europe}");
    assert!(asia > 0 && europe > 0, "each side sells what it holds");
    assert!(asia + europe <= 10);
    // The carts of one customer, edited on both sides.
    for (at, product, quantity) in [(0, 2, 4), (3, 3, 5)] {
        let add = format!("INSERT INTO carts VALUES (7, {product}, {quantity})");
        assert_eq!(answer(&clients[at], &add).await, "ok 1");
        let change = format!("UPDATE carts SET quantity = {quantity} WHERE customer = 7 AND product = 1");
        assert_eq!(answer(&clients[at], &change).await, "ok 1");
        let tag = format!("UPDATE products SET tags = array_append(tags, 'by {at}') WHERE id = 1");
        assert_eq!(answer(&clients[at], &tag).await, "ok 1");
    }
    // What is strong is refused on the smaller side, and goes on on the other.
    assert_eq!(answer(&clients[0], "INSERT INTO orders VALUES (1, 1)").await, "PL001");
    assert_eq!(answer(&clients[3], "INSERT INTO orders VALUES (2, 1)").await, "ok 1");
    // Nobody who connects now has to wait for the others.
    let late = cluster.node(1).connect().await;
    assert_eq!(answer(&late, "SELECT count(*) FROM products").await, "(2)");

    cluster.admin(&["fault", "heal"]).unwrap();
    let left = agree(&clients, "SELECT stock FROM products WHERE id = 1").await;
    assert_eq!(left, format!("({})", 10 - asia - europe));
    let rest = buy(&clients[4], 12).await;
    assert_eq!(asia + europe + rest, 10, "what was left can be sold anywhere");
    let carts =
        agree(&clients, "SELECT product, quantity FROM carts WHERE customer = 7 AND product > 1 ORDER BY 1").await;
    assert_eq!(carts, "(2,4) (3,5)");
    assert_eq!(agree(&clients, "SELECT tags FROM products WHERE id = 1").await, "({\"by 0\",\"by 3\",new})");
    let kept = agree(&clients, "SELECT quantity FROM carts WHERE customer = 7 AND product = 1").await;
    assert!(["(4)", "(5)"].contains(&kept.as_str()), "{kept}");
    // The quantity that did not stay is told of everywhere.
    let conflict = agree(&clients, "SELECT table_name, column_name, kept, lost FROM polity.conflicts").await;
    let told = if kept == "(4)" { "(carts,quantity,4,5)" } else { "(carts,quantity,5,4)" };
    assert_eq!(conflict, told);
    // Nothing is held back for good.
    assert_eq!(agree(&clients, "SELECT stock FROM products WHERE id = 1").await, "(0)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_alone_goes_on_and_a_crash_keeps_what_it_acknowledged() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let clients = connect_all(&cluster).await;
    clients[0].batch_execute(SCHEMA).await.unwrap();
    until(&clients[2], "SELECT count(*) FROM carts", "(0)").await;
    // What definitions there are it knows, when it starts alone, as of its last checkpoint.
    cluster.nodes[2].take().expect("it is up").stop();
    cluster.restart(2);
    cluster.admin(&["fault", "isolate", "3"]).unwrap();
    for round in 0..5 {
        let alone = cluster.node(2).connect().await;
        for product in 0..20 {
            let add = format!("INSERT INTO carts VALUES ({round}, {product}, 1)");
            assert_eq!(answer(&alone, &add).await, "ok 1");
        }
        // All three, one right after the other, so that nobody has sent anything on.
        cluster.kill(2);
        cluster.restart(2);
        let back = cluster.node(2).connect().await;
        let kept = format!("SELECT count(*) FROM carts WHERE customer = {round}");
        assert_eq!(answer(&back, &kept).await, "(20)");
    }
    // A killed node forgets that it was isolated; the others still have their rules.
    let _ = cluster.admin(&["fault", "heal"]);
    let clients = connect_all(&cluster).await;
    assert_eq!(agree(&clients, "SELECT count(*), count(DISTINCT customer) FROM carts").await, "(100,5)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_sees_elsewhere_what_it_saw_and_acks_are_waited_for() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let clients = connect_all(&cluster).await;
    clients[0].batch_execute(SCHEMA).await.unwrap();
    let kept = "CREATE TABLE kept (id int PRIMARY KEY, v int) WITH (guarantee = 'eventual', ack = 2)";
    clients[0].batch_execute(kept).await.unwrap();
    for client in &clients {
        until(client, "SELECT count(*) FROM kept", "(0)").await;
    }
    for round in 0..10 {
        let (here, there) = (&clients[round % 3], &clients[(round + 1) % 3]);
        let inserted = here.batch_execute(&format!("INSERT INTO kept VALUES ({round}, 0)")).await;
        inserted.unwrap_or_else(|error| panic!("round {round}: {:?}", error.as_db_error()));
        let token = answer(here, "SHOW polity.causal_token").await;
        let token = token.trim_matches(['(', ')']);
        let set = there.batch_execute(&format!("SET polity.causal_token = '{token}'")).await;
        set.unwrap_or_else(|error| panic!("round {round}: {:?}", error.as_db_error()));
        assert_eq!(answer(there, &format!("SELECT count(*) FROM kept WHERE id = {round}")).await, "(1)");
    }
    // Alone, a write that two are to keep says that only one does; it is not lost.
    cluster.admin(&["fault", "isolate", "1"]).unwrap();
    assert_eq!(answer(&clients[0], "INSERT INTO kept VALUES (100, 0)").await, "40003");
    let token = answer(&clients[0], "SHOW polity.causal_token").await;
    assert_eq!(answer(&clients[1], "SET polity.causal_timeout = '200ms'").await, "ok 0");
    let behind = format!("SET polity.causal_token = '{}'", token.trim_matches(['(', ')']));
    assert_eq!(answer(&clients[1], &behind).await, "PL001");
    cluster.admin(&["fault", "heal"]).unwrap();
    assert_eq!(agree(&clients, "SELECT count(*) FROM kept WHERE id = 100").await, "(1)");
}
