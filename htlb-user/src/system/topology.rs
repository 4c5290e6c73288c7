// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Nodes, the CPUs and memory on them, and how far apart they are.

use htlb_core::{ByteLen, NodeId, NodeMask};

use super::pools::NODES;
use super::root::list;
use super::{meminfo, Error, Root};

/// More CPUs than any kernel can be configured for.
const CPUS: u32 = 1 << 16;

/// The nodes of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The nodes that are online, ascending; at least one.
    pub nodes: Vec<Node>,
    /// The CPUs on which this process may run; `None` where the system does not say.
    pub allowed_cpus: Option<Vec<u32>>,
    /// The nodes from which this process may have memory.
    pub allowed_nodes: NodeMask,
    /// Nodes above 63, which this crate cannot use.
    pub beyond: u32,
    /// How this is known.
    pub source: Source,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its CPUs.
    pub cpus: Vec<u32>,
    /// Its memory; `None` where the system does not say.
    pub memory: Option<NodeMemory>,
    /// How far every online node is, in the order of [`Topology::nodes`], 10 being here; empty where the system does not say.
    pub distances: Vec<u32>,
}

/// The memory of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeMemory {
    /// All of it.
    pub total: ByteLen,
    /// What nobody uses.
    pub free: ByteLen,
}

/// How the topology is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From `/sys`.
    Sysfs,
    /// There is none: one node with all the memory there is.
    Assumed,
}

impl Topology {
    /// The nodes that have memory which this process may use. Where no node tells about its memory, all that are allowed.
    #[must_use]
    pub fn usable(&self) -> NodeMask {
        let has = |node: &&Node| node.memory.is_none_or(|memory| !memory.total.is_zero());
        let mask = |mask: NodeMask, node: &Node| mask.or(node.id.mask());
        let with_memory = self.nodes.iter().filter(has).fold(NodeMask::EMPTY, mask);
        with_memory.and(self.allowed_nodes)
    }

    /// How far `to` is from `from`; `None` where the system does not say.
    #[must_use]
    pub fn distance(&self, from: NodeId, to: NodeId) -> Option<u32> {
        let place = |id| self.nodes.iter().position(|node| node.id == id);
        let node = self.nodes.get(place(from)?)?;
        node.distances.get(place(to)?).copied()
    }
}

/// The topology; one assumed node where there is no `/sys`.
///
/// ```
/// use htlb_user::system::{topology, Root};
/// let topology = topology::read(&Root::at("/nonexistent"))?;
/// assert_eq!(topology.nodes.len(), 1);
/// assert!(topology.nodes[0].memory.is_none());
/// # Ok::<(), htlb_user::system::Error>(())
/// ```
///
/// # Errors
/// [`Error::Found`] where a list or distance cannot be understood.
pub fn read(root: &Root) -> Result<Topology, Error> {
    let online = numbers(root, &format!("{NODES}/online"), 1 << 16)?;
    let ids: Vec<NodeId> = online
        .iter()
        .flatten()
        .filter_map(|node| NodeId::new(*node).ok())
        .collect();
    // CAST: both lists have at most 2^16 members.
    let beyond = (online.as_deref().unwrap_or_default().len() - ids.len()) as u32;
    let mut nodes = Vec::new();
    for id in &ids {
        nodes.push(node(root, *id, &ids)?);
    }
    let source = if nodes.is_empty() {
        nodes.push(assumed(root)?);
        Source::Assumed
    } else {
        Source::Sysfs
    };
    let online = nodes
        .iter()
        .fold(NodeMask::EMPTY, |mask, node| mask.or(node.id.mask()));
    let allowed = status_list(root, "Mems_allowed_list", 1 << 16)?;
    let allowed_nodes = match &allowed {
        Some(list) => list
            .iter()
            .filter_map(|node| NodeId::new(*node).ok())
            .fold(NodeMask::EMPTY, |mask, node| mask.or(node.mask())),
        None => online,
    };
    Ok(Topology {
        nodes,
        allowed_cpus: status_list(root, "Cpus_allowed_list", CPUS)?,
        allowed_nodes: allowed_nodes.and(online),
        beyond,
        source,
    })
}

fn node(root: &Root, id: NodeId, ids: &[NodeId]) -> Result<Node, Error> {
    let directory = format!("{NODES}/node{id}");
    let info = meminfo::read_node(root, id)?;
    let memory = info.total.zip(info.free);
    let path = format!("{directory}/distance");
    let text = root.text(&path)?.unwrap_or_default();
    let distances: Option<Vec<u32>> = text
        .split_ascii_whitespace()
        .map(|w| w.parse().ok())
        .collect();
    let wrong = || Error::found(&root.path(&path), "a distance to every online node", &text);
    let mut distances = distances.ok_or_else(wrong)?;
    // One column per online node, those above 63 last; a node that went away meanwhile makes them useless.
    if distances.len() < ids.len() {
        if !distances.is_empty() {
            return Err(wrong());
        }
    } else {
        distances.truncate(ids.len());
    }
    Ok(Node {
        id,
        cpus: numbers(root, &format!("{directory}/cpulist"), CPUS)?.unwrap_or_default(),
        memory: memory.map(|(total, free)| NodeMemory { total, free }),
        distances,
    })
}

/// Node 0, with the memory of the machine where `/proc` tells it.
fn assumed(root: &Root) -> Result<Node, Error> {
    let info = meminfo::read(root)?;
    Ok(Node {
        id: NodeId::ZERO,
        cpus: status_list(root, "Cpus_allowed_list", CPUS)?.unwrap_or_default(),
        memory: info
            .total
            .zip(info.free)
            .map(|(total, free)| NodeMemory { total, free }),
        distances: Vec::new(),
    })
}

fn numbers(root: &Root, path: &str, limit: u32) -> Result<Option<Vec<u32>>, Error> {
    let Some(text) = root.text(path)? else {
        return Ok(None);
    };
    match list(&text, limit) {
        Some(numbers) => Ok(Some(numbers)),
        None => Err(Error::found(&root.path(path), "a list like 0-3,8", &text)),
    }
}

fn status_list(root: &Root, name: &str, limit: u32) -> Result<Option<Vec<u32>>, Error> {
    const STATUS: &str = "/proc/self/status";
    let text = root.text(STATUS)?.unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let Some((_, value)) = lines.find(|(key, _)| *key == name) else {
        return Ok(None);
    };
    match list(value, limit) {
        Some(numbers) => Ok(Some(numbers)),
        None => Err(Error::found(&root.path(STATUS), "a list like 0-3,8", value)),
    }
}
