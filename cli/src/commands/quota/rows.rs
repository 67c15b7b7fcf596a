//! Scopes as rows of a table, shared by `get`, `report` and `explain`.

use jiff::Timestamp;
use wsguard_api::{QuotaMode, QuotaRow, QuotaState};

use super::subject::scope_text;
use crate::output::{Cell, Column, Table, Tone, View, bytes, duration};

pub(super) fn bytes_or_unlimited(number: Option<u64>) -> String {
    number.map_or_else(|| "–".to_owned(), bytes)
}

pub(super) fn count_or_unlimited(number: Option<u64>) -> String {
    number.map_or_else(|| "–".to_owned(), |number| number.to_string())
}

pub(super) fn table(rows: &[&QuotaRow], view: &View) -> String {
    let mut table = Table::new([
        Column::Wrapping("SCOPE"),
        Column::Number("USED"),
        Column::Number("SOFT"),
        Column::Number("LIMIT"),
        Column::Number("USE"),
        Column::Number("INODES"),
        Column::Number("LIMIT"),
        Column::Fixed("STATE"),
    ]);
    for row in rows {
        table.row([
            Cell::new(scope_text(&row.scope, &view.users, row.name.as_deref())),
            Cell::new(row.used.map_or_else(|| "?".to_owned(), |used| bytes(used.bytes))),
            Cell::new(bytes_or_unlimited(row.bytes_soft)),
            Cell::new(bytes_or_unlimited(row.bytes_hard)),
            Cell::new(percent(row).map_or_else(|| "–".to_owned(), |percent| format!("{percent} %"))),
            Cell::new(row.used.map_or_else(|| "?".to_owned(), |used| used.inodes.to_string())),
            Cell::new(count_or_unlimited(row.inodes_hard)),
            state_cell(row, view.now),
        ]);
    }
    table.render(view.width)
}

/// Returns how full a scope is, of bytes or of inodes, whichever is fuller.
pub(super) fn percent(row: &QuotaRow) -> Option<u64> {
    let used = row.used?;
    let part = |used: u64, hard: Option<u64>| match hard? {
        0 => Some(if used == 0 { 0 } else { 100 }),
        hard => u64::try_from(u128::from(used) * 100 / u128::from(hard)).ok(),
    };
    part(used.bytes, row.bytes_hard).max(part(used.inodes, row.inodes_hard))
}

fn state_cell(row: &QuotaRow, now: Timestamp) -> Cell {
    let (word, tone) = match row.state {
        QuotaState::Ok => ("ok", Tone::Good),
        QuotaState::Soft => ("soft", Tone::Warning),
        QuotaState::Grace => ("grace", Tone::Warning),
        QuotaState::Expired => ("expired", Tone::Bad),
        QuotaState::Over => ("over", Tone::Bad),
        QuotaState::Estimated => ("estimated", Tone::Warning),
        QuotaState::Unmounted => ("unmounted", Tone::Faint),
        QuotaState::Unknown => ("unknown", Tone::Faint),
    };
    let mode = match row.limits.mode {
        QuotaMode::Enforce => "",
        QuotaMode::Track => ", tracked",
        QuotaMode::Off => ", off",
    };
    let left = grace_left(row, now).map(|left| format!(", {left} left")).unwrap_or_default();
    Cell::toned(format!("{word}{left}{mode}"), tone)
}

fn grace_left(row: &QuotaRow, now: Timestamp) -> Option<String> {
    let ends = [&row.bytes_grace_until, &row.inodes_grace_until];
    let first = ends.into_iter().flatten().filter_map(|until| until.parse::<Timestamp>().ok()).min()?;
    let left = std::time::Duration::try_from(first.duration_since(now)).ok()?;
    Some(duration(left))
}

