//! Downloads from a server on loopback.

use std::sync::atomic::{AtomicU64, Ordering};

use super::testing::{Page, Server, client};
use super::*;

fn item(server: &Server, path: &str, bytes: &[u8]) -> Item {
    Item {
        locations: vec![Location::parse(&format!("{}{path}", server.url)).expect("valid")],
        size: bytes.len().try_into().expect("small"),
        sha256: Digest::of(bytes),
    }
}

fn scene() -> (tempfile::TempDir, Cache, Server) {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = Cache::new(dir.path());
    (dir, cache, Server::start())
}

fn fetch(cache: &Cache, item: &Item) -> Result<Vec<u8>, Error> {
    let blob = cache.fetch(&client(false), item, &|_| {})?;
    Ok(fs_err::read(blob.path).expect("there"))
}

#[test]
fn what_is_cached_is_not_fetched_again() {
    let (_dir, cache, server) = scene();
    server.put("/a", "hello");
    let item = item(&server, "/a", b"hello");
    assert_eq!(fetch(&cache, &item).expect("fetched"), b"hello");
    assert_eq!(fetch(&cache, &item).expect("cached"), b"hello");
    assert_eq!(server.requests(), ["/a"]);
}

#[test]
fn a_damaged_cache_heals() {
    let (_dir, cache, server) = scene();
    server.put("/a", "hello");
    let item = item(&server, "/a", b"hello");
    fetch(&cache, &item).expect("fetched");
    let path = cache.blob_path(item.sha256);
    fs_err::remove_file(&path).expect("removed");
    fs_err::write(&path, "jello").expect("written");
    assert_eq!(fetch(&cache, &item).expect("fetched"), b"hello");
    // Nobody would come to write into a pipe.
    fs_err::remove_file(&path).expect("removed");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("made");
    assert_eq!(fetch(&cache, &item).expect("fetched"), b"hello");
}

#[test]
fn a_broken_transfer_goes_on_where_it_ended() {
    let (_dir, cache, server) = scene();
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    // More breaks than retries: each brought something.
    let page = Page {
        bytes: bytes.clone(),
        breaks: vec![10_000; 6],
        ..Page::default()
    };
    server.put_page("/a", page);
    let told = AtomicU64::new(0);
    let blob = cache
        .fetch(&client(false), &item(&server, "/a", &bytes), &|count| {
            told.fetch_add(count, Ordering::Relaxed);
        })
        .expect("fetched");
    assert_eq!(fs_err::read(blob.path).expect("there"), bytes);
    assert_eq!(told.into_inner(), 100_000);
    assert!(server.requests().contains(&"/a from 60000".to_owned()));
}

#[test]
fn the_next_run_resumes_what_this_one_left() {
    let (_dir, cache, server) = scene();
    let item = item(&server, "/a", b"hello");
    // Cut before the first byte each time after some: retries are used up.
    let page = Page {
        bytes: b"hello".to_vec(),
        breaks: vec![2, 0, 0, 0, 0, 0, 0, 0],
        ..Page::default()
    };
    server.put_page("/a", page);
    let error = fetch(&cache, &item).expect_err("broken");
    assert!(error.to_string().contains("/a`: "), "{error}");
    server.put("/a", "hello");
    server.requests();
    assert_eq!(fetch(&cache, &item).expect("fetched"), b"hello");
    assert_eq!(server.requests(), ["/a from 2"]);
}

#[test]
fn a_server_without_ranges_starts_again() {
    let (_dir, cache, server) = scene();
    let page = Page {
        bytes: b"hello".to_vec(),
        breaks: vec![3],
        no_ranges: true,
        ..Page::default()
    };
    server.put_page("/a", page);
    assert_eq!(
        fetch(&cache, &item(&server, "/a", b"hello")).expect("fetched"),
        b"hello"
    );
}

#[test]
fn left_bytes_of_another_version_do_no_harm() {
    let (_dir, cache, server) = scene();
    let item = item(&server, "/a", b"hello");
    let partial = cache.root().join("partial");
    fs_err::create_dir_all(&partial).expect("made");
    for left in ["xx", "longer than it is"] {
        fs_err::write(partial.join(item.sha256.to_string()), left).expect("written");
        let _ = fs_err::remove_file(cache.blob_path(item.sha256));
        server.put("/a", "hello");
        assert_eq!(fetch(&cache, &item).expect("fetched"), b"hello");
    }
}

#[test]
fn other_bytes_than_promised_are_refused() {
    let (_dir, cache, server) = scene();
    let item = item(&server, "/a", b"hello");
    server.put("/a", "jello");
    let error = fetch(&cache, &item).expect_err("refused");
    assert!(matches!(error, Error::Hash { .. }), "{error}");
    server.put("/a", "hello, world");
    let error = fetch(&cache, &item).expect_err("refused");
    assert_eq!(
        error.to_string(),
        format!("`{}/a` has 12 bytes where 5 are promised", server.url)
    );
    assert!(!cache.blob_path(item.sha256).exists());
    assert!(
        !cache
            .root()
            .join("partial")
            .join(item.sha256.to_string())
            .exists()
    );
}

