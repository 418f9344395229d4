//! `config.json` of an XLM-RoBERTa cross-encoder, as transformers v4 and v5 write it.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value};

const ARCHITECTURE: &str = "XLMRobertaForSequenceClassification";

/// Weights of the whole network, three times those of the largest XLM-RoBERTa. What a size has no
/// bound for here is bounded by the tensors that have to be there.
const MAX_WEIGHTS: usize = 1 << 35;

/// Shapes and constants of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads per layer.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Rows of the position table; positions start at `pad_token_id + 1`.
    pub positions: usize,
    /// Rows of the token-type table, of which only the first is used.
    pub token_types: usize,
    /// The padding token.
    pub pad_token_id: u32,
    /// Added to the variance in each layer norm.
    pub layer_norm_eps: f64,
}

impl ModelConfig {
    /// Reads the fields that matter and refuses what this server would compute wrongly.
    ///
    /// # Errors
    /// A sentence that names the field, its value and what is accepted.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let fields: Map<String, Value> =
            serde_json::from_slice(json).context("it is not a JSON object")?;
        let fields = Fields(&fields);
        fields.check_supported()?;
        let config = Self {
            vocabulary: fields.size("vocab_size", 1 << 24)?,
            hidden: fields.size("hidden_size", 1 << 16)?,
            layers: fields.size("num_hidden_layers", 1 << 10)?,
            heads: fields.size("num_attention_heads", 1 << 10)?,
            intermediate: fields.size("intermediate_size", 1 << 18)?,
            positions: fields.size("max_position_embeddings", 1 << 20)?,
            token_types: fields.size("type_vocab_size", 1 << 10)?,
            pad_token_id: fields.pad_token_id()?,
            layer_norm_eps: fields.layer_norm_eps()?,
        };
        ensure!(
            config.hidden.is_multiple_of(config.heads),
            "field `hidden_size` is {}, which `num_attention_heads` = {} does not divide",
            config.hidden,
            config.heads
        );
        ensure!(
            config.weights() <= MAX_WEIGHTS,
            "a network with these sizes has {} weights, and {MAX_WEIGHTS} are the most that is supported",
            config.weights()
        );
        ensure!(
            config.longest_input() > 0,
            "field `max_position_embeddings` is {}, which leaves no position after `pad_token_id` = {}",
            config.positions,
            config.pad_token_id
        );
        Ok(config)
    }

    /// Numbers in the tables and the large matrices; the bounds of the sizes keep it from
    /// overflowing.
    fn weights(&self) -> usize {
        let rows = self.vocabulary + self.positions + self.token_types;
        let layer = 4 * self.hidden * self.hidden + 2 * self.hidden * self.intermediate;
        rows * self.hidden + self.layers * layer
    }

    /// The longest sequence the position table has room for, in tokens.
    pub fn longest_input(&self) -> usize {
        self.positions
            .saturating_sub(self.pad_token_id as usize + 1)
    }
}

struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    /// A null is as good as nothing: transformers writes both.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn size(&self, name: &str, most: usize) -> Result<usize> {
        let Some(value) = self.get(name) else {
            bail!("field `{name}` is missing");
        };
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok());
        match size {
            Some(size) if (1..=most).contains(&size) => Ok(size),
            _ => bail!("field `{name}` is {value}, not a whole number from 1 to {most}"),
        }
    }

    fn pad_token_id(&self) -> Result<u32> {
        let Some(value) = self.get("pad_token_id") else {
            return Ok(1);
        };
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.with_context(|| format!("field `pad_token_id` is {value}, not a token number"))
    }

    fn layer_norm_eps(&self) -> Result<f64> {
        let Some(value) = self.get("layer_norm_eps") else {
            // The default of transformers' XLMRobertaConfig.
            return Ok(1e-12);
        };
        let eps = value.as_f64().filter(|eps| (0.0..1.0).contains(eps));
        eps.with_context(|| format!("field `layer_norm_eps` is {value}, not a number from 0 to 1"))
    }

    fn check_supported(&self) -> Result<()> {
        self.check_architecture()?;
        self.check_labels()?;
        for (name, supported) in [
            ("model_type", "xlm-roberta"),
            ("hidden_act", "gelu"),
            // transformers v5 leaves this one out.
            ("position_embedding_type", "absolute"),
        ] {
            if let Some(value) = self.get(name)
                && value != supported
            {
                bail!("field `{name}` is {value}; only \"{supported}\" is supported");
            }
        }
        for flag in ["is_decoder", "add_cross_attention"] {
            if self.get(flag) == Some(&Value::Bool(true)) {
                bail!("field `{flag}` is true; only encoders are supported");
            }
        }
        Ok(())
    }

    fn check_architecture(&self) -> Result<()> {
        match self.get("architectures") {
            Some(Value::Array(names)) if names.iter().any(|name| name == ARCHITECTURE) => Ok(()),
            Some(names) => {
                bail!("field `architectures` is {names}; only [\"{ARCHITECTURE}\"] is supported")
            }
            None => bail!("field `architectures` is missing; it must be [\"{ARCHITECTURE}\"]"),
        }
    }

    /// `num_labels` is written only where it differs from the length of `id2label`, which is left
    /// out when it is 2.
    fn check_labels(&self) -> Result<()> {
        let (name, labels) = match (self.get("num_labels"), self.get("id2label")) {
            (Some(value), _) => ("num_labels", value.as_u64()),
            (None, Some(Value::Object(labels))) => ("id2label", Some(labels.len() as u64)),
            (None, _) => {
                bail!("fields `num_labels` and `id2label` are missing; a reranker has one label")
            }
        };
        match labels {
            Some(1) => Ok(()),
            Some(n) => bail!("field `{name}` gives {n} labels; a reranker has exactly 1"),
            None => bail!("field `{name}` is not a number; a reranker has exactly 1 label"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn v4() -> Value {
        json!({
            "architectures": ["XLMRobertaForSequenceClassification"], "model_type": "xlm-roberta",
            "hidden_act": "gelu", "hidden_size": 1024, "id2label": {"0": "LABEL_0"}, "intermediate_size": 4096,
            "layer_norm_eps": 1e-05, "max_position_embeddings": 8194, "num_attention_heads": 16,
            "num_hidden_layers": 24, "pad_token_id": 1, "position_embedding_type": "absolute",
            "torch_dtype": "float32", "type_vocab_size": 1, "vocab_size": 250_002
        })
    }

    fn parse(value: &Value) -> Result<ModelConfig> {
        ModelConfig::parse(value.to_string().as_bytes())
    }

    #[test]
    fn both_generations_of_transformers_load_alike() {
        let mut v5 = v4();
        let fields = v5.as_object_mut().unwrap();
        fields.remove("position_embedding_type");
        fields.remove("torch_dtype");
        fields.insert("dtype".into(), "float32".into());
        fields.insert("is_decoder".into(), false.into());
        let config = parse(&v4()).unwrap();
        assert_eq!(config, parse(&v5).unwrap());
        assert_eq!(config.longest_input(), 8192);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (field, value, says) in [
            (
                "architectures",
                json!(["BertModel"]),
                "`architectures` is [\"BertModel\"]",
            ),
            ("architectures", Value::Null, "`architectures` is missing"),
            ("hidden_act", json!("relu"), "`hidden_act` is \"relu\""),
            (
                "position_embedding_type",
                json!("relative_key"),
                "`position_embedding_type`",
            ),
            ("model_type", json!("bert"), "`model_type` is \"bert\""),
            (
                "id2label",
                json!({"0": "a", "1": "b"}),
                "`id2label` gives 2 labels",
            ),
            ("num_labels", json!(3), "`num_labels` gives 3 labels"),
            ("hidden_size", Value::Null, "`hidden_size` is missing"),
            ("hidden_size", json!(0), "`hidden_size` is 0"),
            ("hidden_size", json!(1000), "`hidden_size` is 1000"),
            ("vocab_size", json!("many"), "`vocab_size` is \"many\""),
            (
                "vocab_size",
                json!(1u64 << 40),
                "`vocab_size` is 1099511627776",
            ),
            (
                "num_hidden_layers",
                json!(1 << 20),
                "`num_hidden_layers` is 1048576",
            ),
            (
                "max_position_embeddings",
                json!(u64::MAX),
                "`max_position_embeddings` is 18446744073709551615",
            ),
            ("hidden_size", json!(1 << 16), "weights"),
            ("pad_token_id", json!(-1), "`pad_token_id` is -1"),
            ("layer_norm_eps", json!("small"), "`layer_norm_eps`"),
            (
                "max_position_embeddings",
                json!(2),
                "`max_position_embeddings` is 2",
            ),
            ("is_decoder", json!(true), "`is_decoder` is true"),
        ] {
            let mut config = v4();
            config[field] = value;
            let error = format!("{:#}", parse(&config).unwrap_err());
            assert!(error.contains(says), "{field}: {error}");
        }
        assert!(ModelConfig::parse(b"[]").is_err());
        assert!(ModelConfig::parse(b"{").is_err());
    }
}
