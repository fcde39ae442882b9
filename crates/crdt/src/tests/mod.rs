//! What is promised about the replicas of eventual tables, tested in seeded worlds.

mod basics;
mod comparing;
mod crashes;
mod departures;
mod filling;
mod indexes;
mod invariant;
mod planted;
mod simulation;
mod world;