#[test]
fn not_found_names_the_url_after_trying_all() {
    let (_dir, cache, server) = scene();
    let mut item = item(&server, "/by-hash", b"hello");
    let second = Location::parse(&format!("{}/plain", server.url)).expect("valid");
    item.locations.push(second);
    let error = fetch(&cache, &item).expect_err("missing");
    assert_eq!(
        error.to_string(),
        format!(
            "cannot fetch `{}/plain`: the server answered 404",
            server.url
        )
    );
    server.put("/plain", "hello");
    assert_eq!(fetch(&cache, &item).expect("fetched"), b"hello");
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let (_dir, cache, server) = scene();
    let redirect = |to: &str| Page {
        status: Some((302, to.to_owned())),
        ..Page::default()
    };
    server.put_page("/a", redirect("/b"));
    server.put("/b", "hello");
    assert_eq!(
        fetch(&cache, &item(&server, "/a", b"hello")).expect("fetched"),
        b"hello"
    );
    server.put_page("/loop", redirect("/loop"));
    let error = fetch(&cache, &item(&server, "/loop", b"x")).expect_err("endless");
    assert!(
        error
            .to_string()
            .ends_with("there were more than 10 redirects"),
        "{error}"
    );
}

#[test]
fn nobody_listening_is_explained() {
    let (_dir, cache, _server) = scene();
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("http://{}", listener.local_addr().expect("bound"))
    };
    let item = Item {
        locations: vec![Location::parse(&gone).expect("valid").join("x")],
        size: 1,
        sha256: Digest::of(b"x"),
    };
    let error = fetch(&cache, &item).expect_err("refused");
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot fetch `{gone}/x`: ")),
        "{error}"
    );
    assert!(error.hint().is_some());
}

#[test]
fn offline_lists_all_that_is_missing() {
    let (_dir, cache, server) = scene();
    server.put("/a", "a");
    let items: Vec<Item> = ["a", "b", "c"]
        .iter()
        .map(|name| item(&server, &format!("/{name}"), name.as_bytes()))
        .collect();
    fetch(&cache, &items[0]).expect("fetched");
    let offline = client(true);
    let error = cache
        .fetch_all(&offline, &items, &|_| {}, &|_, _| {})
        .expect_err("missing");
    match error {
        Error::Offline { missing, .. } => {
            assert_eq!(
                missing,
                [format!("{}/b", server.url), format!("{}/c", server.url)]
            );
        }
        error => panic!("{error}"),
    }
    cache
        .fetch_all(&offline, &items[..1], &|_| {}, &|_, _| {})
        .expect("cached");
    let location = Location::parse(&server.url).expect("valid").join("a");
    assert!(matches!(
        cache.document(&offline, &location, 10),
        Err(Error::Offline { .. })
    ));
}

#[test]
fn documents_are_revalidated_and_kept_only_on_request() {
    let (_dir, cache, server) = scene();
    server.put("/d", "one");
    let location = Location::parse(&server.url).expect("valid").join("d");
    let get = || {
        cache
            .document(&client(false), &location, 10)
            .expect("fetched")
    };
    assert_eq!(get().bytes, b"one");
    assert!(
        cache.document(&client(true), &location, 10).is_err(),
        "not kept"
    );
    get().keep().expect("kept");
    // The server says 304 from now on: what was kept counts.
    server.put("/d", "two");
    let document = get();
    assert_eq!(document.bytes, b"one");
    assert_eq!(
        document.modified,
        crate::date::parse_date(testing::MODIFIED)
    );
    assert_eq!(
        cache
            .document(&client(true), &location, 10)
            .expect("kept")
            .bytes,
        b"one"
    );
    server.put("/big", "12345678901");
    let big = Location::parse(&server.url).expect("valid").join("big");
    assert!(matches!(
        cache.document(&client(false), &big, 10),
        Err(Error::TooLarge { .. })
    ));
}

#[test]
fn what_a_power_cut_left_of_a_document_is_not_cached() {
    let (_dir, cache, server) = scene();
    let location = Location::parse(&server.url).expect("valid").join("d");
    let get = |offline| cache.document(&client(offline), &location, 10);
    server.put("/d", "0123456789");
    get(false).expect("fetched").keep().expect("kept");
    let documents = fs_err::read_dir(cache.root().join("documents")).expect("there");
    let paths: Vec<_> = documents
        .map(|entry| entry.expect("readable").path())
        .collect();
    let [path] = &paths[..] else {
        panic!("{paths:?}");
    };
    let good = fs_err::read(path).expect("there");
    assert!(!get(false).expect("cached").is_fresh());
    let zeros = [&good[..good.len() - 4], &[0; 4]].concat();
    for bad in [&good[..good.len() - 1], &good[..good.len() - 10], &zeros] {
        fs_err::write(path, bad).expect("written");
        assert!(matches!(get(true), Err(Error::Offline { .. })));
        // The server is asked for the whole, not whether it changed.
        let document = get(false).expect("fetched");
        assert_eq!(document.bytes, b"0123456789");
        assert!(document.is_fresh());
        document.keep().expect("kept");
        assert_eq!(fs_err::read(path).expect("there"), good);
    }
}

