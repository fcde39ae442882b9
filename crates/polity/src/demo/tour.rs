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
 2. Who is there, who leads, who votes:
      polity node list
 3. Cut asia off, and order there: orders are strong, so it is refused within two seconds, and the error says why.
      polity fault cut asia europe
      polity fault cut asia america
      psql \"{asia}\" -c \"INSERT INTO orders (customer, region) VALUES (1, 'asia')\"
    Europe goes on:
      psql \"{europe}\" -c \"INSERT INTO orders (customer, region) VALUES (2, 'europe') RETURNING id\"
    What asia knew before the cut can still be read, by name:
      psql \"{asia}\" -c \"SELECT count(*) FROM orders AS OF SYSTEM TIME '-30s'\"
 4. Products and carts are eventual: both sides sell what they hold of the stock, never more than there is, and edit carts.
      psql \"{asia}\" -c \"UPDATE products SET stock = stock - 5 WHERE id = 1 RETURNING stock\"
      psql \"{europe}\" -c \"UPDATE products SET stock = stock - 2 WHERE id = 1 RETURNING stock\"
      psql \"{asia}\" -c \"SELECT * FROM polity.escrow WHERE key = '(id)=(1)'\"
      psql \"{asia}\" -c \"INSERT INTO cart_lines VALUES (3, 1, 2) ON CONFLICT (customer, product) DO UPDATE SET quantity = 2\"
      psql \"{europe}\" -c \"INSERT INTO cart_lines VALUES (3, 1, 4) ON CONFLICT (customer, product) DO UPDATE SET quantity = 4\"
 5. Heal it: the sides come together by themselves, and what one edit overwrote is told.
      polity fault heal
      psql \"{america}\" -c \"SELECT stock FROM products WHERE id = 1\"
      psql \"{america}\" -c \"SELECT * FROM polity.conflicts\"
 6. Kill the leader; another takes over, and nothing acknowledged is lost.
      polity fault kill 1
      psql \"{america}\" -c \"INSERT INTO orders (customer, region) VALUES (4, 'america') RETURNING id\"

Ctrl-C stops everything.",
        version = env!("CARGO_PKG_VERSION"),
        http = first["http"].as_str().unwrap_or_default(),
        asia = url("asia"),
        europe = url("europe"),
        america = url("america"),
    )
}
