//! What is known of a pair.

use crate::metrics::PairSource;

/// The logit of a pair and where it came from; none if it is to be computed.
pub(crate) type Known = Option<(f32, PairSource)>;
