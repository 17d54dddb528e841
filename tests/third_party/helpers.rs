//! Helpers beside diskimage-builder's own, on the same input: the same output and status.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::image::missing;
use crate::common::online::{has_pip, upstream};
use crate::common::{World, has_network};
use crate::skip;

/// Runs programs in Python as if each had been started, in one process after the other:
/// on standard input a list of `[program, arguments, variables]`, on standard output a
/// list of `[status, standard output]`.
const DRIVER: &str = r#"
import json, os, runpy, sys
import argparse, collections, logging, yaml
answers = []
for program, arguments, variables in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        os.environ.update(variables)
        out = os.open("python.out", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        nothing = os.open("/dev/null", os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(nothing, 2)
        sys.argv = [program, *arguments]
        status = 0
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1 if end.code else 0
        except BaseException:
            status = 1
        sys.stdout.flush()
        os._exit(status)
    _, status = os.waitpid(child, 0)
    answers.append([os.waitstatus_to_exitcode(status), open("python.out").read()])
json.dump(answers, sys.stdout)
"#;

/// In an argument: whose answer it is, [`THEIRS`] or [`OURS`].
const SIDE: &str = "SIDE";
const THEIRS: &str = "theirs";
const OURS: &str = "ours";

/// A program's arguments and variables.
struct Case {
    arguments: Vec<String>,
    variables: Vec<(&'static str, &'static str)>,
}

impl Case {
    fn arguments(&self, side: &str) -> Vec<String> {
        let arguments = self.arguments.iter();
        arguments.map(|word| word.replace(SIDE, side)).collect()
    }
}

/// What both programs answer to each case: upstream's, then kiln's.
fn answers(world: &World, program: &str, name: &str, cases: &[Case]) -> Vec<[(i32, String); 2]> {
    let library = upstream(true);
    let script = library.join("diskimage_builder/elements").join(program);
    let asked: Vec<Value> = cases
        .iter()
        .map(|case| {
            let variables: serde_json::Map<String, Value> = case
                .variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), json!(value)))
                .collect();
            json!([script, case.arguments(THEIRS), variables])
        })
        .collect();
    let input = world.write("cases.json", &Value::Array(asked).to_string());
    let output = world
        .command("python3")
        .args(["-c", DRIVER])
        .env("PYTHONPATH", &library)
        .stdin(fs::File::open(input).expect("it was written"))
        .stderr(Stdio::inherit())
        .output()
        .expect("Python can be started");
    let theirs: Vec<(i32, String)> = serde_json::from_slice(&output.stdout).expect("a list");
    cases
        .iter()
        .zip(theirs)
        .map(|(case, theirs)| {
            let output = world
                .kiln()
                .arg(name)
                .args(case.arguments(OURS))
                .envs(case.variables.iter().copied())
                .output()
                .expect("kiln can be started");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            [theirs, (output.status.code().unwrap_or(-1), text)]
        })
        .collect()
}

fn cannot_run() -> Option<&'static str> {
    if missing(&["python3"]).is_some() || !has_pip() || !has_network() {
        return Some("Python, its pip and a network are needed to have diskimage-builder");
    }
    None
}

const MAP: &str = r#"{
    "default": {"a": "da", "b": "db", "s": "", "number": 3},
    "family": {"redhat": {"a": "ra", "c": "rc"}, "debian": {"a": "fa", "n": null}, "suse": null},
    "distro": {"ubuntu": {"a": "ua", "s": "us"}, "fedora": {"b": ""}, "rocky": null},
    "release": {"centos": {"8": {"a": "c8"}}, "ubuntu": {"noble": {"a": "nob two"}}, "rocky": {}}
}"#;

