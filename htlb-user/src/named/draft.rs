// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A named buffer that has its pages, and no content yet.

use std::time::Duration;

use htlb_core::{ByteLen, Request};

use super::error::NamedError;
use super::files::Files;
use super::ladder::Reaching;
use super::machine::Machine;
use super::populate::Options;
use crate::load::Span;
use crate::receipt::{Home, Receipt};
use crate::store::{Meta, Record, Store};
use crate::sys::lease::Lease;

/// A named buffer that has all its pages, zeroed, and waits for its content. Dropped, it leaves nothing.
///
/// See the [module](super) for an example.
#[derive(Debug)]
#[must_use = "a draft that is dropped is thrown away"]
pub struct Draft {
    // ORDER: leases before the files they map.
    leases: Vec<Lease>,
    files: Files,
    asked: ByteLen,
}

/// A buffer that others can find now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Its name and files.
    pub record: Record,
    /// What was got for it.
    pub receipt: Receipt,
}

impl Draft {
    /// Gets the pages for a buffer that will be called `name`.
    ///
    /// # Errors
    /// [`NamedError::Shortage`] with what was tried, [`NamedError::DmaMaskUnknown`], [`NamedError::Request`],
    /// [`NamedError::Store`], [`NamedError::Cancelled`]; nothing is left then.
    pub fn new(
        store: &Store,
        name: &str,
        machine: &Machine,
        request: &Request,
        options: &Options<'_>,
    ) -> Result<Self, NamedError> {
        let mut files = Files::new(store, name, machine, request)?;
        let mut leases = Vec::new();
        let asked = request.size();
        let got = files.cover(asked.raw(), Reaching::Everything, options, &mut leases)?;
        if got < asked.raw() {
            drop(leases);
            return Err(files.shortage(asked, got));
        }
        Ok(Self {
            leases,
            files,
            asked,
        })
    }

    /// A buffer of no bytes, which needs no page.
    ///
    /// # Errors
    /// [`NamedError::Store`].
    pub fn publish_empty(
        store: &Store,
        name: &str,
        source: Option<String>,
    ) -> Result<Published, NamedError> {
        let meta = Meta { source, rung: None };
        let record = store.create(name)?.publish(0, meta)?;
        let receipt = Receipt {
            asked: ByteLen::ZERO,
            shares: Vec::new(),
            refusals: Vec::new(),
            reserved: ByteLen::ZERO,
            populated: ByteLen::ZERO,
            home: Home::Named {
                folder: store.index().display().to_string(),
            },
            took: Duration::ZERO,
            advice: None,
        };
        Ok(Published { record, receipt })
    }

    /// The memory, in the order of the content: what was asked for, and the rest of the last page.
    pub fn spans(&mut self) -> Vec<Span<'_>> {
        let slices = self.leases.iter_mut().filter_map(Lease::bytes_mut);
        slices.map(Span::new).collect()
    }

    /// What was got.
    #[must_use]
    pub fn receipt(&self) -> Receipt {
        self.files.receipt(self.asked)
    }

    /// Publishes the buffer under its name, in one step, in place of what had that name before. `len` is the exact length of
    /// the content, which may be less than was asked for; what lies behind it must be zero.
    ///
    /// # Errors
    /// [`NamedError::Store`]; then nothing is published and nothing is left.
    pub fn publish(self, len: u64, source: Option<String>) -> Result<Published, NamedError> {
        // ORDER: no writable mapping of a published file is left.
        drop(self.leases);
        self.files.publish(len, self.asked, source)
    }
}
