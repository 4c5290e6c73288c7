// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What one process in the guest measured, and the line in which it says so.

use serde::{Deserialize, Serialize};

/// Before each sample, so that it is found among whatever else the guest prints.
const MARK: &str = "HTLB-SAMPLE ";

/// How much memory each exporter is measured with, in bytes.
pub const SIZE: usize = 256 << 20;

/// Who made the dma-buf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exporter {
    /// `/dev/htlb`, pages of 2 MiB.
    Htlb,
    /// `/dev/udmabuf` over a hugetlb memfd, pages of 2 MiB.
    Udmabuf,
    /// `/dev/dma_heap/system`.
    SystemHeap,
}

impl Exporter {
    /// All, in the order of the table.
    pub const ALL: [Self; 3] = [Self::Htlb, Self::Udmabuf, Self::SystemHeap];

    /// Its key in the report, and its name on the guest program's command line.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Htlb => "htlb",
            Self::Udmabuf => "udmabuf",
            Self::SystemHeap => "system_heap",
        }
    }
}

/// What came of direct I/O into a mapping and out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DirectIo {
    /// Both, and every byte was right.
    Works,
    /// It was refused with this error number.
    Refused(i32),
}

/// What must be the same in every round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Page faults of mapping, and of reading one byte of every 4 KiB.
    pub faults: u64,
    /// Page faults of reading, after `mmap` with `MAP_POPULATE`.
    pub faults_populated: u64,
    /// Page-table entries that map the memory then.
    pub leaf_entries: u64,
    /// By how much the page tables grew, in bytes.
    pub vmpte_bytes: u64,
    /// Direct I/O.
    pub gup_pin: DirectIo,
}

/// Which physical pages an exporter got differs between rounds, and with it how many runs they make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scatter {
    /// Entries of the table that an importing device gets.
    pub sg_entries: u64,
    /// Physically contiguous runs that these entries make.
    pub runs: u64,
}

/// One exporter, measured once, in a process of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Whose memory it was.
    pub exporter: Exporter,
    /// What must not vary.
    pub counts: Counts,
    /// What depends on the pages.
    pub scatter: Scatter,
    /// Mapping, and reading one byte of every 4 KiB.
    pub map_touch_seconds: f64,
    /// Making the dma-buf, attaching a device and mapping it for the device.
    pub export_attach_seconds: f64,
}

/// The same hugetlb memfd, exported by one and then by the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// Whether no two pages of the memfd are neighbours in memory.
    pub scattered: bool,
    /// Physically contiguous runs of the memfd's pages.
    pub runs: u64,
    /// As udmabuf exports it.
    pub udmabuf: Scatter,
    /// As htlb does, having imported it; none where htlb was left out.
    pub htlb: Option<Scatter>,
}

/// A line from the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sample {
    /// One exporter.
    Round(Round),
    /// Two of them, on the same memory.
    Shared(Shared),
}

impl Sample {
    /// The line.
    ///
    /// # Errors
    ///
    /// None that a sample can cause; the encoder's type has them.
    pub fn to_line(&self) -> serde_json::Result<String> {
        Ok(format!("{MARK}{}", serde_json::to_string(self)?))
    }

    /// Every sample in the guest's output.
    ///
    /// # Errors
    ///
    /// A marked line that is no sample.
    pub fn parse(output: &str) -> serde_json::Result<Vec<Self>> {
        output
            .lines()
            .filter_map(|line| line.trim_end().strip_prefix(MARK))
            .map(serde_json::from_str)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_survives_the_serial_port() {
        let round = Sample::Round(Round {
            exporter: Exporter::SystemHeap,
            counts: Counts {
                faults: 1,
                faults_populated: 0,
                leaf_entries: 65_536,
                vmpte_bytes: 528_384,
                gup_pin: DirectIo::Refused(14),
            },
            scatter: Scatter {
                sg_entries: 256,
                runs: 3,
            },
            map_touch_seconds: 0.25,
            export_attach_seconds: 0.125,
        });
        let shared = Sample::Shared(Shared {
            scattered: true,
            runs: 128,
            udmabuf: Scatter {
                sg_entries: 128,
                runs: 128,
            },
            htlb: None,
        });
        let lines = |sample: &Sample| sample.to_line().expect("it can be written");
        let output = format!(
            "noise\r\n{}\r\nmore {MARK}noise\r\n{}\r\n",
            lines(&round),
            lines(&shared)
        );
        assert_eq!(
            Sample::parse(&output).expect("both are samples"),
            [round, shared]
        );
        assert!(Sample::parse(&format!("{MARK}{{}}")).is_err());
        assert!(Sample::parse("").expect("nothing is fine").is_empty());
    }

    #[test]
    fn an_exporter_has_one_name() {
        for exporter in Exporter::ALL {
            let text = serde_json::to_string(&exporter).expect("a string");
            assert_eq!(text, format!("\"{}\"", exporter.key()));
        }
    }
}
