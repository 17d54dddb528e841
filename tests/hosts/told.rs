//! What users are told of their host before they build: by `kiln doctor`, by the
//! recipes in docs/ci, by docs/hosts.md.

use std::path::Path;

use super::*;

#[test]
fn the_doctor_says_what_a_build_will_use() {
    as_root!();
    let toy = toy();
    let none: [caps::Capability; 0] = [];
    for (host, mode) in [
        (user(&toy, 65536).user(USER), Some("subordinate")),
        (user(&toy, 10).user(USER), Some("single")),
        (Host::docker(), Some("chroot")),
        (Host::new().docker_filter(&none).user(USER), None),
        // Root that may make user namespaces and be nobody in them.
        (Host::new().masked().capabilities(&none), None),
    ] {
        let (report, status) = doctor(&host, &toy);
        assert_eq!(report["mode"].as_str(), mode, "{report:#}");
        assert_eq!(report["builds"].as_bool(), Some(mode.is_some()));
        assert_eq!(status, i32::from(mode.is_none()));
        let modes = report["modes"].as_array().expect("a list");
        assert_eq!(modes.len(), 4);
        for one in modes {
            let works = one["works"].as_bool().expect("yes or no");
            let used = one["name"].as_str() == mode;
            assert!(works || !used, "{one:#}");
            let detail = one["detail"].as_str().unwrap_or_default();
            assert!(works || !detail.is_empty());
            // Nothing is said twice.
            assert!(detail.matches("does not let us").count() < 2, "{detail}");
        }
        let fields = |value: &serde_json::Value| {
            let object = value.as_object().expect("an object");
            object.keys().cloned().collect::<Vec<String>>().join(" ")
        };
        assert_eq!(fields(&report), "builds checks mode modes");
        assert_eq!(fields(&modes[0]), "detail name remedy works");
        assert_eq!(fields(&report["checks"][0]), "detail name remedy status");
        for check in report["checks"].as_array().expect("a list") {
            let name = check["name"].as_str().expect("a name");
            let page = include_str!("../../docs/hosts.md");
            assert!(page.contains(&format!("`{name}`")), "{name}");
            let fine = check["status"].as_str() == Some("ok");
            let remedies = check["remedy"].as_array().expect("a list").len();
            let settings = check["name"]
                .as_str()
                .is_some_and(|name| name.contains('.'));
            assert!(fine || settings || remedies > 0, "{check:#}");
        }
    }
}

#[test]
fn the_doctor_says_what_a_normal_user_will_use() {
    as_user!();
    let toy = toy();
    let (report, status) = doctor(&Host::new(), &toy);
    assert_eq!(status, 0, "{report:#}");
    let (report, status) = doctor(&Host::new().docker_filter(&[]), &toy);
    assert_eq!((report["mode"].as_str(), status), (None, 1), "{report:#}");
    let text = Host::new().docker_filter(&[]).kiln(&toy, "doctor");
    assert_eq!(text.code(), 1);
    assert!(text.stdout.contains("Images cannot be built here"));
    assert!(text.stdout.contains("hint: run the container as root"));
}

#[test]
fn a_user_without_a_name_is_told_what_serves_such_a_user() {
    as_root!();
    let toy = toy();
    let host = |lines: &str| {
        let file = toy.world.write("ids", lines);
        let host = Host::new().cover("/etc/subuid", &file);
        host.cover("/etc/subgid", &file).user(USER)
    };
    let wanted = "--mode subordinate";
    let line = ["subuid` gives 0 ids", ":65536` in /etc/subuid and in"];
    refuses(&host(""), &toy, wanted, &line);
    let ids = format!("{USER}:1000000:65536\n");
    let name = ["cannot determine", "the user needs a name as well"];
    let (report, _) = doctor(&host(&ids), &toy);
    assert_eq!(report["mode"], "single");
    let text = report["modes"][1].to_string().to_lowercase();
    assert!(name.iter().all(|said| text.contains(said)), "{text}");
}

#[test]
fn a_host_without_what_every_program_expects_is_refused() {
    as_root!();
    let toy = toy();
    for (directory, said) in [
        ("/dev", ["/dev/null`", "mount --rbind /dev ROOT/dev"]),
        (
            "/proc",
            ["`/proc` is not mounted", "mount -t proc proc /proc"],
        ),
    ] {
        let host = Host::new().memory(directory, MsFlags::empty(), "mode=0755");
        refuses(&host.clone().user(USER), &toy, "", &said);
        refuses(&host, &toy, "", &said);
        let (report, status) = doctor(&host, &toy);
        assert_eq!(status, 1);
        let found = owners::check(&report, directory);
        assert_eq!(found["status"], "missing", "{found:#}");
    }
}

#[test]
fn a_umask_that_takes_files_from_their_owner_is_named() {
    let toy = toy();
    let host = |mask| match nix::unistd::geteuid().is_root() {
        true => Host::new().user(USER).umask(mask),
        false => Host::new().umask(mask),
    };
    for mask in [0o777, 0o200, 0o177] {
        let said = format!("`umask {mask:04o}`");
        refuses(&host(mask), &toy, "", &[&said, "`umask 022`"]);
        let (report, status) = doctor(&host(mask), &toy);
        assert_eq!(status, 1);
        assert_eq!(owners::check(&report, "umask")["status"], "missing");
    }
    let built = host(0o077).build(&toy, "-t tar");
    built.success();
    let (report, status) = doctor(&host(0o077), &toy);
    assert_eq!(status, 0, "{report:#}");
}

#[test]
fn a_user_namespace_without_ids_is_named() {
    let toy = toy();
    let host = match nix::unistd::geteuid().is_root() {
        true => Host::new().user(USER).without_ids(),
        false => Host::new().without_ids(),
    };
    refuses(
        &host,
        &toy,
        "",
        &["gives its user no id", "--map-root-user"],
    );
    let (_, status) = doctor(&host, &toy);
    assert_eq!(status, 1);
}

