// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The kernel module's part of `htlb info`.

use std::fmt::Write as _;
use std::io;

use htlb_core::uapi::{Limit, Stats, DEVICE, NO_LIMIT};
use htlb_core::{HugeSize, NodeId};
use htlb_user::device::{Account, Device};
use htlb_user::system::{topology, Root};
use serde_json::{json, Value};

use crate::output::table;
use crate::size::human;

/// What the module tells of itself.
#[derive(Default)]
pub(super) struct Module {
    version: Option<u32>,
    pools: Vec<Pool>,
    /// What this user may use of a page size.
    limits: Vec<(HugeSize, Limit)>,
    /// Why it could not be asked.
    problem: Option<String>,
}

struct Pool {
    size: HugeSize,
    all: Stats,
    nodes: Vec<(NodeId, Stats)>,
}

impl Module {
    /// `None` where it is not loaded.
    pub(super) fn read() -> Option<Self> {
        match Device::open() {
            Ok(device) => Some(Self::ask(&device)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(Self {
                problem: Some(match error.kind() {
                    io::ErrorKind::PermissionDenied => {
                        format!("{error}: have the administrator add you to its group")
                    }
                    _ => error.to_string(),
                }),
                ..Self::default()
            }),
        }
    }

    fn ask(device: &Device) -> Self {
        let mut module = Self::default();
        let nodes = topology::read(&Root::host())
            .map(|topology| topology.nodes)
            .unwrap_or_default();
        let user = rustix::process::geteuid().as_raw();
        for size in [HugeSize::BASE, HugeSize::MIB2, HugeSize::GIB1] {
            let Ok(all) = device.stats(size, None) else {
                continue;
            };
            module.version = Some(all.version);
            let on = |node: NodeId| Some((node, device.stats(size, Some(node)).ok()?));
            module.pools.push(Pool {
                size,
                all,
                nodes: nodes.iter().filter_map(|node| on(node.id)).collect(),
            });
            if let Ok(limit) = device.usage(Account::User(user), size) {
                module.limits.push((size, limit));
            }
        }
        module
    }
}

pub(super) fn object(module: &Module) -> Value {
    let pools: Vec<Value> = module
        .pools
        .iter()
        .map(|Pool { size, all, nodes }| {
            let pages = |bytes: u64| bytes / size.bytes();
            let nodes: Vec<Value> = nodes
                .iter()
                .map(|(node, on)| {
                    json!({"node": node.raw(), "total": pages(on.total), "free": pages(on.free),
                        "surplus": pages(on.surplus)})
                })
                .collect();
            json!({
                "page_bytes": size.bytes(),
                "total": pages(all.total),
                "free": pages(all.free),
                "reserved": pages(all.reserved),
                "surplus": pages(all.surplus),
                "overcommit": pages(all.overcommit),
                "available": pages(all.available),
                "limbo": pages(all.limbo),
                "donated": pages(all.donated),
                "nodes": nodes,
            })
        })
        .collect();
    let limits: Vec<Value> = module
        .limits
        .iter()
        .map(|(size, limit)| {
            let max = (limit.max != NO_LIMIT).then_some(limit.max);
            json!({"page_bytes": size.bytes(), "max": max, "used": limit.used})
        })
        .collect();
    json!({
        "path": DEVICE,
        "version": module.version,
        "pools": pools,
        "limits": limits,
        "problem": module.problem,
    })
}

pub(super) fn words(text: &mut String, module: &Module) -> std::fmt::Result {
    writeln!(text)?;
    if let Some(problem) = &module.problem {
        return writeln!(text, "htlb.ko         {DEVICE} cannot be used: {problem}");
    }
    let mut rows = Vec::new();
    for Pool { size, all, nodes } in &module.pools {
        let pages = |bytes: u64| (bytes / size.bytes()).to_string();
        let mut row = vec![size.to_string(), "all".to_owned()];
        let counts = [
            all.total,
            all.free,
            all.reserved,
            all.surplus,
            all.overcommit,
            all.available,
            all.limbo,
            all.donated,
        ];
        row.extend(counts.map(pages));
        rows.push(row);
        if nodes.len() > 1 {
            for (node, on) in nodes {
                let mut row = vec![String::new(), node.to_string()];
                row.extend([on.total, on.free].map(pages));
                row.extend([String::new(), pages(on.surplus)]);
                row.resize(10, String::new());
                rows.push(row);
            }
        }
    }
    let header = [
        "OF HTLB.KO",
        "NODE",
        "TOTAL",
        "FREE",
        "RESERVED",
        "SURPLUS",
        "OVERCOMMIT",
        "AVAILABLE",
        "LIMBO",
        "DONATED",
    ];
    text.push_str(&table(&header, &[2, 3, 4, 5, 6, 7, 8, 9], rows));
    for (size, limit) in &module.limits {
        if limit.max != NO_LIMIT {
            let (max, used) = (human(limit.max), human(limit.used));
            writeln!(text, "Your limit      {size} pages: {max}, {used} in use")?;
        }
    }
    Ok(())
}
