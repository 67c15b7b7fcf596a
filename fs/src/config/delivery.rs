//! How notices reach people: the tables `[delivery]` and `[metrics]`.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, Lines, absolute, within};

/// Keys of `[delivery]`.
pub(super) const DELIVERY_KEYS: &[&str] = &[
    "terminals",
    "login",
    "per-hour",
    "mail-relay",
    "mail-user",
    "mail-password-file",
    "mail-from",
    "mail-to",
    "mail-admins",
    "webhook-url",
    "webhook-secret-file",
    "webhook-timeout-seconds",
];

/// Keys of `[metrics]`.
pub(super) const METRICS_KEYS: &[&str] = &["listen"];

/// Notices of one workspace that go through one channel in an hour by default.
const DEFAULT_PER_HOUR: u64 = 12;

/// What can be asked for.
const PER_HOUR: RangeInclusive<u64> = 1..=1_000;

/// How long a webhook may take to answer by default, seconds.
const DEFAULT_WEBHOOK_SECONDS: u64 = 5;

/// What can be asked for.
const WEBHOOK_SECONDS: RangeInclusive<u64> = 1..=60;

/// Where `sendmail` usually is.
const DEFAULT_SENDMAIL: &str = "/usr/sbin/sendmail";

/// How mail leaves the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailRelay {
    /// `smtp://host:port` (with `?tls=required` or `?tls=opportunistic`) or `smtps://host:port`.
    Smtp(String),
    /// A program that takes mail as sendmail(8) does.
    Sendmail(PathBuf),
}

/// Mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailSettings {
    /// Who takes it.
    pub relay: MailRelay,
    /// How to log in there: the user, and a file with the password.
    pub login: Option<(String, PathBuf)>,
    /// The sender.
    pub from: String,
    /// The owner of a workspace; `{user}` stands for the user's name. Without it only administrators get mail.
    pub to: Option<String>,
    /// Who gets what concerns administrators.
    pub admins: Option<String>,
}

/// A webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// `http://…` or `https://…`.
    pub url: String,
    /// A file with the key that requests are signed with.
    pub secret_file: Option<PathBuf>,
    /// How long one attempt may take.
    pub timeout: Duration,
}

/// All channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliverySettings {
    /// Write to the terminals of containers.
    pub terminals: bool,
    /// Keep a file for each user that login shells print.
    pub login: bool,
    /// Notices of one workspace that go through one channel in an hour at most.
    pub per_hour: u64,
    /// Send mail.
    pub mail: Option<MailSettings>,
    /// Send HTTP requests.
    pub webhook: Option<WebhookSettings>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct DeliveryTable {
    terminals: Option<bool>,
    login: Option<bool>,
    per_hour: Option<u64>,
    mail_relay: Option<String>,
    mail_user: Option<String>,
    mail_password_file: Option<PathBuf>,
    mail_from: Option<String>,
    mail_to: Option<String>,
    mail_admins: Option<String>,
    webhook_url: Option<String>,
    webhook_secret_file: Option<PathBuf>,
    webhook_timeout_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct MetricsTable {
    listen: Option<String>,
}

impl MetricsTable {
    /// Returns where metrics are served beside the control socket.
    pub(super) fn resolve(self, lines: &Lines<'_>) -> Result<Option<SocketAddr>, ConfigError> {
        let Some(listen) = self.listen else { return Ok(None) };
        listen.parse().map(Some).map_err(|_| {
            lines.value("listen", listen, "give an address and a port, such as 127.0.0.1:9464".to_owned())
        })
    }
}

impl DeliveryTable {
    /// Checks everything that can be checked without asking anybody.
    pub(super) fn resolve(self, lines: &Lines<'_>) -> Result<DeliverySettings, ConfigError> {
        let per_hour = within("per-hour", self.per_hour, DEFAULT_PER_HOUR, PER_HOUR, lines)?;
        let seconds = within(
            "webhook-timeout-seconds",
            self.webhook_timeout_seconds,
            DEFAULT_WEBHOOK_SECONDS,
            WEBHOOK_SECONDS,
            lines,
        )?;
        let secret_file =
            self.webhook_secret_file.map(|path| absolute("webhook-secret-file", path, lines)).transpose()?;
        let webhook = match self.webhook_url {
            Some(url) => Some(WebhookSettings {
                url: checked_url(url, lines)?,
                secret_file,
                timeout: Duration::from_secs(seconds),
            }),
            None => None,
        };
        let password_file =
            self.mail_password_file.map(|path| absolute("mail-password-file", path, lines)).transpose()?;
        let mail = match self.mail_relay {
            Some(relay) => Some(MailSettings {
                relay: checked_relay(relay, lines)?,
                login: checked_login(self.mail_user, password_file, lines)?,
                from: checked_from(self.mail_from, lines)?,
                to: self.mail_to.map(|to| checked_address("mail-to", to, lines)).transpose()?,
                admins: self.mail_admins.map(|to| checked_address("mail-admins", to, lines)).transpose()?,
            }),
            None => None,
        };
        Ok(DeliverySettings {
            terminals: self.terminals.unwrap_or(false),
            login: self.login.unwrap_or(true),
            per_hour,
            mail,
            webhook,
        })
    }
}

fn checked_url(url: String, lines: &Lines<'_>) -> Result<String, ConfigError> {
    let is_url = ["http://", "https://"].iter().any(|scheme| {
        url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
    });
    if is_url {
        return Ok(url);
    }
    Err(lines.value("webhook-url", url, "give a url that begins with https:// or http://".to_owned()))
}

fn checked_relay(relay: String, lines: &Lines<'_>) -> Result<MailRelay, ConfigError> {
    if relay.starts_with("smtp://") || relay.starts_with("smtps://") {
        return Ok(MailRelay::Smtp(relay));
    }
    match relay.strip_prefix("sendmail") {
        Some("") => Ok(MailRelay::Sendmail(DEFAULT_SENDMAIL.into())),
        Some(path) if path.starts_with(":/") => {
            absolute("mail-relay", path[1..].into(), lines).map(MailRelay::Sendmail)
        }
        _ => {
            let reason = "give smtp://HOST:PORT, smtps://HOST:PORT, sendmail or sendmail:/PATH".to_owned();
            Err(lines.value("mail-relay", relay, reason))
        }
    }
}

fn checked_login(
    user: Option<String>,
    password_file: Option<PathBuf>,
    lines: &Lines<'_>,
) -> Result<Option<(String, PathBuf)>, ConfigError> {
    match (user, password_file) {
        (None, None) => Ok(None),
        (Some(user), Some(file)) => Ok(Some((user, file))),
        (Some(user), None) => Err(lines.value("mail-user", user, "give mail-password-file too".to_owned())),
        (None, Some(file)) => {
            let value = file.display().to_string();
            Err(lines.value("mail-password-file", value, "give mail-user too".to_owned()))
        }
    }
}

fn checked_from(from: Option<String>, lines: &Lines<'_>) -> Result<String, ConfigError> {
    match from {
        Some(from) => checked_address("mail-from", from, lines),
        None => {
            Err(lines.value("mail-from", String::new(), "give the address that mail comes from".to_owned()))
        }
    }
}

/// The rest is found out when the first mail is made.
fn checked_address(key: &'static str, address: String, lines: &Lines<'_>) -> Result<String, ConfigError> {
    let is_plain = !address.chars().any(char::is_control);
    if is_plain && address.split('@').filter(|part| !part.trim().is_empty()).count() == 2 {
        return Ok(address);
    }
    Err(lines.value(key, address, "give an address such as wsguard@example.org".to_owned()))
}
