//! One request to a service and its answer.

use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Method, Request, Response};

use super::Error;
use crate::fetch::{Client, Options, Trust};

/// Largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 16 << 20;
/// Longest message of a service that is passed on, in characters.
const MAX_MESSAGE: usize = 300;
/// How often an upload looks whether it is to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// A service that is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Service(pub &'static str);

/// Speaks HTTP with the services of one cloud.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// For messages: `create the image`.
    pub action: &'static str,
    pub service: Service,
    pub method: Method,
    pub url: &'a str,
    pub token: Option<&'a str>,
    pub body: Option<(&'static str, Vec<u8>)>,
}

/// An answer with a good status.
#[derive(Debug)]
pub(super) struct Answer {
    headers: Vec<(String, String)>,
    bytes: Vec<u8>,
}

impl Answer {
    /// A header by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(have, _)| have == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self, action: &'static str, service: Service) -> Result<Value, Error> {
        serde_json::from_slice(&self.bytes).map_err(|_| Error::Answer {
            action,
            service: service.0,
            what: "its answer is not JSON".to_owned(),
        })
    }
}

impl Http {
    /// A client with the proxies of the environment.
    pub fn new(trust: Trust, retry_pause: Duration) -> Result<Http, Error> {
        let options = Options {
            trust,
            backoff: retry_pause,
            stall_timeout: Duration::from_secs(120),
            ..Options::default()
        };
        Http::with(options)
    }

    fn with(options: Options) -> Result<Http, Error> {
        let client = Client::new(options).map_err(|error| Error::Transport {
            action: "use the proxy",
            url: String::new(),
            reason: error.to_string(),
        })?;
        Ok(Http { client })
    }

    /// Pause before the first new attempt; it doubles each time.
    pub fn pause(&self) -> Duration {
        self.client.options().backoff
    }

    /// Attempts after the first one.
    pub fn retries(&self) -> u32 {
        self.client.options().retries
    }

    /// Asks once.
    pub fn call(&self, call: &Call<'_>) -> Result<Answer, Error> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(call.url)
            .header("accept", "application/json");
        if let Some(token) = call.token {
            request = request.header("x-auth-token", token);
        }
        let agent = self.client.agent_for(call.url);
        let sent = match &call.body {
            Some((kind, bytes)) => {
                let request = request.header("content-type", *kind).body(bytes.as_slice());
                request
                    .map_err(|error| error.to_string())
                    .and_then(|request| agent.run(request).map_err(|error| error.to_string()))
            }
            None => {
                let request = request.body(());
                request
                    .map_err(|error| error.to_string())
                    .and_then(|request| agent.run(request).map_err(|error| error.to_string()))
            }
        };
        answer(call, sent)
    }

    /// Asks again if that may help; for calls that may be repeated.
    pub fn repeat(&self, call: &Call<'_>) -> Result<Answer, Error> {
        let mut pause = self.pause();
        let mut left = self.retries();
        loop {
            match self.call(call) {
                Err(error) if error.is_transient() && left > 0 => {
                    std::thread::sleep(pause);
                    pause = pause.saturating_mul(2);
                    left -= 1;
                }
                result => return result,
            }
        }
    }

