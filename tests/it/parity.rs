//! Scores equal Hugging Face's. The golden data are made by `tests/tools/golden.py` with
//! transformers.

use std::{collections::HashMap, fs, path::PathBuf};

use reranker::{
    batch::Batch,
    model::{
        Backend, BuildOptions, Checkpoint, CrossEncoder, Device, Dtype,
        source::{HubSettings, Source},
    },
    tokenizer::{PairTokenizer, Side, Truncation},
};
use serde::{Deserialize, de::DeserializeOwned};

/// What issue and model card promise of f32 on the CPU.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Tokens {
    cases: Vec<TokenCase>,
}

#[derive(Deserialize)]
struct TokenCase {
    name: String,
    query: String,
    document: String,
    max_length: usize,
    direction: String,
    input_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Logits {
    batches: Vec<GoldenBatch>,
    #[serde(default)]
    interior_pad: Vec<GoldenBatch>,
    #[serde(default)]
    text: Vec<TextCase>,
}

#[derive(Deserialize)]
struct GoldenBatch {
    input_ids: Vec<Vec<u32>>,
    logits: Vec<f32>,
}

#[derive(Deserialize)]
struct TextCase {
    query: String,
    document: String,
    logit: f32,
}

fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(path)
}

fn golden<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&fs::read(fixture("golden").join(name)).unwrap()).unwrap()
}

fn open(source: &Source) -> Checkpoint {
    Checkpoint::open(source, &HubSettings::new("nowhere")).unwrap()
}

fn build(checkpoint: &Checkpoint, backend: Backend) -> Box<dyn CrossEncoder> {
    build_as(checkpoint, backend, Dtype::F32)
}

fn build_as(checkpoint: &Checkpoint, backend: Backend, dtype: Dtype) -> Box<dyn CrossEncoder> {
    let options = BuildOptions {
        backend,
        dtype,
        device: Device::Cpu(1),
        require_gpu: false,
        batch_tokens: None,
        max_length: 512,
    };
    checkpoint.build(&options).unwrap().encoders.remove(0)
}

/// The tiny model of odd shapes, as a directory with the configuration of one generation of
/// transformers.
fn tiny(config: &str) -> Box<dyn CrossEncoder> {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixture("tiny").join(config), dir.path().join("config.json")).unwrap();
    fs::copy(
        fixture("tiny/model.safetensors"),
        dir.path().join("model.safetensors"),
    )
    .unwrap();
    fs::copy(
        "models/demo/tokenizer.json",
        dir.path().join("tokenizer.json"),
    )
    .unwrap();
    build(
        &open(&Source::Directory(dir.path().to_owned())),
        Backend::Native,
    )
}

fn pack(sequences: &[Vec<u32>]) -> Batch {
    Batch::pack(sequences.iter().map(Vec::as_slice))
}

fn assert_close(model: &dyn CrossEncoder, batches: &[GoldenBatch]) {
    assert!(!batches.is_empty());
    for golden in batches {
        let logits = model.predict(&pack(&golden.input_ids)).unwrap();
        assert_eq!(logits.len(), golden.logits.len());
        for ((ours, theirs), ids) in logits.iter().zip(&golden.logits).zip(&golden.input_ids) {
            assert!(
                (ours - theirs).abs() <= TOLERANCE,
                "{ours} is not {theirs}: {} tokens in a batch of {}",
                ids.len(),
                logits.len()
            );
        }
    }
}

fn encode(tokenizer: &PairTokenizer, query: &str, document: &str, side: Side) -> Vec<Vec<u32>> {
    let truncation = Truncation {
        side,
        ..Truncation::default()
    };
    let extent = tokenizer.query_extent(truncation);
    let query = tokenizer.encode(query, extent, &|| true).unwrap().unwrap();
    let extent = tokenizer.document_extent(&query, truncation);
    let document = tokenizer.encode_document(document, extent, &|| true);
    let document = document.unwrap().unwrap();
    tokenizer.join(&query, &document, truncation).unwrap()
}

#[test]
fn tokens_are_those_of_hugging_face() {
    let checkpoint = open(&Source::Demo);
    let mut tokenizers = HashMap::new();
    for case in golden::<Tokens>("tokens.json").cases {
        let tokenizer = tokenizers
            .entry(case.max_length)
            .or_insert_with_key(|&max_length| {
                PairTokenizer::new(&checkpoint.tokenizer, max_length).unwrap()
            });
        let side = match case.direction.as_str() {
            "left" => Side::Left,
            _ => Side::Right,
        };
        let pairs = encode(tokenizer, &case.query, &case.document, side);
        assert_eq!(pairs, [case.input_ids], "{}", case.name);
    }
}

