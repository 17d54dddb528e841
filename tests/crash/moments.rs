//! `kill -9` of one process of a build, whichever it is, at a random moment.
//!
//! The moments come from a seed, so a failure can be repeated:
//!
//! | variable | is | default |
//! |---|---|---|
//! | `KILN_CRASH_MOMENTS` | how many moments each mode gets | 20, of which CI runs some hundred over all modes and users |
//! | `KILN_CRASH_SEED` | where the random numbers start | 1 |

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::toy::{Toy, names};
use crate::common::watch::{Process, Started, eventually, marked};
use crate::common::{self, Run as _};

/// A root that is made in a moment: bash and what its hooks call.
const SMALL_ROOT: &str = r#"#!/bin/bash
set -euo pipefail
cd "$TARGET_ROOT"
mkdir -p usr/bin usr/lib usr/lib64 etc tmp proc sys dev var/log
for name in bin lib lib64; do ln -s usr/$name $name; done
cp -L /bin/bash "$(type -P cat)" usr/bin/
ldd /bin/bash | sed -nE 's@^[[:space:]]([^ ]+ => )?(/[^ ]+) .*@\2@p' | sort -u |
    while read -r library; do
        mkdir -p ".${library%/*}"
        cp -L "$library" ".$library"
    done
"#;

/// Numbers that look random and are the same for the same seed (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit.max(1)
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn toy(mark: &str) -> Toy {
    let mut toy = Toy::basic();
    toy.world.set("KILN_TEST_MARK", mark);
    toy.hook("root", "10-toy", SMALL_ROOT);
    for phase in ["extra-data", "install", "finalise", "cleanup"] {
        // What is left running must go too, and what takes a moment can be hit.
        toy.hook(
            phase,
            "50-work",
            "(trap '' HUP INT TERM; exec -a left-behind bash -c 'read -t 600 <> <(:)' >/dev/null 2>&1) &\n\
             read -t 0.02 <> <(:) || true",
        );
    }
    toy
}

/// Kills one process of a build in `mode` after `delay`; returns what was hit.
fn hit(
    toy: &Toy,
    mark: &str,
    mode: &str,
    delay: Duration,
    numbers: &mut Numbers,
) -> Option<Process> {
    let build = Started::new(&mut toy.command(&format!("-t tar --overwrite --mode {mode}")));
    std::thread::sleep(delay);
    let main = build.main();
    let family: Vec<Process> = main.family().into_iter().collect();
    let which = numbers.below(u64::try_from(family.len()).expect("a small number"));
    let victim = family[usize::try_from(which).expect("a small number")];
    victim.signal(Signal::SIGKILL);
    let (status, _, said) = build.end();
    let mut known: BTreeSet<Process> = family.into_iter().collect();
    known.remove(&victim);
    let gone = || known.iter().all(|process| !process.lives()) && marked(mark).is_empty();
    let started = Instant::now();
    assert!(
        eventually(gone),
        "{mode}, {delay:?}, {victim:?}: left are {:?}\nstatus {status}\n{said}",
        marked(mark)
    );
    println!(
        "{mode} {delay:?} status {status}: gone after {:?}",
        started.elapsed()
    );
    let mounts = common::watch::mounts_below(&toy.world.tmp());
    assert_eq!(
        mounts,
        Vec::<String>::new(),
        "{mode}, {delay:?}: mounts are left"
    );
    Some(victim)
}

