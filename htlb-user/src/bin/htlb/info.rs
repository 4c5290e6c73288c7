// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `htlb info`: what there is, what is allowed, and what is in the way.

mod device;
mod facts;
mod words;

use htlb_user::system::Root;
use serde_json::{json, Value};

use crate::args::Info;
use crate::exit::Failure;
use crate::output::{self, Format};
use facts::Facts;

pub(crate) fn run(args: &Info) -> Result<(), Failure> {
    let facts = Facts::read(&Root::host());
    match Format::of(args.json) {
        Format::Text => output::text(&words::words(&facts)),
        Format::Json => output::json(object(&facts)),
    }
}

fn object(facts: &Facts) -> Value {
    let pools: Vec<Value> = facts
        .pools
        .iter()
        .map(|pool| {
            let nodes: Vec<Value> = pool
                .nodes
                .iter()
                .map(|node| {
                    json!({"node": node.node.raw(), "total": node.total.raw(), "free": node.free.raw(),
                        "surplus": node.surplus.raw()})
                })
                .collect();
            json!({
                "page_bytes": pool.size.bytes(),
                "default": Some(pool.size) == facts.default_size,
                "total": pool.counts.total.raw(),
                "free": pool.counts.free.raw(),
                "reserved": pool.counts.reserved.raw(),
                "surplus": pool.counts.surplus.raw(),
                "overcommit": pool.counts.overcommit.raw(),
                "available": pool.counts.available().raw(),
                "nodes": nodes,
            })
        })
        .collect();
    let thp = facts.thp.as_ref().map(|thp| {
        json!({
            "enabled": words::when(thp.enabled),
            "defrag": thp.defrag.map(words::defrag),
            "shmem": thp.shmem.map(words::when),
            "pmd_bytes": thp.pmd_size.map(|size| size.bytes()),
            "process_disabled": facts.thp_disabled,
        })
    });
    let nodes: Vec<Value> = facts
        .nodes
        .iter()
        .map(|node| {
            json!({"node": node.id.raw(), "cpus": node.cpus.len(),
                "total": node.memory.map(|memory| memory.total.raw()),
                "free": node.memory.map(|memory| memory.free.raw())})
        })
        .collect();
    json!({
        "pools": pools,
        "thp": thp,
        "memory": {
            "total": facts.memory.total.map(|len| len.raw()),
            "available": facts.memory.available.map(|len| len.raw()),
        },
        "nodes": nodes,
        "limits": limits(facts),
        "mounts": facts.mounts.iter().map(|(mount, writable)| json!({
            "path": mount.path.display().to_string(),
            "page_bytes": mount.page_size.map(|size| size.bytes()),
            "limit": mount.limit.map(|len| len.raw()),
            "writable": writable.is_ok(),
            "reason": writable.as_ref().err(),
        })).collect::<Vec<_>>(),
        "names": {
            "index": facts.names.index,
            "shared_memory": facts.names.shared_memory.as_ref().ok(),
            "hugetlb": facts.names.hugetlb.iter().map(|(size, folder)| json!({
                "page_bytes": size.bytes(), "folder": folder.as_ref().ok(),
            })).collect::<Vec<_>>(),
        },
        "device": facts.device.as_ref().map(device::object),
        "problems": facts.problems,
    })
}

fn limits(facts: &Facts) -> Value {
    let hugetlb: Vec<Value> = facts
        .hugetlb
        .iter()
        .map(|limits| {
            let reservations = limits.reservations.as_ref();
            json!({
                "page_bytes": limits.size.bytes(),
                "max": limits.pages.max.map(|len| len.raw()),
                "room": limits.pages.room.map(|len| len.raw()),
                "reservation_max": reservations.and_then(|limits| limits.max).map(|len| len.raw()),
                "reservation_room": reservations.and_then(|limits| limits.room).map(|len| len.raw()),
                "set_by": limits.pages.set_by,
            })
        })
        .collect();
    let memory = facts.group.as_ref().map(|limits| {
        json!({
            "max": limits.max.map(|len| len.raw()),
            "room": limits.room.map(|len| len.raw()),
            "set_by": limits.set_by,
        })
    });
    let memlock = facts.memlock.as_ref().map(|memlock| {
        let uses: Vec<Value> = htlb_user::system::memlock::Use::ALL
            .into_iter()
            .map(|what| {
                let (charge, limit) = words::charge(memlock.charge(what));
                json!({"use": words::memlock_use(what), "charge": charge, "limit": limit})
            })
            .collect();
        json!({
            "soft": memlock.limit.soft.map(|len| len.raw()),
            "hard": memlock.limit.hard.map(|len| len.raw()),
            "uses": uses,
        })
    });
    json!({"hugetlb": hugetlb, "memory": memory, "memlock": memlock})
}
