//! Replicas that were told the same hold the same.
//!
//! Shapiro, Preguiça, Baquero, Zawirski, "Conflict-free Replicated Data Types", SSS 2011,
//! definition 2.3.

use crate::tests::world::World;

/// When all replicas have the same vector.
pub fn check(world: &World) -> Result<(), String> {
    let mut nodes = world.nodes.iter();
    let Some((first, _)) = nodes.next() else { return Ok(()) };
    let here = world.rows(first.0);
    for (node, _) in nodes {
        let there = world.rows(node.0);
        if here != there {
            let differs = |key: &&polity_base::Key| here.get(*key) != there.get(*key);
            let key = here.keys().chain(there.keys()).find(differs);
            return Err(format!("strong convergence: {first} and {node} differ in {key:?}"));
        }
        for key in here.keys() {
            if world.row(first.0, key).life != world.row(node.0, key).life {
                return Err(format!("strong convergence: {first} and {node} differ in the life of {key}"));
            }
        }
    }
    // Each can be read again as it is shown, by whoever merges next.
    Ok(())
}
