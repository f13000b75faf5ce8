//! Holds the source to the house rules that no compiler and no lint knows: layers, who may touch the system, sizes,
//! reasons. It reads the files as text.
#![expect(clippy::unwrap_used, reason = "a failed test is meant to panic, its helpers too")]
#![expect(clippy::indexing_slicing, reason = "a failed test is meant to panic, its helpers too")]
#![expect(clippy::disallowed_methods, reason = "it reads the source")]

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, lowest first. Those on one line know one another; nobody names a room on a later line.
const LAYERS: [&[&str]; 10] = [
    &["units", "error", "config", "clock", "metrics", "sync"],
    &["fs"],
    &["record"],
    &["index"],
    &["segment"],
    &["commit"],
    &["log"],
    &["flush", "clean", "table", "facade"],
    &["store"],
    &["inspect"],
];
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_AIM: usize = 40;
const FUNCTION_LINES_MAX: usize = 70;

/// A file of the crate, without the comments, the contents of literals and the tests.
struct Source {
    /// From `src` on.
    name: String,
    /// Line by line as written, up to the tests.
    lines: Vec<String>,
    /// The same with comments and the contents of strings and characters blanked.
    code: Vec<String>,
}

impl Source {
    fn read(root: &Path, path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let code: Vec<String> = blanked(&text).lines().map(str::to_owned).collect();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let tests = tests_start(&code);
        let (lines, code) = (lines[..tests].to_vec(), code[..tests].to_vec());
        Self { name, lines, code }
    }

    /// The room that the file is in; `lib` and the tool are none.
    fn room(&self) -> &str {
        self.name.split(['/', '.']).next().unwrap()
    }

    fn at(&self, line: usize) -> String {
        format!("src/{}:{}: {}", self.name, line + 1, self.lines[line].trim())
    }

    /// Places of the lines whose code has any of `words`.
    fn places(&self, words: &[&str]) -> Vec<String> {
        let has = |line: &String| words.iter().any(|word| line.contains(word));
        (0..self.code.len()).filter(|at| has(&self.code[*at])).map(|at| self.at(at)).collect()
    }
}

/// Where the tests begin: at `#[cfg(test)]` before a `mod` with a body, or at the end. `mod tests;` is a file of its own.
fn tests_start(code: &[String]) -> usize {
    let is_test_module = |at: &usize| {
        let next = code.get(at + 1).map_or("", |line| line.trim());
        code[*at].trim() == "#[cfg(test)]" && next.starts_with("mod ") && next.ends_with('{')
    };
    (0..code.len()).find(is_test_module).unwrap_or(code.len())
}

/// Blanks comments and the contents of literals; line breaks stay.
fn blanked(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let starts = |at: usize, word: &str| word.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = if starts(at, "//") {
            (at..chars.len()).find(|i| chars[*i] == '\n').unwrap_or(chars.len())
        } else if starts(at, "/*") {
            (at + 2..chars.len()).find(|i| starts(*i, "*/")).map_or(chars.len(), |i| i + 2)
        } else if let Some(hashes) = raw_string(&chars, at) {
            let close = format!("\"{}", "#".repeat(hashes));
            let from = at + 2 + hashes;
            (from..chars.len()).find(|i| starts(*i, &close)).map_or(chars.len(), |i| i + close.len())
        } else if chars[at] == '"' {
            string_end(&chars, at + 1, '"')
        } else if chars[at] == '\'' && is_character(&chars, at) {
            string_end(&chars, at + 1, '\'')
        } else {
            out.push(chars[at]);
            at += 1;
            continue;
        };
        out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

/// Number of hashes if a raw string starts here.
fn raw_string(chars: &[char], at: usize) -> Option<usize> {
    let is_word = |c: &char| c.is_alphanumeric() || *c == '_';
    let begins = chars[at] == 'r' && !(at > 0 && is_word(&chars[at - 1]) && chars[at - 1] != 'b');
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    (begins && chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// A character rather than a lifetime.
fn is_character(chars: &[char], at: usize) -> bool {
    chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'')
}

fn string_end(chars: &[char], mut at: usize, quote: char) -> usize {
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// Every file of the library, but for those that hold tests alone.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    let is_test = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().ends_with("tests");
    let mut sources: Vec<Source> =
        paths.iter().filter(|path| !is_test(path)).map(|path| Source::read(&root, path)).collect();
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(sources.len() > 40, "the source is here: {}", sources.len());
    sources
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

fn assert_none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}\n{}", found.join("\n"));
}

fn rank(room: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&room))
}