#[test]
fn a_partial_file_that_may_not_be_written_is_made_anew() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_dir, cache, server) = scene();
    server.put("/a", b"0123456789".to_vec());
    let item = item(&server, "/a", b"0123456789");
    let partial = cache.root().join("partial").join(item.sha256.to_string());
    fs_err::create_dir_all(partial.parent().expect("a directory")).expect("made");
    fs_err::write(&partial, b"0123456789").expect("written");
    let read_only = std::fs::Permissions::from_mode(0o444);
    fs_err::set_permissions(&partial, read_only).expect("ours");
    assert_eq!(fetch(&cache, &item).expect("fetched"), b"0123456789");
    assert!(!partial.exists());
}

#[test]
fn two_builds_share_one_download() {
    let (_dir, cache, server) = scene();
    let bytes = vec![7; 200_000];
    server.put("/a", bytes.clone());
    let item = item(&server, "/a", &bytes);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(fetch(&cache, &item).expect("fetched"), bytes));
        }
    });
    assert_eq!(server.requests(), ["/a"]);
}

/// A client with one proxy variable.
fn client_with(name: &'static str, value: String) -> Client {
    let options = Options {
        backoff: std::time::Duration::from_millis(1),
        ..Options::default()
    };
    let variable = |wanted: &str| (wanted == name).then(|| value.clone());
    Client::with_environment(options, &variable).expect("a client")
}

fn read(client: &Client, url: &str) -> Result<Vec<u8>, Error> {
    let location = Location::parse(url).expect("valid");
    let read = client.read(&location, &Condition::default(), 100)?;
    Ok(read.expect("no condition was set").0)
}

#[test]
fn an_http_proxy_is_asked_for_whole_urls_and_a_tunnel_only_for_https() {
    let server = Server::start();
    server.put("http://a.example/x", "one");
    server.put("http://a.example:81/y", "two");
    let proxy = server.url.replace("http://", "http://me:s%40crt@");
    let client = client_with("all_proxy", proxy);
    for _ in 0..2 {
        assert_eq!(read(&client, "http://a.example/x").expect("read"), b"one");
    }
    assert_eq!(
        read(&client, "http://a.example:81/y").expect("read"),
        b"two"
    );
    let credentials = "Proxy-Authorization: Basic bWU6c0BjcnQ=";
    let seen = ["a.example/x", "a.example/x", "a.example:81/y"]
        .map(|path| format!("http://{path} {credentials}"));
    assert_eq!(server.credentials(), seen);
    server.requests();
    read(&client, "https://a.example/x").expect_err("the proxy has no tunnels");
    assert!(server.requests().iter().all(|path| path == "a.example:443"));
}

#[test]
fn credentials_of_a_url_are_decoded_and_go_to_its_server_alone() {
    let (server, other) = (Server::start(), Server::start());
    let to = |status, target: String| Page {
        status: Some((status, target)),
        ..Page::default()
    };
    server.put_page("/a", to(301, format!("{}/b", server.url)));
    server.put_page("/b", to(302, format!("{}/c", other.url)));
    other.put("/c", "here");
    let url = server.url.replace("http://", "http://me:s%40crt@");
    let read = read(&client(false), &format!("{url}/a")).expect("read");
    assert_eq!(read, b"here");
    let header = "authorization: Basic bWU6c0BjcnQ=";
    assert_eq!(
        server.credentials(),
        ["/a", "/b"].map(|path| format!("{path} {header}"))
    );
    assert_eq!(other.credentials(), [""; 0]);
}

#[test]
fn a_socks_proxy_is_used() {
    use std::io::{Read as _, Write as _};
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = proxy.local_addr().expect("bound");
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = proxy.accept().expect("a client");
        let mut greeting = [0; 2];
        stream.read_exact(&mut greeting).expect("its version");
        let mut methods = vec![0; usize::from(greeting[1])];
        stream.read_exact(&mut methods).expect("its methods");
        stream
            .write_all(&[5, 0])
            .expect("no credentials are wanted");
        let mut request = [0; 5];
        stream.read_exact(&mut request).expect("a request");
        let mut name = vec![0; usize::from(request[4]) + 2];
        stream.read_exact(&mut name).expect("a name and port");
        // Not allowed (RFC 1928, section 6).
        stream
            .write_all(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0])
            .expect("answered");
        name.truncate(usize::from(request[4]));
        (request[3], String::from_utf8(name).expect("text"))
    });
    let options = Options {
        retries: 0,
        ..Options::default()
    };
    let variable = |name: &str| (name == "all_proxy").then(|| format!("socks5h://{address}"));
    let client = Client::with_environment(options, &variable).expect("a client");
    read(&client, "http://a.example/x").expect_err("refused");
    // 3 is a name, which the proxy is to look up.
    assert_eq!(asked.join().expect("ended"), (3, "a.example".to_owned()));
}
