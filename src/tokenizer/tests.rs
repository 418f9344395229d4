//! What is read of a text, and every pair made of it, is held against Hugging Face's library
//! reading the whole.

use std::sync::{
    LazyLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::*;

const DEMO: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/models/demo/tokenizer.json"
));

fn demo(change: impl FnOnce(&mut Value)) -> PairTokenizer {
    let mut json = serde_json::from_slice(DEMO).unwrap();
    change(&mut json);
    PairTokenizer::new(json.to_string().as_bytes(), 512).unwrap()
}

/// White space that is not removed, as newer checkpoints have it.
fn keep_spaces(json: &mut Value) {
    json["pre_tokenizer"] = json["pre_tokenizer"]["pretokenizers"][1].clone();
}

fn collapse_spaces(json: &mut Value) {
    keep_spaces(json);
    let replace = json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "});
    json["normalizer"] = json!({"type": "Sequence", "normalizers": [json["normalizer"], replace]});
}

/// A vocabulary of few letters, in which many segmentations are equally good.
fn of_few_letters(json: &mut Value, scores: &[f64]) {
    let mut vocabulary = vec![
        json!(["<s>", 0.0]),
        json!(["<pad>", 0.0]),
        json!(["</s>", 0.0]),
    ];
    vocabulary.push(json!(["<unk>", 0.0]));
    let pieces = [
        "a", "b", "é", "aa", "ab", "ba", "bb", "aaa", "aba", "bab", "aaaa", "abab", "éa", "aé",
        "bbbbb", "▁", "▁a", "▁b", "▁ab", "▁aa", "query", "document", "aaaaaaa",
    ];
    let scores = scores.iter().cycle();
    vocabulary.extend(
        pieces
            .iter()
            .zip(scores)
            .map(|(piece, score)| json!([piece, score])),
    );
    json["model"]["vocab"] = vocabulary.into();
    json["added_tokens"][4]["id"] = json!(27);
    json["added_tokens"][4]["rstrip"] = json!(true);
}

/// All ways of treating spaces, and the demo's vocabulary beside one with ties.
static TOKENIZERS: LazyLock<Vec<PairTokenizer>> = LazyLock::new(|| {
    let tie = |json: &mut Value| of_few_letters(json, &[-1.0, -1.0, -1.0, -2.0]);
    vec![
        demo(|_| ()),
        demo(keep_spaces),
        demo(collapse_spaces),
        demo(tie),
        demo(|json| {
            tie(json);
            keep_spaces(json);
        }),
        demo(|json| {
            of_few_letters(json, &[-1.1, -2.3, -0.7, -3.1, -1.9]);
            collapse_spaces(json);
        }),
    ]
});

fn theirs(tokenizer: &PairTokenizer, text: &str) -> Vec<u32> {
    let encoding = tokenizer.tokenizer.encode_fast(strip(text), false);
    encoding.unwrap().get_ids().to_vec()
}

fn ours(tokenizer: &PairTokenizer, text: &str, extent: Extent) -> Tokens {
    assert!(tokenizer.reader.is_some());
    tokenizer.encode(text, extent, &|| true).unwrap().unwrap()
}

/// Checks that both ends of a text, read to several extents, are those of the whole text.
fn check(tokenizer: &PairTokenizer, text: &str) {
    let want = theirs(tokenizer, text);
    for tokens in [
        usize::MAX,
        0,
        1,
        3,
        17,
        want.len().max(1) - 1,
        want.len(),
        want.len() + 1,
    ] {
        for side in [Side::Left, Side::Right] {
            let found = ours(tokenizer, text, Extent { tokens, side });
            let about = || text.chars().take(300).collect::<String>();
            assert_eq!(
                found.ids,
                side.cut(&want, Some(tokens)),
                "{tokens} {side:?} {:?}",
                about()
            );
            assert_eq!(
                found.is_whole,
                tokens >= want.len(),
                "{tokens} {side:?} {:?}",
                about()
            );
        }
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-zéœß«»0-9.,'’ \n\t]{0,60}",
        "([a-z]{1,9}|[ \t\r\n\u{a0}\u{3000}\u{200b}\u{200d}]|[\u{300}\u{301}\u{903}\u{600}\u{ad}▁]|[ﷺͺ¨½①ｶﾞ\u{1100}\u{1161}👍🏽]){0,30}",
        "(<mask>|<s>|</s>|<pad>|[ a-c<>\u{600}\u{301}]| {2}|\r\n){0,20}",
        "([ab]{1,9}|é| {1,3}|\r\n|\n{2}|▁|x|漢){0,40}",
        "(क|्|\u{200d}|ा|🇫|👩|🏽|e|\u{301}|\r|\n|\u{1}|ㅏ|ᄀ| ){0,30}",
    ]
}

