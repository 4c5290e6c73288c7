// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The loops that turn decisions into pages, written once for every back end.
//!
//! Each is called with no lock held and holds none while the host works. An `Err` leaves every count and slot as
//! it was before the call, except for pages that were already populated: those stay, and the error says why the next
//! one did not come.

mod fill;
mod plan;
mod punch;
mod reserve;
mod create;

pub use create::create;
pub use fill::{fault, populate, populate_page, Content, Filled};
pub use plan::{plan, Commitment, Plan, PlannedPart};
pub use punch::{punch, release, truncate, Punched};
pub use reserve::reserve;

use crate::error::Error;
use crate::frame::Frame;
use crate::host::Host;
use crate::ledger::Promise;
use crate::lock::Exclusive;
use crate::page_map::PageMap;
use crate::policy::Attempt;
use crate::step::{Stop, Wake};
use crate::stock::{Charge, Stock};
use crate::units::PageCount;

/// Runs `f` under the lock of the attempt's stock until it needs no more tables.
///
/// # Errors
/// [`Error::NoRoom`] where no stock serves the attempt, what `f` says, or [`Error::OutOfMetadata`].
pub fn with_stock<H: Host, T>(
    host: &H,
    attempt: &Attempt,
    mut f: impl FnMut(&mut Stock<H::Words>) -> Result<T, Stop>,
) -> Result<T, Error> {
    let lock = host.stock(attempt).ok_or(Error::NoRoom)?;
    loop {
        match lock.with(&mut f) {
            Ok(value) => return Ok(value),
            Err(Stop::Fail(error)) => return Err(error),
            // INVARIANT: no operation of a stock waits.
            Err(Stop::Wait(_)) => return Err(Error::Closed),
            Err(Stop::Metadata { table, words }) => {
                let bigger = host.words(words)?;
                // What comes back, the old tables or the new ones that somebody else made needless, is freed out here.
                drop(lock.with(|stock| stock.adopt(table, bigger)));
            }
        }
    }
}

/// As many of `pages` as can be promised now, perhaps none.
fn promise_some<H: Host>(
    host: &H,
    attempt: &Attempt,
    charge: Charge,
    pages: PageCount,
) -> Result<Promise, Error> {
    with_stock(host, attempt, |stock| {
        let missing = stock.shortage(charge, pages)?;
        stock.reserve(
            charge,
            PageCount::new(pages.raw().saturating_sub(missing.raw())),
        )
    })
}

/// Releases a promise to the stock that gave it, and lets the surplus pages go that only it needed.
fn give_back<H: Host>(host: &H, attempt: &Attempt, promise: Promise) {
    if let Some(stock) = host.stock(attempt) {
        let first = stock.with(|stock| {
            stock.release(promise);
            stock.drop_surplus()
        });
        free_surplus(host, attempt, first);
    }
}

/// Lets every surplus page go that no promise needs: those that came for a promise or a page that was then refused.
///
/// The loops here do it themselves. It is for those who give promises back to a ledger by hand: who closes an account, or
/// lowers its minimum.
#[doc(alias = "return_unused_surplus_pages")]
pub fn shed<H: Host>(host: &H, attempt: &Attempt) {
    if let Some(stock) = host.stock(attempt) {
        free_surplus(host, attempt, stock.with(Stock::drop_surplus));
    }
}

fn free_surplus<H: Host>(host: &H, attempt: &Attempt, first: Option<Frame>) {
    let mut next = first;
    while let Some(frame) = next {
        host.free(frame, attempt);
        next = host
            .stock(attempt)
            .and_then(|stock| stock.with(Stock::drop_surplus));
    }
}

/// Pays a wake-up that a claim's end owes.
fn wake<H: Host>(host: &H, map: &PageMap<H::Slots>, owed: Wake) {
    if let Some(what) = owed.target() {
        host.wake(map, what);
    }
}
