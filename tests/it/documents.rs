//! The documented options are the program's options, no more and no fewer.

use std::{collections::BTreeSet, fs, path::PathBuf};

use clap::{Arg, CommandFactory as _};
use reranker::cli::Cli;

struct Setting {
    variable: String,
    flag: String,
    default: String,
    help: String,
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
        variable: arg.get_env().unwrap().to_str().unwrap().to_owned(),
        flag: format!("--{}", arg.get_long().unwrap()),
        default: default.map_or_else(String::new, |value| value.to_str().unwrap().to_owned()),
        help: arg.get_help().unwrap().to_string().replace('|', "\\|"),
    }
}

#[test]
fn the_readme_has_a_row_for_each_option() {
    let readme = fs::read_to_string("README.md").unwrap();
    let rows: Vec<String> = settings()
        .iter()
        .map(|s| {
            let default = if s.default.is_empty() {
                String::new()
            } else {
                format!("`{}`", s.default)
            };
            format!(
                "| `{}` | `{}` | {default} | {} |",
                s.variable, s.flag, s.help
            )
        })
        .collect();
    let table = rows.join("\n");
    assert!(
        readme.contains(&table),
        "the README's table should be:\n{table}"
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
        "CONTRIBUTING.md".into(),
        "SECURITY.md".into(),
    ];
    for folder in ["docs", "docs/benchmarks", "docs/clients"] {
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
