//! The pages that people write by hand, held against what the program knows.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::{Run as _, World};
use kiln::build::variables::VARIABLES;

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name);
    fs::read_to_string(path).expect("the page is there")
}

/// What a page has between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn options_variables_and_commands_of_the_migration_page_exist() {
    let world = World::new();
    let text = page("dib-migration.md");
    let mut help = String::new();
    for line in [
        "disk-image-create --help",
        "diskimage-builder --help",
        "kiln build --help",
        "kiln install-links --help",
    ] {
        let line = line.strip_prefix("kiln ").unwrap_or(line);
        help.push_str(&world.kiln().words(line).success());
    }
    let bin = world.work().join("bin");
    world.kiln().words("install-links bin").success();
    let mut seen = BTreeSet::new();
    for words in code(&text) {
        for word in words.split_whitespace() {
            let word = word.trim_end_matches([',', ';', '…']);
            let is_option = word.starts_with('-') && word != "--privileged";
            if is_option {
                seen.insert("option");
                let known = help
                    .split(|c: char| c.is_whitespace() || ",=[]".contains(c))
                    .any(|known| known == word);
                assert!(known, "there is no option `{word}`");
            }
            let is_variable = word.starts_with("DIB_") || word.starts_with("KILN_");
            if is_variable && !word.contains('*') && word != "DIB_BLOCK_DEVICE" {
                seen.insert("variable");
                assert!(
                    VARIABLES.iter().any(|variable| variable.name == word),
                    "there is no variable `{word}`"
                );
            }
        }
    }
    assert_eq!(seen.len(), 2);
    for command in [
        "disk-image-create",
        "ramdisk-image-create",
        "diskimage-builder",
        "disk-image-get-kernel",
        "element-info",
        "dib-run-parts",
        "dib-block-device",
        "dib-lint",
    ] {
        assert!(text.contains(&format!("`{command}`")), "{command}");
        assert!(bin.join(command).is_symlink(), "{command}");
    }
}

#[test]
fn every_option_of_disk_image_create_is_on_the_migration_page() {
    let world = World::new();
    let text = page("dib-migration.md");
    let help = world.face("disk-image-create").words("--help").success();
    let options = help
        .lines()
        .filter(|line| line.starts_with("  -") || line.starts_with("      --"))
        .flat_map(|line| line.split_whitespace().take(2))
        .map(|word| word.trim_end_matches(','))
        .filter(|word| word.starts_with('-'));
    let mut count = 0;
    for option in options.filter(|option| *option != "--help") {
        count += 1;
        assert!(
            text.contains(&format!("`{option}`")),
            "{option} is not on the page"
        );
    }
    assert!(count >= 25, "{count} options");
}

/// The names that GitHub gives to the headings of a page, for links.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter_map(|c| match c {
                ' ' => Some('-'),
                '-' | '_' => Some(c),
                _ => c.is_alphanumeric().then_some(c),
            });
            kept.collect()
        })
        .collect()
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec!["README.md".to_owned()];
    for directory in ["docs", "elements"] {
        files_below(directory, &mut files);
    }
    let mut seen = 0;
    for file in files.iter().filter(|name| name.ends_with(".md")) {
        let text = fs::read_to_string(root.join(file)).expect("the page is there");
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap_or_default();
            if target.contains("://") || target.is_empty() {
                continue;
            }
            seen += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match path {
                "" => root.join(file),
                path => root.join(file).parent().expect("not the root").join(path),
            };
            assert!(path.exists(), "{file}: {target}");
            if !anchor.is_empty() {
                let there = anchors(&fs::read_to_string(path).expect("a page"));
                assert!(there.contains(anchor), "{file}: {target}");
            }
        }
    }
    assert!(seen > 60, "{seen}");
}

/// In pages and in what kiln prints.
#[test]
fn commands_that_pages_and_messages_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let help = World::new().kiln().words("--help").success();
    let commands: BTreeSet<&str> = help
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let mut files = vec!["README.md".to_owned()];
    for directory in ["src", "helpers", "elements", "docs"] {
        files_below(directory, &mut files);
    }
    let mut seen = 0;
    for file in &files {
        let Ok(text) = fs::read_to_string(root.join(file)) else {
            continue;
        };
        for (at, start) in text.match_indices("`kiln ") {
            let rest = &text[at + start.len()..];
            let end = rest.find(|c: char| c != '-' && !c.is_ascii_lowercase());
            let command = &rest[..end.unwrap_or(rest.len())];
            if !command.is_empty() && !command.starts_with('-') {
                seen += 1;
                assert!(commands.contains(command), "{file}: `kiln {command}`");
            }
        }
    }
    assert!(seen > 50, "{seen}");
}

/// Files below a directory of the repository, by their names in it.
fn files_below(name: &str, found: &mut Vec<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    for entry in fs::read_dir(path).expect("readable") {
        let entry = entry.expect("readable");
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        match entry.file_type().expect("readable").is_dir() {
            true => files_below(&name, found),
            false => found.push(name),
        }
    }
}

#[test]
fn pages_that_sources_and_pages_name_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec!["README.md".to_owned()];
    for directory in ["src", "helpers", "elements", "docs", "benches"] {
        files_below(directory, &mut files);
    }
    let mut seen = 0;
    for file in &files {
        let Ok(text) = fs::read_to_string(root.join(file)) else {
            continue;
        };
        for (at, _) in text.match_indices("docs/") {
            let rest = &text[at..];
            let is_part = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
            let end = rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
            let page = rest[..end].trim_end_matches('.');
            // What comes before makes it another project's.
            let is_ours = !text[..at].ends_with(|c: char| is_part(c) || c == '}');
            if is_ours && page.ends_with(".md") {
                seen += 1;
                assert!(root.join(page).exists(), "{file} names {page}");
            }
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn the_architecture_lists_every_folder_of_the_sources() {
    let text = page("architecture.md");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in fs::read_dir(root.join("src")).expect("readable") {
        let entry = entry.expect("readable");
        if entry.file_type().expect("readable").is_dir() {
            let name = format!("| `src/{}/` |", entry.file_name().to_string_lossy());
            assert!(text.contains(&name), "{name}");
        }
    }
}
