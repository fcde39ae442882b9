//! The targets in a loop, for toolchains without a fuzzer:
//!
//! ```text
//! cargo run --no-default-features -- sql 100000        inputs made from a fresh seed
//! cargo run --no-default-features -- sql 100000 42     the same inputs again
//! ```
//! Inputs are known ones that were cut, doubled, mixed and overwritten. There is
//! no feedback from coverage: it finds less than a fuzzer, and finds it slower.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use polity_fuzz::TARGETS;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let target = arguments.first().and_then(|name| TARGETS.iter().find(|target| target.0 == name));
    let Some((name, target, known)) = target else {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.0).collect();
        eprintln!("usage: polity-fuzz {} [count] [seed]", names.join("|"));
        std::process::exit(2);
    };
    let number = |at: usize| arguments.get(at).map(|text| text.parse::<u64>().expect("a number"));
    let count = number(1).unwrap_or(10_000);
    let seed = number(2).unwrap_or_else(|| RandomState::new().build_hasher().finish());
    println!("{name}: {count} inputs from seed {seed}");
    let mut random = Random(seed);
    for at in 0..count {
        let input = random.input(known);
        let tried = std::panic::catch_unwind(|| target(&input));
        if tried.is_err() {
            eprintln!("{name}: input {at} of seed {seed} failed: {:?}", String::from_utf8_lossy(&input));
            std::process::exit(1);
        }
    }
    println!("{name}: none failed");
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }

    fn piece<'a>(&mut self, from: &'a [u8]) -> &'a [u8] {
        let start = self.below(from.len() + 1);
        &from[start..start + self.below(from.len() - start + 1)]
    }

    fn input(&mut self, known: &[&[u8]]) -> Vec<u8> {
        let mut input = match known {
            [] => (0..self.below(64)).map(|_| self.below(256) as u8).collect(),
            known => known[self.below(known.len())].to_vec(),
        };
        for _ in 0..self.below(6) {
            let at = self.below(input.len() + 1);
            match self.below(5) {
                0 => input.truncate(at),
                1 if !known.is_empty() => {
                    let other = known[self.below(known.len())];
                    let piece = self.piece(other).to_vec();
                    input.splice(at..at, piece);
                }
                2 => {
                    let piece = self.piece(&input).to_vec();
                    input.splice(at..at, piece);
                }
                3 => {
                    let end = at + self.below(input.len() - at + 1);
                    input.drain(at..end);
                }
                _ => {
                    if let Some(byte) = input.get_mut(at) {
                        *byte = self.below(256) as u8;
                    }
                }
            }
        }
        input
    }
}
