//! A repository of our own, signed and served on loopback.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, DetachedSignature, EncryptionCaps, KeyType,
    SecretKeyParamsBuilder, SignedPublicKey, SignedSecretKey, SubkeyParamsBuilder,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::ser::Serialize as _;
use pgp::types::{KeyDetails as _, Password, Timestamp};
use tar::EntryType::{Directory, Regular};

use super::index::Universe;
use super::repository::{Index, OpenSuite, apt_lists, universe};
use super::*;
use crate::date::format_http_date;
use crate::fetch::testing::{Server, client};
use crate::fetch::{Digest, Location};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A key with a signing subkey, as archives have.
fn key() -> SignedSecretKey {
    key_that(true)
}

/// The same, whose primary key may sign documents or only certify.
fn key_that(signs: bool) -> SignedSecretKey {
    let subkey = SubkeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_sign(true)
        .can_encrypt(EncryptionCaps::None)
        .build()
        .expect("valid");
    SecretKeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(signs)
        .can_encrypt(EncryptionCaps::None)
        .primary_user_id("Test Archive <test@example.org>".into())
        .subkeys(vec![subkey])
        .build()
        .expect("valid")
        .generate(rand::thread_rng())
        .expect("generated")
}

fn keyring(key: &SignedSecretKey) -> Keyring {
    let public = SignedPublicKey::from(key.clone());
    let mut bytes = Vec::new();
    public.to_writer(&mut bytes).expect("written");
    let armored = public
        .to_armored_string(ArmorOptions::default())
        .expect("written");
    assert_eq!(
        Keyring::parse("armored", armored.as_bytes())
            .expect("valid")
            .fingerprints(),
        Keyring::parse("binary", &bytes)
            .expect("valid")
            .fingerprints()
    );
    Keyring::parse("the test keyring", &bytes).expect("valid")
}

/// Signs with the subkey.
fn sign(key: &SignedSecretKey, text: &str) -> String {
    CleartextSignedMessage::sign(
        rand::thread_rng(),
        text,
        &key.secret_subkeys[0].key,
        &Password::empty(),
    )
    .expect("signed")
    .to_armored_string(ArmorOptions::default())
    .expect("written")
}

struct Repository {
    server: Server,
    key: SignedSecretKey,
    _dir: tempfile::TempDir,
    cache: Cache,
    packages: Vec<(String, Vec<u8>)>,
}

impl Repository {
    fn new() -> Repository {
        let dir = tempfile::tempdir().expect("a directory");
        let mut repository = Repository {
            server: Server::start(),
            key: key(),
            cache: Cache::new(dir.path()),
            _dir: dir,
            packages: Vec::new(),
        };
        repository.add("base-files", "Essential: yes\n", "/etc/base.conf");
        repository.add("tool", "Depends: liba (>= 1)\n", "/usr/bin/tool");
        repository.add("liba", "", "/lib/liba.so");
        repository.add("apt", "", "/usr/bin/apt");
        repository.publish("stable", DAY);
        repository
    }

    fn add(&mut self, name: &str, more: &str, file: &str) {
        let control = format!("Package: {name}\nVersion: 1:1.0\nArchitecture: amd64\n{more}");
        let directory = file.rsplit_once('/').expect("a path").0;
        let deb = deb::tests::package(
            &[
                ("./control", Regular, &control, 0o644),
                ("./md5sums", Regular, "", 0o644),
            ],
            &[
                ("./", Directory, "", 0o755),
                (&format!(".{directory}/"), Directory, "", 0o755),
                (&format!(".{file}"), Regular, name, 0o644),
            ],
        );
        let path = format!("pool/{name}.deb");
        self.server.put(&format!("/debian/{path}"), deb.clone());
        let paragraph = format!(
            "{control}Filename: {path}\nSize: {}\nSHA256: {}\n\n",
            deb.len(),
            Digest::of(&deb)
        );
        self.packages.push((paragraph, deb));
    }