/// Returns what the table has no room for, one line each.
pub(super) fn remarks(row: &QuotaRow, view: &View) -> Vec<String> {
    let subject = scope_text(&row.scope, &view.users, row.name.as_deref());
    let mut remarks = Vec::new();
    for boost in &row.limits.boosts {
        let mut more = Vec::new();
        if boost.bytes > 0 {
            more.push(bytes(boost.bytes));
        }
        if boost.inodes > 0 {
            more.push(format!("{} inodes", boost.inodes));
        }
        let reason = if boost.reason.is_empty() { String::new() } else { format!(" ({})", boost.reason) };
        remarks.push(format!("{subject} has {} more until {}{reason}", more.join(" and "), boost.until));
    }
    match row.state {
        QuotaState::Grace => remarks.push(format!(
            "{subject} is over its soft limit: when the time is up, nothing more can be stored until it is below"
        )),
        QuotaState::Expired => remarks.push(format!(
            "{subject} was over its soft limit for too long: delete something, then storing works again"
        )),
        QuotaState::Over => {
            remarks.push(format!("{subject} uses more than it may: nothing can be stored until it is below"));
        }
        QuotaState::Estimated => {
            remarks.push(format!("{subject} is being counted; until then its numbers are upper bounds"));
        }
        QuotaState::Ok | QuotaState::Soft | QuotaState::Unmounted | QuotaState::Unknown => {}
    }
    if row.refused > 0 {
        remarks.push(format!("{subject} had {} refused since the daemon started", row.refused));
    }
    remarks
}

#[cfg(test)]
pub(super) mod tests {
    use wsguard_api::{Boost, Limits, ScopeRef, Usage};

    use super::*;
    use crate::commands::samples::{plain, view};

    pub(in super::super) fn row(scope: ScopeRef, used: u64, hard: Option<u64>) -> QuotaRow {
        QuotaRow {
            scope,
            name: None,
            owner_uid: Some(1000),
            group: None,
            dir: None,
            is_mounted: false,
            used: Some(Usage { bytes: used, inodes: 12 }),
            reserved: Usage::default(),
            limits: Limits::default(),
            sources: Vec::new(),
            bytes_hard: hard,
            bytes_soft: None,
            inodes_hard: None,
            inodes_soft: None,
            bytes_grace_until: None,
            inodes_grace_until: None,
            state: QuotaState::Ok,
            refused: 0,
            counting: None,
        }
    }

    #[test]
    fn table_fits_80_columns_and_shows_numbers_and_state() {
        let mut alice = row(ScopeRef::User { uid: 1000 }, 412 << 30, Some(500 << 30));
        alice.state = QuotaState::Grace;
        alice.bytes_soft = Some(400 << 30);
        alice.bytes_grace_until = Some("2030-01-04T13:00:00Z".into());
        let free = row(ScopeRef::User { uid: 7 }, 0, None);
        let text = plain(&table(&[&alice, &free], &view(Some(80))));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for value in ["user:alice", "412 GiB", "500 GiB", "82 %", "grace, 3 d left", "user:7"] {
            assert!(text.contains(value), "{value} is missing:\n{text}");
        }
    }

    #[test]
    fn fullness_is_that_of_the_fuller_dimension() {
        let mut row = row(ScopeRef::User { uid: 1 }, 50, Some(100));
        assert_eq!(percent(&row), Some(50));
        row.inodes_hard = Some(12);
        assert_eq!(percent(&row), Some(100));
        row.bytes_hard = Some(0);
        row.inodes_hard = None;
        assert_eq!(percent(&row), Some(100));
        row.bytes_hard = None;
        assert_eq!(percent(&row), None);
    }

    #[test]
    fn boosts_and_refusals_are_remarked() {
        let mut row = row(ScopeRef::User { uid: 1000 }, 1, Some(2));
        row.refused = 3;
        row.limits.boosts.push(Boost {
            bytes: 1 << 30,
            inodes: 5,
            until: "2030-01-02T00:00:00Z".into(),
            reason: "paper".into(),
            by: 0,
        });
        let remarks = remarks(&row, &view(None)).join("\n");
        assert!(
            remarks.contains("1.0 GiB and 5 inodes more until 2030-01-02T00:00:00Z (paper)"),
            "{remarks}"
        );
        assert!(remarks.contains("3 refused"), "{remarks}");
    }
}
