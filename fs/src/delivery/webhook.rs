//! A webhook: one HTTP POST with JSON for each notice.
//!
//! With a secret, `X-Wsguard-Signature: sha256=<hex>` is the HMAC of the body, as GitHub signs. Tried three times.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};
use wsguard_api::{EventKind, SCHEMA_VERSION};

use super::{DeliveryError, Ending, Notice, Reached, Way};
use crate::config::WebhookSettings;

/// Pauses before the second attempt and the third.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// Where the signature is.
const SIGNATURE: &str = "X-Wsguard-Signature";

/// Why a webhook did not take a notice.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebhookError {
    #[error("cannot read the secret of the webhook from {path}", path = path.display())]
    Secret {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the secret in {path} cannot be used as a key", path = path.display())]
    Key { path: PathBuf },
    #[error("cannot write the notice as JSON")]
    Json(#[from] serde_json::Error),
    #[error("the webhook does not answer, tried {attempts} times")]
    Unreachable {
        attempts: usize,
        #[source]
        source: Box<ureq::Error>,
    },
    #[error("the webhook answers with HTTP status {status}, tried {attempts} times")]
    Refused { status: u16, attempts: usize },
}

#[derive(Serialize)]
struct Body<'a> {
    schema: u32,
    at: String,
    kind: EventKind,
    workspace: Option<&'a str>,
    uids: &'a [u32],
    host: &'a str,
    /// As chat services want it.
    text: &'a str,
}

/// See the module.
pub(super) struct Webhook {
    settings: WebhookSettings,
    agent: Agent,
    host: String,
    ending: Arc<Ending>,
}

/// How one attempt ended.
enum Attempt {
    Taken,
    /// It makes no sense to try again.
    Final(u16),
    Again(u16),
    Unreachable(ureq::Error),
}

impl Webhook {
    pub(super) fn new(settings: WebhookSettings, ending: Arc<Ending>) -> Self {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .timeout_global(Some(settings.timeout))
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(concat!("wsguard/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .build();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { settings, agent: config.into(), host, ending }
    }

    fn attempt(&self, body: &[u8], signature: Option<&str>) -> Attempt {
        let mut request = self.agent.post(&self.settings.url).header("Content-Type", "application/json");
        if let Some(signature) = signature {
            request = request.header(SIGNATURE, signature);
        }
        match request.send(body) {
            Ok(response) if response.status().is_success() => Attempt::Taken,
            Ok(response) => match response.status().as_u16() {
                status @ (408 | 429 | 500..) => Attempt::Again(status),
                status => Attempt::Final(status),
            },
            Err(error) => Attempt::Unreachable(error),
        }
    }

    /// Reads the secret each time, so that it can be changed.
    fn signature(&self, body: &[u8]) -> Result<Option<String>, WebhookError> {
        let Some(path) = &self.settings.secret_file else { return Ok(None) };
        let secret =
            std::fs::read(path).map_err(|source| WebhookError::Secret { path: path.clone(), source })?;
        let secret = secret.strip_suffix(b"\n").unwrap_or(&secret);
        signature(secret, body).map(Some).ok_or_else(|| WebhookError::Key { path: path.clone() })
    }
}

fn signature(secret: &[u8], body: &[u8]) -> Option<String> {
    let mut code = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    code.update(body);
    let hex: String = code.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("sha256={hex}"))
}

impl Way for Webhook {
    fn deliver(&mut self, notice: &Notice) -> Result<Reached, DeliveryError> {
        let body = Body {
            schema: SCHEMA_VERSION,
            at: notice.at.to_string(),
            kind: notice.kind,
            workspace: notice.workspace.as_deref(),
            uids: &notice.readers,
            host: &self.host,
            text: &notice.message,
        };
        let body = serde_json::to_vec(&body).map_err(WebhookError::Json)?;
        let signature = self.signature(&body)?;
        let mut attempts = 0;
        let mut pauses = PAUSES.iter();
        loop {
            attempts += 1;
            let error = match self.attempt(&body, signature.as_deref()) {
                Attempt::Taken => return Ok(Reached::Somebody(self.settings.url.clone())),
                Attempt::Final(status) => return Err(WebhookError::Refused { status, attempts }.into()),
                Attempt::Again(status) => WebhookError::Refused { status, attempts },
                Attempt::Unreachable(source) => {
                    WebhookError::Unreachable { attempts, source: Box::new(source) }
                }
            };
            match pauses.next() {
                Some(pause) if !self.ending.comes_within(*pause) => {}
                _ => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::super::sample;
    use super::*;

    /// Answers one request with each of `answers` and returns what it got.
    fn sink(answers: &'static [&'static str]) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let serve = move |answer: &&str| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut got = Vec::new();
            let mut buffer = [0; 4_096];
            while !got.ends_with(b"}") {
                let length = stream.read(&mut buffer).unwrap();
                got.extend_from_slice(&buffer[..length]);
            }
            write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            String::from_utf8(got).unwrap()
        };
        (url, std::thread::spawn(move || answers.iter().map(serve).collect()))
    }

    fn webhook(url: String, secret_file: Option<PathBuf>) -> Webhook {
        let settings = WebhookSettings { url, secret_file, timeout: Duration::from_secs(5) };
        Webhook::new(settings, Arc::default())
    }

    #[test]
    fn signature_is_that_of_rfc_4231() {
        let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature(b"Jefe", b"what do ya want for nothing?").unwrap(), expected);
    }

    #[test]
    fn notice_is_posted_signed_and_tried_again_after_an_error_of_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "s3cret\n").unwrap();
        let (url, got) = sink(&["503 Busy", "200 OK"]);
        let mut webhook = webhook(url.clone(), Some(secret));
        assert_eq!(webhook.deliver(&sample("full")).unwrap(), Reached::Somebody(url));
        let got = got.join().unwrap();
        assert_eq!(got.len(), 2);
        let (head, body) = got[1].split_once("\r\n\r\n").unwrap();
        let expected = signature(b"s3cret", body.as_bytes()).unwrap();
        assert!(head.to_lowercase().contains(&format!("x-wsguard-signature: {expected}")), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["text"], &body["kind"]), (&"full".into(), &"quota-crossed".into()));
    }

    #[test]
    fn refusal_is_final_and_the_end_cuts_the_pause_short() {
        let (url, got) = sink(&["404 Not Found"]);
        let error = webhook(url, None).deliver(&sample("x")).unwrap_err();
        assert_eq!(error.to_string(), "the webhook answers with HTTP status 404, tried 1 times");
        got.join().unwrap();
        let mut nobody = webhook("http://127.0.0.1:1/".to_owned(), None);
        nobody.ending.announce();
        let error = nobody.deliver(&sample("x")).unwrap_err();
        assert_eq!(error.to_string(), "the webhook does not answer, tried 1 times");
    }

    #[test]
    fn secret_that_cannot_be_read_stops_the_notice() {
        let mut webhook = webhook("http://127.0.0.1:1/".to_owned(), Some("/nonexistent".into()));
        let error = webhook.deliver(&sample("x")).unwrap_err().to_string();
        assert_eq!(error, "cannot read the secret of the webhook from /nonexistent");
    }
}
