//! What a path takes, and whose clients ask there.

/// What a path takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Every rerank format, by the rules above.
    Any,
    /// `results` and those that are told from it by their keys, and `tei` where there are `texts`.
    Results,
    /// The same, with documents repeated as strings.
    Infinity,
    /// `tei` only.
    Tei,
    /// `score` only.
    Score,
    /// `nim` only.
    Nim,
    /// `hugging_face` only.
    HuggingFace,
    /// `dashscope`, or `results` where there is no `input`.
    Dashscope,
    /// `predict` only.
    Predict,
}

/// A family of clients, which read the same form of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// `RAGFab`.
    Ragfab,
    /// Text-embeddings-inference.
    Tei,
    /// Everyone whose answer has `results`, and vLLM's score.
    Results,
    /// Cannot be told.
    Unknown,
}

impl Family {
    /// The name of the family in metrics, where no request was read.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ragfab => "ragfab",
            Self::Tei => "tei",
            Self::Results => "results",
            Self::Unknown => "unknown",
        }
    }
}

impl Route {
    /// The family of clients that asks here, as far as the path tells.
    pub(crate) fn family(self) -> Family {
        match self {
            Self::Any => Family::Unknown,
            Self::Results | Self::Infinity | Self::Score | Self::Nim | Self::Dashscope => {
                Family::Results
            }
            Self::Tei | Self::HuggingFace | Self::Predict => Family::Tei,
        }
    }
}