#[test]
fn pkg_map_answers_as_upstreams() {
    if let Some(why) = cannot_run() {
        skip!("{why}");
    }
    let world = World::new();
    world.write("map", MAP);
    world.write("empty", "{}\n");
    world.write(
        "twice",
        "{\"default\": {\"a\": \"1\"}, \"default\": {\"b\": \"1\", \"b\": \"2\"}}",
    );
    world.write("broken", "{\"default\": {");
    let mut cases = Vec::new();
    let mut case = |line: &str, variables: &[(&'static str, &'static str)]| {
        cases.push(Case {
            arguments: line.split_whitespace().map(str::to_owned).collect(),
            variables: variables.to_vec(),
        });
    };
    for system in [
        "debian --release bookworm",
        "ubuntu --release noble",
        "ubuntu",
        "fedora --release 40",
        "centos --release 8-stream",
        "centos --release 9-stream",
        "rocky --release 9",
        "opensuse --release 15",
        "gentoo",
        "nobody",
    ] {
        for names in [
            "a",
            "b",
            "c",
            "--missing-ok a b c s n number other",
            "--prefix - --miss other a",
            "a --prefix=P b",
            "",
            "--debug --unknown",
        ] {
            case(&format!("--pkg-map map --distro {system} {names}"), &[]);
        }
    }
    for line in [
        "--pkg-map empty --distro debian a",
        "--pkg-map empty --distro debian --missing-ok a",
        "--pkg-map twice --distro debian --missing-ok a b",
        "--pkg-map broken --distro debian --missing-ok a",
        "--pkg-map nowhere --distro debian a",
        "--pkg-map nowhere --distro debian --missing-ok a",
        "--element kiln-has-none --distro debian a",
        "--element kiln-has-none --distro debian --missing-ok a",
        "--element x --pkg-map map --distro debian a",
        "--distro debian a",
        "--pkg-map map --distro debian -- --a",
        "--pkg-map map --distro",
        "--pkg-map --distro debian a",
        "--p map --distro debian a",
        "--pk map --di debian a",
        "--pkg-map map a",
    ] {
        case(line, &[]);
        case(line, &[("DISTRO_NAME", "ubuntu"), ("DIB_RELEASE", "noble")]);
    }
    let answers = answers(&world, "pkg-map/bin/pkg-map", "pkg-map", &cases);
    assert_eq!(answers.len(), cases.len());
    for (case, [theirs, ours]) in cases.iter().zip(&answers) {
        let what = format!("{:?} {:?}", case.arguments, case.variables);
        assert_eq!(theirs, ours, "{what}");
    }
    assert!(answers.iter().any(|[theirs, _]| theirs.1 == "nob two\n"));
    assert!(answers.iter().any(|[theirs, _]| theirs.0 == 2));
}

/// Parameters of a package, alone.
const PARAMETERS: [&str; 45] = [
    "null",
    "{}",
    "[]",
    "\"\"",
    r#"{"phase": "pre-install.d"}"#,
    r#"{"uninstall": true}"#,
    r#"{"uninstall": false}"#,
    r#"{"build-only": true}"#,
    r#"{"uninstall": true, "build-only": true}"#,
    r#"{"uninstall": true, "phase": "post-install.d"}"#,
    r#"{"uninstall": true, "when": "A=c"}"#,
    r#"{"installtype": "source"}"#,
    r#"{"installtype": "package"}"#,
    r#"{"arch": "amd64"}"#,
    r#"{"arch": "arm64,amd64"}"#,
    r#"{"arch": "arm64, amd64"}"#,
    r#"{"arch": null}"#,
    r#"{"not-arch": "arm64"}"#,
    r#"{"not-arch": "amd64"}"#,
    r#"{"not-arch": "arm64, amd64"}"#,
    r#"{"arch": "amd64", "not-arch": "arm64"}"#,
    r#"{"dib_python_version": 3}"#,
    r#"{"dib_python_version": "2"}"#,
    r#"{"dib_python_version": ""}"#,
    r#"{"when": "A=b"}"#,
    r#"{"when": "A = b"}"#,
    r#"{"when": "A != b"}"#,
    r#"{"when": "A!=c"}"#,
    r#"{"when": ["A=b", "A!=c"]}"#,
    r#"{"when": ["A=b", "A=c"]}"#,
    r#"{"when": ["A=c", "UNSET=1"]}"#,
    r#"{"when": "A=b "}"#,
    r#"{"when": " A=b"}"#,
    r#"{"when": "E="}"#,
    r#"{"when": "E!="}"#,
    r#"{"when": "UNSET=1"}"#,
    r#"{"when": "A==b"}"#,
    r#"{"when": "A"}"#,
    r#"{"when": ""}"#,
    r#"{"when": []}"#,
    r#"{"when": "W = two words"}"#,
    r#"{"unknown": 1}"#,
    r#"[{"arch": "amd64"}, {"arch": "arm64"}]"#,
    r#"[{"uninstall": true}, {}]"#,
    r#"[{}, {"uninstall": true}]"#,
];

