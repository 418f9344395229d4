//! The documented options are the program's options, no more and no fewer.

use std::{collections::BTreeSet, env, fs, path::PathBuf};

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

#[test]
fn every_file_that_a_document_links_to_is_there() {
    let mut documents = vec![
        "README.md".into(),
        "ARCHITECTURE.md".into(),
        "CHANGELOG.md".into(),
    ];
    for folder in ["docs", "docs/clients"] {
        let files = fs::read_dir(folder).unwrap();
        documents.extend(files.map(|file| file.unwrap().path()));
    }
    documents.retain(|path: &PathBuf| path.extension().is_some_and(|extension| extension == "md"));
    assert!(documents.len() > 20);
    for document in documents {
        let folder = document.parent().unwrap();
        let text = fs::read_to_string(&document).unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = target.split('#').next().unwrap();
            if !path.is_empty() && !path.contains("://") {
                let there = fs::exists(folder.join(path)).unwrap();
                assert!(there, "{} links to {path}", document.display());
            }
        }
    }
}
