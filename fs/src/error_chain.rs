//! An error together with its causes, for a log field or an answer that has room for one line.

use std::error::Error;

/// Returns `error` and its sources, joined by colons.
pub(crate) fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_in_order() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open the registry")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(
            one_line(&Outer(std::io::Error::other("disk full"))),
            "cannot open the registry: disk full"
        );
    }
}
