//! A Keystone and a Glance on loopback, as far as sending images goes.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use md5::Md5;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

/// The project that all tokens are for.
pub const PROJECT: &str = "0f1e2d3c";

/// What goes wrong once.
#[derive(Debug, Clone)]
pub enum Fault {
    /// A request whose line begins so is answered with this, its body unread.
    Answer(&'static str, u16, &'static str),
    /// The connection of an upload breaks after so many bytes.
    Break(usize),
    /// All bytes of an upload arrive, but the answer is lost.
    LoseAnswer,
    /// The stored bytes are others.
    Corrupt,
    /// The image goes into this state after the upload.
    State(&'static str),
    /// Tokens are no longer valid from this request on.
    Expire(&'static str),
    /// An upload takes until the image is deleted or the client goes away.
    Stall,
}

/// An image of the service.
#[derive(Debug, Clone)]
pub struct Stored {
    pub record: Value,
    pub length: usize,
    pub bytes_sha512: String,
}

#[derive(Debug, Default)]
struct State {
    images: Vec<Stored>,
    faults: Vec<Fault>,
    log: Vec<String>,
    sign_ins: Vec<Value>,
    token: u32,
    created: u32,
}

/// A running cloud; it ends with the process.
#[derive(Debug, Clone)]
pub struct Cloud {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Cloud {
    pub fn start() -> Cloud {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let cloud = Cloud {
            url,
            state: Arc::default(),
        };
        let served = cloud.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let cloud = served.clone();
                std::thread::spawn(move || cloud.serve(stream));
            }
        });
        cloud
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    /// Something that will go wrong.
    pub fn fault(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// The images that there are now.
    pub fn images(&self) -> Vec<Stored> {
        self.state().images.clone()
    }

    /// Puts an image there: name, bytes, protected.
    pub fn store(&self, name: &str, bytes: &[u8], format: &str, protected: bool) -> String {
        let mut state = self.state();
        let record = json!({"name": name, "disk_format": format, "protected": protected});
        let id = create(&mut state, &record);
        finish(&mut state, &id, bytes, "active");
        id
    }

    /// Requests so far: `GET /v2/images`.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// What was sent to sign in.
    pub fn sign_ins(&self) -> Vec<Value> {
        std::mem::take(&mut self.state().sign_ins)
    }

    fn take(&self, wanted: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut state = self.state();
        let at = state.faults.iter().position(wanted)?;
        Some(state.faults.remove(at))
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
        // One request a connection.
        let Some(request) = Request::read(&mut reader) else {
            return;
        };
        let line = format!("{} {}", request.method, request.path);
        self.state().log.push(line.clone());
        let answered = self.take(|fault| match fault {
            Fault::Answer(start, ..) => line.starts_with(start),
            _ => false,
        });
        let (status, headers, body) = match answered {
            Some(Fault::Answer(_, status, body)) => (status, String::new(), body.to_owned()),
            _ => match self.answer(&line, &request, &stream, &mut reader) {
                Some(answer) => answer,
                None => return,
            },
        };
        let head = format!(
            "HTTP/1.1 {status} Status\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n",
            body.len()
        );
        let mut stream = stream;
        // The client may be gone.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(body.as_bytes());
        // Bytes that nobody has read by the end would have the connection reset, and the client
        // meets that before it reads the answer if it still sends.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.set_read_timeout(Some(std::time::Duration::from_secs(10)));
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    }

    /// Status, headers and body; `None` if the connection is to break.
    fn answer(
        &self,
        line: &str,
        request: &Request,
        stream: &TcpStream,
        reader: &mut dyn Read,
    ) -> Option<(u16, String, String)> {
        let plain = |status: u16, body: &str| Some((status, String::new(), body.to_owned()));
        if line == "POST /identity/v3/auth/tokens" {
            return self.sign_in(&request.body(stream, reader));
        }
        if let Some(Fault::Expire(_)) =
            self.take(|fault| matches!(fault, Fault::Expire(start) if line.starts_with(start)))
        {
            self.state().token += 1;
        }
        let token = format!("token-{}", self.state().token);
        if request.header("x-auth-token") != Some(token.as_str()) {
            return plain(
                401,
                "<html><body>This server could not verify</body></html>",
            );
        }
        let path = request.path.strip_prefix("/image/v2/").unwrap_or("?");
        let parts: Vec<&str> = path.split(['/', '?']).collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["images", query]) if query.contains("name=") => {
                let name = decoded(query.split("name=").nth(1)?.split('&').next()?);
                let state = self.state();
                let found: Vec<&Value> = state
                    .images
                    .iter()
                    .map(|image| &image.record)
                    .filter(|record| record["name"] == name.as_str())
                    .collect();
                plain(200, &json!({"images": found}).to_string())
            }
            ("POST", ["images"]) => {
                let record: Value =
                    serde_json::from_slice(&request.body(stream, reader)).expect("JSON");
                let mut state = self.state();
                let id = create(&mut state, &record);
                let image = find(&mut state, &id).expect("made").record.to_string();
                let methods = "openstack-image-import-methods: glance-direct,web-download\r\n";
                Some((201, methods.to_owned(), image))
            }
            ("GET", ["images", id]) => match find(&mut self.state(), id) {
                Some(image) => plain(200, &image.record.to_string()),
                None => plain(404, "<html><body>No image found</body></html>"),
            },
            ("DELETE", ["images", id]) => {
                let mut state = self.state();
                let before = state.images.len();
                state.images.retain(|image| image.record["id"] != *id);
                plain(
                    if state.images.len() < before {
                        204
                    } else {
                        404
                    },
                    "",
                )
            }
            ("PUT", ["images", id, place @ ("file" | "stage")]) => {
                self.upload(id, place, request, stream, reader)
            }
            ("POST", ["images", id, "import"]) => {
                let body: Value =
                    serde_json::from_slice(&request.body(stream, reader)).expect("JSON");
                let mut state = self.state();
                let image = find(&mut state, id)?;
                image.record["imported"] = body["method"].clone();
                if body["method"]["name"] == "web-download" {
                    image.record["disk_format"] = json!("raw");
                }
                image.record["status"] = json!("active");
                plain(202, "")
            }
            _ => plain(404, "?"),
        }
    }