/// The rooms that a line of code names: by `crate::room`, in any of the branches of `crate::{..}`, or by `super` from the
/// top of a room.
fn rooms_named(source: &Source, statement: &str) -> Vec<String> {
    let mut named = Vec::new();
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    for (at, _) in statement.match_indices("crate::") {
        let path = &statement[at + "crate::".len()..];
        match path.strip_prefix('{') {
            Some(branches) => named.extend(branch_heads(branches).into_iter().map(word)),
            None => named.push(word(path)),
        }
    }
    // `super` from a room's own file, `super::super` from a file in its directory, and so on.
    let depth = source.name.split('/').count() - usize::from(source.name.ends_with("/mod.rs"));
    let out_of_the_room = "super::".repeat(depth);
    for (at, _) in statement.match_indices(out_of_the_room.as_str()) {
        let path = statement[at + out_of_the_room.len()..].trim_start_matches("super::");
        named.push(word(path));
    }
    named
}

/// What each branch of `{a::b, c::{d, e}}` starts with; `text` begins behind the brace.
fn branch_heads(text: &str) -> Vec<&str> {
    let (mut heads, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(text[start..at].trim());
                return heads;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    heads
}

#[test]
fn a_lower_room_never_names_a_higher_one() {
    let mut found = Vec::new();
    let mut rooms_seen = std::collections::BTreeSet::new();
    for source in sources().iter().filter(|source| !matches!(source.room(), "lib" | "bin")) {
        let room = source.room();
        let Some(own) = rank(room) else { panic!("src/{} is in no layer; give it one", source.name) };
        rooms_seen.insert(room.to_owned());
        let code = source.code.join("\n");
        // Uses may span lines: a statement is what stands between two semicolons.
        let mut line = 0;
        for statement in code.split(';') {
            for named in rooms_named(source, statement) {
                if rank(&named).is_some_and(|other| other > own) {
                    let skip = statement.chars().take_while(|c| c.is_whitespace()).filter(|c| *c == '\n').count();
                    found.push(format!("{} names {named}", source.at((line + skip).min(source.lines.len() - 1))));
                }
            }
            line += statement.matches('\n').count();
        }
    }
    assert_none(&found, "a lower layer never names a higher one:");
    for room in LAYERS.iter().copied().flatten() {
        let exists = rooms_seen.contains(*room) || *room == "inspect";
        assert!(exists, "the layer list names {room}, which does not exist");
    }
}

/// `lib.rs` declares no module that the layers do not have.
#[test]
fn every_module_has_a_layer() {
    let lib = sources().into_iter().find(|source| source.name == "lib.rs").unwrap();
    for line in &lib.code {
        let Some((_, module)) = line.split_once("mod ") else { continue };
        let module = module.trim_end_matches(';');
        assert!(rank(module).is_some(), "module {module} is in no layer");
    }
}

#[test]
fn the_system_is_touched_in_one_place_alone() {
    let sources = sources();
    let others = || sources.iter().filter(|source| source.name != "fs/os.rs");
    // What stands beside it in its directory may call the system, but by safe calls only.
    let touch = others().filter(|source| !source.name.starts_with("bin/") && !source.name.starts_with("fs/os/"));
    let words = ["std::fs", "memmap2", "std::os::unix::fs", "std::os::fd", "std::net", "std::process"];
    assert_none(
        &touch.flat_map(|source| source.places(&words)).collect::<Vec<_>>(),
        "only fs/os.rs and fs/os/ touch the system:",
    );
    let unsafes = others().flat_map(|source| source.places(&["unsafe ", "unsafe_code"])).collect::<Vec<_>>();
    assert_none(&unsafes, "only fs/os.rs is unsafe:");
    let os = sources.iter().find(|source| source.name == "fs/os.rs").unwrap();
    for (at, _) in os.code.iter().enumerate().filter(|(_, line)| line.contains("unsafe {")) {
        let above = os.lines[..at].iter().rev().take_while(|line| line.trim().starts_with("//"));
        assert!(above.last().is_some_and(|line| line.contains("SAFETY:")), "{} lacks its SAFETY comment", os.at(at));
    }
}

#[test]
fn nothing_is_left_undone() {
    let words = ["todo!", "unimplemented!", "dbg!"];
    let found: Vec<String> = sources().iter().flat_map(|source| source.places(&words)).collect();
    assert_none(&found, "no stubs and no leftovers:");
    let has_marker = |line: &String| ["TODO", "FIXME", "XXX", "HACK"].iter().any(|word| line.contains(word));
    let sources = sources();
    let found: Vec<String> = sources
        .iter()
        .flat_map(|source| (0..source.lines.len()).filter(|at| has_marker(&source.lines[*at])).map(|at| source.at(at)))
        .collect();
    assert_none(&found, "what is to do is done or in an issue:");
}

/// Other crates' items go by their own names, and `allow` is never used: an `expect` with a reason ends with its cause.
#[test]
fn exceptions_give_their_reason() {
    let mut found = Vec::new();
    for source in &sources() {
        for (at, line) in source.code.iter().enumerate() {
            if line.contains("#[allow") || line.contains("#![allow") {
                found.push(source.at(at));
            }
            let attribute = source.code[at..].iter().take(6).map(|line| line.trim()).collect::<String>();
            if line.contains("[expect(") && !attribute.split(")]").next().unwrap_or_default().contains("reason") {
                found.push(source.at(at));
            }
        }
    }
    assert_none(&found, "exceptions are `expect`s with a reason:");
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let (mut in_dependencies, mut has_reason, mut count) = (false, false, 0);
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line == "[dependencies]";
        } else if line.trim().is_empty() {
            has_reason = false;
        } else if line.starts_with('#') {
            has_reason = true;
        } else if in_dependencies && line.contains('=') {
            count += 1;
            if !has_reason {
                found.push(line.to_owned());
            }
            has_reason = false;
        }
    }
    assert!(count > 5, "{count}");
    assert_none(&found, "each dependency has a comment that says why it is there:");
}

