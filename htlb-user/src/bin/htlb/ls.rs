// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `htlb ls`: what there is.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use htlb_user::named::Machine;
use htlb_user::store::{Entry, Record};
use serde_json::{json, Value};

use crate::args::Ls;
use crate::exit::Failure;
use crate::load::parts;
use crate::output::{self, Format};
use crate::size::human;

pub(crate) fn run(args: &Ls) -> Result<(), Failure> {
    let store = Machine::host().store()?;
    // What dead loads left is in nobody's way: a listing is no less true if it cannot be removed.
    let reaped = store.reap().unwrap_or_default();
    let entries = store.list()?;
    match Format::of(args.json) {
        Format::Json => output::json(json!({
            "buffers": entries.iter().map(object).collect::<Vec<_>>(),
            "reaped": {"loads": reaped.loads, "files": reaped.files, "bytes": reaped.bytes},
        })),
        Format::Text => output::text(&words(&entries)),
    }
}

fn object(entry: &Entry) -> Value {
    let name = entry.name.as_str();
    match &entry.state {
        Ok(record) => json!({
            "name": name,
            "bytes": record.len,
            "parts": parts(record),
            "pages": record.meta.rung,
            "source": record.meta.source,
            "created_ns": record.created_ns,
            "pid": record.owner.pid,
            "error": Value::Null,
        }),
        Err(error) => json!({"name": name, "error": error.to_string()}),
    }
}

fn words(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no buffers: `htlb load FILE` makes one\n".to_owned();
    }
    let (mut rows, mut total) = (Vec::new(), 0_u64);
    let mut broken = String::new();
    for entry in entries {
        let name = entry.name.to_string();
        match &entry.state {
            Ok(record) => {
                let memory: u64 = record.parts.iter().map(|part| part.len).sum();
                total = total.saturating_add(memory);
                rows.push(vec![
                    name,
                    human(record.len),
                    record.meta.rung.clone().unwrap_or_default(),
                    age(record),
                    record.meta.source.clone().unwrap_or_default(),
                ]);
            }
            Err(error) => {
                let _ = writeln!(broken, "{error}");
                rows.push(vec![
                    name,
                    "-".into(),
                    "unusable".into(),
                    String::new(),
                    String::new(),
                ]);
            }
        }
    }
    let mut text = output::table(&["NAME", "SIZE", "PAGES", "AGE", "FROM"], &[1], rows);
    let _ = writeln!(text, "{} in memory", human(total));
    text + &broken
}

/// `12s`, `3h`, `2d`.
fn age(record: &Record) -> String {
    let created = SystemTime::UNIX_EPOCH + Duration::from_nanos(record.created_ns);
    // A clock that was set back.
    let seconds = created.elapsed().unwrap_or_default().as_secs();
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
