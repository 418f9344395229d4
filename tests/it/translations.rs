//! The French pages say what the English ones say, as far as a program can tell: the same headings,
//! tables, lists, commands, links and options, section by section.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::documents::{heading, slug, targets};

/// A French page and its English one.
const PAGES: [(&str, &str); 3] = [
    ("docs/fr/README.md", "README.md"),
    ("docs/fr/deploy-gpu.md", "docs/deploy-gpu.md"),
    ("docs/fr/operations.md", "docs/operations.md"),
];

/// The English page of which only the start is translated.
const STARTS: &str = "README.md";

/// What is below a heading, up to the next one.
#[derive(Debug, Default, PartialEq)]
struct Section {
    level: usize,
    title: String,
    /// What is fenced, with the language, without comments.
    fenced: Vec<String>,
    /// Cells of each row of a table.
    rows: Vec<usize>,
    /// Items of lists.
    items: usize,
    /// Targets of links.
    links: Vec<String>,
    /// Options that are named.
    options: BTreeSet<String>,
}

/// The sections of a page; the first has no title if text comes before the first heading.
fn sections(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut prose = String::new();
    let mut fence: Option<String> = None;
    for line in text.lines() {
        if let Some(fenced) = &mut fence {
            fenced.push_str(&without_comment(line));
            fenced.push('\n');
            if line.trim() == "```" {
                let section = sections.last_mut().unwrap();
                section.fenced.extend(fence.take());
            }
        } else if line.trim_start().starts_with("```") {
            fence = Some(format!("{}\n", line.trim()));
        } else if let Some(title) = heading(line) {
            finish(&mut sections, &mut prose);
            sections.push(Section {
                level: line.find(' ').unwrap(),
                title: title.to_owned(),
                ..Section::default()
            });
        } else {
            note(sections.last_mut().unwrap(), line);
            prose += line;
            prose.push(if line.is_empty() || line.starts_with('|') {
                '\n'
            } else {
                ' '
            });
        }
    }
    finish(&mut sections, &mut prose);
    sections
}

/// Counts a line that is not fenced.
fn note(section: &mut Section, line: &str) {
    if line.starts_with('|') {
        let cells = line.replace("\\|", "").matches('|').count() - 1;
        section.rows.push(cells);
    }
    let numbered = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_numbered = numbered.len() < line.len() && numbered.starts_with(". ");
    section.items += usize::from(line.starts_with("- ") || is_numbered);
}

/// Notes what the text of a section names.
fn finish(sections: &mut [Section], prose: &mut String) {
    let Some(section) = sections.last_mut() else {
        return;
    };
    section.links = prose.lines().flat_map(targets).collect();
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    section.options = prose
        .split(|c: char| !is_name(c))
        .filter(|word| word.starts_with("RERANKER_"))
        .map(str::to_owned)
        .collect();
    prose.clear();
}

/// A line of code, of whose comment only the `#` counts.
fn without_comment(line: &str) -> String {
    let is_comment = line.trim_start().starts_with("# ");
    let (code, mark) = match line.split_once("  # ") {
        Some((code, _)) => (code.trim_end(), "  #"),
        None if is_comment => ("", "#"),
        None => (line, ""),
    };
    format!("{code}{mark}")
}

/// A link in a form that is the same for both languages: files as the English ones, anchors of
/// translated pages as the number of their heading. None for a link from a page to its translation.
fn common(page: &Path, target: &str) -> Option<String> {
    if target.contains("://") {
        return Some(target.to_owned());
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() {
        page.to_owned()
    } else {
        page.parent().unwrap().join(file)
    };
    let path = path.canonicalize().unwrap();
    let english = english_of(&path);
    if anchor.is_empty() && english == english_of(&page.canonicalize().unwrap()) {
        return None;
    }
    let is_translated = PAGES
        .iter()
        .any(|(_, of)| Path::new(of).canonicalize().unwrap() == english);
    let anchor = if is_translated && !anchor.is_empty() {
        let titles = sections(&fs::read_to_string(&path).unwrap());
        let place = titles.iter().position(|s| slug(&s.title) == anchor);
        format!("{place:?}")
    } else {
        anchor.to_owned()
    };
    Some(format!("{}#{anchor}", english.display()))
}

/// The English page of a French one; any other is its own.
fn english_of(path: &Path) -> PathBuf {
    let known = |french: &str| Path::new(french).canonicalize().unwrap() == path;
    let pair = PAGES.iter().find(|(french, _)| known(french));
    pair.map_or_else(
        || path.to_owned(),
        |(_, english)| Path::new(english).canonicalize().unwrap(),
    )
}

/// The sections of a page with its links in the form that both languages share, in any order: a
/// sentence may name them in another one.
fn page(path: &str) -> Vec<Section> {
    let mut sections = sections(&fs::read_to_string(path).unwrap());
    for section in &mut sections {
        let links = section.links.iter();
        section.links = links
            .filter_map(|link| common(Path::new(path), link))
            .collect();
        section.links.sort();
    }
    sections
}

/// In which sections two pages differ, and how; titles are told, and not compared.
fn differences(english: Vec<Section>, french: Vec<Section>) -> Vec<String> {
    let count = (english.len() != french.len())
        .then(|| format!("{} headings and {}", english.len(), french.len()));
    let pairs = english.into_iter().zip(french);
    let differ = pairs.filter_map(|(mut english, mut french)| {
        let titles = format!("{:?} and {:?}", english.title, french.title);
        english.title.clear();
        french.title.clear();
        (english != french).then(|| format!("{titles}:\n{english:#?}\n{french:#?}"))
    });
    count.into_iter().chain(differ).collect()
}

#[test]
fn french_pages_keep_step_with_the_english_ones() {
    for (french, english) in PAGES {
        let (translated, mut original) = (page(french), page(english));
        if english == STARTS {
            original.truncate(translated.len());
        }
        let differences = differences(original, translated);
        assert!(
            differences.is_empty(),
            "{english} and {french} differ in\n{}",
            differences.join("\n")
        );
    }
}

#[test]
fn what_a_translation_lacks_is_found() {
    let english = "# A\n\n- `RERANKER_PORT`\n\n| a | b |\n\n```sh\nx 1  # one\n```\n\n## B\n";
    let same = "# Á\n\n- le `RERANKER_PORT`\n\n| á | b |\n\n```sh\nx 1  # un\n```\n\n## Bé\n";
    let found = |french: &str| differences(sections(english), sections(french)).len();
    assert_eq!(found(same), 0);
    for (part, other) in [
        ("x 1", "x 2"),
        ("  # un", ""),
        ("```sh", "```console"),
        ("- le", "le"),
        ("RERANKER_PORT", "RERANKER_HOST"),
        ("| á | b |", "| á |"),
        ("## Bé", "### Bé"),
        ("## Bé", "Bé"),
    ] {
        assert!(same.contains(part), "{part}");
        assert!(found(&same.replace(part, other)) > 0, "{part} -> {other}");
    }
}
