//! How notices reach people beside the file `notices`.

use serde::{Deserialize, Serialize};

/// One way to reach people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeliveryChannel {
    /// The terminals of the containers that have the workspace.
    Terminals,
    /// A file for each user, which a login shell prints.
    Login,
    /// Mail.
    Mail,
    /// An HTTP request.
    Webhook,
}

impl DeliveryChannel {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Terminals, Self::Login, Self::Mail, Self::Webhook];

    /// Returns the word of the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Terminals => "terminals",
            Self::Login => "login",
            Self::Mail => "mail",
            Self::Webhook => "webhook",
        }
    }
}

/// How one channel has done since this worker started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryStatus {
    /// Which.
    pub channel: DeliveryChannel,
    /// It is configured.
    pub is_enabled: bool,
    /// Notices that got through.
    pub delivered: u64,
    /// Notices that did not, after every attempt.
    pub failed: u64,
    /// Notices that were not sent because there were too many in an hour.
    pub suppressed: u64,
    /// Notices that were not sent because too many waited.
    pub dropped: u64,
    /// Why the last one failed; for root only.
    #[serde(default)]
    pub last_error: Option<String>,
    /// When that was, RFC 3339.
    #[serde(default)]
    pub last_error_at: Option<String>,
}

/// Asks for a notice that says that it is a test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotifyRequest {
    /// Through this channel only; through all if absent.
    pub channel: Option<DeliveryChannel>,
    /// About this workspace, by id or name: its owner and its containers get it. Without one only the administrators
    /// and the webhook do.
    pub workspace: Option<String>,
}

/// What became of a test notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyReport {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// One for each channel that was asked for.
    pub items: Vec<NotifyResult>,
}

/// What became of it in one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyResult {
    /// Which.
    pub channel: DeliveryChannel,
    /// What became of it.
    pub outcome: NotifyOutcome,
}

/// The end of one attempt to deliver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum NotifyOutcome {
    /// It got there.
    Delivered {
        /// Where.
        to: String,
    },
    /// It did not.
    Failed {
        /// Why.
        reason: String,
    },
    /// There was nobody to be reached.
    Nobody {
        /// Why.
        reason: String,
    },
    /// The channel is not configured.
    Off,
}
