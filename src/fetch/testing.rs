//! A web server on loopback for tests.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Client, Options};

/// When every file of the server was modified.
pub const MODIFIED: &str = "Sat, 17 May 2025 09:03:21 GMT";

/// What the server gives for a path.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub bytes: Vec<u8>,
    /// Break the connection after so many bytes of a body, this many times.
    pub breaks: Vec<usize>,
    /// Answer a range with the whole.
    pub no_ranges: bool,
    /// Answer with this status (and location) instead.
    pub status: Option<(u16, String)>,
}

#[derive(Debug, Default)]
struct Shared {
    pages: BTreeMap<String, Page>,
    /// Method and path of each request, with its range.
    log: Vec<String>,
    /// Path and header of each request with credentials.
    credentials: Vec<String>,
}

/// A running server; it ends with the process.
#[derive(Debug, Clone)]
pub struct Server {
    pub url: String,
    shared: Arc<Mutex<Shared>>,
}

impl Server {
    pub fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let server = Server {
            url,
            shared: Arc::clone(&shared),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &shared));
            }
        });
        server
    }

    pub fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        let page = Page {
            bytes: bytes.into(),
            ..Page::default()
        };
        self.put_page(path, page);
    }

    pub fn put_page(&self, path: &str, page: Page) {
        let mut shared = self.shared.lock().expect("not poisoned");
        shared.pages.insert(path.to_owned(), page);
    }

    pub fn remove(&self, path: &str) {
        self.shared.lock().expect("not poisoned").pages.remove(path);
    }

    /// Takes the requests so far, sorted.
    pub fn requests(&self) -> Vec<String> {
        let mut log = std::mem::take(&mut self.shared.lock().expect("not poisoned").log);
        log.sort();
        log
    }

    /// Path and header of the requests with credentials so far, in their order.
    pub fn credentials(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().expect("not poisoned").credentials)
    }
}

fn serve(stream: &TcpStream, shared: &Mutex<Shared>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let path = request.split(' ').nth(1).unwrap_or("").to_owned();
        let (mut from, mut since, mut credentials) = (0, false, Vec::new());
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.to_ascii_lowercase().contains("authorization: ") {
                credentials.push(format!("{path} {}", line.trim()));
            }
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(range) = line.strip_prefix("range: bytes=") {
                from = range.trim_end_matches('-').parse().expect("a number");
            }
            since |= line.starts_with("if-modified-since:");
        }
        let (page, cut) = {
            let mut shared = shared.lock().expect("not poisoned");
            shared.credentials.append(&mut credentials);
            shared.log.push(match from {
                0 => path.clone(),
                from => format!("{path} from {from}"),
            });
            let page = shared.pages.get_mut(&path);
            let cut =
                page.and_then(|page| (!page.breaks.is_empty()).then(|| page.breaks.remove(0)));
            (shared.pages.get(&path).cloned(), cut)
        };
        if !answer(stream, page, from, since, cut) {
            return;
        }
    }
}

/// Answers; `false` when the connection is to be closed.
fn answer(
    mut stream: &TcpStream,
    page: Option<Page>,
    from: usize,
    since: bool,
    cut: Option<usize>,
) -> bool {
    let empty =
        |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes();
    let out = match page {
        None => empty("404 Not Found"),
        Some(Page {
            status: Some((code, to)),
            ..
        }) => empty(&format!("{code} x\r\nLocation: {to}")),
        Some(_) if since => empty("304 Not Modified"),
        Some(page) if from > page.bytes.len() && !page.no_ranges => {
            empty("416 Range Not Satisfiable")
        }
        Some(page) => {
            let from = if page.no_ranges { 0 } else { from };
            let body = &page.bytes[from..];
            let status = match from {
                0 => "200 OK".to_owned(),
                from => format!(
                    "206 Partial Content\r\nContent-Range: bytes {from}-{}/{}",
                    page.bytes.len() - 1,
                    page.bytes.len()
                ),
            };
            let mut out = format!(
                "HTTP/1.1 {status}\r\nLast-Modified: {MODIFIED}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )
            .into_bytes();
            out.extend_from_slice(&body[..cut.unwrap_or(body.len()).min(body.len())]);
            out
        }
    };
    stream.write_all(&out).is_ok() && cut.is_none()
}

/// A client that neither waits nor knows proxies.
pub fn client(offline: bool) -> Client {
    let options = Options {
        offline,
        backoff: Duration::from_millis(1),
        ..Options::default()
    };
    Client::with_environment(options, &|_| None).expect("a client")
}
