//! The documented options are the program's options, no more and no fewer, and links in documents
//! lead somewhere.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    env, fs,
    path::{Path, PathBuf},
};

use clap::{Arg, CommandFactory as _};
use reranker::cli::Cli;

/// The page with the generated tables of options.
const OPTIONS_PAGE: &str = "docs/configuration.md";
const OPTIONS_BEGIN: &str = "<!-- options: begin -->\n";
const OPTIONS_END: &str = "<!-- options: end -->\n";

/// With this variable set the generated tables are written instead of compared.
const UPDATE: &str = "UPDATE_DOCS";

struct Setting {
    group: String,
    variable: String,
    flag: String,
    default: String,
    help: String,
}

impl Setting {
    fn row(&self) -> String {
        let Self {
            variable,
            flag,
            help,
            ..
        } = self;
        let default = if self.default.is_empty() {
            String::new()
        } else {
            format!("`{}`", self.default)
        };
        format!("| `{variable}` | `{flag}` | {default} | {help} |\n")
    }
}

/// The options of `serve`, which all other commands share.
fn settings() -> Vec<Setting> {
    let command = Cli::command();
    let documented = |arg: &&Arg| arg.get_env().is_some();
    command
        .get_arguments()
        .filter(documented)
        .map(setting)
        .collect()
}

fn setting(arg: &Arg) -> Setting {
    let default = arg.get_default_values().first();
    Setting {
        group: arg.get_help_heading().unwrap().to_owned(),
        variable: arg.get_env().unwrap().to_str().unwrap().to_owned(),
        flag: format!("--{}", arg.get_long().unwrap()),
        default: default.map_or_else(String::new, |value| value.to_str().unwrap().to_owned()),
        help: arg.get_help().unwrap().to_string().replace('|', "\\|"),
    }
}

/// A table for each group of options, in the order of the program's help.
fn tables() -> String {
    let mut text = String::new();
    let mut group = String::new();
    for setting in settings() {
        if setting.group != group {
            group.clone_from(&setting.group);
            text += "\n### ";
            text += &group;
            text += "\n\n| variable | flag | default | meaning |\n|---|---|---|---|\n";
        }
        text += &setting.row();
    }
    text + "\n"
}

#[test]
fn the_tables_of_options_are_the_programs() {
    let page = fs::read_to_string(OPTIONS_PAGE).unwrap();
    let (before, rest) = page.split_once(OPTIONS_BEGIN).unwrap();
    let (found, after) = rest.split_once(OPTIONS_END).unwrap();
    let expected = tables();
    if found == expected {
        return;
    }
    if env::var_os(UPDATE).is_some() {
        let page = [before, OPTIONS_BEGIN, &expected, OPTIONS_END, after].concat();
        fs::write(OPTIONS_PAGE, page).unwrap();
        return;
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (found, expected) = (lines(found), lines(&expected));
    let missing: Vec<_> = expected.difference(&found).cloned().collect();
    let too_many: Vec<_> = found.difference(&expected).cloned().collect();
    panic!(
        "{OPTIONS_PAGE} is not up to date; run the tests with {UPDATE}=1 to write it.\nmissing:\n{}\ntoo many:\n{}",
        missing.join("\n"),
        too_many.join("\n")
    );
}

/// Variables that name paths and addresses inside a container: its image sets them.
const SET_BY_IMAGES: [&str; 5] = [
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_TOKEN_PATH",
    "RERANKER_HOST",
    "RERANKER_PORT",
];

#[test]
fn the_compose_files_pass_on_each_variable() {
    for (file, without) in [
        ("docker-compose.cpu.yml", &["RERANKER_REQUIRE_GPU"][..]),
        ("docker-compose.gpu.yml", &[]),
        (
            "deploy/scale/docker-compose.scale.yml",
            &[
                "RERANKER_REQUIRE_GPU",
                "RERANKER_TLS_CERT",
                "RERANKER_TLS_KEY",
            ],
        ),
    ] {
        let text = fs::read_to_string(file).unwrap();
        for Setting { variable, .. } in settings() {
            let left_out = SET_BY_IMAGES.contains(&&*variable) || without.contains(&&*variable);
            let is_there = text.contains(&format!("\n      {variable}:"));
            assert_ne!(is_there, left_out, "{variable} in {file}");
        }
    }
}

#[test]
fn the_example_environment_names_each_variable_with_its_default() {
    let example = fs::read_to_string(".env.example").unwrap();
    let lines: BTreeSet<&str> = example
        .lines()
        .map(|line| line.trim_start_matches("# "))
        .filter(|line| {
            line.split_once('=')
                .is_some_and(|(name, _)| is_variable(name))
        })
        .collect();
    let settings = settings();
    let expected: BTreeSet<String> = settings
        .iter()
        .map(|s| format!("{}={}", s.variable, s.default))
        .collect();
    assert_eq!(
        lines
            .into_iter()
            .map(str::to_owned)
            .collect::<BTreeSet<_>>(),
        expected
    );
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// What other documents can link to in a document, and what it links to itself.
struct Document {
    anchors: BTreeSet<String>,
    targets: Vec<String>,
}

impl Document {
    fn read(path: &Path) -> Self {
        let mut document = Self {
            anchors: BTreeSet::new(),
            targets: Vec::new(),
        };
        let mut slugs: HashMap<String, usize> = HashMap::new();
        for block in blocks(&fs::read_to_string(path).unwrap()) {
            document.targets.extend(targets(&block));
            document.anchors.extend(ids(&block));
            if let Some(heading) = heading(&block) {
                let slug = slug(heading);
                let before = slugs.entry(slug.clone()).or_default();
                document.anchors.insert(match *before {
                    0 => slug,
                    times => format!("{slug}-{times}"),
                });
                *before += 1;
            }
        }
        document
    }
}

/// Paragraphs, headings and rows of tables; what is fenced is left out.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    let mut is_fenced = false;
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        if is_fence || line.is_empty() {
            blocks.push(String::new());
        } else if is_fenced {
            // A comment of a shell is no heading.
        } else if line.starts_with('|') || heading(line).is_some() {
            blocks.extend([line.to_owned(), String::new()]);
        } else {
            let paragraph = blocks.last_mut().unwrap();
            *paragraph += line;
            paragraph.push(' ');
        }
    }
    blocks
}