    fn sign_in(&self, body: &[u8]) -> Option<(u16, String, String)> {
        let body: Value = serde_json::from_slice(body).expect("JSON");
        let identity = &body["auth"]["identity"];
        let good = identity["password"]["user"]["password"] == "right"
            || identity["token"]["id"] == "right"
            || identity["application_credential"]["secret"] == "right";
        let mut state = self.state();
        state.sign_ins.push(body);
        if !good {
            let error = json!({"error": {"code": 401, "title": "Unauthorized",
                "message": "The request you have made requires authentication."}});
            return Some((401, String::new(), error.to_string()));
        }
        let endpoint = |interface: &str, region: &str, path: &str| {
            json!({"interface": interface, "region": region, "region_id": region,
                "url": format!("{}/{path}", self.url)})
        };
        let token = json!({"token": {
            "project": {"id": PROJECT},
            "catalog": [
                {"type": "compute", "endpoints": [endpoint("public", "north", "nova")]},
                {"type": "image", "endpoints": [
                    endpoint("internal", "north", "wrong"),
                    endpoint("public", "north", "image/v2/"),
                    endpoint("public", "south", "elsewhere"),
                ]},
            ],
        }});
        let header = format!("x-subject-token: token-{}\r\n", state.token);
        Some((201, header, token.to_string()))
    }

