//! The Zuul job, its roles and the nodepool configuration in docs: they are what
//! they say, and Ansible runs the roles.

mod common;
#[path = "push/cloud.rs"]
#[allow(dead_code)]
mod service;

use std::fs;
use std::path::{Path, PathBuf};

use common::toy::Toy;
use common::{Run as _, kiln, tool};
use kiln::disk::yaml::{self, Map, Value};
use service::Cloud;

fn docs(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(path)
}

fn parse(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("there");
    yaml::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All YAML files below a directory.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|suffix| suffix == "yaml") {
            found.push(path);
        }
    }
}

fn map(value: &Value) -> &Map {
    match value {
        Value::Map(map) => map,
        other => panic!("a mapping, not {other:?}"),
    }
}

fn list(value: &Value) -> &[Value] {
    match value {
        Value::List(list) => list,
        other => panic!("a list, not {other:?}"),
    }
}

fn text(map: &Map, key: &str) -> String {
    let value = map.get(key).and_then(Value::as_text);
    value
        .unwrap_or_else(|| panic!("{key} is missing"))
        .to_owned()
}

#[test]
fn job_roles_and_configuration_fit_together() {
    let mut all = Vec::new();
    files(&docs("zuul"), &mut all);
    files(&docs("nodepool"), &mut all);
    assert!(all.len() >= 10, "{all:?}");
    for path in &all {
        parse(path);
    }
    let jobs = parse(&docs("zuul/zuul.d/jobs.yaml"));
    let mut names = Vec::new();
    for entry in list(&jobs) {
        let Some(job) = map(entry).get("job").map(map) else {
            continue;
        };
        for key in ["run", "post-run"] {
            if let Some(playbook) = job.get(key).and_then(Value::as_text) {
                assert!(docs("zuul").join(playbook).is_file(), "{playbook}");
            }
        }
        names.push(text(job, "name"));
        // Every variable is one of the role's, as its documentation has it.
        let readme = fs::read_to_string(docs("zuul/roles/kiln-build/README.md")).expect("there");
        for (name, value) in map(job.get("vars").expect("variables")).iter() {
            assert!(readme.contains(&format!("| `{name}` |")), "{name}");
            if name == "kiln_elements" {
                assert_elements(list(value));
            }
        }
    }
    assert_eq!(names, ["kiln-image", "kiln-image-debian-trixie"]);
    for role in ["kiln-build", "kiln-push"] {
        let directory = docs("zuul/roles").join(role);
        let readme = fs::read_to_string(directory.join("README.md")).expect("there");
        let defaults = parse(&directory.join("defaults/main.yaml"));
        for (name, _) in map(&defaults).iter() {
            let known = readme.contains(&format!("| `{name}` |")) || name == "kiln_command";
            assert!(known, "{role}: {name}");
        }
        for task in list(&parse(&directory.join("tasks/main.yaml"))) {
            assert!(!text(map(task), "name").is_empty());
        }
    }
    let nodepool = parse(&docs("nodepool/nodepool.yaml"));
    let image = &list(map(&nodepool).get("diskimages").expect("images"))[0];
    assert_elements(list(map(image).get("elements").expect("elements")));
    // nodepool refuses a provider whose images or labels are not declared at the top.
    let names = |of: &Map, key: &str| -> Vec<String> {
        let entries = list(of.get(key).unwrap_or_else(|| panic!("{key} are missing")));
        entries
            .iter()
            .map(|entry| text(map(entry), "name"))
            .collect()
    };
    let (images, labels) = (
        names(map(&nodepool), "diskimages"),
        names(map(&nodepool), "labels"),
    );
    for provider in list(map(&nodepool).get("providers").expect("providers"))
        .iter()
        .map(map)
    {
        assert_eq!(names(provider, "diskimages"), images);
        for pool in list(provider.get("pools").expect("pools")).iter().map(map) {
            assert_eq!(names(pool, "labels"), labels);
            for label in list(pool.get("labels").expect("labels")) {
                assert!(images.contains(&text(map(label), "diskimage")));
            }
        }
    }
}

/// The bundled library has these elements.
fn assert_elements(elements: &[Value]) {
    let world = common::World::new();
    for element in elements {
        let name = element.as_text().expect("text");
        let outcome = world.kiln().args(["elements", "show", name]).run();
        assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    }
}

