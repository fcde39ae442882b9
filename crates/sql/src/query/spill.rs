//! Spilling of queries: DataFusion's temporary files as sealed files of the store.

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::spill_file::{SpillFile, SpillWriter, TempFileFactory};
use futures::{Stream, stream};
use polity_store::spill::{self, SpillFolder};

use crate::error::{Condition, Error};

/// How much is sealed and written at a time.
const PIECE: usize = 256 << 10;

/// Makes temporary files in a folder.
pub struct Factory(pub Arc<SpillFolder>);

impl TempFileFactory for Factory {
    fn create_temp_file(&self, _: &str) -> Result<Arc<dyn SpillFile>> {
        let file = self.0.create().map_err(|e| DataFusionError::External(Box::new(failed(e))))?;
        Ok(Arc::new(Temporary(Arc::new(file))))
    }
}

struct Temporary(Arc<spill::SpillFile>);

impl SpillFile for Temporary {
    fn size(&self) -> Option<u64> {
        Some(self.0.len())
    }

    fn read_stream(&self) -> Result<Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>> {
        let pieces = stream::try_unfold((self.0.clone(), 0), |(file, place)| async move {
            let reader = file.clone();
            let read = polity_store::blocking(move || reader.piece(place)).await;
            let read = read.map_err(|e| DataFusionError::External(Box::new(e)))?;
            let piece = read.map_err(|e| DataFusionError::External(Box::new(failed(e))))?;
            Ok(piece.map(|bytes| (Bytes::from(bytes), (file, place + 1))))
        });
        Ok(Box::pin(pieces))
    }

    fn open_writer(&self) -> Result<Box<dyn SpillWriter>> {
        Ok(Box::new(Writer { file: self.0.clone(), buffer: Vec::with_capacity(PIECE) }))
    }
}

struct Writer {
    file: Arc<spill::SpillFile>,
    buffer: Vec<u8>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let mut piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
            self.file.append(&mut piece).map_err(|e| io::Error::other(failed(e)))?;
        }
        Ok(())
    }
}

impl SpillWriter for Writer {
    fn finish(&mut self) -> Result<()> {
        self.flush().map_err(DataFusionError::IoError)
    }
}

fn failed(error: polity_store::Error) -> Error {
    match error {
        polity_store::Error::Full { .. } => {
            Error::new(Condition::DiskFull, "there is no room left for temporary files of queries")
                .detail(error.to_string())
                .hint("Make the query smaller, or run fewer large ones at a time.")
        }
        other => Error::new(Condition::IoError, format!("a temporary file of the query failed: {other}")),
    }
}
