//! What a pair is known by: a keyed hash of its tokens.
//!
//! The tokens are all that the model reads of a pair: the query, the window of the document and
//! where it was cut are in them, and equal tokens give equal logits whatever the texts were. What
//! else decides a logit is in the key of the hash: the weights, the arithmetic, and the program.

use std::fmt;

use uuid::Uuid;

use crate::secret::Secret;

/// What a pair is known by. It has 16 bytes: that two of a billion pairs have the same one has a
/// probability of 10⁻²¹.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 16]);

/// 32 hexadecimal digits.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// What decides a pair's logit beside its tokens.
pub(crate) struct Identity<'a> {
    /// The digest of the configuration and the weights.
    pub model: [u8; 32],
    /// The kind of device: `cpu` or `cuda`. Their logits differ in the last bits.
    pub device: &'a str,
    /// The precision of the arithmetic.
    pub dtype: &'a str,
    /// The implementation of the network.
    pub backend: &'a str,
}

/// Makes keys. The hash is BLAKE3 with a key of its own.
pub(super) struct Keys([u8; blake3::KEY_LEN]);

impl Keys {
    /// Keys that nobody else can make.
    pub(super) fn random() -> Self {
        let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
        let mut seed = blake3::Hasher::new();
        seed.update(one.as_bytes()).update(two.as_bytes());
        Self(seed.finalize().into())
    }

    /// The keys that every process makes that has the same secret and would compute the same
    /// logits.
    pub(super) fn of(identity: &Identity<'_>, secret: Option<&Secret>) -> Self {
        let secret = secret.map_or("", Secret::expose);
        let mut hasher = blake3::Hasher::new_derive_key("reranker scores of pairs, version 1");
        for part in [
            secret.as_bytes(),
            env!("CARGO_PKG_VERSION").as_bytes(),
            &identity.model,
            identity.device.as_bytes(),
            identity.dtype.as_bytes(),
            identity.backend.as_bytes(),
        ] {
            // With its length before it, no part can pass for the end of another.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// The key of a pair with these tokens.
    pub(super) fn key(&self, tokens: &[u32]) -> Key {
        let bytes: Vec<u8> = tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
        let hash = blake3::keyed_hash(&self.0, &bytes);
        let (key, _) = hash.as_bytes().split_at(size_of::<Key>());
        Key(key.try_into().expect("the length is that of a key"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity<'_> = Identity {
        model: [7; 32],
        device: "cpu",
        dtype: "float32",
        backend: "native",
    };

    #[test]
    fn a_key_says_model_arithmetic_secret_and_every_token() {
        let tokens = [0, 5, 2, 2, 9, 2];
        let key = |identity: &Identity<'_>, secret: Option<&str>, tokens: &[u32]| {
            let secret = secret.map(|text| text.parse().unwrap());
            Keys::of(identity, secret.as_ref()).key(tokens)
        };
        let reference = key(&IDENTITY, None, &tokens);
        assert_eq!(reference, key(&IDENTITY, None, &tokens));
        let others = [
            key(&IDENTITY, Some("secret"), &tokens),
            key(&IDENTITY, None, &[0, 5, 2, 2, 2]),
            key(&IDENTITY, None, &[0, 5, 2, 9, 2, 2]),
            key(&IDENTITY, None, &[0, 5, 2, 2, 10, 2]),
            key(
                &Identity {
                    model: [8; 32],
                    ..IDENTITY
                },
                None,
                &tokens,
            ),
            key(
                &Identity {
                    device: "cuda",
                    ..IDENTITY
                },
                None,
                &tokens,
            ),
            key(
                &Identity {
                    dtype: "int8",
                    ..IDENTITY
                },
                None,
                &tokens,
            ),
            key(
                &Identity {
                    backend: "candle",
                    ..IDENTITY
                },
                None,
                &tokens,
            ),
            // The same letters in a row, but of other parts.
            key(
                &Identity {
                    device: "cpufloat32",
                    dtype: "",
                    ..IDENTITY
                },
                None,
                &tokens,
            ),
        ];
        for (place, other) in others.iter().enumerate() {
            assert_ne!(reference, *other);
            assert!(!others[..place].contains(other));
        }
    }

    #[test]
    fn random_keys_are_of_one_process() {
        assert_ne!(Keys::random().key(&[1]), Keys::random().key(&[1]));
    }
}
