//! Where a node is, for programs that started it.

use polity_node::Node;
use serde_json::{Value, json};

/// What a program needs to know of a node it started.
pub fn of(node: &Node) -> Value {
    json!({
        "id": node.id().0,
        "region": node.region(),
        "zone": node.zone(),
        "pid": std::process::id(),
        "sql": url(node),
        "http": format!("http://{}", node.http_address()),
        "link": node.link_address(),
        "data": node.data(),
    })
}

/// How the first user connects, with the password that development mode has.
pub fn url(node: &Node) -> String {
    format!("postgresql://polity:polity@{}/polity", node.sql_address())
}
