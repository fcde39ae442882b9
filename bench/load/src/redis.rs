//! As much of Redis' protocol as is needed: one command at a time.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::Failure;

/// A connection to Redis.
pub struct Redis(BufReader<TcpStream>);

impl Redis {
    pub async fn connect(endpoint: &str) -> Result<Redis, Failure> {
        let stream = TcpStream::connect(endpoint).await?;
        stream.set_nodelay(true)?;
        Ok(Redis(BufReader::new(stream)))
    }

    pub async fn set(&mut self, key: &str, value: &[u8]) -> Result<(), Failure> {
        match self.command(&[b"SET", key.as_bytes(), value]).await?.as_str() {
            "+OK" => Ok(()),
            said => Err(said.into()),
        }
    }

    pub async fn increment(&mut self, key: &str) -> Result<(), Failure> {
        let said = self.command(&[b"INCR", key.as_bytes()]).await?;
        if said.starts_with(':') { Ok(()) } else { Err(said.into()) }
    }

    /// How many values the key has.
    pub async fn get(&mut self, key: &str) -> Result<usize, Failure> {
        let said = self.command(&[b"GET", key.as_bytes()]).await?;
        let length = said.strip_prefix('$').ok_or_else(|| said.clone())?.parse::<i64>()?;
        let Ok(length) = usize::try_from(length) else { return Ok(0) };
        let mut value = vec![0; length + 2];
        self.0.read_exact(&mut value).await?;
        Ok(1)
    }

    /// Sends a command; gives the first line of the answer.
    async fn command(&mut self, parts: &[&[u8]]) -> Result<String, Failure> {
        let mut request = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            request.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            request.extend_from_slice(part);
            request.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&request).await?;
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            return Err("the connection ended".into());
        }
        Ok(line.trim_end().to_owned())
    }
}
