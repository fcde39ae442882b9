//! `cargo xtask bench`.

/// (being written)
pub fn run(_arguments: &[String]) -> Result<(), String> {
    Err("not yet".to_owned())
}
