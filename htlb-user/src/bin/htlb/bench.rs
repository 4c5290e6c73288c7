// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `htlb bench`: this machine, ours beside what a program does by hand.

use htlb_user::bench::report::{Bench, Figure, PoolForBench, Target, FIGURES};
use serde_json::{json, Map, Value};

use crate::args;
use crate::exit::{Code, Failure};
use crate::output::{self, Format};
use crate::progress::Progress;

pub(crate) fn run(args: &args::Bench) -> Result<(), Failure> {
    let chosen = chosen(&args.only)?;
    let folder = args.folder.clone().unwrap_or_else(std::env::temp_dir);
    let pool = if args.keep_pool {
        None
    } else {
        PoolForBench::grow()?
    };
    let bench = Bench::new(&folder);
    let bar = Progress::steps(chosen.len() as u64);
    let mut measured = Vec::new();
    for figure in chosen {
        bar.say(figure.key);
        measured.push((
            figure,
            bench.measure(figure).map_err(|error| error.to_string()),
        ));
        bar.add(1);
    }
    drop(bar);
    drop(pool);
    match Format::of(args.json) {
        Format::Text => output::text(&table(&measured, bench.ranges())),
        Format::Json => output::json(object(&measured, bench.ranges())),
    }
}

fn chosen(only: &[String]) -> Result<Vec<&'static Figure>, Failure> {
    if let Some(unknown) = only
        .iter()
        .find(|key| FIGURES.iter().all(|figure| figure.key != key.as_str()))
    {
        let known: Vec<&str> = FIGURES.iter().map(|figure| figure.key).collect();
        return Err(Failure::new(
            Code::Usage,
            format!("no figure {unknown}; there are {}", known.join(", ")),
        ));
    }
    let wanted = |figure: &&Figure| only.is_empty() || only.iter().any(|key| key == figure.key);
    Ok(FIGURES.iter().filter(wanted).collect())
}

type Measured<'a> = (&'a Figure, Result<f64, String>);

fn verdict(figure: &Figure, value: f64) -> &'static str {
    match figure.target.is_met(value) {
        Some(true) => "met",
        Some(false) => "missed",
        None => "",
    }
}

fn table(measured: &[Measured<'_>], ranges: Option<u64>) -> String {
    let rows = measured.iter().map(|(figure, value)| {
        let target = match figure.target {
            Target::AtLeast(least) => format!(">= {least}"),
            Target::AtMost(most) => format!("<= {most}"),
            Target::Report => String::new(),
        };
        let (shown, verdict) = match value {
            Ok(value) => (format!("{value:.2}"), verdict(figure, *value)),
            Err(_) => ("-".to_owned(), "not measured"),
        };
        vec![
            figure.key.to_owned(),
            shown,
            target,
            verdict.to_owned(),
            figure.what.to_owned(),
        ]
    });
    let mut text = output::table(
        &["figure", "value", "target", "", "what"],
        &[1, 2],
        rows.collect(),
    );
    if let Some(ranges) = ranges {
        text.push_str(&format!(
            "\nreserve_vs_linux: among {ranges} reserved ranges\n"
        ));
    }
    for (figure, value) in measured {
        if let Err(why) = value {
            text.push_str(&format!("{}: {why}\n", figure.key));
        }
    }
    text
}

fn object(measured: &[Measured<'_>], ranges: Option<u64>) -> Value {
    let mut object = Map::new();
    let mut missed = Vec::new();
    let mut failed = Map::new();
    for (figure, value) in measured {
        match value {
            Ok(value) => {
                object.insert(
                    figure.key.to_owned(),
                    json!((value * 1000.0).round() / 1000.0),
                );
                if figure.target.is_met(*value) == Some(false) {
                    missed.push(figure.key);
                }
            }
            Err(why) => {
                object.insert(figure.key.to_owned(), Value::Null);
                failed.insert(figure.key.to_owned(), json!(why));
            }
        }
    }
    object.insert("reserve_vs_linux_ranges".to_owned(), json!(ranges));
    object.insert("missed".to_owned(), json!(missed));
    object.insert("not_measured".to_owned(), Value::Object(failed));
    Value::Object(object)
}
