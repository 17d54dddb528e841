use super::*;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn merge(files: &[(&str, &str)], env: &[(&str, &str)]) -> Result<Merged, Error> {
    let mut merged = Merged::default();
    for (element, text) in files {
        let file = SourceFile {
            location: format!("`{element}/x`"),
            text: (*text).to_owned(),
        };
        merged.add(element, &file, &environment(env))?;
    }
    Ok(merged)
}

/// `phase: +installed -removed` of all phases on one line.
fn summary(merged: &Merged) -> String {
    let mut words = Vec::new();
    for (phase, lists) in &merged.phases {
        if lists.install.is_empty() && lists.uninstall.is_empty() {
            continue;
        }
        words.push(format!("{phase}:"));
        words.extend(
            lists
                .install
                .iter()
                .map(|(package, element)| format!("+{package}/{element}")),
        );
        words.extend(
            lists
                .uninstall
                .iter()
                .map(|(package, element)| format!("-{package}/{element}")),
        );
    }
    words.join(" ")
}

#[test]
fn every_form_of_parameters_is_understood() {
    let text = "a:\nb: {}\nc: ''\nd:\n  phase: pre-install.d\ne:\n- phase: install.d\n- phase: post-install.d\n";
    let merged = merge(&[("x", text)], &[]).unwrap();
    assert_eq!(
        summary(&merged),
        "install.d: +a/x +b/x +c/x +e/x post-install.d: +e/x pre-install.d: +d/x"
    );
    let json = merge(&[("x", "{\"b\": null, \"a\": {\"uninstall\": true}}")], &[]).unwrap();
    assert_eq!(summary(&json), "install.d: +b/x -a/x");
}

#[test]
fn filters_decide_by_the_environment() {
    let env = &[
        ("ARCH", "amd64"),
        ("DIB_PYTHON_VERSION", "3"),
        ("DIB_INSTALLTYPE_my_element", "package"),
        ("V", "some value"),
        ("E", ""),
    ];
    for (parameters, included) in [
        ("arch: amd64", true),
        ("arch: arm64,amd64", true),
        ("arch: arm64, amd64", false),
        ("arch: arm64", false),
        ("not-arch: amd64", false),
        ("not-arch: arm64", true),
        ("installtype: package", true),
        ("installtype: source", false),
        ("dib_python_version: 3", true),
        ("dib_python_version: '3'", true),
        ("dib_python_version: 2", false),
        ("when: V = some value", true),
        ("when: V=some value", true),
        ("when: V != some value", false),
        ("when: V = other", false),
        ("when: 'E ='", true),
        ("when: [V = some value, E != x]", true),
        ("when: [V = some value, E = x]", false),
    ] {
        let text = format!("p:\n  {parameters}\n");
        let merged = merge(&[("my-element", &text)], env).unwrap();
        assert_eq!(
            summary(&merged) == "install.d: +p/my-element",
            included,
            "{parameters}"
        );
    }
}

#[test]
fn the_default_install_type_is_source() {
    let text = "p:\n  installtype: source\n";
    assert_eq!(
        summary(&merge(&[("x", text)], &[]).unwrap()),
        "install.d: +p/x"
    );
    let merged = merge(&[("x", text)], &[("DIB_DEFAULT_INSTALLTYPE", "package")]).unwrap();
    assert_eq!(summary(&merged), "");
}

#[test]
fn order_of_elements_decides_about_removals() {
    let (plain, remove, build) = (
        "p:\n",
        "p:\n  uninstall: true\n",
        "p:\n  build-only: true\n",
    );
    for (files, expected) in [
        (vec![remove], "-p/0"),
        (vec![build], "+p/0 -p/0"),
        // a plain entry cancels earlier removals
        (vec![remove, plain], "+p/1"),
        (vec![build, plain], "+p/0 +p/1"),
        // a removal after a plain entry is ignored
        (vec![plain, remove], "+p/0"),
        (vec![plain, build], "+p/0 +p/1"),
        (vec![build, remove], "+p/0 -p/0 -p/1"),
        (vec![build, build], "+p/0 +p/1 -p/0 -p/1"),
        (vec![plain, plain], "+p/0 +p/1"),
        (vec!["p:\n  uninstall: false\n"], "-p/0"),
        // the bookkeeping comes before the filters
        (vec![remove, "p:\n  arch: other\n"], ""),
    ] {
        let names: Vec<String> = (0..files.len()).map(|n| n.to_string()).collect();
        let files: Vec<_> = names.iter().map(String::as_str).zip(files).collect();
        let merged = merge(&files, &[("ARCH", "amd64")]).unwrap();
        let expected = if expected.is_empty() {
            String::new()
        } else {
            format!("install.d: {expected}")
        };
        assert_eq!(summary(&merged), expected, "{files:?}");
    }
}

