// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `htlb pool`: how many huge pages the system keeps.

mod device;

use htlb_core::PageCount;
use htlb_user::system::resize::{resize, Cause, ResizeReport};
use htlb_user::system::Root;
use serde_json::{json, Value};

use crate::args::Pool;
use crate::exit::{Code, Failure};
use crate::output::{self, Format};

pub(crate) fn run(args: &Pool) -> Result<(), Failure> {
    if args.device {
        return device::run(args);
    }
    let report = resize(
        &Root::host(),
        args.size,
        args.node,
        PageCount::new(args.count),
    )?;
    match Format::of(args.json) {
        Format::Text => output::text(&format!("{report}\n"))?,
        Format::Json => output::json(object(&report))?,
    }
    if report.shortfall().is_zero() {
        Ok(())
    } else {
        Err(Failure::silent(Code::Shortage))
    }
}

fn object(report: &ResizeReport) -> Value {
    let nodes: Vec<Value> = report
        .nodes()
        .map(|(node, before, after)| {
            json!({"node": node.raw(), "before": before.raw(), "after": after.raw()})
        })
        .collect();
    json!({
        "device": false,
        "page_bytes": report.size.bytes(),
        "node": report.node.map(|node| node.raw()),
        "asked": report.asked.raw(),
        "before": report.before.persistent(report.node).raw(),
        "after": report.after.persistent(report.node).raw(),
        "shortfall": report.shortfall().raw(),
        "nodes": nodes,
        "cause": report.cause.map(|cause| json!({"kind": kind(cause), "message": cause.to_string()})),
    })
}

const fn kind(cause: Cause) -> &'static str {
    match cause {
        Cause::Memory { .. } => "memory",
        Cause::Fragmentation { .. } => "fragmentation",
        Cause::Gigantic { .. } => "gigantic",
        Cause::InUse { .. } => "in-use",
        _ => "unknown",
    }
}