#[test]
fn ansible_builds_an_image_with_the_role_and_sends_it() {
    let Some(ansible) = tool("ansible-playbook") else {
        skip!("`ansible-playbook` is not installed");
    };
    let cloud = Cloud::start();
    let toy = Toy::basic();
    toy.file("base/README.rst", "Nothing.\n");
    toy.hook(
        "install",
        "50-says",
        "echo \"release is $DIB_RELEASE\" >/etc/release",
    );
    let world = &toy.world;
    // Zuul's own module, which only its executors have.
    let returned = world.work().join("returned.json");
    let module = format!(
        "import json\n\
         from ansible.module_utils.basic import AnsibleModule\n\
         m = AnsibleModule(argument_spec=dict(data=dict(type='dict')))\n\
         open('{}', 'w').write(json.dumps(m.params['data']))\n\
         m.exit_json(changed=False)\n",
        returned.display()
    );
    world.write("library/zuul_return.py", &module);
    world.write(
        "play.yaml",
        &format!(
            "---\n\
             - import_playbook: {docs}/playbooks/kiln-image/run.yaml\n\
             - hosts: all\n  roles: [kiln-push]\n\
             - import_playbook: {docs}/playbooks/kiln-image/post.yaml\n",
            docs = docs("zuul").display()
        ),
    );
    let variables = serde_json::json!({
        "ansible_connection": "local",
        "ansible_python_interpreter": "/usr/bin/python3",
        "kiln_command": kiln(),
        "kiln_image_name": "toy image",
        "kiln_image_url": "https://images.example",
        "kiln_elements": ["toy"],
        "kiln_formats": ["qcow2", "raw"],
        "kiln_arguments": ["--extra-size", "8"],
        "kiln_environment": {"DIB_RELEASE": "trixie"},
        "kiln_push_environment": {
            "OS_AUTH_URL": format!("{}/identity", cloud.url),
            "OS_TOKEN": "right",
            "http_proxy": "",
        },
    });
    let variables = world.write("variables.json", &variables.to_string());
    let mut command = world.command(ansible);
    command
        .args(["-i", "localhost,", "play.yaml", "-e"])
        .arg(format!("@{}", variables.display()))
        .env("LC_ALL", "C.UTF-8")
        .env("ANSIBLE_ROLES_PATH", docs("zuul/roles"))
        .env("ANSIBLE_LIBRARY", world.work().join("library"))
        .env("ANSIBLE_LOCAL_TEMP", world.work().join("ansible"))
        .env("ANSIBLE_REMOTE_TEMP", world.work().join("ansible"))
        .env("ANSIBLE_GATHERING", "explicit");
    let outcome = command.run();
    assert_eq!(outcome.code(), 0, "{}\n{}", outcome.stdout, outcome.stderr);
    let returned = fs::read_to_string(returned).expect("Zuul got something");
    let returned: serde_json::Value = serde_json::from_str(&returned).expect("JSON");
    let artifacts = &returned["zuul"]["artifacts"];
    for (at, format) in ["qcow2", "raw"].into_iter().enumerate() {
        let artifact = &artifacts[at];
        assert_eq!(artifact["name"], format!("toy image {format}"));
        assert_eq!(
            artifact["url"],
            format!("https://images.example/toy image.{format}")
        );
        let metadata = &artifact["metadata"];
        assert_eq!(metadata["type"], "zuul_image");
        assert_eq!(metadata["image_name"], "toy image");
        assert_eq!(metadata["format"], format);
        let image = world.home().join(format!("images/toy image.{format}"));
        let sums = fs::read_to_string(format!("{}.sha256", image.display())).expect("there");
        assert_eq!(metadata["sha256"], sums[..64]);
        let sums = fs::read_to_string(format!("{}.md5", image.display())).expect("there");
        assert_eq!(metadata["md5sum"], sums[..32]);
    }
    let release = world
        .kiln()
        .arg("cat")
        .arg(world.home().join("images/toy image.qcow2"))
        .arg("/etc/release")
        .run();
    assert_eq!(release.success(), "release is trixie\n");
    let images = cloud.images();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].record["name"], "toy image");
    assert_eq!(images[0].record["disk_format"], "qcow2");
    let sent = fs::metadata(world.home().join("images/toy image.qcow2")).expect("there");
    assert_eq!(images[0].length as u64, sent.len());
}
