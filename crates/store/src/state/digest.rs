//! A fingerprint of a group's rows, to compare replicas by.
//!
//! It covers the rows that are visible at the group's applied mark, with their
//! timestamps; what old versions are still kept differs from replica to replica
//! and is no part of it. Replicas with the same mark must have the same digest.

use std::ops::ControlFlow;

use aws_lc_rs::digest::{Context, SHA256};
use polity_base::{RangeId, Span, Timestamp};

use crate::error::Error;
use crate::state::{AppliedMark, Reader, State};

/// A fingerprint of rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest {
    /// What was applied
    pub mark: AppliedMark,
    /// How many rows there are
    pub rows: u64,
    /// SHA-256 over each row's key, timestamp and value, in key order
    pub sha256: [u8; 32],
}

impl State {
    /// The digest of the rows in `span`, which belongs to `group`. Reads them all.
    pub fn digest(&self, group: RangeId, span: &Span) -> Result<Digest, Error> {
        let (mark, reader) = {
            let _turn = self.writer.lock();
            self.check()?;
            (self.applied(group), self.snapshot()?)
        };
        let (rows, sha256) = reader.digest(span, mark.commit.max(reader.horizon(group.guarantee())))?;
        Ok(Digest { mark, rows, sha256 })
    }
}

impl Reader {
    /// How many rows of `span` are visible at `at`, and SHA-256 over each one's key,
    /// timestamp and value, in key order. The same on every replica that has applied
    /// all that was committed up to `at`. Reads them all.
    ///
    /// # Errors
    /// [`Error::TooOld`] if `at` is before the horizon.
    pub fn digest(&self, span: &Span, at: Timestamp) -> Result<(u64, [u8; 32]), Error> {
        let mut context = Context::new(&SHA256);
        let mut rows = 0;
        self.scan(span, at)?.drive(|key, written, row| {
            rows += 1;
            context.update(&(key.len() as u64).to_le_bytes());
            context.update(key);
            context.update(&written.0.to_le_bytes());
            context.update(&(row.len() as u64).to_le_bytes());
            context.update(row);
            ControlFlow::Continue(())
        })?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(context.finish().as_ref());
        Ok((rows, sha256))
    }
}
