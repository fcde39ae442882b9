//! What the demo says: where to connect, and what to try.

use super::cluster::Cluster;

/// The text.
pub fn text(cluster: &Cluster, temporary: bool) -> String {
    let mut places = String::new();
    let mut regions: Vec<&str> = Vec::new();
    for node in cluster.nodes() {
        let field = |name: &str| node[name].as_str().unwrap_or_default();
        if !regions.contains(&field("region")) {
            regions.push(field("region"));
            places.push_str(&format!("  {:<9} psql \"{}\"\n", field("region"), field("sql")));
        }
    }
    let url = |region: &str| {
        let node = cluster.nodes().into_iter().find(|n| n["region"] == region);
        node.and_then(|n| n["sql"].as_str()).unwrap_or_default().to_owned()
    };
    let admin = cluster.admin_arguments();
    let (addresses, certificates) = admin.split_at(admin.len() - 2);
    let addresses: Vec<&str> = addresses.iter().skip(1).step_by(2).map(String::as_str).collect();
    let (addresses, certificates) = (addresses.join(","), &certificates[1]);
    let first = cluster.nodes()[0];
    let kept = if temporary { "a temporary folder, removed at the end" } else { "kept in the folder you named" };
    format!(
        "
Polity {version}: five nodes in three regions, with a small shop in them. Data: {kept}.

{places}
  health    {http}/health

A short tour, in another terminal:

      export POLITY_ADMIN={addresses} POLITY_CERTS={certificates}

 1. The same rows everywhere, whichever region you ask:
      psql \"{asia}\" -c \"SELECT region, count(*), sum(amount) FROM orders JOIN payments ON \\\"order\\\" = id GROUP BY 1\"
    Orders and payments are strong tables; products and carts are eventual ones:
      psql \"{asia}\" -c \"\\d+ products\"
 2. Who is there, who leads, who votes:
      polity node list
 3. Cut asia off, and order there: refused within two seconds, and the error says why.
      polity fault isolate asia
      psql \"{asia}\" -c \"INSERT INTO orders (customer, region) VALUES (1, 'asia')\"
    Europe goes on:
      psql \"{europe}\" -c \"INSERT INTO orders (customer, region) VALUES (2, 'europe') RETURNING id\"
    What asia knew before the cut can still be read, by name:
      psql \"{asia}\" -c \"SELECT count(*) FROM orders AS OF SYSTEM TIME '-30s'\"
 4. Still cut off, asia sells what it holds of the ten in stock, and no more: run this until
    it is refused. The error says who holds the rest. Then europe sells its share.
      psql \"{asia}\" -c \"UPDATE products SET stock = stock - 1 WHERE id = 100 RETURNING stock\"
      psql \"{asia}\" -c \"SELECT * FROM polity.escrow WHERE key LIKE '%100%'\"
      psql \"{europe}\" -c \"UPDATE products SET stock = stock - 1 WHERE id = 100 RETURNING stock\"
    One customer, shopping on both sides:
      psql \"{asia}\" -c \"UPDATE carts SET deliver_to = 'Osaka', wishes = array_append(wishes, 'gift wrap') WHERE customer = 7\"
      psql \"{europe}\" -c \"UPDATE carts SET deliver_to = 'Lyon', wishes = array_append(wishes, 'ring twice') WHERE customer = 7\"
 5. Heal it. Orders go on in asia; the cart has both wishes, and one address of the two: the
    other one is in the conflict log.
      polity fault heal
      psql \"{asia}\" -c \"SELECT * FROM carts WHERE customer = 7\" -c \"SELECT * FROM polity.conflicts\"
      psql \"{america}\" -c \"SELECT stock FROM products WHERE id = 100\"
      polity node compare
 6. What the shop owes to others is a byzantine table: each party can have a proof of its
    row, and check it with nobody's help.
      psql \"{europe}\" -c \"UPDATE settlements SET cents = cents + 250 WHERE party = 'carrier'\"
      polity ledger genesis --out genesis
      polity proof get settlements carrier --out proof && polity proof verify proof --trust genesis
    Let node 5 lie: it tells one half of the others one thing, the other half another. The
    ledger goes on, and names it.
      polity fault lie 5 --how equivocator
      for i in $(seq 25); do psql \"{asia}\" -c \"UPDATE settlements SET cents = cents + 1 WHERE party = 'bank'\"; done
      psql \"{europe}\" -c \"SELECT * FROM polity.evidence\"
      polity fault lie 5 --stop
 7. Kill the leader; another takes over, and nothing acknowledged is lost.
      polity fault kill 1
      psql \"{america}\" -c \"INSERT INTO orders (customer, region) VALUES (3, 'america') RETURNING id\"

Ctrl-C stops everything.",
        version = env!("CARGO_PKG_VERSION"),
        http = first["http"].as_str().unwrap_or_default(),
        asia = url("asia"),
        europe = url("europe"),
        america = url("america"),
    )
}