/// The targets of the links in a block.
pub(crate) fn targets(block: &str) -> Vec<String> {
    // What is between backticks, every other part, is no link.
    let prose: String = block.split('`').step_by(2).collect();
    prose
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ']).next())
        .map(str::to_owned)
        .collect()
}

/// The anchors that are written out in a block.
fn ids(block: &str) -> Vec<String> {
    block
        .split("<a id=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect()
}

/// The text of a heading.
pub(crate) fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    let is_marked = (1..=6).contains(&(line.len() - text.len()));
    text.strip_prefix(' ').filter(|_| is_marked)
}

/// The anchor that GitHub gives a heading.
pub(crate) fn slug(heading: &str) -> String {
    let mut text = String::new();
    for (n, part) in heading.split("](").enumerate() {
        // Of a link the text counts, and not the target.
        text += if n == 0 {
            part
        } else {
            part.split_once(')').map_or("", |(_, rest)| rest)
        };
    }
    text.trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c => c.is_alphanumeric().then_some(c),
        })
        .collect()
}

/// All documents below a folder, but for what is built or downloaded.
fn collect(folder: &Path, documents: &mut BTreeMap<PathBuf, Document>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            let is_made = ["target", "node_modules", "work"].contains(&name.as_str());
            if !is_made && (!name.starts_with('.') || name == ".github") {
                collect(&path, documents);
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            documents.insert(path.canonicalize().unwrap(), Document::read(&path));
        }
    }
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut documents = BTreeMap::new();
    collect(Path::new("."), &mut documents);
    assert!(documents.len() > 40);
    let mut broken = Vec::new();
    for (path, document) in &documents {
        for target in &document.targets {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let linked = if file.is_empty() {
                Ok(path.clone())
            } else {
                path.parent().unwrap().join(file).canonicalize()
            };
            let leads = linked.is_ok_and(|linked| {
                let document = documents.get(&linked);
                anchor.is_empty()
                    || document.is_some_and(|document| document.anchors.contains(anchor))
            });
            if !leads {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn links_and_anchors_are_found() {
    for (heading, expected) in [
        ("6 Who may ask", "6-who-may-ask"),
        ("`RERANKER_DTYPE`: f32, bf16", "reranker_dtype-f32-bf16"),
        (
            "What was tried, and did not help",
            "what-was-tried-and-did-not-help",
        ),
        ("The [demo](../models/demo) model", "the-demo-model"),
    ] {
        assert_eq!(slug(heading), expected);
    }
    let text = "see [`a`](b.md#c) and `[no]\n(link)`, ![d](e.svg)\n```\n[f](g)\n# h\n```\n## i\n";
    let blocks = blocks(text);
    let found: Vec<String> = blocks.iter().flat_map(|block| targets(block)).collect();
    assert_eq!(found, ["b.md#c", "e.svg"]);
    let headings: Vec<&str> = blocks.iter().filter_map(|block| heading(block)).collect();
    assert_eq!(headings, ["i"]);
}
