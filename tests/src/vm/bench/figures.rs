// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! All samples of a boot as one set of figures.

use std::collections::BTreeMap;

use anyhow::{ensure, Context, Result};

use super::sample::{Counts, Exporter, Round, Sample, Scatter, Shared};

/// One exporter's figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The same in every round.
    pub counts: Counts,
    /// Of the round with the median of entries.
    pub scatter: Scatter,
    /// Whether there was one entry per run in every round.
    pub one_entry_per_run: bool,
    /// The median.
    pub map_touch_seconds: f64,
    /// The median.
    pub export_attach_seconds: f64,
}

/// What a boot measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Who was measured.
    pub exporters: BTreeMap<Exporter, Figure>,
    /// One memfd, as the kernel gave its pages.
    pub shared: Shared,
    /// One memfd, no two pages neighbours.
    pub scattered: Shared,
    /// The code of htlb.ko; the peers are built into the kernel.
    pub module_text_bytes: Option<u64>,
}

impl Figures {
    /// Puts the samples together.
    ///
    /// # Errors
    ///
    /// A measurement is missing, or a count differs between rounds.
    pub fn new(
        samples: &[Sample],
        exporters: &[Exporter],
        module_text_bytes: Option<u64>,
    ) -> Result<Self> {
        let mut figures = BTreeMap::new();
        for exporter in exporters {
            let rounds: Vec<&Round> = samples
                .iter()
                .filter_map(|sample| match sample {
                    Sample::Round(round) if round.exporter == *exporter => Some(round),
                    _ => None,
                })
                .collect();
            figures.insert(*exporter, figure(*exporter, &rounds)?);
        }
        let shared = |scattered: bool| {
            let found = samples.iter().find_map(|sample| match sample {
                Sample::Shared(shared) if shared.scattered == scattered => Some(*shared),
                _ => None,
            });
            found.context("the guest did not measure two exporters on one memfd")
        };
        let (shared, scattered) = (shared(false)?, shared(true)?);
        for shared in [shared, scattered] {
            ensure!(
                shared.htlb.is_some() == exporters.contains(&Exporter::Htlb),
                "htlb was to be measured on a shared memfd, and was not, or the other way round"
            );
        }
        Ok(Self {
            exporters: figures,
            shared,
            scattered,
            module_text_bytes,
        })
    }
}

fn figure(exporter: Exporter, rounds: &[&Round]) -> Result<Figure> {
    let first = rounds
        .first()
        .with_context(|| format!("the guest did not measure {}", exporter.key()))?;
    for (at, round) in rounds.iter().enumerate() {
        ensure!(
            round.counts == first.counts,
            "{} counted {:?} in the first round, and {:?} in number {}",
            exporter.key(),
            first.counts,
            round.counts,
            at.saturating_add(1)
        );
    }
    let mut scatter: Vec<Scatter> = rounds.iter().map(|round| round.scatter).collect();
    scatter.sort_by_key(|scatter| (scatter.sg_entries, scatter.runs));
    let median = |of: fn(&Round) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(|round| of(round)).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Ok(Figure {
        counts: first.counts.clone(),
        scatter: scatter[scatter.len() / 2],
        one_entry_per_run: scatter
            .iter()
            .all(|scatter| scatter.sg_entries == scatter.runs),
        map_touch_seconds: median(|round| round.map_touch_seconds),
        export_attach_seconds: median(|round| round.export_attach_seconds),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::vm::bench::sample::DirectIo;

    pub(in super::super) fn round(exporter: Exporter, seconds: f64) -> Round {
        let counts = match exporter {
            Exporter::Htlb => Counts {
                faults: 128,
                faults_populated: 0,
                leaf_entries: 128,
                vmpte_bytes: 4096,
                gup_pin: DirectIo::Works,
            },
            Exporter::Udmabuf | Exporter::SystemHeap => Counts {
                faults: 1,
                faults_populated: 1,
                leaf_entries: 65_536,
                vmpte_bytes: 528_384,
                gup_pin: DirectIo::Refused(14),
            },
        };
        Round {
            exporter,
            counts,
            scatter: Scatter {
                sg_entries: 3,
                runs: 3,
            },
            map_touch_seconds: seconds,
            export_attach_seconds: seconds / 2.0,
        }
    }

    pub(in super::super) fn shared(scattered: bool, htlb: Option<u64>) -> Shared {
        let of = |entries| Scatter {
            sg_entries: entries,
            runs: entries,
        };
        Shared {
            scattered,
            runs: 128,
            udmabuf: of(128),
            htlb: htlb.map(of),
        }
    }

    pub(in super::super) fn samples() -> Vec<Sample> {
        let mut samples: Vec<Sample> = Exporter::ALL
            .into_iter()
            .flat_map(|exporter| {
                [3.0, 1.0, 2.0].map(|seconds| Sample::Round(round(exporter, seconds)))
            })
            .collect();
        samples.push(Sample::Shared(shared(false, Some(128))));
        samples.push(Sample::Shared(shared(true, Some(127))));
        samples
    }

    #[test]
    fn seconds_are_medians_and_entries_too() {
        let mut samples = samples();
        for (sample, entries) in samples.iter_mut().zip([9, 2, 5]) {
            if let Sample::Round(round) = sample {
                round.scatter.sg_entries = entries;
            }
        }
        let figures = Figures::new(&samples, &Exporter::ALL, Some(7)).expect("all are there");
        let htlb = &figures.exporters[&Exporter::Htlb];
        assert_eq!(
            (htlb.map_touch_seconds, htlb.export_attach_seconds),
            (2.0, 1.0)
        );
        assert_eq!(htlb.scatter.sg_entries, 5);
        assert!(!htlb.one_entry_per_run);
        assert!(figures.exporters[&Exporter::Udmabuf].one_entry_per_run);
        assert_eq!(figures.module_text_bytes, Some(7));
        assert_eq!(
            figures.scattered.htlb.map(|htlb| htlb.sg_entries),
            Some(127)
        );
    }

    #[test]
    fn a_count_that_differs_between_rounds_is_an_error() {
        let mut samples = samples();
        if let Some(Sample::Round(round)) = samples.get_mut(1) {
            round.counts.faults = 129;
        }
        let error = Figures::new(&samples, &Exporter::ALL, None).expect_err("129 is not 128");
        let text = error.to_string();
        assert!(
            text.contains("htlb") && text.contains("129") && text.contains("number 2"),
            "{text}"
        );
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        let all = samples();
        for missing in [0..3, 9..10, 10..11] {
            let mut some = all.clone();
            some.drain(missing);
            assert!(Figures::new(&some, &Exporter::ALL, None).is_err());
        }
        let peers = &Exporter::ALL[1..];
        assert!(
            Figures::new(&all, peers, None).is_err(),
            "htlb was left out"
        );
    }
}
