//! Who imports whom, read off the source and held against the table in ARCHITECTURE.md: no module
//! imports one that the table does not give it, and neither modules nor files form a circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Item, ItemMod, ItemUse, UseTree,
    visit::{self, Visit},
};

/// The path of a module: `["http", "wire"]` is `src/http/wire.rs`.
type Module = Vec<String>;

/// Each module of a graph, and those that it imports.
type Imports<M> = BTreeMap<M, BTreeSet<M>>;

/// What these files put together is the program; nothing imports them.
const ROOTS: [&str; 2] = ["lib", "main"];

fn modules(directory: &Path) -> Vec<(Module, PathBuf)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(modules(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = path.strip_prefix("src").unwrap().with_extension("");
            let names = module.iter().map(|name| name.to_str().unwrap().to_owned());
            found.push((names.collect(), path));
        }
    }
    found
}

/// The imports of one file, without those of its tests.
struct Reader<'a> {
    known: &'a BTreeSet<Module>,
    /// The file, and the module inside the file that is being read.
    file: Module,
    inside: Module,
    imports: BTreeSet<Module>,
}

impl Reader<'_> {
    /// Notes a path that begins with `crate`, `self`, `super` or the name of a child.
    fn note(&mut self, path: &[String]) {
        let mut module = self.inside.clone();
        let mut rest = path;
        match path[0].as_str() {
            "crate" => {
                module.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while let [first, others @ ..] = rest
                    && first == "super"
                {
                    module.pop();
                    rest = others;
                }
            }
            child => {
                module.push(child.to_owned());
                if !self.known.contains(&module) {
                    return;
                }
                rest = &path[1..];
            }
        }
        for name in rest {
            module.push(name.clone());
            if !self.known.contains(&module) {
                module.pop();
                break;
            }
        }
        if module != self.file && self.known.contains(&module) {
            self.imports.insert(module);
        }
    }

    fn note_tree(&mut self, tree: &UseTree, prefix: &[String]) {
        let with = |name: String| [prefix, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.note_tree(&path.tree, &with(path.ident.to_string())),
            UseTree::Name(name) => self.note(&with(name.ident.to_string())),
            UseTree::Rename(name) => self.note(&with(name.ident.to_string())),
            UseTree::Glob(_) => self.note(prefix),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.note_tree(tree, prefix);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes(item).iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if module.content.is_some() {
            self.inside.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.inside.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.note_tree(&item.tree, &[]);
    }

    /// `pub(in crate::model)` says who may import, and imports nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if names.len() > 1 {
            self.note(&names);
        }
        visit::visit_path(self, path);
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_for_tests(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute
            .parse_args::<syn::Path>()
            .is_ok_and(|condition| condition.is_ident("test"))
}

/// The files that are compiled into the program, and the files that each imports.
fn imports_of_files() -> Imports<Module> {
    let files = modules(Path::new("src"));
    let known: BTreeSet<Module> = files.iter().map(|(module, _)| module.clone()).collect();
    let mut imports = Imports::new();
    let mut tests = BTreeSet::new();
    for (module, path) in &files {
        let file = syn::parse_file(&fs::read_to_string(path).unwrap()).unwrap();
        for item in &file.items {
            if let Item::Mod(child) = item
                && child.attrs.iter().any(is_for_tests)
            {
                tests.insert([&module[..], &[child.ident.to_string()]].concat());
            }
        }
        let is_root = ROOTS.contains(&module[0].as_str());
        let inside = if is_root { Vec::new() } else { module.clone() };
        let mut reader = Reader {
            known: &known,
            file: module.clone(),
            inside,
            imports: BTreeSet::new(),
        };
        reader.visit_file(&file);
        if !is_root {
            imports.insert(module.clone(), reader.imports);
        }
    }
    imports.retain(|module, _| !tests.contains(module));
    imports
}

/// The same for the modules at the top, each with all its files.
fn imports_of_modules() -> Imports<String> {
    let mut imports = Imports::new();
    for (file, others) in imports_of_files() {
        let top: &mut BTreeSet<String> = imports.entry(file[0].clone()).or_default();
        let others = others.into_iter().map(|mut other| other.remove(0));
        top.extend(others.filter(|other| *other != file[0]));
    }
    imports
}

/// The table of ARCHITECTURE.md: its rows are `` | `module`, … | `other`, `other`, … | ``.
fn allowed() -> Imports<String> {
    let text = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let table = text.split("| module | may import |").nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|row| row.starts_with('|'));
    let rows = rows.flat_map(|row| {
        let mut cells = row.split('|').skip(1).map(|cell| {
            let names = cell.split('`').skip(1).step_by(2);
            names.map(str::to_owned).collect::<BTreeSet<String>>()
        });
        let (modules, others) = (cells.next().unwrap(), cells.next().unwrap());
        modules
            .into_iter()
            .map(move |module| (module, others.clone()))
    });
    rows.collect()
}

/// A circle in a graph, if there is one.
fn circle<M: Ord + Clone>(imports: &Imports<M>) -> Option<Vec<M>> {
    let mut left = imports.clone();
    loop {
        let before = left.len();
        let names: BTreeSet<M> = left.keys().cloned().collect();
        // What imports nothing that is left is in no circle.
        left.retain(|_, others| others.iter().any(|other| names.contains(other)));
        if left.len() == before {
            break;
        }
    }
    let mut path = vec![left.keys().next()?.clone()];
    loop {
        let others = &left[path.last()?];
        let next = others.iter().find(|other| left.contains_key(other))?;
        if let Some(begin) = path.iter().position(|module| module == next) {
            return Some(path.split_off(begin));
        }
        path.push(next.clone());
    }
}

#[test]
fn modules_import_what_the_architecture_says() {
    let (found, allowed) = (imports_of_modules(), allowed());
    for (module, imports) in &found {
        let allowed = allowed.get(module);
        let allowed = allowed.unwrap_or_else(|| panic!("`{module}` is not in ARCHITECTURE.md"));
        assert_eq!(imports, allowed, "`{module}` imports what is on the left");
    }
    assert_eq!(
        found.len(),
        allowed.len(),
        "the table has a module too many"
    );
}

#[test]
fn modules_form_no_circle() {
    assert_eq!(circle(&imports_of_modules()), None);
}

#[test]
fn files_form_no_circle() {
    let circle = circle(&imports_of_files());
    let names = circle.map(|files| files.iter().map(|file| file.join("/")).collect::<Vec<_>>());
    assert_eq!(names, None);
}

#[test]
fn circles_are_found() {
    let graph = |edges: &[(&'static str, &'static str)]| {
        let mut imports = Imports::new();
        for &(from, to) in edges {
            imports.entry(from).or_insert_with(BTreeSet::new).insert(to);
            imports.entry(to).or_default();
        }
        imports
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    let found = circle(&graph(&[("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")]));
    assert_eq!(found, Some(vec!["b", "c"]));
}
