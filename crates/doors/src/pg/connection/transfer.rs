//! COPY, both ways.

use polity_sql::Error;
use polity_sql::session::{CopySource, Scope};

use super::{Connection, End, FULL, Went};
use crate::pg::backend;
use crate::pg::frontend::{self, Frame, Message};

impl Connection {
    /// COPY FROM STDIN: takes data until the client ends it.
    pub(super) async fn copy_in(&mut self, columns: usize, scope: Scope) -> Went {
        backend::copy_response(&mut self.out, b'G', columns);
        self.owed = true;
        loop {
            let frame = match self.copied_frame().await? {
                Ok(frame) => frame,
                Err(error) => return Ok(Err(error)),
            };
            let message = match frontend::decode(&frame) {
                Ok(message) => message,
                Err(error) if error.is_fatal() => return Err(End::Fatal(backend::malformed(&error))),
                Err(error) => return Ok(Err(backend::malformed(&error))),
            };
            let step = match message {
                Message::CopyData(data) => self.session.copy_data(data).await,
                Message::CopyDone => match self.session.copy_done(scope).await {
                    Ok(tag) => {
                        self.complete(&tag);
                        return Ok(Ok(()));
                    }
                    Err(error) => Err(error),
                },
                Message::CopyFail { reason } => Err(self.session.copy_fail(reason)),
                // Clients of the extended protocol send these without waiting.
                Message::Flush | Message::Sync => Ok(()),
                Message::Terminate => return Err(End::Gone),
                _ => Err(unexpected(frame.kind)),
            };
            if let Err(error) = step {
                return Ok(Err(error));
            }
        }
    }

    /// The next frame of a COPY, unless and until the statement should end.
    async fn copied_frame(&mut self) -> Result<Result<Frame, Error>, End> {
        // What is cut short below is reading alone.
        self.flush().await?;
        let watch = self.session.copy_watch();
        let ended = async {
            match watch {
                Some(watch) => watch.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // A client that copies is not idle, however slow it is.
            frame = self.next_frame(None) => frame.map(Ok),
            error = ended => Ok(Err(error)),
        }
    }

    /// COPY TO STDOUT: a message for each row.
    pub(super) async fn copy_out(&mut self, columns: usize, mut source: Box<dyn CopySource>) -> Went {
        backend::copy_response(&mut self.out, b'H', columns);
        loop {
            let data = match source.next().await {
                Ok(Some(data)) => data,
                Ok(None) => break,
                Err(error) => return Ok(Err(error)),
            };
            let mut from = 0;
            for end in source.ends() {
                backend::copy_data(&mut self.out, data.get(from..*end).unwrap_or_default());
                from = *end;
                if self.out.len() >= FULL {
                    self.flush().await?;
                }
            }
        }
        backend::bare(&mut self.out, b'c');
        self.complete(&format!("COPY {}", source.rows()));
        Ok(Ok(()))
    }
}

fn unexpected(kind: u8) -> Error {
    backend::violation(format_args!("unexpected message type 0x{kind:02X} during COPY from stdin"))
}