/// Forms of YAML that are the same to Python.
const TEXTS: [&str; 8] = [
    "a:\nb:\n",
    "a: {phase: install.d}\nb: [{when: A=b}, {when: A!=b}]\n",
    "a:\n- when: A=b\n",
    "\"a b\":\n",
    "a: yes\n",
    "# only\n---\na:\n  uninstall: no\n",
    "a:\na:\n  uninstall: true\n",
    "x: &x {phase: pre-install.d}\ny: *x\n",
];

#[test]
fn package_installs_squash_answers_as_upstreams() {
    if let Some(why) = cannot_run() {
        skip!("{why}");
    }
    let world = World::new();
    let yaml = |name: &str, text: &str| format!("{name}/package-installs.yaml\n{text}");
    let one = |value: &str| vec![yaml("one", &format!("{{\"p\": {value}}}"))];
    let mut elements: Vec<Vec<String>> = PARAMETERS.iter().map(|value| one(value)).collect();
    elements.extend(TEXTS.iter().map(|text| vec![yaml("one", text)]));
    // What one element removes and another wants; every second is enough.
    for (at, first) in PARAMETERS[..14].iter().enumerate() {
        for second in PARAMETERS[..14].iter().skip(at % 2).step_by(2) {
            let mut both = one(first);
            let second = format!("{{\"p\": {second}, \"q\": null}}");
            both.push(format!("two-x/package-installs.json\n{second}"));
            elements.push(both);
        }
    }
    let mut cases = Vec::new();
    for (number, files) in elements.iter().enumerate() {
        let mut names = Vec::new();
        for file in files {
            let (path, text) = file.split_once('\n').expect("a path and a text");
            world.write(&format!("case{number}/{path}"), text);
            names.push(path.split_once('/').expect("in an element").0);
        }
        let arguments = [
            "--elements",
            &names.join(" "),
            "--path",
            &format!("case{number}"),
        ];
        let mut arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        arguments.push(format!("{SIDE}{number}.json"));
        let mut variables = vec![
            ("ARCH", "amd64"),
            ("A", "b"),
            ("E", ""),
            ("W", "two words"),
            ("DIB_PYTHON_VERSION", "3"),
        ];
        match number % 3 {
            0 => {}
            1 => variables.push(("DIB_INSTALLTYPE_two_x", "package")),
            _ => variables.push(("DIB_DEFAULT_INSTALLTYPE", "package")),
        }
        cases.push(Case {
            arguments,
            variables,
        });
    }
    let program = "package-installs/bin/package-installs-squash";
    let answers = answers(&world, program, "package-installs-squash", &cases);
    let merged = |case: &Case, side: &str| {
        let name = case.arguments.last().expect("the output");
        let text = fs::read_to_string(world.work().join(name.replace(SIDE, side))).ok()?;
        Some(without_empty(
            serde_json::from_str(&text).expect("it is JSON"),
        ))
    };
    for ((case, [theirs, ours]), files) in cases.iter().zip(&answers).zip(&elements) {
        let what = format!("{files:?} {:?}", case.variables);
        assert_eq!(theirs.0, ours.0, "{what}");
        if theirs.0 == 0 {
            assert_eq!(merged(case, THEIRS), merged(case, OURS), "{what}");
        }
    }
    assert!(answers.iter().any(|[theirs, _]| theirs.0 == 0));
}

/// The lists of upstream's are there even where they are empty.
fn without_empty(mut merged: Value) -> Value {
    let phases = merged.as_object_mut().expect("a map of phases");
    for lists in phases.values_mut() {
        let lists = lists.as_object_mut().expect("a map of lists");
        lists.retain(|_, list| list.as_array().is_none_or(|list| !list.is_empty()));
    }
    phases.retain(|_, lists| lists.as_object().is_none_or(|lists| !lists.is_empty()));
    merged
}
