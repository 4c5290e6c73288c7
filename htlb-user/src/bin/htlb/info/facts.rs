// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Everything `htlb info` tells, read once.

use std::path::PathBuf;

use htlb_core::HugeSize;
use htlb_user::named::Machine;
use htlb_user::store::{Backing, Config, Mount};
use htlb_user::sys::process;
use htlb_user::system::cgroup::{Cgroups, HugetlbLimits, Limits};
use htlb_user::system::meminfo::{self, MemInfo};
use htlb_user::system::memlock::{self, Memlock};
use htlb_user::system::mounts::{self, HugetlbMount};
use htlb_user::system::pools::{self, Pool};
use htlb_user::system::thp::{self, Thp};
use htlb_user::system::topology::{self, Node};
use htlb_user::system::{Error, Root};

use super::device::Module;

pub(super) struct Facts {
    pub(super) pools: Vec<Pool>,
    pub(super) default_size: Option<HugeSize>,
    pub(super) memory: MemInfo,
    pub(super) nodes: Vec<Node>,
    pub(super) thp: Option<Thp>,
    pub(super) thp_disabled: bool,
    pub(super) hugetlb: Vec<HugetlbLimits>,
    pub(super) group: Option<Limits>,
    pub(super) memlock: Option<Memlock>,
    /// With what keeps this process from making files there.
    pub(super) mounts: Vec<(HugetlbMount, Result<(), String>)>,
    pub(super) names: Names,
    /// The module's, where its device is there.
    pub(super) device: Option<Module>,
    /// What could not be read or understood.
    pub(super) problems: Vec<String>,
}

/// Where names would live if they were made now.
pub(super) struct Names {
    pub(super) index: Option<PathBuf>,
    pub(super) shared_memory: Result<PathBuf, String>,
    /// For each page size the mount, or why there is none.
    pub(super) hugetlb: Vec<(HugeSize, Result<PathBuf, String>)>,
}

/// The value, or its default and a line about why.
fn note<T: Default>(problems: &mut Vec<String>, read: Result<T, Error>) -> T {
    read.unwrap_or_else(|error| {
        problems.push(error.to_string());
        T::default()
    })
}

impl Facts {
    pub(super) fn read(root: &Root) -> Self {
        let mut problems = Vec::new();
        let pools = note(&mut problems, pools::read(root));
        let memory = note(&mut problems, meminfo::read(root));
        let nodes = note(
            &mut problems,
            topology::read(root).map(|topology| topology.nodes),
        );
        let thp = note(&mut problems, thp::read(root));
        let groups = note(&mut problems, Cgroups::find(root).map(Some));
        let mut hugetlb = Vec::new();
        if let Some(groups) = &groups {
            for pool in &pools {
                hugetlb.extend(note(&mut problems, groups.hugetlb(root, pool.size)));
            }
        }
        let group = groups.map(|groups| groups.memory(root));
        let group = group.and_then(|limits| note(&mut problems, limits));
        let memlock = note(&mut problems, memlock::read(root).map(Some));
        let mounts: Vec<_> = note(&mut problems, mounts::hugetlbfs(root))
            .into_iter()
            .map(|mount| {
                let writable = mount
                    .check_writable()
                    .map_err(|failure| failure.to_string());
                (mount, writable)
            })
            .collect();
        let names = Names::find(&pools, &mounts);
        Self {
            default_size: memory.huge_size,
            pools,
            memory,
            nodes,
            thp,
            thp_disabled: process::thp_disabled().unwrap_or(false),
            hugetlb,
            group,
            memlock,
            mounts,
            names,
            device: Module::read(),
            problems,
        }
    }
}

impl Names {
    /// Without making anything but the index: a report does not mount.
    fn find(pools: &[Pool], mounts: &[(HugetlbMount, Result<(), String>)]) -> Self {
        let config = Config::system(Vec::<Mount>::new());
        let own = config
            .as_ref()
            .ok()
            .and_then(|config| config.own_mounts.clone());
        let place = |size: HugeSize| {
            let usable = mounts
                .iter()
                .find(|(mount, writable)| mount.page_size == Some(size) && writable.is_ok());
            match (usable, &own) {
                (Some((mount, _)), _) => Ok(mount.path.clone()),
                (None, Some(own)) => Ok(own.join(size.to_string())),
                (None, None) => Err(format!(
                    "no hugetlbfs with {size} pages that this user may write"
                )),
            }
        };
        let store = Machine::host().store();
        Self {
            index: config.ok().map(|config| config.index),
            shared_memory: store
                .and_then(|store| store.place(Backing::SharedMemory))
                .map(|place| place.folder)
                .map_err(|error| error.to_string()),
            hugetlb: pools
                .iter()
                .map(|pool| (pool.size, place(pool.size)))
                .collect(),
        }
    }
}
