//! Rules about the tree itself: import layers, size of the lock file, documents that name what is not there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` with that ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The product's part of a source file: what stands before its tests.
fn product(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()
}

/// The layers, lowest first: each module may use those listed, and itself (ARCHITECTURE.md).
const LAYERS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("names", &["limits"]),
    ("protocol", &["names", "limits"]),
    ("token", &["names", "limits"]),
    ("hub", &["names", "limits", "protocol::frame", "protocol::refusal", "protocol::room", "token"]),
    ("store", &["names", "limits", "hub::storage", "protocol::frame"]),
    ("runtime", &["names", "limits", "hub", "store", "protocol", "token"]),
    ("server", &["names", "limits", "runtime", "protocol", "token"]),
];

#[test]
fn no_module_imports_from_a_layer_above() {
    let mut wrong = Vec::new();
    for (module, allowed) in LAYERS {
        let folder = root().join("src").join(module);
        let file = folder.with_extension("rs");
        let sources = if folder.is_dir() { files(&folder, "rs") } else { vec![file] };
        for source in sources.iter().filter(|source| !is_test(source)) {
            for path in crate_paths(&product(source)) {
                let own = path == *module || path.starts_with(&format!("{module}::"));
                let known = allowed.iter().any(|prefix| path == *prefix || path.starts_with(&format!("{prefix}::")));
                if !own && !known {
                    wrong.push(format!("{} uses {path}", source.strip_prefix(root()).unwrap().display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_string_lossy();
    ["tests", "sim", "samples"].contains(&&*name) || path.components().any(|part| part.as_os_str() == "tests")
}

/// What a source names after `crate::`, without the macros of its own comments.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut paths = BTreeSet::new();
    for line in code {
        for rest in line.split("crate::").skip(1) {
            let path: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
            paths.insert(path.trim_end_matches(':').to_owned());
        }
    }
    paths
}

/// Words that a layer must not contain: its invariants, put as absences.
const ABSENT: &[(&str, &[&str])] = &[
    ("protocol", &["async ", ".await", "log::", "std::net", "Instant", "SystemTime"]),
    ("token", &["async ", ".await", "log::", "std::fs", "std::net", "Instant", "SystemTime"]),
    ("hub", &["async ", ".await", "rusqlite", "serde", "TcpStream", "Instant", "SystemTime", "std::fs", "std::thread"]),
];

#[test]
fn pure_layers_are_pure() {
    let mut wrong = Vec::new();
    for (module, words) in ABSENT {
        for source in files(&root().join("src").join(module), "rs").iter().filter(|source| !is_test(source)) {
            for (number, line) in product(source).lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
                for word in words.iter().filter(|word| line.contains(**word)) {
                    wrong.push(format!("{}:{} has {word:?}", source.strip_prefix(root()).unwrap().display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_the_store_speaks_sql_and_only_the_rest_server_knows_tide() {
    for source in files(&root().join("src"), "rs") {
        let text = product(&source);
        let place = source.strip_prefix(root().join("src")).unwrap().to_string_lossy().into_owned();
        assert!(place.starts_with("store/") || !text.contains("rusqlite::"), "{place} names rusqlite");
        assert!(place.starts_with("server/rest") || !text.contains("tide::"), "{place} names tide");
    }
}

/// A panic ends one connection or one turn, and both are answered for; aborting would answer for nothing.
#[test]
fn a_panic_unwinds_in_every_profile() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let settings: Vec<&str> = manifest.lines().filter(|line| line.trim_start().starts_with("panic")).collect();
    assert_eq!(settings, ["panic = \"unwind\""]);
}

#[test]
fn the_lock_file_stays_small() {
    const PACKAGES_MAX: usize = 240;
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let packages = lock.lines().filter(|line| *line == "[[package]]").count();
    assert!(packages <= PACKAGES_MAX, "{packages} packages in Cargo.lock, at most {PACKAGES_MAX}");
}

#[test]
fn nothing_is_left_over() {
    for source in files(&root().join("src"), "rs").into_iter().chain(files(&root().join("tests/it"), "rs")) {
        let text = fs::read_to_string(&source).unwrap();
        let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["dbg", "!("].concat(), ["unimpl", "emented!"].concat()];
        for mark in &marks {
            assert!(!text.contains(mark.as_str()), "{} has {mark}", source.display());
        }
        assert!(text.starts_with("//!"), "{} does not open with what it is about", source.display());
    }
}

#[test]
fn documents_name_only_what_is_there() {
    for document in [
        "README.md",
        "README.zh.md",
        "ARCHITECTURE.md",
        "docs/installer.md",
        "docs/installer.zh.md",
        "docs/integrator.md",
        "docs/integrator.zh.md",
    ] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path = quoted.contains('/') && quoted.split('/').all(is_plain) && !quoted.starts_with('/');
            let is_file = [".rs", ".md", ".toml", ".sql"].iter().any(|ending| quoted.ends_with(ending)) && is_plain(quoted);
            let there = ["", "src", "tests"].iter().any(|base| root().join(base).join(quoted).exists());
            let made = quoted.starts_with("data/") || quoted.starts_with("target/") || quoted == "porter.toml";
            assert!(!(is_path || is_file) || there || made, "{document} names `{quoted}`, which is not there");
        }
    }
}

/// A part of a path as it stands in this tree.
fn is_plain(part: &str) -> bool {
    !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c) || c.is_ascii_uppercase())
}

#[test]
fn each_error_and_warning_of_the_log_stands_in_the_installers_tables() {
    let pages = ["docs/installer.md", "docs/installer.zh.md"].map(|page| (page, fs::read_to_string(root().join(page)).unwrap()));
    let mut seen = 0;
    let mut missing = Vec::new();
    // The commands for trying things out have no log.
    for source in files(&root().join("src"), "rs").iter().filter(|source| !is_test(source) && !source.ends_with("cli/client.rs")) {
        for name in log_names(&product(source)) {
            seen += 1;
            let quoted = |page: &str| {
                page.contains(&format!("`{name}`")) || page.contains(&format!("={name}`")) || page.contains(&format!("`{name} "))
            };
            missing.extend(pages.iter().filter(|(_, text)| !quoted(text)).map(|(page, _)| format!("{page}: {name}")));
        }
    }
    assert!(seen > 40, "only {seen} were found");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The names that a source gives its errors and warnings: the first word, or what stands behind `store event=`.
fn log_names(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for level in ["log::error!(", "log::warn!("] {
        for call in text.split(level).skip(1) {
            let Some(line) = call.trim_start().strip_prefix('"') else { continue };
            let line = line.strip_prefix("store event=").or_else(|| line.strip_prefix("store state=")).unwrap_or(line);
            let name: String = line.chars().take_while(|letter| letter.is_ascii_lowercase() || *letter == '_').collect();
            if !name.is_empty() {
                names.insert(name);
            }
        }
    }
    names
}
