use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::scope::{PolicyTarget, QuotaErrno, QuotaMode, ScopeRef};

/// One end of a limit: a number, or the word `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// No limit, also where a weaker level has one.
    Unlimited,
    /// Bytes or inodes.
    At(u64),
}

const UNLIMITED: &str = "unlimited";

impl Bound {
    /// Returns the number, or `None` for unlimited.
    pub fn number(self) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::At(number) => Some(number),
        }
    }
}

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unlimited => serializer.serialize_str(UNLIMITED),
            Self::At(number) => serializer.serialize_u64(*number),
        }
    }
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number or \"unlimited\"")]
        enum Wire {
            Number(u64),
            Word(String),
        }
        match Wire::deserialize(deserializer)? {
            Wire::Number(number) => Ok(Self::At(number)),
            Wire::Word(word) if word == UNLIMITED => Ok(Self::Unlimited),
            Wire::Word(word) => {
                Err(serde::de::Error::custom(format!("{word:?} is neither a number nor \"unlimited\"")))
            }
        }
    }
}

/// A soft and a hard limit, which are inherited together: a soft limit of one level beside a hard one of another
/// would mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Where the grace period begins.
    pub soft: Bound,
    /// Never passed.
    pub hard: Bound,
}

/// What one level of the policy says; what is absent is left to the next weaker level.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSpec {
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bounds>,
    /// Inodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inodes: Option<Bounds>,
    /// How long a soft limit may be passed, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u64>,
    /// Whether it is enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<QuotaMode>,
    /// What a writer gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<QuotaErrno>,
    /// Room for small files below the hard limit, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headroom_bytes: Option<u64>,
}

impl LimitSpec {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A part of a [`LimitSpec`] that is inherited on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuotaField {
    /// Soft and hard limit of bytes.
    Bytes,
    /// Soft and hard limit of inodes.
    Inodes,
    /// The grace period.
    Grace,
    /// Whether it is enforced.
    Mode,
    /// What a writer gets.
    Errno,
    /// The room for small files.
    Headroom,
}

impl QuotaField {
    /// Every field, in the order in which they are shown.
    pub const ALL: [Self; 6] =
        [Self::Bytes, Self::Inodes, Self::Grace, Self::Mode, Self::Errno, Self::Headroom];

    /// Returns the word of the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Inodes => "inodes",
            Self::Grace => "grace",
            Self::Mode => "mode",
            Self::Errno => "errno",
            Self::Headroom => "headroom",
        }
    }
}

/// One level of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRecord {
    /// For what.
    pub target: PolicyTarget,
    /// What it says.
    pub spec: LimitSpec,
}

/// Who is in a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupMembers {
    /// The group.
    pub group: String,
    /// Its members; a user is in one group at most.
    pub uids: Vec<u32>,
}

/// The whole policy as it can be written down; boosts and grace clocks are not part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyDocument {
    /// What is set, one record a target.
    pub records: Vec<PolicyRecord>,
    /// Who is in which group.
    pub members: Vec<GroupMembers>,
}

/// One change of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "action", deny_unknown_fields)]
pub enum QuotaEdit {
    /// Sets what the record names and leaves its other fields. A `soft` or `hard` that is left out stays as it is.
    Set {
        /// For what.
        target: PolicyTarget,
        /// What to set. The bounds of a dimension come in halves, so that one can be set alone.
        #[serde(default)]
        bytes_soft: Option<Bound>,
        /// As `bytes_soft`.
        #[serde(default)]
        bytes_hard: Option<Bound>,
        /// As `bytes_soft`.
        #[serde(default)]
        inodes_soft: Option<Bound>,
        /// As `bytes_soft`.
        #[serde(default)]
        inodes_hard: Option<Bound>,
        /// Seconds.
        #[serde(default)]
        grace_seconds: Option<u64>,
        /// Whether it is enforced.
        #[serde(default)]
        mode: Option<QuotaMode>,
        /// What a writer gets.
        #[serde(default)]
        errno: Option<QuotaErrno>,
        /// Bytes.
        #[serde(default)]
        headroom_bytes: Option<u64>,
    },
    /// Takes fields away, all if none is named: the next weaker level counts again.
    Unset {
        /// For what.
        target: PolicyTarget,
        /// Which.
        #[serde(default)]
        fields: Vec<QuotaField>,
    },
    /// Makes these users members of a group, and of no other.
    Assign {
        /// The group; it exists once it has a record or a member.
        group: String,
        /// The users.
        uids: Vec<u32>,
    },
    /// Takes these users out of their groups.
    Unassign {
        /// The users.
        uids: Vec<u32>,
    },
    /// Removes a group with its records and memberships.
    RemoveGroup {
        /// The group.
        group: String,
    },
    /// Adds a boost to a scope.
    Boost {
        /// For what.
        scope: ScopeRef,
        /// Added to its limits of bytes.
        #[serde(default)]
        bytes: u64,
        /// Added to its limits of inodes.
        #[serde(default)]
        inodes: u64,
        /// How long.
        seconds: u64,
    },
    /// Ends every boost of a scope.
    EndBoosts {
        /// For what.
        scope: ScopeRef,
    },
    /// Lets running grace clocks of a scope end later.
    ExtendGrace {
        /// For what.
        scope: ScopeRef,
        /// By how much.
        seconds: u64,
    },
    /// Makes the policy what the document says.
    Apply {
        /// The policy to have.
        document: PolicyDocument,
        /// Also removes what the document does not mention.
        #[serde(default)]
        prune: bool,
    },
}