#[test]
fn a_hook_that_its_user_may_not_read_is_told_with_what_to_do() {
    as_root!();
    let toy = toy();
    let hook = toy.file("toy/install.d/50-closed", "");
    let secret = Path::new("/etc/shadow");
    if !secret.exists() {
        skip!("this host has no file that root alone reads");
    }
    let host = Host::new().cover(&hook, secret).user(USER);
    let (message, hints, _) = host.build(&toy, "-t tar").failure();
    assert!(message.contains("cannot open `"), "{message}");
    assert!(
        hints.join("\n").contains("that you may read it"),
        "{hints:?}"
    );
    toy.assert_swept();
}

/// The files of docs/ci, by name.
const RECIPES: [(&str, &str); 6] = [
    ("gitlab-ci.yml", include_str!("../../docs/ci/gitlab-ci.yml")),
    (
        "github-actions.yml",
        include_str!("../../docs/ci/github-actions.yml"),
    ),
    ("Jenkinsfile", include_str!("../../docs/ci/Jenkinsfile")),
    ("tekton.yaml", include_str!("../../docs/ci/tekton.yaml")),
    (
        "kubernetes-job.yaml",
        include_str!("../../docs/ci/kubernetes-job.yaml"),
    ),
    ("containers.sh", include_str!("../../docs/ci/containers.sh")),
];

/// Pairs of what a recipe's line is tried as, and the line.
fn tried_lines(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut tried = None;
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("# tried as: ") {
            let name = rest.trim_end_matches(['\\', ' ', '`']);
            tried = Some(name.to_owned());
        } else if let Some(at) = line.find("kiln build ") {
            let name = tried.take().unwrap_or_else(|| panic!("not tried: {line}"));
            found.push((name, line[at..].to_owned()));
        }
    }
    found
}

#[test]
fn recipes_are_well_formed_and_say_what_their_lines_are_tried_as() {
    for (name, text) in RECIPES {
        assert!(!tried_lines(text).is_empty(), "{name}");
        if name.ends_with(".yml") || name.ends_with(".yaml") {
            let documents: Vec<serde_json::Value> =
                serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(documents.iter().all(serde_json::Value::is_object), "{name}");
        }
        let index = include_str!("../../docs/ci/README.md");
        assert!(
            index.contains(&format!("({name})")),
            "{name} is not in the index"
        );
    }
    let kinds: Vec<serde_json::Value> =
        serde_saphyr::from_multiple(include_str!("../../docs/ci/kubernetes-job.yaml"))
            .expect("YAML");
    for job in &kinds {
        assert_eq!(job["kind"], "Job");
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        let context = &container["securityContext"];
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        assert_ne!(context["privileged"], true);
    }
    assert_eq!(kinds[2]["spec"]["template"]["spec"]["hostUsers"], false);
}

#[test]
fn lines_of_recipes_work_under_the_rules_that_they_are_for() {
    as_root!();
    let toy = toy();
    let six = [
        caps::Capability::CAP_SYS_CHROOT,
        caps::Capability::CAP_DAC_OVERRIDE,
        caps::Capability::CAP_FOWNER,
        caps::Capability::CAP_FSETID,
        caps::Capability::CAP_SETFCAP,
        caps::Capability::CAP_CHOWN,
    ];
    let mut admin = host::DOCKER.to_vec();
    admin.push(caps::Capability::CAP_SYS_ADMIN);
    let with_admin = |host: Host| host.masked().docker_filter(&admin).capabilities(&admin);
    let host_of = |name: &str| match name {
        "docker root" => (Host::docker(), "chroot"),
        "docker root with SYS_ADMIN" => (with_admin(Host::new()), "root"),
        "podman root" => (Host::podman(), "root"),
        "pod root with six capabilities" => {
            let host = Host::new().masked().docker_filter(&six);
            (host.capabilities(&six).no_new_privileges(), "chroot")
        }
        "pod user where user namespaces are allowed" => (
            Host::new().masked().user(USER).no_new_privileges(),
            "single",
        ),
        "pod root of a user namespace with SYS_ADMIN" => (with_admin(Host::new().nested()), "root"),
        "user with subordinate ids" => (user(&toy, 65536).user(USER), "subordinate"),
        other => panic!("no rules for {other}"),
    };
    let mut lines: Vec<(String, String)> = RECIPES
        .iter()
        .flat_map(|(_, text)| tried_lines(text))
        .map(|(name, line)| {
            // Elements and format are the toy's, a cache of the CI is not there.
            let options = line.split_once(" -o ").expect("an output").1;
            let mut rest = options.split_whitespace().skip(1);
            let mut kept = Vec::new();
            while let Some(word) = rest.next() {
                match word {
                    "-t" | "--image-cache" => drop(rest.next()),
                    _ => kept.push(word),
                }
            }
            (name, kept.join(" "))
        })
        .collect();
    lines.sort();
    lines.dedup();
    assert!(lines.len() >= 7, "{lines:?}");
    for (name, options) in lines {
        let (host, mode) = host_of(&name);
        println!("{name}: {options}");
        works(&host, &toy, &format!("--overwrite {options}"), mode, &[]);
    }
}

#[test]
fn modes_and_remedies_of_distributions_are_documented() {
    let text = include_str!("../../docs/hosts.md");
    for mode in kiln::sandbox::choice::MODES {
        assert!(text.contains(&format!("| `{mode}` |")), "{mode}");
    }
    for command in kiln::sandbox::idmap::install_commands() {
        assert!(text.contains(command), "{command}");
    }
}
