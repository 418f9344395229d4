//! What is computed before the first request: a pair that shows that the model works, and batches
//! that show how fast.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tracing::info;

use super::{job::Job, pairs::encode};
use crate::{
    batch::Batch, deadline::Deadline, model::CrossEncoder, queue::Pace, text_pool::Demand,
    tokenizer::PairTokenizer,
};

/// A batch of less than this share of the largest one, as a divisor, does not show the speed.
pub(super) const SMALLEST_MEASURED: usize = 4;

/// Has a model score a pair.
pub(super) fn warm_up(encoder: &dyn CrossEncoder, tokenizer: &PairTokenizer) -> anyhow::Result<()> {
    let job = Job {
        queries: vec!["warm-up".into()],
        documents: vec!["A first pair, so that the second finds everything in place.".into()],
        ..Job::default()
    };
    let pairs = encode(tokenizer, job, 1, &Demand::until(Deadline::far_away()))?;
    let logits = encoder.predict(&Batch::pack(pairs.encodings.iter().map(Vec::as_slice)))?;
    ensure!(
        logits.iter().all(|logit| logit.is_finite()),
        "its logit is {logits:?}; the weights may be damaged"
    );
    info!(logit = logits[0], "warm-up pair scored");
    Ok(())
}

/// Has a model compute pairs of a usual length, and full batches of them if one takes no longer
/// than a second: admission needs to know from the first request on how fast it is.
pub(super) fn measure(
    encoder: &dyn CrossEncoder,
    max_length: usize,
    batch_tokens: usize,
    pace: &mut Pace,
) -> anyhow::Result<()> {
    /// Query, document and special tokens. A token of a longer pair takes longer.
    const USUAL: usize = 128;
    const AT_MOST: Duration = Duration::from_secs(1);
    const LONG_ENOUGH: Duration = Duration::from_millis(500);
    let pair = vec![0; USUAL.min(max_length)];
    let pairs = (batch_tokens / pair.len()).max(1);
    let mut time = |pairs: usize| {
        let batch = Batch::pack(vec![pair.as_slice(); pairs]);
        let started = Instant::now();
        encoder.predict(&batch)?;
        pace.observe(pairs * pair.len(), started.elapsed());
        anyhow::Ok(started.elapsed())
    };
    let quarter = time(pairs.div_ceil(SMALLEST_MEASURED))?;
    if quarter * u32::try_from(SMALLEST_MEASURED)? <= AT_MOST {
        let started = Instant::now();
        while started.elapsed() < LONG_ENOUGH {
            time(pairs)?;
        }
    }
    Ok(())
}
