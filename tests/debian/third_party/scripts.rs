//! Helpers beside those of diskimage-builder that are shell scripts, on the same
//! input: the same commands, requests, output and status.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use kiln::date::{format_http_date, parse_date};

use super::script;
use crate::common::image::missing;
use crate::common::online::{has_pip, upstream};
use crate::common::{World, has_network, kiln};
use crate::skip;

fn cannot_run(tools: &[&'static str]) -> Option<String> {
    if let Some(tool) = missing(tools) {
        return Some(format!("{tool} is not installed"));
    }
    let why = "pip and a network are needed to have diskimage-builder";
    (!has_pip() || !has_network()).then(|| why.to_owned())
}

/// Variables that package managers are given.
const GIVEN: &str = "USE FEATURES PKGDIR DISTDIR PORTDIR YACC LEX";

/// A directory of programs that say how they were called and end with `$FAIL`.
fn recorders(world: &World, names: &str) -> PathBuf {
    let directory = world.work().join("recorders");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir(&directory).expect("it can be made");
    let given: String = GIVEN
        .split(' ')
        .map(|name| format!("{name}=${{{name}-none}} "))
        .collect();
    for name in names.split_whitespace() {
        let text = format!(
            "#!/bin/sh\n{{ printf '%s' \"${{0##*/}}\"; for word do printf ' <%s>' \"$word\"; done; \
             case $0 in */emerge) printf ' %s' \"{given}\";; esac; echo; }} >>\"$RECORD\"\n\
             exit \"${{FAIL:-0}}\"\n"
        );
        script(&directory.join(name), &text);
    }
    directory
}

/// The commands of a call and its status.
fn recorded(world: &World, command: &mut Command) -> (Option<i32>, Vec<String>) {
    let record = world.work().join("record");
    let _ = fs::remove_file(&record);
    let output = command
        .env("RECORD", &record)
        .output()
        .expect("it can be started");
    let text = fs::read_to_string(&record).unwrap_or_default();
    (
        output.status.code(),
        text.lines().map(str::to_owned).collect(),
    )
}

/// A command of apt's: its options, and what it is to do.
fn apt(line: &str) -> (BTreeSet<String>, Vec<String>) {
    let mut words = line
        .split(" <")
        .map(|word| word.trim_end_matches('>').to_owned());
    let mut options = BTreeSet::new();
    let mut rest: Vec<String> = words.next().into_iter().collect();
    while let Some(word) = words.next() {
        match word.as_str() {
            _ if rest.len() > 1 => rest.push(word),
            "-o" | "--option" => options.extend(words.next()),
            option if option.starts_with('-') => drop(options.insert(word)),
            _ => rest.push(word),
        }
    }
    (options, rest)
}

#[test]
fn install_packages_runs_the_commands_of_upstreams() {
    if let Some(why) = cannot_run(&["bash", "getopt"]) {
        skip!("{why}");
    }
    let world = World::new();
    let elements = upstream(false).join("diskimage_builder/elements");
    let lines = [
        "a",
        "a b-c a:i386 d=1.2",
        "-e a b",
        "a -e b",
        "-u",
        "-u a",
        "-e -u",
        "",
        "-e",
        "-h",
        "-x a",
        "-m",
        "-m kiln-has-none a",
        "--unknown a",
        "-- a",
        "-d",
        "-ea",
        "FAIL a b",
        "FAIL -e a b",
        "FAIL -u",
    ];
    // Upstream reads the options of yum's with another program, which stops at a name.
    let only_getopt = ["a -e b"];
    for (element, programs, variables, more) in [
        (
            "dpkg",
            "apt-get",
            "",
            &[
                "-d a",
                "-- -t x-backports a",
                "-- --no-install-recommends a",
            ][..],
        ),
        ("zypper", "zypper", "", &["-d a b", "-d"]),
        (
            "yum",
            "yum rpm",
            "YUM=yum",
            &["apache2 x-dev vim", "snmp-mibs-downloader"],
        ),
        ("yum", "dnf rpm", "YUM=dnf", &["-d store a b", "-d store"]),
        ("yum", "dnf dnf5 rpm", "YUM=dnf", &[]),
        ("yum", "dnf rpm", "YUM=dnf YUM_FLAGS=-y_--nogpgcheck", &[]),
        (
            "gentoo",
            "emerge emerge-webrsync etc-update eselect fix_shm unfix_shm",
            "YACC=bison LEX=flex",
            &["cat/a cat/b"],
        ),
        (
            "gentoo",
            "emerge emerge-webrsync etc-update eselect fix_shm unfix_shm",
            "GENTOO_EMERGE_DEFAULT_OPTS=--quiet",
            &[],
        ),
    ] {
        let recorders = recorders(&world, programs);
        for line in lines.iter().chain(more) {
            if element == "yum" && only_getopt.contains(line) {
                continue;
            }
            let fail = line.starts_with("FAIL ");
            let words: Vec<&str> = line
                .trim_start_matches("FAIL ")
                .split_whitespace()
                .collect();
            let call = |program: &Path, path: String, first: &[&str]| {
                let mut command = world.command(program);
                command.args(first).args(&words).env("PATH", path);
                for pair in variables.split_whitespace() {
                    let (name, value) = pair.split_once('=').expect("a pair");
                    command.env(name, value.replace('_', " "));
                }
                if fail {
                    command.env("FAIL", "7");
                }
                let (status, mut lines) = recorded(&world, &mut command);
                // In a build /dev/shm always is what emerge needs.
                lines.retain(|line| !line.contains("fix_shm"));
                (status, lines)
            };
            let mapper = world.work().join("mapper");
            for name in ["map-packages", "pkg-map"] {
                let text = format!("#!/bin/sh\nexec '{}' {name} \"$@\"\n", kiln().display());
                fs::create_dir_all(&mapper).expect("it can be made");
                script(&mapper.join(name), &text);
            }
            let path = format!("{}:{}:/usr/bin:/bin", recorders.display(), mapper.display());
            let upstreams = elements.join(element).join("bin/install-packages");
            let upstreams = upstreams.to_str().expect("it is text");
            let theirs = call(Path::new("/bin/bash"), path, &[upstreams]);
            let ours = call(
                kiln(),
                recorders.display().to_string(),
                &["install-packages"],
            );
            let what = format!("{programs} {variables} `{line}`");
            assert_eq!(theirs.0, ours.0, "{what}: {theirs:?} {ours:?}");
            if element != "dpkg" {
                assert_eq!(theirs.1, ours.1, "{what}");
                continue;
            }
            assert_eq!(theirs.1.len(), ours.1.len(), "{what}: {theirs:?} {ours:?}");
            for (theirs, ours) in theirs.1.iter().zip(&ours.1) {
                let ((theirs, what_theirs), (ours, what_ours)) = (apt(theirs), apt(ours));
                assert_eq!(what_theirs, what_ours, "{what}");
                assert!(theirs.is_subset(&ours), "{what}: {theirs:?} {ours:?}");
            }
        }
    }
}

/// What the server was asked for.
type Requests = Arc<Mutex<Vec<String>>>;

/// Serves pages on loopback, whose names say how: `STATUS/…`.
fn serve(requests: Requests, modified: SystemTime) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(&stream, &requests, modified);
        }
    });
    url
}

