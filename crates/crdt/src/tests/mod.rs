//! What is promised about the replicas of eventual tables, tested in seeded worlds.

mod basics;
mod crashes;
mod filling;
mod world;
