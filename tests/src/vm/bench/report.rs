// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The figures as one JSON object, and as a table that says which targets are met.

use std::fmt;

use serde_json::{json, Map, Value};

use super::figures::{Figure, Figures};
use super::sample::{DirectIo, Exporter, Scatter};

/// What a report says of one exporter and one key.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Count(u64),
    Seconds(f64),
    Word(String),
    /// It was not measured, or there is nothing to measure.
    Nothing,
}

/// One key.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    key: &'static str,
    about: &'static str,
    /// In the order of [`Exporter::ALL`].
    cells: [Cell; 3],
    target: Option<Target>,
}

/// What htlb is to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    text: String,
    met: bool,
}

/// The figures, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// The report on these figures.
    pub fn new(figures: &Figures) -> Self {
        let of = |cell: fn(&Figure) -> Cell| {
            Exporter::ALL
                .map(|exporter| figures.exporters.get(&exporter).map_or(Cell::Nothing, cell))
        };
        let entries = |scatter: Option<Scatter>| {
            scatter.map_or(Cell::Nothing, |scatter| Cell::Count(scatter.sg_entries))
        };
        let limit = |most: u64| (format!("at most {most}"), most);
        let (faults, tables, text) = (limit(128), limit(8 << 10), limit(200 << 10));

        let mut rows = vec![
            row(
                "faults_256m",
                "page faults",
                of(|f| Cell::Count(f.counts.faults)),
            )
            .at_most(faults),
            row(
                "faults_256m_populated",
                "page faults after MAP_POPULATE",
                of(|f| Cell::Count(f.counts.faults_populated)),
            )
            .exactly("0", Cell::Count(0)),
            row(
                "leaf_entries_256m",
                "page-table entries",
                of(|f| Cell::Count(f.counts.leaf_entries)),
            )
            .exactly("128", Cell::Count(128)),
            row(
                "vmpte_bytes_256m",
                "bytes of page tables",
                of(|f| Cell::Count(f.counts.vmpte_bytes)),
            )
            .at_most(tables),
        ];
        let htlb = figures.exporters.get(&Exporter::Htlb);
        let one_entry_per_run = htlb.is_some_and(|htlb| htlb.one_entry_per_run);
        rows.extend([
            row(
                "sg_entries_256m",
                "entries for a device",
                of(|f| Cell::Count(f.scatter.sg_entries)),
            )
            .aims("one per run".to_owned(), one_entry_per_run),
            row(
                "runs_256m",
                "contiguous runs of the memory",
                of(|f| Cell::Count(f.scatter.runs)),
            ),
        ]);
        for (key, about, shared) in [
            (
                "sg_entries_256m_shared",
                "entries, the same memory",
                figures.shared,
            ),
            (
                "sg_entries_256m_scattered",
                "entries, the same scattered memory",
                figures.scattered,
            ),
        ] {
            let cells = [
                entries(shared.htlb),
                entries(Some(shared.udmabuf)),
                Cell::Nothing,
            ];
            let most = ("no more than udmabuf".to_owned(), shared.udmabuf.sg_entries);
            rows.push(row(key, about, cells).at_most(most));
        }
        rows.extend([
            row(
                "gup_pin",
                "direct I/O into the mapping and back",
                of(|f| gup_pin(&f.counts.gup_pin)),
            )
            .exactly("works", Cell::Count(1)),
            row(
                "map_touch_seconds",
                "mapping and reading",
                of(|f| Cell::Seconds(f.map_touch_seconds)),
            ),
            row(
                "export_attach_seconds",
                "exporting and attaching",
                of(|f| Cell::Seconds(f.export_attach_seconds)),
            ),
        ]);
        let code = figures.module_text_bytes.map_or(Cell::Nothing, Cell::Count);
        rows.push(
            row(
                "module_text_bytes",
                "bytes of code",
                [code, Cell::Nothing, Cell::Nothing],
            )
            .at_most(text),
        );
        Self { rows }
    }

    /// One object, a key for each figure, in each a key for each exporter.
    pub fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let cells = Exporter::ALL.into_iter().zip(&row.cells);
            let cells: Map<String, Value> = cells
                .map(|(exporter, cell)| (exporter.key().to_owned(), cell.to_json()))
                .collect();
            (row.key.to_owned(), Value::Object(cells))
        });
        Value::Object(rows.collect())
    }

    /// The keys of the targets that were not reached.
    pub fn missed(&self) -> Vec<&'static str> {
        let missed = |row: &&Row| row.target.as_ref().is_some_and(|target| !target.met);
        self.rows.iter().filter(missed).map(|row| row.key).collect()
    }
}

fn row(key: &'static str, about: &'static str, cells: [Cell; 3]) -> Row {
    Row {
        key,
        about,
        cells,
        target: None,
    }
}

impl Row {
    fn at_most(self, (text, most): (String, u64)) -> Self {
        let met = matches!(self.cells[0], Cell::Count(count) if count <= most);
        self.aims(text, met)
    }

    fn exactly(self, text: &str, wanted: Cell) -> Self {
        let met = self.cells[0] == wanted;
        self.aims(text.to_owned(), met)
    }

    /// Where htlb was left out there is nothing to reach.
    fn aims(mut self, text: String, met: bool) -> Self {
        self.target = (self.cells[0] != Cell::Nothing).then_some(Target { text, met });
        self
    }
}

/// 1, or the name of the error.
fn gup_pin(direct: &DirectIo) -> Cell {
    match direct {
        DirectIo::Works => Cell::Count(1),
        DirectIo::Refused(libc::EFAULT) => Cell::Word("EFAULT".to_owned()),
        DirectIo::Refused(libc::EINVAL) => Cell::Word("EINVAL".to_owned()),
        DirectIo::Refused(libc::EOPNOTSUPP) => Cell::Word("EOPNOTSUPP".to_owned()),
        DirectIo::Refused(number) => Cell::Word(format!("errno {number}")),
    }
}