/// Answers one request and closes.
fn answer(mut stream: &TcpStream, requests: &Requests, modified: SystemTime) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut since, mut fresh) = (None, false);
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "if-modified-since" => since = parse_date(value.trim()),
            "cache-control" => fresh = value.contains("no-cache"),
            _ => {}
        }
    }
    let asked = format!("{path} condition={} fresh={fresh}", since.is_some());
    requests.lock().expect("not poisoned").push(asked);
    let (status, body, more) = match path.trim_start_matches('/') {
        "moved" => ("302 Found", "", "Location: /file\r\n"),
        "empty" => ("200 OK", "", ""),
        "ignores" => ("200 OK", "always\n", ""),
        "forbidden" => ("403 Forbidden", "no\n", ""),
        "file" if since.is_some_and(|since| since >= modified) => ("304 Not Modified", "", ""),
        "file" => ("200 OK", "new\n", ""),
        _ => ("404 Not Found", "none\n", ""),
    };
    let date = format!("Last-Modified: {}\r\n", format_http_date(modified));
    let dated = if status.starts_with('4') { "" } else { &date };
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{dated}{more}Connection: close\r\n\r\n{body}",
        body.len(),
    );
}

#[test]
fn cache_url_asks_and_stores_as_upstreams() {
    if let Some(why) = cannot_run(&["bash", "getopt", "curl"]) {
        skip!("{why}");
    }
    let mut world = World::new();
    for name in ["http_proxy", "https_proxy"] {
        world.set(name, "");
    }
    let requests = Requests::default();
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now();
    let url = serve(Arc::clone(&requests), now - hour);
    let script = upstream(false).join("diskimage_builder/elements/cache-url/bin/cache-url");
    world.write("source", "from a file\n");
    let file = format!("file://{}/source", world.work().display());
    let absent = format!("file://{}/absent", world.work().display());
    for (options, url, destination) in [
        ("", format!("{url}/file"), "SIDE/fetched"),
        ("", format!("{url}/file"), "SIDE/deep/er/fetched"),
        ("", format!("{url}/file"), "SIDE/current"),
        ("", format!("{url}/file"), "SIDE/stale"),
        ("", format!("{url}/file"), "SIDE/hollow"),
        ("-f", format!("{url}/file"), "SIDE/current"),
        ("", format!("{url}/moved"), "SIDE/current"),
        ("", format!("{url}/moved"), "SIDE/moved"),
        ("", format!("{url}/ignores"), "SIDE/current"),
        ("", format!("{url}/empty"), "SIDE/current"),
        ("", format!("{url}/empty"), "SIDE/empty"),
        ("", format!("{url}/none"), "SIDE/none"),
        ("", format!("{url}/none"), "SIDE/current"),
        ("", format!("{url}/forbidden"), "SIDE/forbidden"),
        ("", file.clone(), "SIDE/stale"),
        ("", file, "SIDE/of-file"),
        ("", absent, "SIDE/of-nothing"),
        ("-h", String::new(), ""),
        ("-x", format!("{url}/file"), "SIDE/unknown"),
        ("", format!("{url}/file"), ""),
    ] {
        let call = |mut command: Command, side: &str| {
            let directory = world.work().join(side);
            let _ = fs::remove_dir_all(&directory);
            for (name, text, age) in [
                ("current", "old\n", Duration::ZERO),
                ("stale", "old\n", 2 * hour),
                ("hollow", "", Duration::ZERO),
            ] {
                let path = world.write(&format!("{side}/{name}"), text);
                let opened = fs::File::options().append(true).open(path);
                let set = opened.and_then(|opened| opened.set_modified(now - age));
                set.expect("it can be set");
            }
            let destination = destination.replace("SIDE", side);
            let words = [options, &url, &destination];
            let output = command
                .args(words.iter().filter(|word| !word.is_empty()))
                .output()
                .expect("it can be started");
            let asked = std::mem::take(&mut *requests.lock().expect("not poisoned"));
            let mut files: Vec<(String, String)> = walkdir(&directory, &directory);
            files.sort();
            (output.status.code(), asked, files)
        };
        let mut upstreams = world.command("bash");
        upstreams.arg(&script);
        let mut own = world.kiln();
        own.arg("cache-url");
        let (mut theirs, ours) = (call(upstreams, "theirs"), call(own, "ours"));
        // Where curl fails at once, upstream's leaves what it began.
        let is_left = |name: &str| name.starts_with(".download.");
        theirs.2.retain(|(name, _)| !is_left(name));
        let what = format!("{options} {url} {destination}");
        // A client's own status says what curl met; upstream's callers look at 0 and 44.
        let status = |status: Option<i32>| {
            status
                .filter(|status| [0, 44].contains(status))
                .unwrap_or(1)
        };
        assert_eq!(status(theirs.0), status(ours.0), "{what}");
        assert_eq!(theirs.1, ours.1, "{what}");
        assert_eq!(theirs.2, ours.2, "{what}");
    }
}