#[test]
fn errors_name_package_and_file() {
    let text = |yaml: &str| {
        let error = merge(&[("x", yaml)], &[]).unwrap_err();
        format!("{error} -- {}", error.hint().unwrap_or_default())
    };
    assert_eq!(
        text("p: {when: A = b}"),
        "The variable <A> is not set -- package `p` in `x/x` depends on it; export A from an environment.d file"
    );
    assert_eq!(
        text("p: {when: A is b}"),
        "Malformed when line: <A is b> -- write `VARIABLE = value` or `VARIABLE != value`"
    );
    assert_eq!(
        text("p: {arch: a, not-arch: b}"),
        "package `p` in `x/x` has both `arch` and `not-arch` -- keep one of the two; a list of maps can express both"
    );
    assert!(
        text("p: 5").starts_with("`x/x` is not a package list: "),
        "{}",
        text("p: 5")
    );
    assert!(text("p: [a").starts_with("`x/x` is not a package list: "));
}

#[test]
fn doubtful_lines_are_warned_about() {
    let merged = merge(
        &[("x", "p:\n  uninstall: false\n  arch: a, b\n  archs: c\n")],
        &[],
    )
    .unwrap();
    assert_eq!(merged.warnings.len(), 3, "{:?}", merged.warnings);
}

#[test]
fn every_directory_with_the_element_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for library in ["a", "b"] {
        std::fs::create_dir_all(dir.path().join(library).join("e")).unwrap();
        std::fs::write(
            dir.path().join(library).join("e/package-installs.yaml"),
            format!("{library}:\n"),
        )
        .unwrap();
    }
    let sources = Sources {
        elements: vec!["e".into(), "unknown".into(), "linked".into()],
        path: vec![
            dir.path().join("a"),
            dir.path().join("b"),
            dir.path().join("c"),
        ],
        found: BTreeMap::from([
            ("linked".to_owned(), dir.path().join("a/e")),
            ("e".to_owned(), dir.path().join("nowhere")),
        ]),
    };
    let merged = squash(&sources, &Environment::new()).unwrap();
    assert_eq!(summary(&merged), "install.d: +a/e +b/e +a/linked");
}

/// The rules once more, over a plain list of entries and one package.
fn model(entries: &[(u8, bool)]) -> (Vec<usize>, Vec<usize>) {
    let (mut install, mut remove) = (Vec::new(), Vec::new());
    for (n, &(kind, applies)) in entries.iter().enumerate() {
        let covered = !install.is_empty() && remove.is_empty();
        let (add, drop) = match kind {
            0 => {
                remove.clear();
                (true, false)
            }
            1 => (false, !covered),
            _ => (true, !covered),
        };
        if applies && add {
            install.push(n);
        }
        if applies && drop {
            remove.push(n);
        }
    }
    (install, remove)
}

proptest::proptest! {
    #[test]
    fn merges_follow_the_model(entries in proptest::collection::vec((0u8..3, proptest::bool::ANY), 0..8)) {
        let mut merged = Merged::default();
        for (n, (kind, applies)) in entries.iter().enumerate() {
            let kind = ["", "uninstall: true, ", "build-only: true, "][usize::from(*kind)];
            let arch = if *applies { "amd64" } else { "other" };
            let file = SourceFile { location: String::new(), text: format!("p: {{{kind}arch: {arch}}}") };
            merged.add(&n.to_string(), &file, &environment(&[("ARCH", "amd64")])).unwrap();
        }
        let numbers = |list: &[(String, String)]| -> Vec<usize> { list.iter().map(|(_, n)| n.parse().unwrap()).collect() };
        let lists = merged.phases.get("install.d").cloned().unwrap_or_default();
        proptest::prop_assert_eq!((numbers(&lists.install), numbers(&lists.uninstall)), model(&entries));
    }

    #[test]
    fn no_document_panics(text in "\\PC{0,60}") {
        let _ = merge(&[("x", &text)], &[]);
    }
}
