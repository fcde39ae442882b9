//! Malachite's core, driven by our own loop.
//!
//! The core is a coroutine: it takes an input and yields effects, each of which has
//! to be answered before it goes on. The crate's own `process!` macro answers an
//! effect whose handler failed with "continue", after a line in the log. With a log
//! that cannot be written or a key that cannot sign, a validator would go on voting.
//! Here the first failure ends the coroutine, and its state is never used again:
//! whoever gets an error must stop for good.

use arc_malachitebft_core_consensus::r#gen::{CoResult, Gen};
use arc_malachitebft_core_consensus::{Effect, Input, Resume, handle};

use super::context::Context;
use super::error::Fatal;

/// The state of the core.
pub type State = arc_malachitebft_core_consensus::State<Context>;

/// Gives the core an input, and its effects to `answer`.
pub fn process(
    state: &mut State,
    input: Input<Context>,
    answer: &mut dyn FnMut(Effect<Context>) -> Result<Resume<Context>, Fatal>,
) -> Result<(), Fatal> {
    let mut coroutine = Gen::new(|co| handle(co, state, &(), input));
    let mut resume = Resume::Start;
    loop {
        match coroutine.resume_with(resume) {
            CoResult::Yielded(effect) => resume = answer(effect)?,
            CoResult::Complete(outcome) => return outcome.map_err(|error| Fatal::Core(error.to_string())),
        }
    }
}