/// Many words, or few very long ones: all that has a limit in the reader is met.
fn long_text() -> impl Strategy<Value = String> {
    let repeated = (any_text(), 1usize..2000).prop_map(|(text, times)| text.repeat(times));
    let mixed = prop::collection::vec((any_text(), 1usize..400), 1..6).prop_map(|parts| {
        let parts = parts.into_iter().map(|(text, times)| text.repeat(times));
        parts.collect::<String>()
    });
    prop_oneof![
        repeated,
        mixed,
        "[ab]{0,12000}",
        "([ab]{1,40}|é{1,9}|x|漢| ){0,2000}",
        "e\u{301}{0,9000}[ab ]{0,10}",
        "\u{600} {0,9000}(<mask>|b)",
    ]
    .prop_map(|text| text.chars().take(40_000).collect())
}

fn any_truncation() -> impl Strategy<Value = Truncation> {
    let at_most = || prop::option::of(0usize..60);
    let length = prop::option::of(0usize..90);
    let chunks = prop::option::of(prop_oneof![0usize..6, Just(1000)]);
    (
        length,
        at_most(),
        at_most(),
        chunks,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(max_length, query_tokens, document_tokens, chunks, left, refuse)| Truncation {
                max_length,
                query_tokens,
                document_tokens,
                side: if left { Side::Left } else { Side::Right },
                chunks,
                refuse,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn texts_are_read_as_they_read_them(text in any_text()) {
        for tokenizer in &*TOKENIZERS {
            check(tokenizer, &text);
        }
    }

    #[test]
    fn pairs_are_those_of_whole_texts(
        query in prop_oneof![any_text(), "([a-b]{1,3} ){0,60}"],
        document in prop_oneof![any_text(), "([a-b]{1,3} ){0,200}"],
        truncation in any_truncation(),
    ) {
        for tokenizer in &*TOKENIZERS {
            let query_part = ours(tokenizer, &query, tokenizer.query_extent(truncation));
            let extent = tokenizer.document_extent(&query_part, truncation);
            let document_part = ours(tokenizer, &document, extent);
            let found = tokenizer.join(&query_part, &document_part, truncation);
            let [query, document] = [&query, &document].map(|text| Tokens::whole(theirs(tokenizer, text)));
            match (found, tokenizer.join(&query, &document, truncation)) {
                (Ok(found), Ok(want)) => prop_assert_eq!(found, want),
                (Err(found), Err(want)) => {
                    prop_assert_eq!(found.limit, want.limit);
                    prop_assert!(found.tokens <= want.tokens && found.tokens > found.limit);
                    prop_assert!(!found.are_all || found.tokens == want.tokens);
                }
                (found, want) => prop_assert!(false, "{found:?} is not {want:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn long_texts_are_read_as_they_read_them(text in long_text()) {
        for tokenizer in &*TOKENIZERS {
            check(tokenizer, &text);
        }
    }

    #[test]
    fn long_words_are_cut_as_they_cut_them(
        text in "[ab]{0,9}|[abx]{0,30}|[abé]{0,40}", times in 1usize..3000,
        scores in prop::collection::vec(prop_oneof![Just(-1.0), Just(-2.0), Just(-3.0), -9.0f64..0.0], 1..30),
    ) {
        check(&demo(|json| of_few_letters(json, &scores)), &text.repeat(times));
    }
}

#[test]
fn truncation_takes_from_the_longer_side() {
    for (query, document, room, want) in [
        (3, 4, 7, (3, 4)),
        (3, 100, 20, (3, 17)),
        (100, 3, 20, (17, 3)),
        (100, 100, 21, (10, 11)),
        (100, 99, 21, (11, 10)),
        (10, 11, 20, (10, 10)),
        (0, 30, 20, (0, 20)),
        (30, 30, 1, (0, 1)),
    ] {
        assert_eq!(
            longest_first(query, document, room),
            want,
            "{query} + {document} in {room}"
        );
    }
}

proptest! {
    #[test]
    fn truncation_fills_the_room_and_no_more(query in 0usize..600, document in 0usize..600, room in 1usize..600) {
        let (q, d) = longest_first(query, document, room);
        prop_assert!(q <= query && d <= document);
        prop_assert_eq!(q + d, (query + document).min(room));
    }
}

#[test]
fn windows_overlap_and_reach_the_end() {
    let document: Vec<u32> = (0..10).collect();
    let all = |length, chunks, side| -> Vec<Vec<u32>> {
        windows(&document, length, chunks, side)
            .map(<[u32]>::to_vec)
            .collect()
    };
    let firsts = |windows: Vec<Vec<u32>>| -> Vec<u32> { windows.iter().map(|w| w[0]).collect() };
    assert_eq!(firsts(all(4, 9, Side::Right)), [0, 3, 6]);
    assert_eq!(firsts(all(4, 2, Side::Right)), [0, 3]);
    assert_eq!(firsts(all(4, 9, Side::Left)), [6, 3, 0]);
    assert_eq!(all(10, 9, Side::Right), std::slice::from_ref(&document));
    assert_eq!(all(0, 1, Side::Right), [Vec::<u32>::new()]);
    assert_eq!(all(4, 0, Side::Left), [[6, 7, 8, 9]]);
}

proptest! {
    #[test]
    fn windows_cover_the_document_unless_there_are_too_many(
        tokens in 0usize..2000, length in 1usize..600, chunks in 1usize..30, left: bool,
    ) {
        let document: Vec<u32> = (0..).take(tokens).collect();
        let length = length.min(tokens);
        let side = if left { Side::Left } else { Side::Right };
        let windows: Vec<&[u32]> = windows(&document, length, chunks, side).collect();
        prop_assert!((1..=chunks).contains(&windows.len()));
        prop_assert!(windows.iter().all(|window| window.len() == length));
        prop_assert_eq!(windows[0], side.cut(&document, Some(length)));
        let seen: std::collections::HashSet<u32> = windows.iter().flat_map(|w| w.iter().copied()).collect();
        prop_assert!(seen.len() == tokens || windows.len() == chunks);
    }
}

#[test]
fn strips_what_python_strips() {
    assert_eq!(
        strip(" \t\n\u{a0}\u{2003}\u{1c}\u{85}a b\u{3000}\r\n"),
        "a b"
    );
    assert_eq!(
        strip("\u{200b}a\u{feff}"),
        "\u{200b}a\u{feff}",
        "zero-width characters are not space to Python"
    );
}

#[test]
fn a_tokenizer_of_another_kind_is_read_by_their_library() {
    for (path, value) in [
        ("/pre_tokenizer", json!(null)),
        (
            "/pre_tokenizer/pretokenizers/1/prepend_scheme",
            json!("first"),
        ),
        ("/pre_tokenizer/pretokenizers/1/split", json!(false)),
        ("/normalizer", json!({"type": "NFKC"})),
        ("/model/byte_fallback", json!(true)),
        ("/model/vocab/9/1", json!(0.5)),
        ("/added_tokens/0/content", json!("two words")),
        ("/added_tokens/0/normalized", json!(true)),
        ("/added_tokens/0/single_word", json!(true)),
    ] {
        let mut json: Value = serde_json::from_slice(DEMO).unwrap();
        *json.pointer_mut(path).unwrap() = value;
        let json = json.to_string();
        let tokenizer = Tokenizer::from_bytes(&json).unwrap();
        assert!(Reader::new(json.as_bytes(), &tokenizer).is_none(), "{path}");
    }
    let theirs = demo(|json| json["model"]["byte_fallback"] = json!(true));
    let tokens = theirs
        .encode("two  words", Extent::WHOLE, &|| true)
        .unwrap();
    assert_eq!(
        tokens,
        Some(ours(&TOKENIZERS[0], "two  words", Extent::WHOLE))
    );
    assert_eq!(
        theirs.encode("two words", Extent::WHOLE, &|| false),
        Ok(None)
    );
}

/// Texts of a megabyte, none of which gives many tokens before its end, or lets itself be cut near
/// the end.
fn megabytes() -> impl Iterator<Item = String> {
    let texts = [
        "a",
        "ab",
        "漢",
        "🇫",
        "\u{fdfa}",
        "x\u{301}",
        "-\u{1}",
        "<",
        "<mask>",
        "क\u{94d}",
    ];
    let texts = texts
        .into_iter()
        .map(|text| text.repeat(1_000_000 / text.len()));
    let spaces = format!("a{}b", " \u{3000}\r\n".repeat(160_000));
    let marks = format!("e{}", "\u{301}".repeat(500_000));
    texts.chain([spaces, marks])
}

#[test]
fn reading_stops_when_asked() {
    let tokenizer = &TOKENIZERS[1];
    for text in megabytes() {
        for side in [Side::Left, Side::Right] {
            let extent = Extent {
                tokens: 2_000_000,
                side,
            };
            let asked = AtomicUsize::new(0);
            let stops_at = |n: usize| {
                asked.store(0, Relaxed);
                tokenizer.encode(&text, extent, &|| asked.fetch_add(1, Relaxed) < n)
            };
            let about: String = text.chars().take(3).collect();
            assert!(stops_at(usize::MAX).unwrap().is_some(), "{about}");
            assert!(
                asked.load(Relaxed) >= 100,
                "{about}: asked {asked:?} times in a megabyte"
            );
            for n in [0, 1, 50] {
                assert_eq!(stops_at(n), Ok(None), "{about}");
                assert_eq!(asked.load(Relaxed), n + 1, "{about}: went on");
            }
        }
    }
}

#[test]
fn no_more_is_read_than_matters() {
    let tokenizer = &TOKENIZERS[0];
    let words = "Deux mots ou trois, et encore.\n\n".repeat(30_000);
    let letters = "Zm9vYmFyIGJhciBmb28gYmF6+/".repeat(40_000);
    let cut = |text: &str, side| {
        let asked = AtomicUsize::new(0);
        let extent = Extent { tokens: 500, side };
        let keep_going = || asked.fetch_add(1, Relaxed) < 4;
        let tokens = tokenizer
            .encode(text, extent, &keep_going)
            .unwrap()
            .unwrap();
        assert_eq!((tokens.ids.len(), tokens.is_whole), (500, false));
    };
    cut(&words, Side::Right);
    cut(&words, Side::Left);
    cut(&letters, Side::Right);
}