impl QuotaEdit {
    /// Whether it is a [`QuotaEdit::Set`] of nothing.
    pub fn sets_nothing(&self) -> bool {
        let Self::Set {
            target: _,
            bytes_soft,
            bytes_hard,
            inodes_soft,
            inodes_hard,
            grace_seconds,
            mode,
            errno,
            headroom_bytes,
        } = self
        else {
            return false;
        };
        [bytes_soft, bytes_hard, inodes_soft, inodes_hard].iter().all(|bound| bound.is_none())
            && grace_seconds.is_none()
            && mode.is_none()
            && errno.is_none()
            && headroom_bytes.is_none()
    }
}

/// Whether the filesystem below enforces the limit of bytes of a workspace, so that writes run in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "action", deny_unknown_fields)]
pub enum KernelEdit {
    /// It does, from the next open on.
    On {
        /// Turns quotas of the whole filesystem on where they are off.
        #[serde(default)]
        enable_quotas: bool,
    },
    /// The worker does again.
    Off,
}

/// Asks for a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaRequest {
    /// What to change. With `kernel`, a [`QuotaEdit::Set`] may set nothing and only name the workspace.
    pub edit: QuotaEdit,
    /// Changes who enforces, for the target of a [`QuotaEdit::Set`] or [`QuotaEdit::Unset`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelEdit>,
    /// Only tells what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Goes on although somebody uses more than they would be allowed; they keep what they have and may not grow.
    #[serde(default)]
    pub allow_over: bool,
    /// Why, for the audit.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What a scope uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Charged bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// One thing that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaChange {
    /// What it is about, as people write it: `user:1000`, `default/each-user`, `member:1000`.
    pub subject: String,
    /// Which part of it: a [`QuotaField::word`], `group`, `boost`, `grace`.
    pub field: String,
    /// Before; absent if there was nothing. Numbers are bytes, inodes or seconds.
    pub before: Option<String>,
    /// After; absent if there is nothing left.
    pub after: Option<String>,
}

/// A scope that uses more than it would be allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaHit {
    /// Which.
    pub scope: ScopeRef,
    /// The workspace's name, for a project.
    pub name: Option<String>,
    /// The owner, for a user or a project.
    pub owner_uid: Option<u32>,
    /// What it uses.
    pub used: Usage,
    /// The limit of bytes that it would have, with boosts, if that is what it passes.
    pub bytes_hard: Option<u64>,
    /// The limit of inodes, likewise.
    pub inodes_hard: Option<u64>,
}

/// What a change does or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaPlan {
    /// [`crate::SCHEMA_VERSION`].
    pub schema: u32,
    /// It was done; `false` for a dry run.
    pub applied: bool,
    /// What changes in the policy; empty if it is as asked already.
    pub changes: Vec<QuotaChange>,
    /// Who uses more than they would be allowed.
    pub hits: Vec<QuotaHit>,
    /// Registered scopes whose limits change.
    pub affected: u64,
    /// Scopes of those whose use is not known, so that nothing can be said about them.
    pub unknown: u64,
    /// Records and memberships that an applied document does not mention and that stay.
    pub unmentioned: u64,
}
