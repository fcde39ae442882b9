//! Groups over the real log and the real state, on disks that fail on demand.

mod crashes;
mod members;
mod single;
mod world;
