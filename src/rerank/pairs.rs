//! From a job to pairs of tokens: each distinct text is encoded once, each distinct pair scored
//! once.

use std::{
    collections::{HashMap, hash_map::Entry},
    ops::Range,
};

use super::job::{Job, distinct};
use crate::{
    error::{Error, Result},
    text_pool::Demand,
    tokenizer::{Encoding, Extent, PairTokenizer, Tokens},
};

/// Bytes of text that are one piece of work.
const PIECE: usize = 32 * 1024;

/// The distinct pairs of a job.
pub(super) struct Pairs {
    pub(super) encodings: Vec<Encoding>,
    /// The encodings of each document of the job: several if it is read in windows.
    pub(super) slots: Vec<Range<usize>>,
}

impl Pairs {
    /// Tokens of all documents' pairs, those of equal documents too.
    pub(super) fn tokens(&self) -> usize {
        let slots = self.slots.iter().cloned();
        slots.flatten().map(|pair| self.encodings[pair].len()).sum()
    }
}

/// Which texts of a job are to be encoded, and which of them are joined.
pub(super) struct Plan {
    job: Job,
    /// The first of each group of equal queries.
    queries: Vec<usize>,
    /// The first of each group of equal documents.
    documents: Vec<usize>,
    /// The query and the text of each document of the job, as places in the lists above.
    pairs: Vec<(usize, usize)>,
}

impl Plan {
    pub(super) fn new(job: Job) -> Self {
        let (queries, query_of) = distinct(&job.queries);
        let (documents, text_of) = distinct(&job.documents);
        let pair = |(place, text)| match query_of[..] {
            [only] => (only, text),
            _ => (query_of[place], text),
        };
        let pairs = text_of.into_iter().enumerate().map(pair).collect();
        Self {
            job,
            queries,
            documents,
            pairs,
        }
    }

    /// How much of each distinct document can matter, given the queries that it is joined to.
    pub(super) fn extents(&self, tokenizer: &PairTokenizer, queries: &[Tokens]) -> Vec<Extent> {
        let truncation = self.job.truncation;
        let of_query = |query| tokenizer.document_extent(query, truncation);
        let of_query: Vec<Extent> = queries.iter().map(of_query).collect();
        let mut extents: Vec<Option<Extent>> = vec![None; self.documents.len()];
        for &(query, document) in &self.pairs {
            let larger = extents[document].filter(|e| e.tokens >= of_query[query].tokens);
            extents[document] = larger.or(Some(of_query[query]));
        }
        extents.into_iter().flatten().collect()
    }

    /// Distinct documents in pieces of work, each with its bytes. Of a long document few bytes are
    /// likely to be read, but there are texts that must be read to their end.
    pub(super) fn pieces(&self) -> Vec<(usize, Range<usize>)> {
        let mut pieces: Vec<(usize, Range<usize>)> = Vec::new();
        for (place, &document) in self.documents.iter().enumerate() {
            let bytes = self.job.documents[document].len();
            match pieces.last_mut() {
                Some((sum, range)) if *sum + bytes <= PIECE => {
                    *sum += bytes;
                    range.end = place + 1;
                }
                _ => pieces.push((bytes, place..place + 1)),
            }
        }
        pieces
    }

    /// The tokens of all distinct queries.
    pub(super) fn encode_queries(
        &self,
        tokenizer: &PairTokenizer,
        demand: &Demand,
    ) -> Result<Vec<Tokens>> {
        let extent = tokenizer.query_extent(self.job.truncation);
        let queries = self.queries.iter();
        queries
            .map(|&query| {
                let text = &self.job.queries[query];
                let tokens = tokenizer.encode(text, extent, &|| demand.is_there())?;
                tokens.ok_or_else(|| demand.ended())
            })
            .collect()
    }

    /// The tokens of a range of the distinct documents.
    pub(super) fn encode_documents(
        &self,
        range: Range<usize>,
        extents: &[Extent],
        tokenizer: &PairTokenizer,
        demand: &Demand,
    ) -> Result<Vec<Tokens>> {
        range
            .map(|place| {
                let text = &self.job.documents[self.documents[place]];
                let goes_on = || demand.is_there();
                let tokens = tokenizer.encode_document(text, extents[place], &goes_on)?;
                tokens.ok_or_else(|| demand.ended())
            })
            .collect()
    }

    /// Joins the tokens of queries and documents to pairs, at most `most` of them.
    pub(super) fn join(
        &self,
        tokenizer: &PairTokenizer,
        queries: &[Tokens],
        documents: &[Tokens],
        most: usize,
    ) -> Result<Pairs> {
        let mut truncation = self.job.truncation;
        // One more than fit is enough to refuse the request.
        truncation.chunks = truncation.chunks.map(|chunks| chunks.min(most + 1));
        let mut encodings = Vec::new();
        let mut seen = HashMap::new();
        let mut slots = Vec::with_capacity(self.pairs.len());
        for (index, &(query, document)) in self.pairs.iter().enumerate() {
            let slot = match seen.entry((query, document)) {
                Entry::Occupied(slot) => Range::clone(slot.get()),
                Entry::Vacant(place) => {
                    let windows = tokenizer
                        .join(&queries[query], &documents[document], truncation)
                        .map_err(|too_long| Error::PairTooLong {
                            index,
                            tokens: too_long.tokens,
                            are_all: too_long.are_all,
                            limit: too_long.limit,
                        })?;
                    let start = encodings.len();
                    encodings.extend(windows);
                    place.insert(start..encodings.len()).clone()
                }
            };
            slots.push(slot);
            if encodings.len() > most {
                return Err(Error::TooManyPairs {
                    pairs: encodings.len(),
                    limit: most,
                });
            }
        }
        Ok(Pairs { encodings, slots })
    }
}

/// The pairs of a job that is small, in one go.
pub(super) fn encode(
    tokenizer: &PairTokenizer,
    job: Job,
    most: usize,
    demand: &Demand,
) -> Result<Pairs> {
    let plan = Plan::new(job);
    let queries = plan.encode_queries(tokenizer, demand)?;
    let extents = plan.extents(tokenizer, &queries);
    let documents = plan.encode_documents(0..extents.len(), &extents, tokenizer, demand)?;
    plan.join(tokenizer, &queries, &documents, most)
}
