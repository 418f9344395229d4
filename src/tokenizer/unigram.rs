//! The best segmentation of a word into pieces of the vocabulary, found while the word is still
//! being read.
//!
//! This is the Viterbi search of Hugging Face's `Unigram`, to the bit: for each end of a piece, the
//! candidates come in the order of their starts, earliest first, and only a better sum of scores
//! (the same additions in f64) replaces the one before. There the candidates of a position are
//! pushed from their starts; here an Aho-Corasick automaton names all pieces that end at a
//! position, longest first, which is the same order.
//!
//! What has been read may be settled before the word ends. No piece is longer than `longest` bytes,
//! so every segmentation of the whole word has an end of a piece among the last `longest`
//! positions, and up to there it is the best one of that prefix. If the best segmentations of all
//! these prefixes have a node in common, everything up to that node is settled. In some words they
//! never have one ("aaaa…": where the odd piece goes depends on how many letters follow). Then each
//! of the last positions is given its tokens so far, as many as can matter, and everything before
//! them is forgotten: memory is bounded.

use std::{collections::BTreeMap, mem};

use daachorse::{DoubleArrayAhoCorasick, bytewise::iter::FindOverlappingStepper};
use tokenizers::models::unigram::Unigram as Model;

use super::tokens::{Extent, Side};

/// What an unknown character costs, beside the least score of the vocabulary.
const UNKNOWN_PENALTY: f64 = 10.0;

/// Bytes that are read between two attempts to settle what was read before them, at least.
const ATTEMPT: usize = 256;

/// Bytes that are remembered at least, before any are forgotten that are not settled.
const LIMIT: usize = 4096;

/// Pieces and their scores.
pub(super) struct Unigram {
    automaton: DoubleArrayAhoCorasick<u32>,
    scores: Vec<f64>,
    unknown: u32,
    unknown_score: f64,
    /// Bytes of the longest piece.
    longest: usize,
}

impl Unigram {
    /// Reads the vocabulary; none if something about it is unusual.
    pub(super) fn new(model: &Model, unknown: usize) -> Option<Self> {
        let scores: Vec<f64> = model.iter().map(|(_, score)| *score).collect();
        let mut pieces = BTreeMap::new();
        for (id, (piece, _)) in model.iter().enumerate() {
            pieces.insert(piece.as_str(), u32::try_from(id).ok()?); // the last of equal ones counts
        }
        pieces.remove("");
        // With these, unknown characters in a row are one token, whatever the vocabulary has.
        let unknown_piece = model.iter().nth(unknown)?.0.as_str();
        let is_fused_always = scores.iter().all(|&score| score <= 0.0)
            && pieces
                .keys()
                .all(|&piece| piece == unknown_piece || !piece.contains(unknown_piece));
        let longest = pieces.keys().map(|piece| piece.len()).max()?.max(4); // an unknown character has 4
        let is_usual = is_fused_always
            && !unknown_piece.is_empty()
            && longest <= 255
            && model.min_score.is_finite()
            && !model.byte_fallback()
            && model.alpha.is_none();
        is_usual.then_some(())?;
        Some(Self {
            automaton: DoubleArrayAhoCorasick::with_values(pieces).ok()?,
            scores,
            unknown: u32::try_from(unknown).ok()?,
            unknown_score: model.min_score - UNKNOWN_PENALTY,
            longest,
        })
    }
}

/// A position in a word, by the best segmentation of what is before it.
#[derive(Clone, Copy)]
struct Node {
    score: f64,
    /// The last piece, or which of the beginnings this is.
    id: u32,
    /// Bytes of the last piece. 0 for a beginning.
    length: u16,
    /// False inside a character.
    is_boundary: bool,
    /// Whether [`Lattice::common`] is still looking at it.
    is_live: bool,
}

/// A word of which a part has been read.
pub(super) struct Lattice<'a> {
    unigram: &'a Unigram,
    extent: Extent,
    automaton: FindOverlappingStepper<'a, u32>,
    /// One for each byte, from the first one that is not settled.
    nodes: Vec<Node>,
    /// The tokens that lead to those nodes that have none before them, from the last settled token.
    beginnings: Vec<Vec<u32>>,
    /// Whether the last settled token stands for unknown characters.
    is_last_unknown: bool,
    /// The number of nodes at which to settle what can be settled.
    attempt: usize,
}

impl<'a> Lattice<'a> {
    pub(super) fn new(unigram: &'a Unigram, extent: Extent) -> Self {
        Self {
            unigram,
            extent,
            automaton: unigram.automaton.find_overlapping_stepper(),
            nodes: Vec::new(),
            beginnings: Vec::new(),
            is_last_unknown: false,
            attempt: ATTEMPT,
        }
    }

    /// Begins a word.
    fn start(&mut self) {
        self.automaton = self.unigram.automaton.find_overlapping_stepper();
        self.nodes.push(Node {
            score: 0.0,
            id: 0,
            length: 0,
            is_boundary: true,
            is_live: false,
        });
        self.beginnings.clear();
        self.begin(0, Vec::new());
        self.is_last_unknown = false;
        self.attempt = ATTEMPT;
    }