#[test]
fn remembered_documents_have_the_same_tokens() {
    let checkpoint = open(&Source::Demo);
    let plain = PairTokenizer::new(&checkpoint.tokenizer, 512).unwrap();
    let remembering = PairTokenizer::new(&checkpoint.tokenizer, 512).unwrap();
    let remembering = remembering.remember(100_000);
    for case in golden::<Tokens>("tokens.json").cases {
        let read = |tokenizer, side| encode(tokenizer, &case.query, &case.document, side);
        for side in [Side::Right, Side::Left, Side::Right] {
            assert_eq!(read(&remembering, side), read(&plain, side));
        }
    }
}

#[test]
fn logits_are_those_of_transformers() {
    let golden: Logits = golden("logits.json");
    let model = build(&open(&Source::Demo), Backend::Native);
    assert_close(model.as_ref(), &golden.batches);
    assert_close(model.as_ref(), &golden.interior_pad);
}

#[test]
fn logits_from_text_are_those_of_transformers() {
    let checkpoint = open(&Source::Demo);
    let tokenizer = PairTokenizer::new(&checkpoint.tokenizer, 512).unwrap();
    let model = build(&checkpoint, Backend::Native);
    for case in golden::<Logits>("logits.json").text {
        let pair = encode(&tokenizer, &case.query, &case.document, Side::Right);
        let logit = model.predict(&pack(&pair)).unwrap()[0];
        assert!(
            (logit - case.logit).abs() <= TOLERANCE,
            "{logit} is not {}: {} / {}",
            case.logit,
            case.query,
            case.document
        );
    }
}

#[test]
fn odd_shapes_and_both_generations_of_config_are_right() {
    let golden: Logits = golden("tiny.json");
    for config in ["config.json", "config-v5.json"] {
        assert_close(tiny(config).as_ref(), &golden.batches);
    }
}

#[test]
fn the_candle_backend_agrees() {
    let checkpoint = open(&Source::Demo);
    let (native, reference) = (
        build(&checkpoint, Backend::Native),
        build(&checkpoint, Backend::Candle),
    );
    // Its position ids do not skip a literal <pad>, so those golden batches are left out.
    for golden in golden::<Logits>("logits.json").batches {
        let batch = pack(&golden.input_ids);
        let (ours, theirs) = (
            native.predict(&batch).unwrap(),
            reference.predict(&batch).unwrap(),
        );
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!((ours - theirs).abs() <= TOLERANCE, "{ours} is not {theirs}");
        }
    }
}

/// How far from f32 a logit may be: about three times the largest error seen over these batches.
const LOWER: [(Dtype, f32); 3] = [(Dtype::F16, 0.01), (Dtype::Bf16, 0.3), (Dtype::Int8, 0.2)];

#[test]
fn lower_precisions_are_near() {
    let batches = golden::<Logits>("logits.json").batches;
    let checkpoint = open(&Source::Demo);
    for (dtype, tolerance) in LOWER {
        let model = build_as(&checkpoint, Backend::Native, dtype);
        let mut worst = 0.0f32;
        for golden in &batches {
            let logits = model.predict(&pack(&golden.input_ids)).unwrap();
            for (ours, theirs) in logits.iter().zip(&golden.logits) {
                assert!(ours.is_finite(), "{dtype:?}");
                worst = worst.max((ours - theirs).abs());
            }
        }
        assert!(worst <= tolerance, "{dtype:?}: a logit is off by {worst}");
        assert!(worst > 0.0, "{dtype:?} is f32 in disguise");
    }
}

#[test]
fn a_score_does_not_depend_on_its_batch_mates() {
    let golden: Logits = golden("logits.json");
    let sequences: Vec<Vec<u32>> = golden
        .batches
        .into_iter()
        .flat_map(|batch| batch.input_ids)
        .take(120)
        .collect();
    for (dtype, _) in LOWER.iter().chain(&[(Dtype::F32, 0.0)]) {
        let model = build_as(&open(&Source::Demo), Backend::Native, *dtype);
        let alone: Vec<f32> = sequences
            .iter()
            .map(|ids| model.predict(&pack(std::slice::from_ref(ids))).unwrap()[0])
            .collect();
        for size in [2, 3, 7, 64, sequences.len()] {
            let together: Vec<f32> = sequences
                .chunks(size)
                .flat_map(|chunk| model.predict(&pack(chunk)).unwrap())
                .collect();
            assert_eq!(together, alone, "bit for bit in batches of {size}");
        }
    }
}