fn at_random_moments(mode: &str) {
    let mark = format!("kiln-moment-{}-{mode}", std::process::id());
    let toy = toy(&mark);
    let again = || toy.build(&format!("-t tar --overwrite --mode {mode}"));
    // How long a build takes here; the first one also warms the caches.
    let first = again();
    if !first.outcome.status.success() {
        let (message, _, _) = first.failure();
        let refusals = ["user namespace", "subordinate ids", "mode `"];
        if refusals.iter().any(|refusal| message.contains(refusal)) {
            return common::skipped(&format!("mode {mode}: {message}"));
        }
        panic!("{mode}: {message}\n{}", first.lines().join("\n"));
    }
    let started = Instant::now();
    again().success();
    let whole = u64::try_from(started.elapsed().as_micros()).expect("a short time");
    let mut numbers = Numbers(
        setting("KILN_CRASH_SEED", 1)
            .wrapping_mul(2)
            .wrapping_add(1),
    );
    let moments = setting("KILN_CRASH_MOMENTS", 20);
    for moment in 0..moments {
        let delay = Duration::from_micros(numbers.below(whole));
        hit(&toy, &mark, mode, delay, &mut numbers);
        // A build of the same name works, whatever is left, and sweeps it.
        if moment % 5 == 4 || moment + 1 == moments {
            again().success();
            toy.assert_swept();
            assert_eq!(toy.outputs(), ["toy.tar"], "{mode}");
        }
    }
}

#[test]
fn a_build_with_many_ids_leaves_nothing_at_any_moment() {
    let root = nix::unistd::geteuid().is_root();
    at_random_moments(if root { "root" } else { "subordinate" });
}

#[test]
fn a_build_with_a_single_id_leaves_nothing_at_any_moment() {
    at_random_moments("single");
}

#[test]
fn a_build_without_namespaces_leaves_nothing_at_any_moment() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    at_random_moments("chroot");
}

/// A web server that answers slowly, so that requests of two builds overlap, and
/// counts whole answers.
fn serve(body: &'static [u8]) -> (u16, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&count);
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let counter = std::sync::Arc::clone(&counter);
            std::thread::spawn(move || {
                let mut reader = BufReader::new(connection);
                let mut line = String::new();
                let mut known = false;
                while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                    known |= line.to_ascii_lowercase().starts_with("if-none-match:");
                    line.clear();
                }
                let mut connection = reader.into_inner();
                if known {
                    let _ = connection.write_all(
                        b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nConnection: close\r\n\r\n",
                    );
                    return;
                }
                let head = format!(
                    "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = connection.write_all(head.as_bytes());
                for part in body.chunks(body.len() / 8 + 1) {
                    if connection.write_all(part).is_err() {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(40));
                }
                counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            });
        }
    });
    (port, count)
}

#[test]
fn builds_at_the_same_time_share_the_cache_and_one_that_is_killed_harms_none() {
    static BODY: [u8; 200_000] = [b'k'; 200_000];
    let mark = format!("kiln-share-{}", std::process::id());
    let toy = toy(&mark);
    let (port, whole) = serve(&BODY);
    toy.hook(
        "extra-data",
        "40-fetch",
        &format!(
            "echo FETCHING\n\
             cache-url http://127.0.0.1:{port}/blob \"$DIB_IMAGE_CACHE/blob\"\n\
             [ $(wc -c <\"$DIB_IMAGE_CACHE/blob\") = 200000 ]\n\
             [ -z \"$(tr -d k <\"$DIB_IMAGE_CACHE/blob\")\" ]"
        ),
    );
    let start = |name: &str| Started::new(&mut toy.command(&format!("-t tar -o {name}")));
    let mut killed = start("killed");
    killed.until("FETCHING");
    let others = [start("one"), start("two")];
    // In the midst of its download.
    std::thread::sleep(Duration::from_millis(150));
    for process in killed.main().family() {
        process.signal(Signal::SIGKILL);
    }
    assert_ne!(killed.end().0, 0);
    for other in others {
        let (status, said, errors) = other.end();
        assert_eq!(status, 0, "{said}\n{errors}");
    }
    toy.command("-t tar -o three").run().success();
    // Nobody would ever remove what a download was written to.
    let cached = names(&toy.world.home().join(".cache/image-create"));
    assert!(
        cached.iter().all(|name| !name.starts_with('.')),
        "{cached:?}"
    );
    assert_eq!(toy.outputs(), ["one.tar", "three.tar", "two.tar"]);
    let whole = whole.load(std::sync::atomic::Ordering::Relaxed);
    assert!((1..=3).contains(&whole), "fetched {whole} times");
    assert!(eventually(|| marked(&mark).is_empty()));
    assert!(eventually(|| names(&toy.world.tmp()).is_empty()));
}