    /// Reads a character; tokens that are settled by it are appended.
    pub(super) fn push(&mut self, c: char, tokens: &mut Vec<u32>) {
        if self.nodes.is_empty() {
            self.start();
        }
        let mut bytes = [0; 4];
        let bytes = c.encode_utf8(&mut bytes).as_bytes();
        for &byte in bytes {
            self.automaton.consume(byte);
        }
        let end = self.nodes.len() + bytes.len() - 1;
        let node = |score, id, length: usize| Node {
            score,
            id,
            #[expect(
                clippy::cast_possible_truncation,
                reason = "no piece is longer than 255 bytes"
            )]
            length: length as u16,
            is_boundary: true,
            is_live: false,
        };
        let mut best = node(f64::NEG_INFINITY, 0, 0);
        let mut is_known = false;
        for piece in self.automaton.matches() {
            let length = piece.end() - piece.start();
            let score =
                self.unigram.scores[piece.value() as usize] + self.nodes[end - length].score;
            if score > best.score {
                best = node(score, piece.value(), length);
            }
            is_known |= length == bytes.len();
        }
        if !is_known {
            let score = self.unigram.unknown_score + self.nodes[end - bytes.len()].score;
            if score > best.score {
                best = node(score, self.unigram.unknown, bytes.len());
            }
        }
        for _ in 1..bytes.len() {
            let mut inside = node(0.0, 0, 0);
            inside.is_boundary = false;
            self.nodes.push(inside);
        }
        self.nodes.push(best);
        if self.nodes.len() >= self.attempt {
            self.settle(tokens);
        }
    }

    /// Ends the word and appends the rest of its tokens.
    pub(super) fn finish(&mut self, tokens: &mut Vec<u32>) {
        let path = self.path(self.nodes.len() - 1);
        self.append(&path, tokens);
        self.nodes.clear();
    }

    /// Appends what is certain whatever follows, and makes room.
    fn settle(&mut self, tokens: &mut Vec<u32>) {
        let window = self.nodes.len().saturating_sub(self.unigram.longest);
        if let Some(common) = self.common(window) {
            let path = self.path(common);
            self.append(&path, tokens);
            self.nodes.drain(..common);
            self.beginnings.clear();
            self.begin(0, Vec::new());
        } else if self.nodes.len() >= self.limit() {
            self.forget(window, tokens);
        }
        self.attempt = (2 * self.nodes.len()).max(ATTEMPT);
    }

    /// The last node that the segmentations of all prefixes that end in the window have in common,
    /// if it settles anything.
    fn common(&mut self, window: usize) -> Option<usize> {
        let mut live = 0;
        for node in &mut self.nodes[window..] {
            node.is_live = node.is_boundary;
            live += usize::from(node.is_boundary);
        }
        for at in (0..self.nodes.len()).rev() {
            let node = &mut self.nodes[at];
            if !mem::take(&mut node.is_live) {
                continue;
            }
            let (is_beginning, length, id) = (node.length == 0, node.length, node.id);
            if live == 1 {
                let settles = at > 0 || !self.beginnings[id as usize].is_empty();
                return settles.then_some(at);
            }
            if is_beginning {
                break;
            }
            let before = &mut self.nodes[at - usize::from(length)];
            live -= usize::from(mem::replace(&mut before.is_live, true));
        }
        self.nodes.iter_mut().for_each(|node| node.is_live = false);
        None
    }

    /// Bytes to remember before it pays to [forget](Self::forget) them.
    fn limit(&self) -> usize {
        LIMIT.max(self.extent.tokens.saturating_mul(8))
    }

    /// Makes beginnings of the nodes in the window, and settles what all of them begin with.
    fn forget(&mut self, window: usize, tokens: &mut Vec<u32>) {
        let ends = (window..self.nodes.len()).filter(|&at| self.nodes[at].is_boundary);
        let mut paths: Vec<Vec<u32>> = ends.map(|at| self.path(at)).collect();
        if self.extent.side == Side::Right {
            let shared = paths.iter().skip(1).fold(paths[0].len(), |shared, path| {
                let same = path.iter().zip(&paths[0]).take_while(|(a, b)| a == b);
                shared.min(same.count())
            });
            self.append(&paths[0][..shared], tokens);
            for path in &mut paths {
                path.drain(..shared);
            }
        }
        // One more shows that there are more, and one may become part of the last settled token.
        let room = match self.extent.side {
            Side::Right => (self.extent.tokens.saturating_add(2)).saturating_sub(tokens.len()),
            Side::Left => self.extent.tokens.saturating_add(2),
        };
        for path in &mut paths {
            let excess = path.len().saturating_sub(room);
            match self.extent.side {
                Side::Right => path.truncate(room),
                Side::Left => drop(path.drain(..excess)),
            }
        }
        self.nodes.drain(..window);
        let mut paths = paths.into_iter();
        self.beginnings.clear();
        for at in 0..self.nodes.len() {
            if self.nodes[at].is_boundary {
                self.begin(at, paths.next().unwrap_or_default());
            }
        }
    }

    /// Makes a beginning of a node.
    fn begin(&mut self, at: usize, path: Vec<u32>) {
        self.nodes[at].length = 0;
        #[expect(clippy::cast_possible_truncation, reason = "at most 255, see `forget`")]
        let id = self.beginnings.len() as u32;
        self.nodes[at].id = id;
        self.beginnings.push(path);
    }

    /// The tokens up to a node, from the last settled one. Unknown characters in a row are one
    /// token.
    fn path(&self, mut at: usize) -> Vec<u32> {
        let mut pieces = Vec::new();
        let mut node = self.nodes[at];
        while node.length > 0 {
            pieces.push(node.id);
            at -= usize::from(node.length);
            node = self.nodes[at];
        }
        let mut path = self.beginnings[node.id as usize].clone();
        for id in pieces.into_iter().rev() {
            if id != self.unigram.unknown || path.last() != Some(&id) {
                path.push(id);
            }
        }
        path
    }

    /// Appends settled tokens.
    fn append(&mut self, path: &[u32], tokens: &mut Vec<u32>) {
        let unknown = Some(&self.unigram.unknown);
        let continues = self.is_last_unknown && path.first() == unknown;
        tokens.extend_from_slice(&path[usize::from(continues)..]);
        if let Some(last) = path.last() {
            self.is_last_unknown = Some(last) == unknown;
        }
    }
}