    fn upload(
        &self,
        id: &str,
        place: &str,
        request: &Request,
        mut stream: &TcpStream,
        reader: &mut dyn Read,
    ) -> Option<(u16, String, String)> {
        assert_eq!(
            request.header("content-type"),
            Some("application/octet-stream")
        );
        if request.header("expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        let length = request.length();
        let broken = self.take(|fault| matches!(fault, Fault::Break(_)));
        let stalled = self.take(|fault| matches!(fault, Fault::Stall)).is_some();
        let limit = match broken {
            Some(Fault::Break(after)) => after,
            _ => length,
        };
        let (mut sha512, mut md5) = (Sha512::new(), Md5::new());
        let mut done = 0;
        let mut buffer = vec![0; 1 << 16];
        while done < limit {
            let want = buffer.len().min(limit - done);
            let read = reader.read(&mut buffer[..want]).ok()?;
            if read == 0 || stalled && done > 0 {
                if stalled {
                    std::thread::sleep(std::time::Duration::from_secs(600));
                }
                return None;
            }
            sha512.update(&buffer[..read]);
            md5.update(&buffer[..read]);
            done += read;
        }
        if done < length {
            return None;
        }
        let mut state = self.state();
        let image = find(&mut state, id)?;
        let wanted = if place == "stage" {
            "uploading"
        } else {
            "active"
        };
        image.length = length;
        image.bytes_sha512 = hex(&sha512.finalize());
        let stored = image.bytes_sha512.clone();
        image.record["status"] = json!(wanted);
        image.record["size"] = json!(length);
        image.record["checksum"] = json!(hex(&md5.finalize()));
        image.record["os_hash_algo"] = json!("sha512");
        image.record["os_hash_value"] = json!(stored);
        drop(state);
        if self.take(|fault| matches!(fault, Fault::Corrupt)).is_some() {
            find(&mut self.state(), id)?.record["os_hash_value"] = json!("00");
        }
        if let Some(Fault::State(status)) = self.take(|fault| matches!(fault, Fault::State(_))) {
            find(&mut self.state(), id)?.record["status"] = json!(status);
        }
        if self
            .take(|fault| matches!(fault, Fault::LoseAnswer))
            .is_some()
        {
            return None;
        }
        Some((204, String::new(), String::new()))
    }
}

fn create(state: &mut State, given: &Value) -> String {
    state.created += 1;
    let id = match given["id"].as_str() {
        Some(id) => id.to_owned(),
        None => format!("00000000-0000-4000-8000-{:012}", state.created),
    };
    let mut record = given.clone();
    record["id"] = json!(id);
    record["status"] = json!("queued");
    record["owner"] = json!(PROJECT);
    record["created_at"] = json!(format!("2026-03-01T12:00:{:02}Z", state.created));
    state.images.push(Stored {
        record,
        length: 0,
        bytes_sha512: String::new(),
    });
    id
}

fn finish(state: &mut State, id: &str, bytes: &[u8], status: &str) {
    let sha512 = hex(&Sha512::digest(bytes));
    let image = find(state, id).expect("made");
    image.length = bytes.len();
    image.record["status"] = json!(status);
    image.record["size"] = json!(bytes.len());
    image.record["checksum"] = json!(hex(&Md5::digest(bytes)));
    image.record["os_hash_algo"] = json!("sha512");
    image.record["os_hash_value"] = json!(sha512);
    image.bytes_sha512 = sha512;
}

fn find<'a>(state: &'a mut State, id: &str) -> Option<&'a mut Stored> {
    state
        .images
        .iter_mut()
        .find(|image| image.record["id"] == id)
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().expect("two"), rest.next().expect("two")];
            let digits = std::str::from_utf8(&digits).expect("ASCII");
            bytes.push(u8::from_str_radix(digits, 16).expect("hexadecimal"));
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

/// The head of a request.
struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Some(Request {
            method,
            path,
            headers,
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(have, _)| have == name);
        found.map(|(_, value)| value.as_str())
    }

    fn length(&self) -> usize {
        let length = self.header("content-length").expect("a length");
        length.parse().expect("a number")
    }

    fn body(&self, _: &TcpStream, reader: &mut dyn Read) -> Vec<u8> {
        let mut bytes = vec![0; self.length()];
        reader.read_exact(&mut bytes).expect("a body");
        bytes
    }
}
