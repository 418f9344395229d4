//! What transformers calls the tensors of a checkpoint, and what else they are called.

/// The network without its head.
const ENCODER: &str = "roberta.";

pub(super) const DENSE: &str = "classifier.dense";
pub(super) const OUTPUT_WEIGHT: &str = "classifier.out_proj.weight";
pub(super) const OUTPUT_BIAS: &str = "classifier.out_proj.bias";

/// A part of the embeddings.
pub(super) fn embeddings(part: &str) -> String {
    format!("{ENCODER}embeddings.{part}")
}

/// A part of a layer, counted from 0.
pub(super) fn layer(n: usize, part: &str) -> String {
    format!("{ENCODER}encoder.layer.{n}.{part}")
}

/// What tools for training put before all names: torch's data-parallel and compiled models, and a
/// model inside another one.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "model."];

/// The name that transformers gives to a tensor that is called `name`.
pub(super) fn canonical(name: &str) -> String {
    let mut bare = name;
    while let Some(rest) = WRAPPERS.iter().find_map(|prefix| bare.strip_prefix(prefix)) {
        bare = rest;
    }
    let is_encoder = bare.starts_with("embeddings.") || bare.starts_with("encoder.layer.");
    let prefix = if is_encoder { ENCODER } else { "" };
    // The first checkpoints of this kind were converted from TensorFlow.
    if let Some(norm) = bare.strip_suffix(".LayerNorm.gamma") {
        format!("{prefix}{norm}.LayerNorm.weight")
    } else if let Some(norm) = bare.strip_suffix(".LayerNorm.beta") {
        format!("{prefix}{norm}.LayerNorm.bias")
    } else {
        format!("{prefix}{bare}")
    }
}

/// Why the tensor `missing` may be missing among `present`, and what to do.
pub(super) fn hint<'a>(missing: &str, mut present: impl Iterator<Item = &'a str>) -> String {
    let Some(part) = missing.strip_prefix(ENCODER) else {
        return "; a reranker has a classification head, this may be an encoder for embeddings"
            .to_owned();
    };
    let other = present.find_map(|name| Some((name, name.strip_suffix(part)?)));
    other.map_or_else(String::new, |(name, prefix)| {
        format!(
            "; there is `{name}`, so names begin with `{prefix}` where `{ENCODER}` is expected: load \
             the model with transformers and save it with `save_pretrained`, or rename its tensors"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_same_network_are_one() {
        let query = layer(3, "attention.self.query.weight");
        for name in [
            "roberta.encoder.layer.3.attention.self.query.weight",
            "model.roberta.encoder.layer.3.attention.self.query.weight",
            "module._orig_mod.roberta.encoder.layer.3.attention.self.query.weight",
            "encoder.layer.3.attention.self.query.weight",
            "_orig_mod.encoder.layer.3.attention.self.query.weight",
        ] {
            assert_eq!(canonical(name), query);
        }
        assert_eq!(canonical("module.classifier.out_proj.bias"), OUTPUT_BIAS);
        assert_eq!(
            canonical("embeddings.LayerNorm.gamma"),
            embeddings("LayerNorm.weight")
        );
        assert_eq!(
            canonical("roberta.embeddings.LayerNorm.beta"),
            embeddings("LayerNorm.bias")
        );
        assert_eq!(canonical("bert.encoder.x"), "bert.encoder.x");
    }
}
