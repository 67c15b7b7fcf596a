//! Mail, in plain text, through the relay or the program that is configured.

use std::path::PathBuf;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{Message, SendmailTransport, SmtpTransport, Transport};

use super::{DeliveryError, Notice, Reached, Way};
use crate::config::{MailRelay, MailSettings};

/// How long a relay may take for each step.
const PATIENCE: Duration = Duration::from_secs(10);

/// What stands for the name of the user.
const USER: &str = "{user}";

/// Why mail was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum MailError {
    #[error("{address:?} is no address for mail; see mail-from, mail-to and mail-admins")]
    Address {
        address: String,
        #[source]
        source: lettre::address::AddressError,
    },
    #[error("uid {uid} has no name that mail-to could be made of")]
    NoName { uid: u32 },
    #[error("cannot read the password of mail from {path}", path = path.display())]
    Password {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot write the mail")]
    Message(#[from] lettre::error::Error),
    #[error("cannot send mail through the relay")]
    Smtp(#[from] lettre::transport::smtp::Error),
    #[error("cannot send mail with {path}", path = path.display())]
    Sendmail {
        path: PathBuf,
        #[source]
        source: lettre::transport::sendmail::Error,
    },
}

/// See the module.
pub(super) struct Mail {
    settings: MailSettings,
}

impl Mail {
    pub(super) fn new(settings: MailSettings) -> Self {
        Self { settings }
    }

    fn recipients(&self, notice: &Notice) -> Result<Vec<Mailbox>, MailError> {
        let mut recipients = Vec::new();
        if let Some(to) = &self.settings.to {
            // Root reads what administrators get.
            for uid in notice.readers.iter().filter(|uid| **uid != 0) {
                recipients.push(address(&with_name(to, *uid)?)?);
            }
        }
        if let Some(admins) = self.settings.admins.as_ref().filter(|_| notice.is_for_admins) {
            recipients.push(address(admins)?);
        }
        Ok(recipients)
    }

    fn send(&self, message: &Message) -> Result<(), MailError> {
        match &self.settings.relay {
            MailRelay::Smtp(url) => {
                let mut transport = SmtpTransport::from_url(url)?.timeout(Some(PATIENCE));
                if let Some((user, file)) = &self.settings.login {
                    let password = std::fs::read_to_string(file)
                        .map_err(|source| MailError::Password { path: file.clone(), source })?;
                    let password = password.trim_end_matches('\n').to_owned();
                    transport = transport.credentials(Credentials::new(user.clone(), password));
                }
                transport.build().send(message)?;
            }
            MailRelay::Sendmail(path) => SendmailTransport::new_with_command(path)
                .send(message)
                .map_err(|source| MailError::Sendmail { path: path.clone(), source })?,
        }
        Ok(())
    }

    fn message(&self, notice: &Notice, recipients: &[Mailbox]) -> Result<Message, MailError> {
        let mut builder = Message::builder().from(address(&self.settings.from)?).subject(subject(notice));
        for recipient in recipients {
            builder = builder.to(recipient.clone());
        }
        Ok(builder.header(ContentType::TEXT_PLAIN).body(body(notice))?)
    }
}

impl Way for Mail {
    fn deliver(&mut self, notice: &Notice) -> Result<Reached, DeliveryError> {
        let recipients = self.recipients(notice)?;
        if recipients.is_empty() {
            return Ok(Reached::Nobody("no address is configured for those whom it concerns"));
        }
        self.send(&self.message(notice, &recipients)?)?;
        let to: Vec<String> = recipients.iter().map(|mailbox| mailbox.email.to_string()).collect();
        Ok(Reached::Somebody(to.join(", ")))
    }
}

fn address(text: &str) -> Result<Mailbox, MailError> {
    text.parse().map_err(|source| MailError::Address { address: text.to_owned(), source })
}

fn with_name(template: &str, uid: u32) -> Result<String, MailError> {
    if !template.contains(USER) {
        return Ok(template.to_owned());
    }
    // May ask a directory service: this thread may wait.
    let user = uzers::get_user_by_uid(uid).ok_or(MailError::NoName { uid })?;
    let name = user.name().to_str().ok_or(MailError::NoName { uid })?;
    Ok(template.replace(USER, name))
}

fn subject(notice: &Notice) -> String {
    match &notice.workspace {
        Some(workspace) => format!("[wsguard] workspace {workspace}"),
        None => "[wsguard] quota".to_owned(),
    }
}

fn body(notice: &Notice) -> String {
    let Notice { at, message, .. } = notice;
    format!(
        "{message}\n\n\
         When: {at}\n\n\
         What you use and what grows: `wsguard quota get`, `wsguard usage`, or the files quota and top in the\n\
         directory .wsguard of the workspace. What can go: `wsguard clean --dry-run`. More room for a while: write\n\
         \"boost 200G for 7d because ...\" to the file .wsguard/request.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn mail(to: Option<&str>, admins: Option<&str>) -> Mail {
        Mail::new(MailSettings {
            relay: MailRelay::Smtp("smtp://127.0.0.1:1".to_owned()),
            login: None,
            from: "wsguard@example.org".to_owned(),
            to: to.map(str::to_owned),
            admins: admins.map(str::to_owned),
        })
    }

    #[test]
    fn owners_and_administrators_get_what_concerns_them() {
        let own = rustix::process::getuid().as_raw();
        let notice = Notice { readers: vec![4_000_000_001], ..sample("x") };
        let fixed = mail(Some("all@example.org"), Some("admin@example.org"));
        let addresses = |notice: &Notice| -> Vec<String> {
            fixed.recipients(notice).unwrap().iter().map(|mailbox| mailbox.email.to_string()).collect()
        };
        assert_eq!(addresses(&notice), ["all@example.org"]);
        assert_eq!(
            addresses(&Notice { is_for_admins: true, readers: vec![0], ..notice.clone() }),
            ["admin@example.org"]
        );
        let error = mail(Some("{user}@example.org"), None).recipients(&notice).unwrap_err();
        assert_eq!(error.to_string(), "uid 4000000001 has no name that mail-to could be made of");
        let name = uzers::get_user_by_uid(own).unwrap();
        assert_eq!(
            with_name("{user}@x.org", own).unwrap(),
            format!("{}@x.org", name.name().to_str().unwrap())
        );
    }

    #[test]
    fn name_of_a_workspace_cannot_add_headers() {
        let notice = Notice { workspace: Some("a\r\nBcc: evil@x.org".to_owned()), ..sample("x") };
        let message = mail(None, None).message(&notice, &[address("a@x.org").unwrap()]).unwrap();
        let text = String::from_utf8(message.formatted()).unwrap();
        assert!(!text.lines().any(|line| line.starts_with("Bcc:")), "{text}");
    }

    #[test]
    fn relay_that_does_not_answer_is_an_error() {
        let notice = Notice { readers: vec![1], ..sample("x") };
        let error = mail(Some("a@x.org"), None).deliver(&notice).unwrap_err();
        assert_eq!(error.to_string(), "cannot send mail through the relay");
    }

    #[test]
    fn program_gets_the_mail_on_its_input() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (program, out) = (dir.path().join("sendmail"), dir.path().join("out"));
        std::fs::write(&program, format!("#!/bin/sh\necho \"$@\" > {0}\ncat >> {0}\n", out.display()))
            .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut mail = mail(Some("a@x.org"), None);
        mail.settings.relay = MailRelay::Sendmail(program);
        let notice = Notice { readers: vec![1], ..sample("project bert has reached 80 %") };
        assert_eq!(mail.deliver(&notice).unwrap(), Reached::Somebody("a@x.org".to_owned()));
        let text = std::fs::read_to_string(out).unwrap();
        assert!(text.contains("a@x.org") && text.contains("project bert has reached 80 %"), "{text}");
    }
}