    /// Sends `length` bytes of a reader, until `stop` says otherwise.
    ///
    /// A service that takes no bytes and says nothing would block the calling thread
    /// in the kernel, where it cannot see `stop`: another one then closes the
    /// connection. It is one of its own, so that no later request meets a closed one.
    pub fn send(
        &self,
        call: &Call<'_>,
        length: u64,
        reader: &mut dyn std::io::Read,
        stop: &AtomicBool,
    ) -> Result<Answer, Error> {
        let request = Request::builder()
            .method(call.method.clone())
            .uri(call.url)
            .header("content-type", "application/octet-stream")
            .header("content-length", length)
            // A service that wants no bytes can say so before they are sent.
            .header("expect", "100-continue")
            .header("x-auth-token", call.token.unwrap_or_default())
            .body(ureq::SendBody::from_reader(reader));
        let uploader = Http::with(self.client.options().clone())?.client;
        let agent = uploader.agent_for(call.url);
        let (ended, ends) = channel::<()>();
        std::thread::scope(|scope| {
            // Without it an upload that is stopped ends with its image.
            let _ = std::thread::Builder::new().spawn_scoped(scope, move || {
                while ends.recv_timeout(STOP_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    if stop.load(Ordering::Relaxed) {
                        agent.clone().shutdown();
                        break;
                    }
                }
            });
            let sent = request
                .map_err(|error| error.to_string())
                .and_then(|request| {
                    let request = agent
                        .configure_request(request)
                        .timeout_per_write(Some(self.client.options().stall_timeout))
                        // The store may take its time after the last byte.
                        .timeout_recv_response(Some(Duration::from_secs(3600)))
                        .timeout_per_read(None)
                        .build();
                    agent.run(request).map_err(|error| error.to_string())
                });
            let answer = answer(call, sent);
            drop(ended);
            answer
        })
    }
}

/// Reads an answer, and takes a bad status apart.
fn answer(call: &Call<'_>, sent: Result<Response<ureq::Body>, String>) -> Result<Answer, Error> {
    let transport = |reason: String| Error::Transport {
        action: call.action,
        url: call.url.to_owned(),
        reason,
    };
    let response = sent.map_err(&transport)?;
    let status = response.status();
    let headers = response
        .headers()
        .iter()
        .filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        })
        .collect();
    let mut bytes = Vec::new();
    let mut body = response.into_body().into_reader().take(MAX_ANSWER);
    let read = body.read_to_end(&mut bytes);
    if !status.is_success() {
        return Err(Error::Refused {
            action: call.action,
            service: call.service.0,
            status: status.as_u16(),
            message: message(&bytes),
        });
    }
    read.map_err(|error| transport(error.to_string()))?;
    Ok(Answer { headers, bytes })
}

/// What a service says in an answer: JSON of several forms, or a page of HTML.
fn message(bytes: &[u8]) -> String {
    let json: Option<Value> = serde_json::from_slice(bytes).ok();
    let found = json.as_ref().and_then(|json| {
        let inner = json.as_object()?.values().next()?;
        json.get("message")
            .or_else(|| inner.get("message"))
            .or_else(|| json.get("errors")?.get(0)?.get("detail"))
            .and_then(Value::as_str)
            .map(str::to_owned)
    });
    let text = found.unwrap_or_else(|| plain(&String::from_utf8_lossy(bytes)));
    let words: Vec<&str> = text.split_whitespace().collect();
    let text: String = words
        .join(" ")
        .chars()
        .filter(|char| !char.is_control())
        .take(MAX_MESSAGE)
        .collect();
    text.trim_end_matches('.').to_owned()
}

/// The text of a page of HTML, without its head.
fn plain(page: &str) -> String {
    let body = page.find("<body").map_or(page, |at| &page[at..]);
    let mut text = String::new();
    let mut in_tag = false;
    for char in body.chars() {
        match char {
            '<' => in_tag = true,
            '>' => {
                in_tag = false;
                text.push(' ');
            }
            char if !in_tag => text.push(char),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn messages_are_found_in_all_forms_of_answers() {
        for (answer, expected) in [
            (
                r#"{"error": {"code": 401, "message": "The request you have made requires authentication.", "title": "Unauthorized"}}"#,
                "The request you have made requires authentication",
            ),
            (
                "<html><head><title>409 Conflict</title></head><body><h1>409 Conflict</h1>\
                 There was a conflict.<br /><br />\nImage status transition\n</body></html>",
                "409 Conflict There was a conflict. Image status transition",
            ),
            (r#"{"message": "quota", "code": "413"}"#, "quota"),
            (r#"{"errors": [{"detail": "no"}]}"#, "no"),
            ("plain\x1b[31m text", "plain[31m text"),
            ("", ""),
        ] {
            assert_eq!(super::message(answer.as_bytes()), expected);
        }
    }
}