#[test]
fn files_are_short() {
    let long = |source: &Source| source.lines.len() > FILE_LINES_MAX;
    let found: Vec<String> = sources()
        .iter()
        .filter(|source| long(source))
        .map(|source| format!("src/{} has {} lines without its tests", source.name, source.lines.len()))
        .collect();
    assert_none(&found, "a file has at most 600 lines without its tests:");
}

/// Where each function starts, its name, and how many lines it has, signature and braces included.
fn functions(source: &Source) -> Vec<(usize, String, usize)> {
    let mut functions = Vec::new();
    for (at, line) in source.code.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let (mut depth, mut opened, mut end) = (0_i32, false, at);
        'body: for (offset, line) in source.code[at..].iter().enumerate() {
            for c in line.chars() {
                match c {
                    '{' => (depth, opened) = (depth + 1, true),
                    '}' => depth -= 1,
                    // A trait's function without a body.
                    ';' if !opened && depth == 0 && !line.contains('[') => break 'body,
                    _ => {}
                }
                if opened && depth == 0 {
                    end = at + offset;
                    break 'body;
                }
            }
        }
        functions.push((at, name, end - at + 1));
    }
    functions
}

fn function_name(line: &str) -> Option<String> {
    let (before, after) = line.split_once("fn ")?;
    let is_item = before
        .split_whitespace()
        .all(|word| matches!(word, "pub" | "const" | "async" | "unsafe" | "extern") || word.starts_with("pub("));
    let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (is_item && !name.is_empty()).then_some(name)
}

#[test]
fn functions_are_short() {
    let (mut over, mut count) = (Vec::new(), 0);
    for source in &sources() {
        for (at, name, lines) in functions(source) {
            count += 1;
            if lines > FUNCTION_LINES_AIM {
                println!("{lines} lines: src/{}:{} {name}", source.name, at + 1);
            }
            if lines > FUNCTION_LINES_MAX {
                over.push(format!("src/{}:{} {name} has {lines} lines", source.name, at + 1));
            }
        }
    }
    assert!(count > 300, "{count}");
    assert_none(&over, "a function has at most 70 lines:");
}

