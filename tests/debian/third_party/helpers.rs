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
/// list of `[status, what came out of the stream that the argument names]`.
const DRIVER: &str = r#"
import json, os, runpy, sys
import argparse, collections, logging, yaml
try:
    import jsonschema, pkg_resources
except ImportError:
    pass
stream = int(sys.argv[1])
answers = []
for program, arguments, variables in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        os.environ.update(variables)
        out = os.open("python.out", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        nothing = os.open("/dev/null", os.O_WRONLY)
        os.dup2(nothing, 3 - stream)
        os.dup2(out, stream)
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
    let program = format!("diskimage_builder/elements/{program}");
    answers_of(world, &program, name, Stream::Out, cases)
}

/// What a program is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out = 1,
    Err = 2,
}

/// Same, for any program of upstream's and either stream.
fn answers_of(
    world: &World,
    program: &str,
    name: &str,
    stream: Stream,
    cases: &[Case],
) -> Vec<[(i32, String); 2]> {
    let library = upstream(true);
    let script = library.join(program);
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
        .args(["-c", DRIVER, &(stream as u8).to_string()])
        .env("PYTHONPATH", &library)
        .env("PYTHONWARNINGS", "ignore")
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
            let text = match stream {
                Stream::Out => &output.stdout,
                Stream::Err => &output.stderr,
            };
            let text = String::from_utf8_lossy(text).into_owned();
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

#[test]
fn map_packages_answers_as_upstreams() {
    if let Some(why) = cannot_run() {
        skip!("{why}");
    }
    let world = World::new();
    let case = |line: &str| Case {
        arguments: line.split_whitespace().map(str::to_owned).collect(),
        variables: Vec::new(),
    };
    let cases = [
        "apache2 vim snmp-mibs-downloader",
        "build-essential python-dev libssl-dev libfoo-dev x-dev -dev dev",
        "libldap2-dev grub-pc openstack-neutron-dhcp-agent vlan",
        "",
        "-h --help -- -x",
    ]
    .map(case);
    let program = "redhat-common/bin/map-packages";
    for (case, [theirs, ours]) in cases
        .iter()
        .zip(answers(&world, program, "map-packages", &cases))
    {
        assert_eq!(theirs, ours, "{:?}", case.arguments);
    }
}

#[test]
fn service_maps_are_merged_as_by_upstreams() {
    if let Some(why) = cannot_run() {
        skip!("{why}");
    }
    let world = World::new();
    world.write(
        "elements/one/svc-map",
        "ssh:\n  debian: ssh\n  redhat: sshd\n  suse: sshd-suse\n  default: other\ncron:\n  fedora: crond\n",
    );
    world.write(
        "elements/two/svc-map",
        "web: {default: httpd, ubuntu: apache2}\n\"a b\": {default: \"c d\"}\n",
    );
    world.write("elements/three/svc-map", "web: {default: again}\n");
    world.write("elements/four/README", "no map\n");
    for distro in [
        "debian", "ubuntu", "fedora", "centos", "rhel", "opensuse", "gentoo", "",
    ] {
        for names in ["one", "two", "one two", "two one four", "four", "two three"] {
            let paths: String = names
                .split(' ')
                .map(|name| format!("{name}: {}/elements/{name}\n", world.work().display()))
                .collect();
            let theirs = upstream_merge(&world, &paths, distro);
            let output = world
                .kiln()
                .args(["svc-map-merge", "--elements", names, "--path", "elements"])
                .args(["--distro", distro, "ours.yaml"])
                .output()
                .expect("kiln can be started");
            assert_eq!(theirs.0, output.status.code(), "{names} for {distro}");
            if let Some(theirs) = theirs.1 {
                let ours = fs::read_to_string(world.work().join("ours.yaml")).expect("written");
                assert_eq!(theirs, entries(&ours), "{names} for {distro}");
            }
        }
    }
}

/// Status of upstream's hook that merges, and what it has merged.
fn upstream_merge(
    world: &World,
    paths: &str,
    distro: &str,
) -> (Option<i32>, Option<Vec<(String, String)>>) {
    let library = upstream(true);
    let hook = "diskimage_builder/elements/svc-map/extra-data.d/10-merge-svc-map-files";
    fs::create_dir_all(world.work().join("target/tmp")).expect("it can be made");
    let output = world
        .command("python3")
        .arg(library.join(hook))
        .env("PYTHONPATH", &library)
        .env("IMAGE_ELEMENT_YAML", paths)
        .env("TMP_MOUNT_PATH", world.work().join("target"))
        .env("DISTRO_NAME", distro)
        .output()
        .expect("Python can be started");
    let merged = output.status.success().then(|| {
        let file = world.work().join("target/tmp/svc-map-services");
        entries(&fs::read_to_string(file).expect("it is written"))
    });
    (output.status.code(), merged)
}

/// The entries of a flat YAML mapping, sorted.
fn entries(text: &str) -> Vec<(String, String)> {
    let Ok(kiln::disk::yaml::Value::Map(map)) = kiln::disk::yaml::parse(text) else {
        panic!("no mapping: {text}");
    };
    let pair = |(key, value): (&str, &kiln::disk::yaml::Value)| {
        (
            key.to_owned(),
            value.as_text().unwrap_or_default().to_owned(),
        )
    };
    let mut entries: Vec<_> = map.iter().map(pair).collect();
    entries.sort();
    entries
}

/// Values of keys, as YAML has them.
const NUMBERS: &str = "2 2.0 2.5 0 -1 +5 010 08 0x10 0b11 1_000 1e3 1.0e+3 0o10 yes off y ~ '2' []";
const VALUES: &str = "2 1e3 yes y ~ '' '2' abc [a] [] {} {a:\u{a0}b} {a:\u{a0}1} [qcow2,\u{a0}raw]";

#[test]
fn image_lists_become_the_commands_of_upstreams() {
    if let Some(why) = cannot_run() {
        skip!("{why}");
    }
    let world = World::new();
    let mut cases = Vec::new();
    let mut case = |line: &str| {
        cases.push(Case {
            arguments: line.split_whitespace().map(str::to_owned).collect(),
            variables: Vec::new(),
        });
    };
    let scalars = ["imagename", "image-size", "debug-trace", "ramdisk"].map(|key| (key, NUMBERS));
    let others = [
        "environment",
        "types",
        "packages",
        "elements",
        "qemu-img-options",
        "arch",
    ];
    for (key, values) in scalars.into_iter().chain(others.map(|key| (key, VALUES))) {
        for (number, value) in values.split(' ').enumerate() {
            let name = format!("{key}-{number}.yaml");
            world.write(
                &name,
                &format!("- {key}: {}\n", value.replace('\u{a0}', " ")),
            );
            case(&format!("--dry-run {name}"));
        }
    }
    for (number, text) in [
        "",
        "[]",
        "- {}\n",
        "a: b\n",
        "- null\n",
        "- elements: [a]\n- elements: [b]\n",
        "- {imagename: x, elements: [a]}\n- elements: [b]\n- imagename: y\n- {imagename: x, elements: [c]}\n",
        "- &b {elements: [a], imagename: n}\n- {<<: *b, imagename: m}\n",
        "- {imagename: a, ramdisk: true}\n- {imagename: a, ramdisk: false}\n",
        "- environment: {A: \"two\\nlines\", B: 'two words'}\n",
        "%YAML 1.1\n---\n- elements: [a]\n...\n",
        "--- \n- {}\n--- \n- {}\n",
        "- elements: [a\n",
        "- elements: [a, b,]\n  elements: [c]\n",
    ]
    .iter()
    .enumerate()
    {
        let name = format!("document-{number}.yaml");
        world.write(&name, text);
        case(&format!("--dry-run {name}"));
    }
    world.write("a.yaml", "- {imagename: a, elements: [x]}\n");
    world.write("b.yaml", "- elements: [y]\n");
    for line in [
        "",
        "--dry-run",
        "--dry a.yaml",
        "--d --s a.yaml b.yaml",
        "a.yaml b.yaml --dry-run",
        "--dry-run -- a.yaml",
        "--dry-run=1 a.yaml",
        "--unknown a.yaml",
        "--dry-run absent.yaml",
        "--dry-run a.yaml absent.yaml",
    ] {
        case(line);
    }
    let program = "bin/diskimage-builder";
    let answers = answers_of(&world, program, "diskimage-builder", Stream::Err, &cases);
    let library = upstream(true).join("diskimage_builder/lib/");
    let started = format!("bash {}", library.display());
    for (case, [theirs, ours]) in cases.iter().zip(&answers) {
        let file = case.arguments.last().map(|name| world.work().join(name));
        let text = file.and_then(|file| fs::read_to_string(file).ok());
        let what = format!("{:?} {text:?}", case.arguments);
        assert_eq!(theirs.0, ours.0, "{what}: {} {}", theirs.1, ours.1);
        if theirs.0 == 0 {
            assert_eq!(theirs.1.replace(&started, ""), ours.1, "{what}");
        }
    }
    assert!(answers.iter().filter(|[theirs, _]| theirs.0 == 0).count() > 40);
}

#[test]
fn elements_expand_as_by_upstreams() {
    if let Some(why) = cannot_run() {
        skip!("{why}");
    }
    let world = World::new();
    world.write("mine/os/element-provides", "operating-system\n");
    world.write("mine/needs-os/element-deps", "os\n\nother\n");
    world.write("mine/other/README", "");
    world.write("mine/second-os/element-provides", "operating-system\n");
    world.write("mine/loop-a/element-deps", "loop-b\n");
    world.write("mine/loop-b/element-deps", "loop-a\n");
    world.write("mine/broken/element-deps", "nothing-has-this-name\n");
    let elements = upstream(true).join("diskimage_builder/elements");
    let path = format!("{}:mine", elements.display());
    let cases: Vec<Case> = [
        "vm block-device-mbr debian-minimal",
        "vm block-device-gpt ubuntu-minimal",
        "baremetal fedora-minimal",
        "centos-minimal vm block-device-efi simple-init growroot",
        "os needs-os",
        "needs-os",
        "os loop-a",
        "os loop-a loop-b",
        "os second-os",
        "os operating-system",
        "os broken",
        "os absent",
        "base",
        "os os",
        "--en os",
        "",
        "--unknown os",
        "-e os",
        "os -- needs-os",
    ]
    .iter()
    .map(|line| Case {
        arguments: line.split_whitespace().map(str::to_owned).collect(),
        variables: Vec::new(),
    })
    .collect();
    let mut world = world;
    world.set("ELEMENTS_PATH", &path);
    let program = "diskimage_builder/lib/element-info.py";
    let answers = answers_of(&world, program, "element-info", Stream::Out, &cases);
    let names = |text: &str| {
        let line = text.lines().next().unwrap_or_default();
        let line = line.strip_prefix("export IMAGE_ELEMENT='").unwrap_or(line);
        let line = line.trim_end_matches('\'');
        let mut names: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        names.sort();
        names
    };
    for (case, [theirs, ours]) in cases.iter().zip(&answers) {
        assert_eq!(theirs.0, ours.0, "{:?}: {}", case.arguments, ours.1);
        if theirs.0 == 0 {
            assert_eq!(names(&theirs.1), names(&ours.1), "{:?}", case.arguments);
        }
    }
    assert!(answers.iter().filter(|[theirs, _]| theirs.0 == 0).count() >= 9);
}
