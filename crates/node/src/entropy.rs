//! The machine's randomness as [`Entropy`].

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use polity_base::seams::Entropy;

/// Random bytes of the crypto library, which seeds itself from the kernel.
#[derive(Default)]
pub struct SystemEntropy {
    random: SystemRandom,
}

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        // Fails only where the kernel has no randomness. Nonces and identifiers that
        // are not random would be worse than no node.
        if self.random.fill(buffer).is_err() {
            tracing::error!("the system has no randomness to give; the node cannot go on");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use polity_base::seams::unique_id;

    use super::*;

    #[test]
    fn ids_differ() {
        let entropy = SystemEntropy::default();
        assert_ne!(unique_id(&entropy), unique_id(&entropy));
    }
}