/// Names and suffixes of files on disk are built and parsed in `segment/names.rs`, those of a data directory in
/// `store/names.rs`, and nowhere else.
#[test]
fn file_names_are_built_in_one_place() {
    let of_partitions = [
        "\".log\"",
        "\".index\"",
        "\".timeindex\"",
        "\".snapshot\"",
        "\".deleted\"",
        "\".cleaned\"",
        "\".swap\"",
        "\"partition.metadata",
    ];
    let of_directories = [
        "-offset-checkpoint\"",
        "\".kafka_cleanshutdown",
        "\"meta.properties",
        "\"remote-log-index-cache",
        "\".lock\"",
        "\"-delete\"",
        "\"-future\"",
        "\"-stray\"",
    ];
    let found_in = |rooms: &[&str], places: &[&str], literals: &[&str]| {
        let mut found = Vec::new();
        let others = |source: &&Source| rooms.contains(&source.room()) && !places.contains(&source.name.as_str());
        for source in sources().iter().filter(others) {
            for (at, line) in source.lines.iter().enumerate() {
                let is_comment = line.trim().starts_with("//");
                if !is_comment && literals.iter().any(|literal| line.contains(literal)) {
                    found.push(source.at(at));
                }
            }
        }
        found
    };
    let rooms = ["log", "index", "segment", "store"];
    let (partition, directory) = ("segment/names.rs", "store/names.rs");
    // The lock of a data directory is looked at by a partition that is opened alone, and our prefix is the same in both.
    let both = [partition, directory];
    assert_none(&found_in(&rooms, &both, &of_partitions), "file names are built in segment/names.rs:");
    // The keys of our settings begin alike.
    let ours = [partition, directory, "store/config.rs", "store/config_keys.rs"];
    assert_none(&found_in(&rooms, &ours, &["\"alluvium."]), "names of our own files are built in names.rs:");
    assert_none(&found_in(&rooms, &both, &of_directories), "names of a data directory are built in store/names.rs:");
}

/// Words that say nothing, in names of files and functions.
#[test]
fn names_say_what_they_name() {
    let mut found = Vec::new();
    for source in &sources() {
        let stem = Path::new(&source.name).file_stem().unwrap().to_str().unwrap();
        if matches!(stem, "util" | "utils" | "helpers" | "common" | "misc") {
            found.push(format!("src/{}", source.name));
        }
        let is_empty = |name: &str| {
            // `get_mut` is the language's own word.
            name.starts_with("get_") && name != "get_mut"
                || name.starts_with("do_")
                || name.ends_with("_impl")
                || name.ends_with("_inner")
        };
        found.extend(functions(source).into_iter().filter(|(_, name, _)| is_empty(name)).map(|(at, ..)| source.at(at)));
    }
    assert_none(&found, "a name says what, not how it is called:");
}

mod the_reader {
    use super::*;

    fn source(name: &str, text: &str) -> Source {
        let code: Vec<String> = blanked(text).lines().map(str::to_owned).collect();
        let lines = text.lines().map(str::to_owned).collect();
        Source { name: name.to_owned(), lines, code }
    }

    #[test]
    fn blanks_comments_and_literals_and_nothing_else() {
        let text = "let a = \"x // { \\\" }\"; // crate::log\nlet b = '{'; let c: &'a str = r#\"\"{\"#; /* } */ d";
        let blank = blanked(text);
        assert_eq!(blank.len(), text.len());
        assert_eq!(blank.split_whitespace().collect::<Vec<_>>().join(" "), "let a = ; let b = ; let c: &'a str = ; d");
    }

    #[test]
    fn finds_rooms_however_they_are_named() {
        let named = |name: &str, text: &str| rooms_named(&source(name, text), text);
        assert_eq!(named("fs/os.rs", "use crate::log::PartitionLog"), ["log"]);
        assert_eq!(named("fs/os.rs", "use crate::{units::Offset, log::{a, b}, flush}"), ["units", "log", "flush"]);
        assert_eq!(named("fs/os.rs", "use super::super::log::x"), ["log"]);
        assert_eq!(named("fs/os.rs", "use super::log"), Vec::<String>::new());
        assert_eq!(named("fs/mod.rs", "use super::log"), ["log"]);
        assert_eq!(named("clock.rs", "pub use super::flush::Flusher"), ["flush"]);
        assert_eq!(named("fs/sim/mod.rs", "use super::super::log"), ["log"]);
    }

    #[test]
    fn measures_functions() {
        let text = "trait T {\n    fn a();\n}\npub(crate) const fn b(\n    x: [u8; 3],\n) -> u8 {\n    if x { 1 } else { 2 }\n}\n";
        let found = functions(&source("x.rs", text));
        let found: Vec<(&str, usize)> = found.iter().map(|(_, name, lines)| (name.as_str(), *lines)).collect();
        assert_eq!(found, [("a", 1), ("b", 5)]);
    }
}