    fn release(&self, suite: &str, life: Duration) -> String {
        let index: String = self
            .packages
            .iter()
            .map(|(paragraph, _)| paragraph.as_str())
            .collect();
        let packed = deb::tests::gzip(index.as_bytes());
        let base = format!("/debian/dists/{suite}/main/binary-amd64");
        self.server
            .put(&format!("{base}/Packages.gz"), packed.clone());
        let now = SystemTime::now();
        format!(
            "Suite: {suite}\nCodename: woody\nDate: {}\nValid-Until: {}\nAcquire-By-Hash: yes\n\
             Architectures: amd64\nComponents: main\nSHA256:\n {} {} main/binary-amd64/Packages\n {} {} main/binary-amd64/Packages.gz\n",
            format_http_date(now - Duration::from_secs(7200)),
            format_http_date(now - Duration::from_secs(3600) + life),
            Digest::of(index.as_bytes()),
            index.len(),
            Digest::of(&packed),
            packed.len(),
        )
    }

    fn publish(&self, suite: &str, life: Duration) {
        let release = self.release(suite, life);
        let path = format!("/debian/dists/{suite}/InRelease");
        self.server.put(&path, sign(&self.key, &release));
    }

    fn suite(&self, name: &str) -> Suite {
        Suite {
            mirror: format!("{}/debian", self.server.url),
            name: name.to_owned(),
        }
    }

    fn read(
        &self,
        suite: &str,
        offline: bool,
    ) -> Result<(Vec<OpenSuite>, Vec<Index>, Universe), Error> {
        self.read_with(suite, offline, &keyring(&self.key))
    }

    fn read_with(
        &self,
        suite: &str,
        offline: bool,
        keyring: &Keyring,
    ) -> Result<(Vec<OpenSuite>, Vec<Index>, Universe), Error> {
        let client = client(offline);
        let access = Access {
            client: &client,
            cache: &self.cache,
            keyring,
            now: SystemTime::now(),
            may_expire: false,
        };
        let suites = access.open_all(&[self.suite(suite)])?;
        let indices = access.indices(&suites, &["main".to_owned()], "amd64", &|_| {})?;
        let universe = universe(&suites, &indices, "amd64", BTreeMap::new())?;
        Ok((suites, indices, universe))
    }

    fn install(&self, offline: bool) -> Result<tempfile::TempDir, Error> {
        let (suites, _, universe) = self.read("stable", offline)?;
        let resolution = resolve::resolve(&universe, "amd64", &resolve::asked(["tool"])?)?;
        let items: Vec<Item> = resolution
            .packages
            .iter()
            .map(|package| Item {
                locations: vec![suites[package.repository].archive.join(&package.filename)],
                size: package.size,
                sha256: package.sha256,
            })
            .collect();
        let dir = tempfile::tempdir().expect("a directory");
        let root = Root::open(dir.path()).expect("opened");
        let selection = install::Selection {
            packages: &resolution.packages,
            base: &resolution.base,
            items: &items,
            arch: "amd64",
        };
        let outcome = install::install(&client(offline), &self.cache, selection, &root, &|_| {})?;
        assert_eq!(outcome.for_dpkg, Vec::<usize>::new());
        Ok(dir)
    }
}

