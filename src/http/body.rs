//! The body of a request, read in one place: within a number of bytes, counted after unpacking,
//! within a time, and within the memory that requests share.

use std::{io, sync::Arc};

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder};
use axum::{
    body::{Body, Bytes, HttpBody as _},
    extract::FromRequest,
    http::{HeaderMap, Request, header},
};
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _},
    task::consume_budget,
    time::timeout,
};
use tokio_util::io::StreamReader;

use super::{app::App, error::ApiError};
use crate::{error::Error, memory::Lease};

/// Bytes that a request holds for each byte of its body: the body, its texts decoded, and what goes
/// back of them.
const HELD_PER_BYTE: usize = 3;

/// Bytes that are unpacked at once.
const CHUNK: usize = 16 * 1024;

/// What gzip and deflate unpack with: a window of 32 KiB and tables.
const INFLATE_BYTES: usize = 64 * 1024;

/// A whole body, unpacked, and the memory that its request holds.
pub(super) struct RequestBody {
    pub(super) bytes: Bytes,
    pub(super) lease: Lease,
}

impl FromRequest<Arc<App>> for RequestBody {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, app: &Arc<App>) -> Result<Self, ApiError> {
        let time = app.settings.body_timeout;
        let receiver = Receiver {
            bytes: Vec::new(),
            lease: app.memory.lease(),
            limit: app.settings.max_body_bytes,
        };
        let body = timeout(time, receiver.read(request)).await;
        body.unwrap_or(Err(ApiError::BodyTimeout(time)))
    }
}

/// A body of which some has arrived.
struct Receiver {
    bytes: Vec<u8>,
    lease: Lease,
    /// The most bytes that it may have.
    limit: usize,
}

impl Receiver {
    async fn read(mut self, request: Request<Body>) -> Result<RequestBody, ApiError> {
        // The size is checked before the first byte: a client that asks whether to send is spared
        // the sending.
        if let Some(bytes) = announced(request.headers()) {
            self.check_size(bytes)?;
            self.lease.check(bytes.saturating_mul(HELD_PER_BYTE))?;
        }
        match encoding(request.headers())? {
            None => self.receive(request.into_body()).await?,
            Some(encoding) => self.unpack(request.into_body(), encoding).await?,
        }
        let Self { bytes, lease, .. } = self;
        let bytes = Bytes::from(bytes);
        Ok(RequestBody { bytes, lease })
    }

    /// A body that is not packed.
    async fn receive(&mut self, body: Body) -> Result<(), ApiError> {
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            self.append(&chunk.map_err(|error| ApiError::unreadable(&error))?)?;
        }
        Ok(())
    }

    async fn unpack(&mut self, body: Body, encoding: Encoding) -> Result<(), ApiError> {
        if body.is_end_stream() {
            return Ok(());
        }
        let chunks = body.into_data_stream();
        let mut packed = StreamReader::new(chunks.map(|chunk| chunk.map_err(io::Error::other)));
        let first = packed
            .fill_buf()
            .await
            .map_err(|error| ApiError::unreadable(&error))?
            .first()
            .copied();
        self.lease.grow(encoding.window(first))?;
        match encoding {
            Encoding::Gzip => {
                let mut decoder = GzipDecoder::new(&mut packed);
                decoder.multiple_members(true);
                self.append_all(decoder).await?;
            }
            Encoding::Deflate => self.append_all(ZlibDecoder::new(&mut packed)).await?,
            Encoding::Brotli => self.append_all(BrotliDecoder::new(&mut packed)).await?,
        }
        check_end(packed).await
    }

    async fn append_all(&mut self, mut unpacked: impl AsyncRead + Unpin) -> Result<(), ApiError> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = unpacked
                .read(&mut chunk)
                .await
                .map_err(|error| ApiError::unreadable(&error))?;
            if length == 0 {
                return Ok(());
            }
            self.append(&chunk[..length])?;
            // A few packed bytes can be much work: others have their turn in between.
            consume_budget().await;
        }
    }

    fn append(&mut self, chunk: &[u8]) -> Result<(), ApiError> {
        self.check_size(self.bytes.len() + chunk.len())?;
        self.lease.grow(chunk.len() * HELD_PER_BYTE)?;
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    fn check_size(&self, bytes: usize) -> Result<(), ApiError> {
        if bytes <= self.limit {
            return Ok(());
        }
        let limit = self.limit;
        Err(Error::BodyTooLarge { limit }.into())
    }
}

/// Refuses bytes behind the end of what was unpacked: whoever sent them meant them to be read.
async fn check_end(mut packed: impl AsyncBufRead + Unpin) -> Result<(), ApiError> {
    if packed
        .fill_buf()
        .await
        .map_err(|error| ApiError::unreadable(&error))?
        .is_empty()
    {
        return Ok(());
    }
    let why = "bytes follow the end of the packed content".to_owned();
    Err(ApiError::BodyUnreadable(why))
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Deflate,
    Brotli,
}

impl Encoding {
    /// The memory that unpacking takes beside what is unpacked, given the first byte.
    fn window(self, first: Option<u8>) -> usize {
        match self {
            Self::Gzip | Self::Deflate => INFLATE_BYTES,
            Self::Brotli => 1 << brotli_window_bits(first.unwrap_or_default()),
        }
    }
}

/// The window size that a Brotli stream begins with (RFC 7932, section 9.1). A stream that begins
/// with a pattern that is not allowed is refused by the decoder.
fn brotli_window_bits(first: u8) -> u8 {
    if first & 1 == 0 {
        return 16;
    }
    match ((first >> 1) & 7, (first >> 4) & 7) {
        (0, 0 | 1) => 17,
        (0, bits) => 8 + bits,
        (bits, _) => 17 + bits,
    }
}

/// The one encoding of the body, if it has one.
fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, ApiError> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let values: Vec<&str> = values
        .map(|value| value.to_str().unwrap_or_default().trim())
        .filter(|value| !value.is_empty() && !value.eq_ignore_ascii_case("identity"))
        .collect();
    let given = values.join(", ").to_ascii_lowercase();
    match given.as_str() {
        "" => Ok(None),
        "gzip" | "x-gzip" => Ok(Some(Encoding::Gzip)),
        "deflate" => Ok(Some(Encoding::Deflate)),
        "br" => Ok(Some(Encoding::Brotli)),
        _ => Err(ApiError::UnknownEncoding(given)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brotli_tells_its_window_in_its_first_byte() {
        // The table is that of RFC 7932, section 9.1.
        for (first, bits) in [
            (0b0, 16),
            (0b000_0001, 17),
            (0b0011, 18),
            (0b1011, 22),
            (0b1111, 24),
            (0b010_0001, 10),
            (0b111_0001, 15),
        ] {
            assert_eq!(brotli_window_bits(first), bits, "{first:#b}");
        }
    }
}
