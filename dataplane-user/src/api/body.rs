//! The body of a response, read with a time limit for each piece and a size limit for each part.

use std::pin::Pin;
use std::time::Duration;

use futures_util::io::{AsyncBufRead, AsyncBufReadExt as _};
use tokio::time::timeout;

use super::list_watch::WatchError;
use super::server::Late;

/// Largest object or other part of a response. etcd takes objects of 1.5 MiB, and JSON adds to it.
pub(super) const MAX_PART: usize = 16 << 20;

/// The body of a response.
pub(super) struct Body(Pin<Box<dyn AsyncBufRead + Send>>);

impl Body {
    pub(super) fn new(reader: impl AsyncBufRead + Send + 'static) -> Self {
        Self(Box::pin(reader))
    }

    /// Appends the bytes that arrive next; returns false at the end.
    pub(super) async fn read(&mut self, into: &mut Vec<u8>, limit: Duration) -> Result<bool, WatchError> {
        let bytes = timeout(limit, self.0.fill_buf()).await.map_err(|_| Late(limit))?.map_err(WatchError::Lost)?;
        into.extend_from_slice(bytes);
        let length = bytes.len();
        self.0.as_mut().consume(length);
        Ok(length > 0)
    }
}

/// The body of a watch, line by line.
pub(super) struct Lines {
    body: Body,
    buffer: Vec<u8>,
    /// Bytes at the beginning of the buffer that belong to the last line.
    taken: usize,
}

impl Lines {
    pub(super) const fn new(body: Body) -> Self {
        Self { body, buffer: Vec::new(), taken: 0 }
    }

    /// Returns the next line without its end; `None` at the end of the body. An unfinished last
    /// line is dropped: the server has been stopped in the middle of it.
    pub(super) async fn next(&mut self, limit: Duration) -> Result<Option<&[u8]>, WatchError> {
        self.buffer.drain(..std::mem::take(&mut self.taken));
        let mut searched = 0;
        // The limit is for the whole line, or a byte now and then would hold it for ever.
        let line = async {
            loop {
                if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                    return Ok(Some(searched + end));
                }
                searched = self.buffer.len();
                if searched > MAX_PART {
                    return Err(WatchError::Malformed("an event is too large"));
                }
                if !self.body.read(&mut self.buffer, limit).await? {
                    return Ok(None);
                }
            }
        };
        let end = timeout(limit, line).await.map_err(|_| Late(limit))??;
        let Some(end) = end else { return Ok(None) };
        self.taken = end + 1;
        Ok(Some(&self.buffer[..end]))
    }
}
