// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What was got: which pages, from which rung of the ladder, on which nodes, and why not better ones.

use std::fmt;
use std::time::Duration;

use htlb_core::{ByteLen, HugeSize, NodeId, PageCount, Rung};
use serde::Serialize;

/// Where the memory behind a buffer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Home {
    /// In this process alone.
    Private,
    /// A memfd of its own, to be passed on.
    Memfd,
    /// A buffer of `/dev/htlb` of its own, to be passed on.
    Device,
    /// A named file that outlives the process.
    Named {
        /// The folder that holds it.
        folder: String,
    },
}

/// Who gives pages to this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Giver {
    /// The kernel itself: hugetlb, transparent huge pages, base pages.
    #[default]
    Kernel,
    /// The module, through `/dev/htlb`; its rungs are those of its own ladder.
    Device,
}

/// The pages that one rung of the ladder gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Whose ladder.
    pub giver: Giver,
    /// Which rung.
    pub rung: Rung,
    /// The page size.
    pub size: HugeSize,
    /// How many pages.
    pub pages: PageCount,
    /// On which nodes, as verified after allocation; empty where the system does not say.
    pub nodes: Vec<(NodeId, PageCount)>,
}

/// A rung that gave nothing, or less than was wanted, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who refused.
    pub giver: Giver,
    /// Which rung.
    pub rung: Rung,
    /// The page size.
    pub size: HugeSize,
    /// Why, in one sentence, with the command that would change it where there is one.
    pub why: String,
}

/// What was got for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The bytes asked for.
    pub asked: ByteLen,
    /// What each rung gave, first choice first.
    pub shares: Vec<Share>,
    /// The rungs that fell short.
    pub refusals: Vec<Refusal>,
    /// Bytes that are promised and have no page yet.
    pub reserved: ByteLen,
    /// Bytes that have a page.
    pub populated: ByteLen,
    /// Where they are.
    pub home: Home,
    /// How long it took.
    pub took: Duration,
    /// The one command that would get better pages next time, if one is known.
    pub advice: Option<String>,
}

impl Receipt {
    /// The bytes that huge pages of any kind cover.
    #[must_use]
    pub fn huge(&self) -> ByteLen {
        let huge = self
            .shares
            .iter()
            .filter(|share| share.size != HugeSize::BASE);
        ByteLen::new(
            huge.map(|share| share.size.bytes() * share.pages.raw())
                .sum(),
        )
    }

    /// Whether the first rung that was tried gave everything.
    #[must_use]
    pub fn is_first_choice(&self) -> bool {
        self.refusals.is_empty()
    }
}

impl fmt::Display for Receipt {
    /// A line for each rung, then those that fell short.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for share in &self.shares {
            write!(
                f,
                "{} x {} from the {}",
                share.pages,
                share.size,
                rung_words(share.giver, share.rung)
            )?;
            for (place, (node, pages)) in share.nodes.iter().enumerate() {
                let lead = if place == 0 { "; " } else { ", " };
                write!(f, "{lead}{pages} on node {node}")?;
            }
            writeln!(f)?;
        }
        for refusal in &self.refusals {
            writeln!(
                f,
                "not {} from the {}: {}",
                refusal.size,
                match refusal.giver {
                    Giver::Kernel => rung_words(Giver::Kernel, refusal.rung),
                    Giver::Device => "kernel module htlb.ko",
                },
                refusal.why
            )?;
        }
        Ok(())
    }
}

/// A rung in the words of a user of this machine.
const fn rung_words(giver: Giver, rung: Rung) -> &'static str {
    match (giver, rung) {
        (Giver::Kernel, Rung::Pool) => "pool of this process",
        (Giver::Kernel, Rung::System) => "system's huge-page pool",
        (Giver::Kernel, Rung::Transparent) => "system as transparent huge pages",
        (Giver::Kernel, Rung::Base) => "system as base pages",
        (Giver::Device, Rung::Pool) => "pool of htlb.ko",
        (Giver::Device, Rung::System | Rung::Transparent) => "system through htlb.ko",
        (Giver::Device, Rung::Base) => "system through htlb.ko as base pages",
    }
}

impl fmt::Display for Giver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kernel => "kernel",
            Self::Device => "device",
        })
    }
}

impl Serialize for Receipt {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let shares: Vec<_> = self
            .shares
            .iter()
            .map(|share| {
                serde_json::json!({
                    "giver": share.giver.to_string(),
                    "rung": share.rung.to_string(),
                    "page_bytes": share.size.bytes(),
                    "pages": share.pages.raw(),
                    "nodes": share.nodes.iter().map(|(node, pages)| {
                        serde_json::json!({"node": node.raw(), "pages": pages.raw()})
                    }).collect::<Vec<_>>(),
                })
            })
            .collect();
        let refusals: Vec<_> = self
            .refusals
            .iter()
            .map(|refusal| {
                serde_json::json!({
                    "giver": refusal.giver.to_string(),
                    "rung": refusal.rung.to_string(),
                    "page_bytes": refusal.size.bytes(),
                    "why": refusal.why,
                })
            })
            .collect();
        let mut fields = serializer.serialize_struct("Receipt", 8)?;
        fields.serialize_field("asked_bytes", &self.asked.raw())?;
        fields.serialize_field("shares", &shares)?;
        fields.serialize_field("refusals", &refusals)?;
        fields.serialize_field("reserved_bytes", &self.reserved.raw())?;
        fields.serialize_field("populated_bytes", &self.populated.raw())?;
        fields.serialize_field("home", &self.home)?;
        fields.serialize_field("seconds", &self.took.as_secs_f64())?;
        fields.serialize_field("advice", &self.advice)?;
        fields.end()
    }
}
