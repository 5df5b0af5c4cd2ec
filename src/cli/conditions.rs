//! The conditions of a policy of any kind: as a table, and one of them by its type.
//!
//! It must judge none: what a condition means stands in its message.

use std::io::Write;

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::table::{self, Cell};
use crate::terminal::{CARE, GOOD};

/// Prints all of them.
pub(crate) fn print(conditions: &[Condition], now: Timestamp, out: &mut dyn Write) -> Result<()> {
    let rows: Vec<_> = conditions.iter().map(|condition| row(condition, now)).collect();
    table::write(out, ["CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"], &rows)?;
    Ok(())
}

/// The condition of this type.
pub(crate) fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn row(condition: &Condition, now: Timestamp) -> [Cell; 5] {
    let style = if condition.status == "True" { GOOD } else { CARE };
    [
        condition.type_.clone().into(),
        Cell::styled(condition.status.clone(), style),
        condition.reason.clone().into(),
        table::age(condition.last_transition_time.0, now).into(),
        condition.message.clone().into(),
    ]
}
