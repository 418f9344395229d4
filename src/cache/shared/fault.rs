//! What went wrong with Redis.

use redis::RedisError;

use crate::metrics::CacheError;

/// What went wrong, as the metrics name it.
pub(super) fn kind(error: &RedisError) -> CacheError {
    if error.is_timeout() {
        CacheError::Timeout
    } else if error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error()
    {
        CacheError::Connection
    } else {
        CacheError::Refused
    }
}

/// What an error says; of several that Redis answered at once, the first.
pub(super) fn sentence(error: &RedisError) -> String {
    let answered = error.clone().into_server_errors();
    match answered.iter().flat_map(|errors| errors.iter()).next() {
        Some((_, first)) => format!("{} {}", first.code(), first.details().unwrap_or_default()),
        None => error.to_string(),
    }
}