impl Cell {
    fn to_json(&self) -> Value {
        match self {
            Self::Count(count) => json!(count),
            Self::Seconds(seconds) => json!(seconds),
            Self::Word(word) => json!(word),
            Self::Nothing => Value::Null,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => f.pad(&with_separators(*count)),
            Self::Seconds(seconds) => f.pad(&format!("{seconds:.4} s")),
            Self::Word(word) => f.pad(word),
            Self::Nothing => f.pad("-"),
        }
    }
}

fn with_separators(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self
            .rows
            .iter()
            .map(|row| row.about.len())
            .max()
            .unwrap_or(0);
        writeln!(
            f,
            "{:width$}  {:>12} {:>12} {:>12}  target for htlb",
            "256 MiB each", "htlb", "udmabuf", "system heap"
        )?;
        for row in &self.rows {
            let [htlb, udmabuf, system_heap] = &row.cells;
            write!(
                f,
                "{:width$}  {htlb:>12} {udmabuf:>12} {system_heap:>12}",
                row.about
            )?;
            match &row.target {
                Some(Target { text, met: true }) => writeln!(f, "  {text}: met")?,
                Some(Target { text, met: false }) => writeln!(f, "  {text}: MISSED")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::{samples, shared};
    use super::super::sample::Sample;
    use super::*;

    fn figures() -> Figures {
        Figures::new(&samples(), &Exporter::ALL, Some(150 << 10)).expect("all are there")
    }

    #[test]
    fn every_key_has_the_three_exporters() {
        let report = Report::new(&figures()).to_json();
        let report = report.as_object().expect("an object");
        let keys: Vec<&str> = report.keys().map(String::as_str).collect();
        for key in [
            "faults_256m",
            "faults_256m_populated",
            "leaf_entries_256m",
            "vmpte_bytes_256m",
            "sg_entries_256m",
            "sg_entries_256m_scattered",
            "gup_pin",
            "map_touch_seconds",
            "export_attach_seconds",
            "module_text_bytes",
        ] {
            assert!(keys.contains(&key), "{key} is not in {keys:?}");
        }
        for (key, cells) in report {
            let cells = cells.as_object().expect("an object");
            let names: Vec<&str> = cells.keys().map(String::as_str).collect();
            assert_eq!(names, ["htlb", "system_heap", "udmabuf"], "{key}");
        }
        assert_eq!(
            report["gup_pin"],
            json!({"htlb": 1, "udmabuf": "EFAULT", "system_heap": "EFAULT"})
        );
        assert_eq!(
            report["module_text_bytes"],
            json!({"htlb": 153_600, "udmabuf": null, "system_heap": null})
        );
        assert_eq!(report["map_touch_seconds"]["udmabuf"], json!(2.0));
    }

    #[test]
    fn every_target_can_be_missed() {
        let good = figures();
        assert!(Report::new(&good).missed().is_empty());
        let change = |change: fn(&mut Figure)| {
            let mut figures = good.clone();
            change(
                figures
                    .exporters
                    .get_mut(&Exporter::Htlb)
                    .expect("it is there"),
            );
            Report::new(&figures).missed()
        };
        assert_eq!(change(|f| f.counts.faults = 129), ["faults_256m"]);
        assert_eq!(
            change(|f| f.counts.faults_populated = 1),
            ["faults_256m_populated"]
        );
        assert_eq!(
            change(|f| f.counts.leaf_entries = 129),
            ["leaf_entries_256m"]
        );
        assert_eq!(
            change(|f| f.counts.vmpte_bytes = 8193),
            ["vmpte_bytes_256m"]
        );
        assert_eq!(change(|f| f.one_entry_per_run = false), ["sg_entries_256m"]);
        assert_eq!(
            change(|f| f.counts.gup_pin = DirectIo::Refused(libc::EFAULT)),
            ["gup_pin"]
        );
        let mut figures = good.clone();
        figures.scattered = shared(true, Some(129));
        figures.shared = shared(false, Some(129));
        figures.module_text_bytes = Some((200 << 10) + 1);
        assert_eq!(
            Report::new(&figures).missed(),
            [
                "sg_entries_256m_shared",
                "sg_entries_256m_scattered",
                "module_text_bytes"
            ]
        );
    }

    #[test]
    fn the_table_says_what_is_met() {
        let mut figures = figures();
        figures.module_text_bytes = Some(300 << 10);
        let table = Report::new(&figures).to_string();
        let line = |start: &str| {
            table
                .lines()
                .find(|line| line.starts_with(start))
                .unwrap_or_else(|| panic!("no {start} in {table}"))
        };
        assert!(line("page-table entries").ends_with("128: met"));
        assert!(line("page-table entries").contains(" 65,536 "));
        assert!(line("bytes of code").ends_with("MISSED"));
        assert!(line("mapping and reading").contains("2.0000 s"));
    }

    #[test]
    fn where_htlb_is_left_out_nothing_is_missed() {
        let mut some: Vec<Sample> = samples().split_off(3);
        some.truncate(6);
        some.extend([false, true].map(|scattered| Sample::Shared(shared(scattered, None))));
        let figures = Figures::new(&some, &Exporter::ALL[1..], None).expect("both are there");
        let report = Report::new(&figures);
        assert!(report.missed().is_empty());
        assert_eq!(report.to_json()["faults_256m"]["htlb"], Value::Null);
        assert!(!report.to_string().contains("met"));
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(with_separators(0), "0");
        assert_eq!(with_separators(999), "999");
        assert_eq!(with_separators(65_536), "65,536");
        assert_eq!(with_separators(1_000_000), "1,000,000");
    }
}
