//! `random()` and its kin.
//!
//! The numbers are for queries, not for secrets; each thread has its own
//! sequence (Steele, Lea, Flood, "Fast splittable pseudorandom number
//! generators", OOPSLA 2014).

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

thread_local! {
    static STATE: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish());
}

/// Sixty-four bits.
pub fn bits() -> u64 {
    STATE.with(|state| {
        let mut z = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(z);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// A number from 0, included, to 1, excluded.
pub fn unit() -> f64 {
    (bits() >> 11) as f64 / (1u64 << 53) as f64
}

/// A random UUID (version 4).
pub fn uuid() -> u128 {
    let raw = u128::from(bits()) << 64 | u128::from(bits());
    (raw & !(0xF << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62)
}
