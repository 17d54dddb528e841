//! Signed archives of packages, served on loopback.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, SystemTime};

use kiln::date::format_http_date;
use kiln::fetch::Digest;
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedPublicKey,
};
use pgp::types::Password;

use super::common::toy::Toy;

const BASE: &str = "/debian/dists/woody/main/binary-amd64";

/// Serves files on loopback until the process ends.
fn serve(pages: BTreeMap<String, Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/debian", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let pages = pages.clone();
            std::thread::spawn(move || answer(&stream, &pages));
        }
    });
    url
}

/// Answers one request and closes; a client that leaves early is no failure.
fn answer(mut stream: &TcpStream, pages: &BTreeMap<String, Vec<u8>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    for line in lines {
        if line.is_empty() {
            break;
        }
    }
    let (status, body) = match pages.get(&path) {
        Some(body) => ("200 OK", body.as_slice()),
        None => ("404 Not Found", &b""[..]),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body));
}

pub fn gzip(start: &[u8], zeroes: usize) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(start).expect("packed");
    let block = vec![0; 1 << 20];
    for _ in 0..zeroes >> 20 {
        packer.write_all(&block).expect("packed");
    }
    packer.finish().expect("packed")
}

pub fn header(name: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).expect("a name");
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// A package with these fields and this packed tar.
pub fn deb(control: &str, data: Vec<u8>) -> Vec<u8> {
    let mut controls = header("./control", control.len() as u64);
    controls.extend(control.bytes());
    controls.resize(controls.len().next_multiple_of(512) + 1024, 0);
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", gzip(&controls, 0)),
        ("data.tar.gz", data),
    ];
    let mut deb = b"!<arch>\n".to_vec();
    for (name, data) in members {
        deb.extend(
            format!(
                "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                0,
                0,
                0,
                "100644",
                data.len()
            )
            .bytes(),
        );
        deb.extend(&data);
        deb.resize(deb.len().next_multiple_of(2), b'\n');
    }
    deb
}

/// The paragraph of an index about the only package.
pub fn paragraph(control: &str, deb: &[u8]) -> String {
    format!(
        "{control}Filename: pool/only.deb\nSize: {}\nSHA256: {}\n\n",
        deb.len(),
        Digest::of(deb)
    )
}

/// Serves a signed archive of one package, of which a hook makes the root.
pub fn serve_to(toy: &Toy, index: &[u8], packed: Vec<u8>, deb: Vec<u8>) {
    let key = SecretKeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(true)
        .primary_user_id("Test Archive <test@example.org>".into())
        .build()
        .expect("valid")
        .generate(rand::thread_rng())
        .expect("generated");
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let release = format!(
        "Suite: stable\nCodename: woody\nDate: {}\nValid-Until: {}\nArchitectures: amd64\n\
         Components: main\nSHA256:\n {} {} main/binary-amd64/Packages\n {} {} main/binary-amd64/Packages.gz\n",
        format_http_date(now - hour),
        format_http_date(now + hour),
        Digest::of(index),
        index.len(),
        Digest::of(&packed),
        packed.len(),
    );
    let signed = CleartextSignedMessage::sign(
        rand::thread_rng(),
        &release,
        &key.primary_key,
        &Password::empty(),
    )
    .expect("signed")
    .to_armored_string(ArmorOptions::default())
    .expect("written");
    let mirror = serve(BTreeMap::from([
        (
            "/debian/dists/woody/InRelease".to_owned(),
            signed.into_bytes(),
        ),
        (format!("{BASE}/Packages.gz"), packed),
        ("/debian/pool/only.deb".to_owned(), deb),
    ]));
    let keyring = toy.world.work().join("keyring.asc");
    let public = SignedPublicKey::from(key)
        .to_armored_string(ArmorOptions::default())
        .expect("written");
    fs::write(&keyring, public).expect("written");
    toy.hook(
        "root",
        "10-bootstrap",
        &format!(
            "kiln-bootstrap apt --suite woody --arch amd64 --mirror {mirror} --keyring '{}' \"$TARGET_ROOT\"",
            keyring.display()
        ),
    );
}
