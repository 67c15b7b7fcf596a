//! What one build of wsguard can work with, and whether that is enough to take another one's place.
//!
//! A program tells it about itself (`wsguard daemon --versions`, one JSON object), before it is given anything.
//! Fields are added and never change their meaning, so that any two builds understand each other here.

use serde::{Deserialize, Serialize};
use wsguard_api::{ApiError, ErrorCode};

use crate::catalog::CATALOG_FORMAT;
use crate::keeper_link::PROTOCOL_VERSION;
use crate::state::LAYOUT_VERSION;

const PRODUCT: &str = "wsguard";

/// What a build says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Versions {
    /// Always `wsguard`.
    product: String,
    /// `major.minor.patch`.
    pub(super) version: String,
    /// Protocols that its workers speak with a keeper.
    keeper_protocols: Vec<u32>,
    /// Layouts of the state memory that its workers take over.
    state_layouts: Vec<u64>,
    /// The newest format of the catalog that it reads; it reads all older ones.
    catalog_format: u32,
}

/// What a worker has to work with here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Present {
    /// What this keeper speaks.
    pub(super) protocol: u32,
    /// What the mounts' state memory is written in; each once.
    pub(super) layouts: Vec<u64>,
    /// What the catalog is written in.
    pub(super) catalog: u32,
}

impl Versions {
    /// Returns what this build says of itself.
    pub(super) fn own() -> Self {
        Self {
            product: PRODUCT.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            keeper_protocols: vec![PROTOCOL_VERSION],
            state_layouts: vec![LAYOUT_VERSION],
            catalog_format: CATALOG_FORMAT,
        }
    }

    /// Returns them as one line of JSON.
    pub(super) fn to_text(&self) -> String {
        // Strings and numbers: there is nothing that JSON could not hold.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Understands what a build says of itself.
    ///
    /// # Errors
    /// In one line, why not.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let versions: Self = serde_json::from_slice(text)
            .map_err(|error| format!("it does not say which versions it works with ({error})"))?;
        if versions.product != PRODUCT {
            return Err(format!("it is {:?}, not {PRODUCT}", versions.product));
        }
        Ok(versions)
    }

    /// Checks that workers of this build can go on with what is there.
    ///
    /// # Errors
    /// Says what does not fit and what to do instead.
    pub(super) fn check(&self, present: &Present) -> Result<(), ApiError> {
        let refuse = |reason: String, hint: &str| {
            let message = format!("wsguard {} cannot take over: {reason}", self.version);
            Err(ApiError::new(ErrorCode::InvalidRequest, message).with_hint(hint))
        };
        if !self.keeper_protocols.contains(&present.protocol) {
            return refuse(
                format!(
                    "it speaks version {} with the keeper, and the one that runs speaks {}",
                    listed(&self.keeper_protocols),
                    present.protocol
                ),
                "this step needs a restart: stop the daemon, install the binary, start the daemon",
            );
        }
        if let Some(layout) = present.layouts.iter().find(|layout| !self.state_layouts.contains(layout)) {
            return refuse(
                format!(
                    "it reads state tables of layout {}, and those of the mounts have {layout}",
                    listed(&self.state_layouts)
                ),
                "this step needs a restart: stop the daemon, install the binary, start the daemon",
            );
        }
        if self.catalog_format < present.catalog {
            return refuse(
                format!(
                    "it reads the catalog up to format {}, and this one has {}",
                    self.catalog_format, present.catalog
                ),
                "use a newer binary; a catalog does not go back to an older format",
            );
        }
        Ok(())
    }
}

fn listed<T: ToString>(numbers: &[T]) -> String {
    match numbers {
        [] => "none".to_owned(),
        numbers => numbers.iter().map(T::to_string).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn present() -> Present {
        Present { protocol: PROTOCOL_VERSION, layouts: vec![LAYOUT_VERSION], catalog: CATALOG_FORMAT }
    }

    #[test]
    fn own_build_can_take_over_from_itself() {
        let own = Versions::own();
        assert_eq!(Versions::parse(own.to_text().as_bytes()), Ok(own.clone()));
        own.check(&present()).unwrap();
    }

    #[test]
    fn later_builds_may_say_more() {
        let mut value = serde_json::to_value(Versions::own()).unwrap();
        value["something_new"] = serde_json::json!([1, 2]);
        assert_eq!(Versions::parse(value.to_string().as_bytes()), Ok(Versions::own()));
    }

    #[test]
    fn what_does_not_fit_is_named_with_numbers() {
        let newer = Versions { keeper_protocols: vec![8, 9], ..Versions::own() };
        let message = newer.check(&present()).unwrap_err().message;
        assert!(message.contains("version 8, 9") && message.contains("speaks 3"), "{message}");
        let newer = Versions { state_layouts: vec![99], ..Versions::own() };
        let message = newer.check(&present()).unwrap_err().message;
        assert!(message.contains("layout 99") && message.ends_with("have 1"), "{message}");
        newer.check(&Present { layouts: Vec::new(), ..present() }).unwrap();
        let older = Versions { catalog_format: 4, ..Versions::own() };
        let message = older.check(&Present { catalog: 5, ..present() }).unwrap_err().message;
        assert!(message.contains("up to format 4") && message.ends_with("has 5"), "{message}");
        older.check(&Present { catalog: 3, ..present() }).unwrap();
        let other =
            r#"{"product":"x","version":"","keeper_protocols":[],"state_layouts":[],"catalog_format":1}"#;
        assert_eq!(Versions::parse(other.as_bytes()), Err("it is \"x\", not wsguard".to_owned()));
    }

    proptest! {
        #[test]
        fn takeover_is_allowed_exactly_if_everything_present_is_known(
            protocols in prop::collection::vec(0_u32..4, 0..3), protocol in 0_u32..4,
            known in prop::collection::vec(0_u64..4, 0..3), layouts in prop::collection::vec(0_u64..4, 0..3),
            newest in 0_u32..4, catalog in 0_u32..4,
        ) {
            let fits = protocols.contains(&protocol)
                && layouts.iter().all(|layout| known.contains(layout))
                && catalog <= newest;
            let versions = Versions {
                keeper_protocols: protocols, state_layouts: known, catalog_format: newest, ..Versions::own()
            };
            prop_assert_eq!(versions.check(&Present { protocol, layouts, catalog }).is_ok(), fits);
        }
    }
}
