//! How a pair and its logit are written in Redis.

use redis::Value;

use crate::cache::key::Key;

/// What a pair is called: printable, so that `redis-cli` can list and delete it.
pub(super) fn name(key: &Key) -> String {
    format!("reranker:{key}")
}

/// A logit as it is written.
pub(super) fn value(logit: f32) -> [u8; 4] {
    logit.to_le_bytes()
}

/// A logit that was written. What is no finite logit was not written by this program.
pub(super) fn logit(value: &Value) -> Option<f32> {
    let Value::BulkString(bytes) = value else {
        return None;
    };
    let logit = f32::from_le_bytes(bytes.as_slice().try_into().ok()?);
    logit.is_finite().then_some(logit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_logits_are_taken() {
        let bulk = |bytes: &[u8]| Value::BulkString(bytes.to_vec());
        assert_eq!(logit(&bulk(&value(-3.25))), Some(-3.25));
        assert_eq!(logit(&bulk(&f32::NAN.to_le_bytes())), None);
        assert_eq!(logit(&bulk(&f32::INFINITY.to_le_bytes())), None);
        assert_eq!(logit(&bulk(b"0.5")), None);
        assert_eq!(logit(&bulk(b"0.125")), None);
        assert_eq!(logit(&Value::Nil), None);
        assert_eq!(logit(&Value::Int(0)), None);
    }
}
