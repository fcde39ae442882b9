//! One of something for each guarantee.
//!
//! Groups of different guarantees move on independently of each other: a strong group
//! without a majority stands still while the eventual tables go on, and the other way
//! round. So each guarantee has its own time up to which its keys can be read, and its
//! own horizon: otherwise a reader would see half of what the other group is about to
//! apply, and lose what it can still read.

use std::ops::{Index, IndexMut};

use polity_base::Guarantee;

/// One `T` for each guarantee.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Lanes<T>([T; 3]);

impl<T> Lanes<T> {
    /// What `make` gives for each.
    pub fn new(mut make: impl FnMut(Guarantee) -> T) -> Lanes<T> {
        Lanes(Guarantee::ALL.map(&mut make))
    }
}

impl<T> Index<Guarantee> for Lanes<T> {
    type Output = T;

    fn index(&self, guarantee: Guarantee) -> &T {
        &self.0[guarantee as usize]
    }
}

impl<T> IndexMut<Guarantee> for Lanes<T> {
    fn index_mut(&mut self, guarantee: Guarantee) -> &mut T {
        &mut self.0[guarantee as usize]
    }
}
