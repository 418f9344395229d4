//! The second opinion: candle-transformers' own XLM-RoBERTa, padded and unfused.
//!
//! It is slow, and written by other people: what ours is tested against, and what
//! `RERANKER_BACKEND=candle` serves to a user who doubts a score.

use std::{cmp::Reverse, collections::HashMap};

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::xlm_roberta::{Config, XLMRobertaForSequenceClassification};

use super::{config::ModelConfig, cross_encoder::CrossEncoder, weights::Weights};
use crate::batch::Batch;

/// Sequences padded to a common length at a time. They are sorted by length first, so that little
/// is padding.
const BUCKET: usize = 8;

pub(super) struct CandleEncoder {
    model: XLMRobertaForSequenceClassification,
    pad_token_id: u32,
}

impl CandleEncoder {
    pub(super) fn new(config: &ModelConfig, weights: &Weights) -> Result<Self> {
        let mut tensors = HashMap::new();
        for (name, shape) in weights.tensors() {
            let data = weights.read(&[&name], &shape)?;
            tensors.insert(name, Tensor::from_vec(data, shape, &Device::Cpu)?);
        }
        let variables = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let theirs = Config {
            hidden_size: config.hidden,
            layer_norm_eps: config.layer_norm_eps,
            attention_probs_dropout_prob: 0.0,
            hidden_dropout_prob: 0.0,
            num_attention_heads: config.heads,
            position_embedding_type: "absolute".to_owned(),
            intermediate_size: config.intermediate,
            hidden_act: Activation::Gelu,
            num_hidden_layers: config.layers,
            vocab_size: config.vocabulary,
            max_position_embeddings: config.positions,
            type_vocab_size: config.token_types,
            pad_token_id: config.pad_token_id,
        };
        Ok(Self {
            model: XLMRobertaForSequenceClassification::new(1, &theirs, variables)?,
            pad_token_id: config.pad_token_id,
        })
    }

    fn predict_padded(&self, sequences: &[&[u32]]) -> Result<Vec<f32>> {
        let width = sequences.iter().map(|s| s.len()).max().unwrap_or(0);
        let shape = (sequences.len(), width);
        let (mut input_ids, mut mask) = (Vec::new(), Vec::new());
        for sequence in sequences {
            let padding = width - sequence.len();
            input_ids.extend_from_slice(sequence);
            input_ids.extend(std::iter::repeat_n(self.pad_token_id, padding));
            mask.extend(std::iter::repeat_n(1u32, sequence.len()));
            mask.extend(std::iter::repeat_n(0u32, padding));
        }
        let input_ids = Tensor::from_vec(input_ids, shape, &Device::Cpu)?;
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu)?;
        let token_types = input_ids.zeros_like()?;
        let logits = self.model.forward(&input_ids, &mask, &token_types)?;
        Ok(logits.squeeze(1)?.to_vec1()?)
    }
}

impl CrossEncoder for CandleEncoder {
    fn predict(&self, batch: &Batch) -> Result<Vec<f32>> {
        let sequences: Vec<&[u32]> = batch.sequences().collect();
        let mut logits = vec![f32::NAN; sequences.len()];
        for bucket in longest_first(&sequences).chunks(BUCKET) {
            let members: Vec<&[u32]> = bucket.iter().map(|&i| sequences[i]).collect();
            for (&i, logit) in bucket.iter().zip(self.predict_padded(&members)?) {
                logits[i] = logit;
            }
        }
        Ok(logits)
    }

    fn padding(&self, batch: &Batch) -> usize {
        let sequences: Vec<&[u32]> = batch.sequences().collect();
        let order = longest_first(&sequences);
        let padded = order
            .chunks(BUCKET)
            .map(|bucket| bucket.len() * sequences[bucket[0]].len());
        padded.sum::<usize>() - batch.input_ids.len()
    }
}

fn longest_first(sequences: &[&[u32]]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&i| Reverse(sequences[i].len()));
    order
}