/// An error with its causes, as the user sees it.
fn text<T>(result: Result<T, Error>) -> String {
    let error = result.err().expect("refused");
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[test]
fn a_signed_repository_becomes_an_unpacked_root() {
    let repository = Repository::new();
    let root = repository.install(false).expect("installed");
    let read = |name: &str| fs_err::read_to_string(root.path().join(name)).expect(name);
    assert_eq!(read("usr/bin/tool"), "tool");
    assert_eq!(read("usr/lib/liba.so"), "liba", "through the merged /lib");
    assert_eq!(
        fs_err::read_link(root.path().join("lib")).expect("a link"),
        Path::new("usr/lib")
    );
    let status = read("var/lib/dpkg/status");
    assert_eq!(dpkg::unconfigured(&status).len(), 3, "{status}");
    assert_eq!(
        read("var/lib/dpkg/info/liba.list"),
        "/.\n/lib\n/lib/liba.so\n"
    );
    // Once more without the network, as everything is cached.
    repository.server.requests();
    repository.install(true).expect("installed offline");
    assert_eq!(repository.server.requests(), Vec::<String>::new());
}

#[test]
fn apt_finds_the_lists_it_would_have_made() {
    let repository = Repository::new();
    let (suites, indices, _) = repository.read("stable", false).expect("read");
    let names: Vec<String> = apt_lists(&suites, &indices)
        .into_iter()
        .map(|list| list.name)
        .collect();
    let host = repository.server.url.trim_start_matches("http://");
    assert_eq!(
        names,
        [
            format!("{host}_debian_dists_stable_InRelease"),
            format!("{host}_debian_dists_stable_main_binary-amd64_Packages")
        ]
    );
}

#[test]
fn signatures_may_be_in_a_file_of_their_own_but_have_to_be_somewhere() {
    let repository = Repository::new();
    let path = |name: &str| format!("/debian/dists/stable/{name}");
    repository.server.remove(&path("InRelease"));
    let release = repository.release("stable", DAY);
    repository.server.put(&path("Release"), release.clone());
    let url = format!("{}{}", repository.server.url, path("Release"));
    assert_eq!(
        text(repository.read("stable", false)),
        format!("`{url}` is not signed: there is neither `InRelease` nor `Release.gpg` beside it")
    );
    let signatures = |key: &SignedSecretKey| {
        DetachedSignature::sign_binary_data(
            rand::thread_rng(),
            &key.secret_subkeys[0].key,
            &Password::empty(),
            HashAlgorithm::Sha512,
            release.as_bytes(),
        )
        .expect("signed")
    };
    let armored = |signature: &DetachedSignature| {
        let options = ArmorOptions::default();
        signature.to_armored_string(options).expect("written")
    };
    // With a cache of its own, since the server says that nothing ever changes.
    let open = |name: &str| {
        let cache = Cache::new(&repository._dir.path().join(name));
        let access = Access {
            client: &client(false),
            cache: &cache,
            keyring: &keyring(&repository.key),
            now: SystemTime::now(),
            may_expire: false,
        };
        access.open(&repository.suite("stable"))
    };
    let good = signatures(&repository.key);
    let mut binary = Vec::new();
    good.to_writer(&mut binary).expect("written");
    // Archives that change their key sign with the old and the new one.
    let mut both = Vec::new();
    signatures(&key()).to_writer(&mut both).expect("written");
    both.extend_from_slice(&binary);
    for (name, bytes) in [
        ("armored", armored(&good).into_bytes()),
        ("binary", binary),
        ("both", both),
    ] {
        repository.server.put(&path("Release.gpg"), bytes);
        open(name).expect(name);
    }
    repository.read("stable", false).expect("trusted");
    repository.server.remove(&path("Release"));
    repository.server.remove(&path("Release.gpg"));
    let (suites, indices, _) = repository.read("stable", true).expect("from the cache");
    let names: Vec<String> = apt_lists(&suites, &indices)
        .into_iter()
        .map(|list| list.name)
        .collect();
    assert!(names[0].ends_with("_stable_Release"), "{names:?}");
    assert!(names[1].ends_with("_stable_Release.gpg"), "{names:?}");
    // Neither another text nor another key.
    let evil = release.replace("Components: main", "Components: evil");
    for (release, signature, reason) in [
        (&evil, armored(&good), "does not match the text"),
        (
            &release,
            armored(&signatures(&key())),
            "the key is not in the keyring",
        ),
        (&release, String::new(), "its signatures cannot be read"),
    ] {
        repository.server.put(&path("Release"), release.clone());
        repository.server.put(&path("Release.gpg"), signature);
        let message = text(open(reason));
        assert!(
            message.contains(&format!("`{url}` is not trusted")),
            "{message}"
        );
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn a_tampered_release_is_not_trusted() {
    let repository = Repository::new();
    let path = "/debian/dists/stable/InRelease";
    let signed = sign(&repository.key, &repository.release("stable", DAY));
    repository
        .server
        .put(path, signed.replace("Components: main", "Components: evil"));
    let message = text(repository.read("stable", false));
    assert!(
        message.contains("/dists/stable/InRelease` is not trusted: no valid signature"),
        "{message}"
    );
    assert!(message.ends_with("does not match the text"), "{message}");
    // Text around the signed part is not taken either.
    repository
        .server
        .put(path, format!("Suite: evil\n{signed}"));
    assert!(text(repository.read("stable", false)).contains("not a clear-signed OpenPGP message"));
    repository
        .server
        .put(path, format!("{signed}\nSuite: evil\n"));
    assert!(text(repository.read("stable", false)).contains("not a clear-signed OpenPGP message"));
    // What was refused was not kept.
    assert!(text(repository.read("stable", true)).starts_with("offline"));
}

#[test]
fn a_release_from_the_cache_that_fails_is_fetched_anew_once() {
    let repository = Repository::new();
    let path = "/debian/dists/stable/InRelease";
    let document = |repository: &Repository| {
        let location = Location::parse(&repository.suite("stable").mirror).expect("valid");
        let location = location.join("dists/stable/InRelease");
        repository
            .cache
            .document_anew(&client(false), &location, 1 << 20)
            .expect("fetched")
    };
    // Nobody verified this one; the server says from now on that it did not change.
    repository.server.put(path, "an answer from long ago");
    document(&repository).keep().expect("kept");
    repository.publish("stable", DAY);
    repository.server.requests();
    repository.read("stable", false).expect("fetched anew");
    let asked = |repository: &Repository| {
        let requests = repository.server.requests();
        requests
            .into_iter()
            .filter(|request| request == path)
            .count()
    };
    assert_eq!(asked(&repository), 2);
    repository.read("stable", false).expect("not modified");
    assert_eq!(asked(&repository), 1);
    // What the server has now is no better: that is the error, and nothing loops.
    repository.server.put(path, "no better");
    document(&repository).keep().expect("kept");
    repository.server.requests();
    let message = text(repository.read("stable", false));
    assert!(message.contains("is not trusted"), "{message}");
    assert_eq!(asked(&repository), 2);
    // Offline there is nothing to ask.
    let message = text(repository.read("stable", true));
    assert!(message.contains("is not trusted"), "{message}");
}

#[test]
fn a_key_that_is_not_in_the_keyring_does_not_count() {
    let repository = Repository::new();
    let message = text(repository.read_with("stable", false, &keyring(&key())));
    assert!(
        message.ends_with("the key is not in the keyring"),
        "{message}"
    );
    let debian = Keyring::debian().expect("valid");
    assert!(
        text(repository.read_with("stable", false, &debian))
            .contains("embedded Debian archive keyring")
    );
}

#[test]
fn a_primary_key_signs_only_if_it_is_meant_to() {
    for signs in [true, false] {
        let key = key_that(signs);
        let text = "Suite: stable\n";
        let by_primary = CleartextSignedMessage::sign(
            rand::thread_rng(),
            text,
            &key.primary_key,
            &Password::empty(),
        );
        let by_primary = by_primary
            .and_then(|message| message.to_armored_string(ArmorOptions::default()))
            .expect("signed");
        let keyring = keyring(&key);
        let now = SystemTime::now();
        let checked = keyring.verify(by_primary.as_bytes(), now);
        match signs {
            true => assert_eq!(checked.expect("verified").text, text),
            false => {
                let reason = checked.expect_err("refused").to_string();
                assert!(reason.ends_with("is not meant for signing"), "{reason}");
            }
        }
        let by_subkey = sign(&key, text);
        keyring.verify(by_subkey.as_bytes(), now).expect("verified");
    }
}

#[test]
fn signatures_from_the_future_do_not_count() {
    let repository = Repository::new();
    let release = repository.release("stable", DAY);
    let signer = &repository.key.secret_subkeys[0].key;
    let now = Timestamp::now().as_secs();
    let created = now + 10 * 24 * 3600;
    let mut config = SignatureConfig::v4(
        SignatureType::Text,
        signer.algorithm(),
        pgp::crypto::hash::HashAlgorithm::Sha512,
    );
    config.hashed_subpackets = vec![
        Subpacket::regular(SubpacketData::SignatureCreationTime(Timestamp::from_secs(
            created,
        )))
        .expect("valid"),
        Subpacket::regular(SubpacketData::IssuerFingerprint(signer.fingerprint())).expect("valid"),
    ];
    let message =
        CleartextSignedMessage::new(&release, config, signer, &Password::empty()).expect("signed");
    let signed = message
        .to_armored_string(ArmorOptions::default())
        .expect("written");
    repository
        .server
        .put("/debian/dists/stable/InRelease", signed);
    let message = text(repository.read("stable", false));
    assert!(message.ends_with("check this machine's clock"), "{message}");
}

#[test]
fn an_expired_or_other_release_is_refused() {
    let repository = Repository::new();
    repository.read("stable", false).expect("current");
    repository.publish("old", Duration::ZERO);
    let message = text(repository.read("old", false));
    assert!(
        message.contains("/dists/old/InRelease` cannot be used: it expired at "),
        "{message}"
    );
    // Snapshots stay as they were.
    let access = Access {
        client: &client(false),
        cache: &repository.cache,
        keyring: &keyring(&repository.key),
        now: SystemTime::now(),
        may_expire: true,
    };
    access.open(&repository.suite("old")).expect("may expire");
    let other = sign(&repository.key, &repository.release("stable", DAY));
    repository
        .server
        .put("/debian/dists/testing/InRelease", other);
    let message = text(repository.read("testing", false));
    assert!(
        message.ends_with("it is that of `stable, woody`, not of `testing`"),
        "{message}"
    );
}

#[test]
fn a_tampered_index_or_package_is_refused() {
    let repository = Repository::new();
    let path = "/debian/dists/stable/main/binary-amd64/Packages.gz";
    let message = {
        let index: String = repository
            .packages
            .iter()
            .map(|(text, _)| text.as_str())
            .collect();
        let mut packed = deb::tests::gzip(index.as_bytes());
        let last = packed.len() - 1;
        packed[last] ^= 1;
        repository.server.put(path, packed);
        text(repository.read("stable", false))
    };
    assert!(message.contains("Packages.gz` has SHA-256"), "{message}");
    repository.release("stable", DAY);
    let mut deb = repository.packages[2].1.clone();
    deb[100] ^= 1;
    repository.server.put("/debian/pool/liba.deb", deb);
    let message = text(repository.install(false).map(|_| ()));
    assert!(
        message.contains("/debian/pool/liba.deb` has SHA-256"),
        "{message}"
    );
}

#[test]
fn what_is_missing_is_named() {
    let repository = Repository::new();
    let url = &repository.server.url;
    assert_eq!(
        text(repository.read("nosuch", false)),
        format!("cannot fetch `{url}/debian/dists/nosuch/InRelease`: the server answered 404")
    );
    repository.server.remove("/debian/pool/tool.deb");
    assert_eq!(
        text(repository.install(false).map(|_| ())),
        format!("cannot fetch `{url}/debian/pool/tool.deb`: the server answered 404")
    );
    // liba may have arrived before or not: only what surely lacks is compared.
    let message = text(repository.install(true).map(|_| ()));
    assert!(message.starts_with("offline, and the cache"), "{message}");
    assert!(message.contains("/debian/pool/tool.deb`"), "{message}");
    let client = client(false);
    let keyring = keyring(&repository.key);
    let access = Access {
        client: &client,
        cache: &repository.cache,
        keyring: &keyring,
        now: SystemTime::now(),
        may_expire: false,
    };
    let suites = access
        .open_all(&[repository.suite("stable")])
        .expect("open");
    let message = text(access.indices(&suites, &["contrib".to_owned()], "arm64", &|_| {}));
    assert!(
        message.ends_with(
            "has no packages of component `contrib` for arm64; it has components main for amd64"
        ),
        "{message}"
    );
}

#[test]
fn gpgv_agrees_where_it_is_installed() {
    let repository = Repository::new();
    let dir = tempfile::tempdir().expect("a directory");
    let mut bytes = Vec::new();
    SignedPublicKey::from(repository.key.clone())
        .to_writer(&mut bytes)
        .expect("written");
    fs_err::write(dir.path().join("ring.gpg"), bytes).expect("written");
    let mut file = fs_err::File::create(dir.path().join("InRelease")).expect("made");
    let signed = sign(&repository.key, &repository.release("stable", DAY));
    file.write_all(signed.as_bytes()).expect("written");
    let result = std::process::Command::new("gpgv")
        .arg("--keyring")
        .arg(dir.path().join("ring.gpg"))
        .arg(dir.path().join("InRelease"))
        .output();
    match result {
        Err(_) => println!("SKIP: no `gpgv` on this host"),
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}
