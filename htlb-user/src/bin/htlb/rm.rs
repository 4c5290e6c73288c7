// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `htlb rm`: forget names, free memory.

use htlb_user::named::Machine;
use serde_json::json;

use crate::args::Rm;
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::size::human;

pub(crate) fn run(args: &Rm) -> Result<(), Failure> {
    let store = Machine::host().store()?;
    let (mut removed, mut bytes) = (Vec::new(), 0_u64);
    let mut failures: Vec<(&str, Failure)> = Vec::new();
    // Those that can be removed are, whatever is wrong with the others.
    for name in &args.names {
        match store.remove(name) {
            Ok(reaped) => {
                bytes = bytes.saturating_add(reaped.bytes);
                removed.push(name);
            }
            Err(error) => failures.push((name, error.into())),
        }
    }
    if Format::of(args.json) == Format::Json {
        let errors: Vec<_> = failures
            .iter()
            .map(|(name, failure)| {
                json!({"name": name, "code": failure.code() as u8, "message": failure.message()})
            })
            .collect();
        output::json(json!({"removed": removed, "freed_bytes": bytes, "errors": errors}))?;
        return match failures.first() {
            Some((_, failure)) => Err(Failure::silent(failure.code())),
            None => Ok(()),
        };
    }
    if !removed.is_empty() {
        output::text(&format!(
            "removed {}: {} freed\n",
            removed.len(),
            human(bytes)
        ))?;
    }
    let messages: Vec<&str> = failures
        .iter()
        .map(|(_, failure)| failure.message())
        .collect();
    match failures.first() {
        Some((_, first)) => Err(Failure::new(first.code(), messages.join("\nhtlb: "))),
        None => Ok(()),
    }
}
