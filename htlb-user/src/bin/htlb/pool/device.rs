// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `htlb pool --device`: the kernel module's own pool.

use htlb_core::uapi::DEVICE;
use htlb_core::{ByteLen, HugeSize, NodeId, PageCount};
use htlb_user::device::{Device, DeviceError};
use serde_json::json;

use crate::args::Pool;
use crate::exit::{Code, Failure};
use crate::output::{self, Format};

pub(super) fn run(args: &Pool) -> Result<(), Failure> {
    let device = Device::open().map_err(|error| {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => Code::NotFound,
            _ => Code::Failed,
        };
        let next = match code {
            Code::NotFound => "load the module first: modprobe htlb",
            _ => "run as root",
        };
        Failure::new(code, format!("cannot open {DEVICE}: {error}\n{next}"))
    })?;
    let (size, node) = (args.size, args.node);
    let asked = PageCount::new(args.count);
    let target = size
        .len_of(asked)
        .map_err(|error| Failure::new(Code::Usage, error))?;
    let before = persistent(&device, size, node)?;
    device.resize(size, node, target)?;
    let after = persistent(&device, size, node)?;
    let shortfall = asked.raw().saturating_sub(after.raw());
    match Format::of(args.json) {
        Format::Text => output::text(&words(args, before, after))?,
        Format::Json => output::json(json!({
            "device": true,
            "page_bytes": size.bytes(),
            "node": node.map(|node| node.raw()),
            "asked": asked.raw(),
            "before": before.raw(),
            "after": after.raw(),
            "shortfall": shortfall,
            "nodes": [],
            "cause": null,
        }))?,
    }
    match shortfall {
        0 => Ok(()),
        _ => Err(Failure::silent(Code::Shortage)),
    }
}

/// The pages that the pool has, surplus apart.
fn persistent(
    device: &Device,
    size: HugeSize,
    node: Option<NodeId>,
) -> Result<PageCount, DeviceError> {
    let stats = device.stats(size, node)?;
    let bytes = stats.total.saturating_sub(stats.surplus);
    Ok(size.whole_pages_in(ByteLen::new(bytes)))
}

fn words(args: &Pool, before: PageCount, after: PageCount) -> String {
    let place = args
        .node
        .map_or_else(String::new, |node| format!(" on node {node}"));
    let size = args.size;
    let mut text = format!("htlb.ko has {after} pages of {size}{place} now; it had {before}\n");
    if after.raw() < args.count {
        let missing = args.count - after.raw();
        text.push_str(&format!(
            "{missing} fewer than asked for: memory is short or fragmented; drop caches, or ask right after boot \
             (parameters of the module)\n"
        ));
    } else if after.raw() > args.count {
        text.push_str("More than asked for: the others are in use, or promised\n");
    }
    text
}