/// Names and contents of the files below a directory.
fn walkdir(root: &Path, directory: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("it is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(walkdir(root, &path));
        } else {
            let name = path.strip_prefix(root).expect("below it");
            let text = fs::read_to_string(&path).expect("it can be read");
            files.push((name.display().to_string(), text));
        }
    }
    files
}

#[test]
fn run_parts_lists_and_runs_what_upstreams_does() {
    if let Some(why) = cannot_run(&["bash", "awk"]) {
        skip!("{why}");
    }
    let world = World::new();
    let runner = upstream(false).join("diskimage_builder/lib/dib-run-parts");
    let hook = |path: &str, status: u8| {
        let text =
            format!("#!/bin/sh\necho \"${{0##*/}} ${{FROM_A-}}${{FROM_B-}}\"\nexit {status}\n");
        let path = world.write(path, "");
        script(&path, &text);
    };
    for name in [
        "10-b", "10-a", "9-c", "009-d", "a", "B", "-5-e", "1_0", "100", "99-x.sh", "50-y~", "0",
    ] {
        hook(&format!("good/install.d/{name}"), 0);
    }
    world.write("good/install.d/20-not-executable", "#!/bin/sh\necho no\n");
    fs::create_dir(world.work().join("good/install.d/30-directory")).expect("made");
    for (link, target) in [("40-link", "10-a"), ("41-dangling", "absent")] {
        let path = world.work().join("good/install.d").join(link);
        std::os::unix::fs::symlink(target, path).expect("made");
    }
    world.write("good/environment.d/10-a", "export FROM_A='a b '\n");
    world.write(
        "good/environment.d/9-b.bash",
        "export FROM_B=${FROM_A:-first}\n",
    );
    world.write("good/environment.d/50-not~", "export FROM_B=never\n");
    hook("bad/install.d/1-first", 0);
    hook("bad/install.d/2-fails", 9);
    hook("bad/install.d/3-never", 0);
    hook("unset/install.d/1-x", 0);
    world.write(
        "unset/environment.d/1",
        "echo \"$KILN_HAS_NO_SUCH_VARIABLE\"\n",
    );
    hook("falls/install.d/1-x", 0);
    world.write("falls/environment.d/1", "false\n");
    fs::create_dir_all(world.work().join("none/install.d")).expect("made");
    for (line, variable) in [
        ("--list good/install.d", ""),
        ("--list good/install.d", "RUN_PARTS_REGEX=^1"),
        ("--list none/install.d", ""),
        ("good/install.d", ""),
        ("good/install.d more", ""),
        ("good/install.d", "RUN_PARTS_REGEX=x"),
        ("none/install.d", ""),
        ("bad/install.d", ""),
        ("unset/install.d", ""),
        ("falls/install.d", ""),
        ("absent", ""),
        ("--list absent", ""),
        ("--list", ""),
        ("", ""),
        ("--unknown", ""),
    ] {
        let call = |mut command: Command| {
            command.args(line.split_whitespace());
            if let Some((name, value)) = variable.split_once('=') {
                command.env(name, value);
            }
            let output = command.output().expect("it can be started");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.code(), text)
        };
        let mut upstreams = world.command("bash");
        upstreams.arg(&runner);
        let theirs = call(upstreams);
        let ours = call(world.face("dib-run-parts"));
        assert_eq!(theirs, ours, "{line} {variable}");
    }
}
